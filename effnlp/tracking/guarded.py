"""A tracker that cannot cost a result: the first thing that fails in it is a warning and its end."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effnlp.record import Record
from effnlp.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class Guarded:
    """Stands before ``tracker``, whoever wrote it."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker | None = tracker

    def start(
        self, identity: Mapping[str, Any], config: Mapping[str, Any], choices: Mapping[str, str], folder: Path
    ) -> None:
        """See :class:`~effnlp.tracking.tracker.Tracker`, as for the others."""
        self._try(lambda tracker: tracker.start(identity, config, choices, folder))

    def log(self, values: Mapping[str, float], step: int, stage: str) -> None:
        """Add a point."""
        self._try(lambda tracker: tracker.log(values, step, stage))

    def finish(self, record: Record) -> None:
        """Close."""
        self._try(lambda tracker: tracker.finish(record))

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            call(self.tracker)
        except Exception as error:
            log.warning("tracking ended, the run goes on: %s: %s", type(error).__name__, error)
            self.tracker = None
