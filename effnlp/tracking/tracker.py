"""What a run tells a tracker: that it starts, points of its curves, and its record at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from effnlp.record import Record


class Tracker(Protocol):
    """Mirrors a run somewhere. Our own files are written without it and first; it never fails a run."""

    def start(
        self, identity: Mapping[str, Any], config: Mapping[str, Any], choices: Mapping[str, str], folder: Path
    ) -> None:
        """The run begins, or goes on after an interruption.

        Args:
            identity: As in :class:`effnlp.record.Record`.
            config: The resolved config.
            choices: Config group to the choice made in it.
            folder: The run's own.
        """

    def log(self, values: Mapping[str, float], step: int, stage: str) -> None:
        """A point of curves: flat keys to values at a step of a stage (``finetuning``, ``pretraining``, ``rung`` …)."""

    def finish(self, record: Record) -> None:
        """The run has ended, completed or failed, and its record is written."""
