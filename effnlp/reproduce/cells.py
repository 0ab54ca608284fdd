"""From runs and functions to the cells of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effnlp.record import Record


@dataclass(frozen=True)
class Run:
    """A completed run of a row.

    Attributes:
        seed: ``"0"``, or ``"0-1"`` where ``seed.init`` is 0 and ``seed.order`` 1.
        folder: With ``record.json``, ``events.jsonl`` and ``predictions.npz``.
    """

    row: str
    seed: str
    record: Record
    folder: Path


Runs = Sequence[Run]
"""Of one row, in the order of the seeds."""

Values = float | Sequence[float] | Mapping[str, float]
"""What a function may give as a cell: a number, or one of each seed."""

Table = Mapping[str, Mapping[str, Values]]
"""Row to column to values."""
