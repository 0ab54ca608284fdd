"""A table as CSV, a line for each cell, all figures in the unit of their column."""

import csv
import io
from typing import Any

from effnlp.reproduce.table import Table, place_of

FIELDS = (
    "experiment", "layer", "row", "column", "unit", "ours", "low", "high", "n", "paper", "spread", "seen", "where",
    "verified", "reason",
)  # fmt: skip


def tidy(table: Table) -> str:
    """``n`` is empty for exact figures; ``low`` and ``high`` for those without an interval."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(FIELDS)
    for row in table.rows:
        for column in table.columns:
            entry = table.entry(row, column)
            ours, paper = entry.ours, entry.paper
            if not (ours or paper or entry.hole):
                continue
            found: list[Any] = [table.experiment, table.layer, row, column.name, column.unit]
            found += [ours.mean, ours.low, ours.high, ours.n or None] if ours else [None] * 4
            found += (
                [paper.value, paper.spread, paper.seen, place_of(paper), paper.is_verified]
                if paper
                else [None] * 5
            )
            found.append(entry.hole.reason if entry.hole else None)
            rows.writerow(["" if value is None else value for value in found])
    return text.getvalue()
