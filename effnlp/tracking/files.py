"""Nothing beside the run's own files: ``record.json`` and ``events.jsonl``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effnlp.record import Record


class FilesTracker:
    """The neutral tracker: every run writes its own files anyway, and this adds nothing."""

    def start(
        self, identity: Mapping[str, Any], config: Mapping[str, Any], choices: Mapping[str, str], folder: Path
    ) -> None:
        """Nothing to open."""

    def log(self, values: Mapping[str, float], step: int, stage: str) -> None:
        """Nothing to add to the run's events."""

    def finish(self, record: Record) -> None:
        """Nothing to close."""
