"""A result on a terminal: the table in blocks that fit its width, the claims, what it took."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from effnlp.reproduce.experiment import Column, Experiment
from effnlp.reproduce.result import FAILS, HOLDS, NOT_TESTABLE, UNDECIDED, Checked, Result
from effnlp.reproduce.table import Table, header, ours_text, paper_text, raised, tabulate
from effnlp.reproduce.words import bounds_in_words, counted, estimate_in_words, layer_in_words, spent_in_words

STYLES = {HOLDS: "green", FAILS: "red", UNDECIDED: "yellow", NOT_TESTABLE: "dim"}
PADDING = 2
BETWEEN = PADDING + 1
"""Spaces between two columns: the padding, and what the box has there."""

SHARE_OF_LABELS = 0.4
"""Of the width, that the names of the rows may take; longer ones are broken."""


@dataclass(frozen=True)
class Strip:
    """One column of the terminal: its heading in lines, and what stands in each row."""

    heading: Sequence[str]
    cells: Sequence[str]
    is_paper: bool = False

    @property
    def width(self) -> int:
        """In characters."""
        return max(map(cell_len, [*self.heading, *self.cells]), default=0)


def show(experiment: Experiment, result: Result, drift: Sequence[str], console: Console) -> None:
    """Write the result to ``console``, fitting its width; numbers are never broken."""
    table = tabulate(experiment, result)
    console.print(
        Text.assemble((f"{experiment.title} ", "bold"), (f"{experiment.name}, {result.layer} layer", "dim"))
    )
    console.print(Text(f"{experiment.question} ({experiment.citation})", style="dim"))
    if said := layer_in_words(experiment, result):
        console.print(Text(said))
    for grid in grids(table, console.width):
        console.print(grid)
    for sentence in table.remarks:
        console.print(Text(sentence, style="dim"))
    for number, sentence in enumerate(table.footnotes, start=1):
        console.print(Text(f"{raised([number])} {sentence}", style="dim"))
    if result.claims:
        console.print(Text(f"\nClaims: {counted(result.claims)}"))
    for claim in result.claims:
        _show_claim(claim, console)
    console.print(Text(f"\nTook {spent_in_words(result.spent)}."))
    for line in drift:
        console.print(Text(f"Drift: {line}"))
    console.print(Text(result.command, style="dim"), soft_wrap=True)


def _show_claim(claim: Checked, console: Console) -> None:
    """The verdict, what was found and its bounds; of what does not hold also why. The files say more."""
    finding = claim.finding
    console.print(
        Text.assemble(
            (f"{finding.verdict}", f"bold {STYLES.get(finding.verdict, '')}".strip()), f"  {claim.says}"
        )
    )
    found, bounds = estimate_in_words(claim), bounds_in_words(claim.arguments)
    kind = claim.kind.replace("_", " ")
    measured = f"{kind} {found}, {bounds}" if bounds else f"{kind} {found}"
    for said in (measured if found else "", finding.why if finding.verdict != HOLDS else ""):
        if said:
            console.print(Padding(Text(said, style="dim"), (0, 0, 0, 4)))


def grids(table: Table, width: int) -> list[Grid]:
    """The table, split by columns into as many as are needed for each to be no wider than ``width``.

    The two sides of a column stay together. A column that is wider than the whole is shown all the same.
    """
    labels = min(
        max(map(cell_len, table.rows), default=0),
        max(12, int(width * SHARE_OF_LABELS)),
    )
    blocks: list[list[Strip]] = []
    room = 0
    for column in table.columns:
        strips = _strips(table, column)
        needed = sum(strip.width + BETWEEN for strip in strips)
        if not blocks or needed > room:
            blocks.append([])
            room = width - labels - 2
        blocks[-1] += strips
        room -= needed
    return [_grid(table.rows, labels, strips) for strips in blocks]


def _strips(table: Table, column: Column) -> list[Strip]:
    ours, paper = table.has_ours(column), table.has_paper(column)
    entries = [table.entry(row, column) for row in table.rows]
    texts = [ours_text(entry, column, table.n) + raised(entry.ours_marks) for entry in entries]
    printed = [paper_text(entry) + raised(entry.paper_marks) for entry in entries]
    found = [Strip(_heading(header(column), texts), texts)] if ours else []
    if paper:
        name = "paper" if ours else f"{header(column)} (paper)"
        found.append(Strip(_heading(name, printed), printed, is_paper=True))
    return found


def _heading(name: str, cells: Sequence[str]) -> list[str]:
    """``name`` in lines as wide as its longest word or the widest of the cells below it."""
    widest = max([*map(cell_len, cells), *map(cell_len, name.split(" ")), 1])
    return textwrap.wrap(name, widest, break_long_words=False, break_on_hyphens=False) or [""]


def _grid(rows: Sequence[str], labels: int, strips: Sequence[Strip]) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, PADDING, 0, 0))
    grid.add_column("", min_width=labels, max_width=labels, overflow="fold", vertical="bottom")
    for strip in strips:
        grid.add_column(
            Text("\n".join(strip.heading)),
            justify="right",
            no_wrap=True,
            min_width=strip.width,
            style="dim" if strip.is_paper else "",
            vertical="bottom",
        )
    for index, row in enumerate(rows):
        grid.add_row(Text(row), *(Text(strip.cells[index]) for strip in strips))
    return grid
