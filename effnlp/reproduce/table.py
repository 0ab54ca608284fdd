"""The table of one layer: our figures with their intervals, the paper's beside, and what is missing.

All that is shown, on a terminal, in files and on the page, is a rendering of one :class:`Table`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from effnlp.reproduce.experiment import SEEN, Column, Experiment, Published
from effnlp.reproduce.result import Cell, Hole, Result
from effnlp.reproduce.words import CHANGED, is_of_an_earlier_design
from effnlp.statistics import LEVEL, Seeds, t_interval

HOLE = "–"
UNVERIFIED = "unverified"
NO_BREAK = "\u00a0"
ARROWS = {"max": "↑", "min": "↓"}
LARGE = 1e7
"""From here on, figures are written with an exponent: columns should have units in which they are smaller."""


@dataclass(frozen=True)
class Ours:
    """A figure of our own, in the unit of its column.

    Attributes:
        low, high: The ends of its 90 % interval; None where there is none: it is exact, or of one seed.
        n: Seeds; 0 for an exact figure, and for one whose interval is not over seeds.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    n: int = 0

    @property
    def half_width(self) -> float | None:
        """Of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Entry:
    """What stands in a row and a column.

    Attributes:
        ours: None where there is a hole, or where the layer does not make this cell.
        paper: The figure that the paper prints there.
        hole: Why there is no figure of ours, if there should be one.
        ours_marks, paper_marks: Numbers of the footnotes of each, from 1.
    """

    ours: Ours | None = None
    paper: Published | None = None
    hole: Hole | None = None
    ours_marks: Sequence[int] = ()
    paper_marks: Sequence[int] = ()


@dataclass(frozen=True)
class Table:
    """Rows and columns as they are shown.

    Attributes:
        columns: Those in which the layer has, or should have, a figure; if there are none, those of the paper.
        entries: Row and name of the column to what stands there; nothing where neither side has a figure.
        n: Seeds that most figures rest on; 0 where all are exact.
        footnotes: Sentences; number 1 is the first.
        remarks: What is to be said of all of it, a sentence each.
    """

    experiment: str
    layer: str
    title: str
    rows: Sequence[str]
    columns: Sequence[Column]
    entries: Mapping[tuple[str, str], Entry]
    n: int = 0
    footnotes: Sequence[str] = ()
    remarks: Sequence[str] = ()

    def entry(self, row: str, column: Column) -> Entry:
        """What stands there; an empty entry for nothing."""
        return self.entries.get((row, column.name), Entry())

    def has_paper(self, column: Column) -> bool:
        """Whether the paper has a figure in that column."""
        return any(self.entry(row, column).paper for row in self.rows)

    def has_ours(self, column: Column) -> bool:
        """Whether the layer has a figure in that column, or a hole where one should be."""
        return any(self.entry(row, column).ours or self.entry(row, column).hole for row in self.rows)


def tabulate(experiment: Experiment, result: Result) -> Table:
    """The table of a result.

    Published rows without a figure of ours are in it, so that it shows what was not reproduced.
    """
    made = {(cell.row, cell.column) for cell in result.cells}
    holes = {(hole.row, hole.column): hole for hole in result.holes}
    published = {(figure.row, figure.column): figure for figure in experiment.published}
    with_ours = {column for _, column in made | holes.keys()}
    shown = with_ours or {column for _, column in published}
    columns = [column for column in experiment.columns if column.name in shown]
    known = [place for place in [*made, *holes, *published] if place[1] in shown]
    rows = _in_order(experiment, result, {row for row, _ in known})
    ours = {(cell.row, cell.column): summed_up(cell) for cell in result.cells}
    notes = _Footnotes([published[place] for place in published if place[1] in shown])
    entries = {}
    for row in rows:
        for column in columns:
            place = (row, column.name)
            paper, hole = published.get(place), holes.get(place) if place not in made else None
            if paper or hole or place in made:
                entries[place] = Entry(
                    ours.get(place),
                    paper,
                    hole,
                    ours_marks=notes.of_hole(hole) if hole else (),
                    paper_marks=notes.of_paper(paper) if paper else (),
                )
    counts = Counter(found.n for found in ours.values() if found.n)
    n = max(counts, key=lambda many: (counts[many], many)) if counts else 0
    remarks = [*result.remarks, *_seeds_in_words(counts), *notes.of_all]
    if is_of_an_earlier_design(experiment, result):
        remarks.insert(0, CHANGED)
    if any(found.low is not None and not found.n for found in ours.values()):
        remarks.insert(0, f"In brackets are the ends of {LEVEL:.0%} intervals.".replace("%", " %", 1))
    return Table(
        experiment.name, result.layer, experiment.title, rows, columns, entries, n, notes.sentences, remarks
    )


def summed_up(cell: Cell) -> Ours:
    """The mean over seeds with its interval by Student's t; exact figures as themselves.

    A figure that brings its interval has that one.
    """
    values = list(cell.values.values())
    mean = math.fsum(values) / len(values)
    if cell.interval:
        return Ours(mean, *cell.interval)
    if cell.is_exact:
        return Ours(mean)
    if len(values) == 1:
        return Ours(mean, n=1)
    found = t_interval(values, seeds=[_pair(seed) for seed in cell.values])
    return Ours(found.mean, found.low, found.high, found.n)


def _pair(seed: str) -> Seeds:
    init, dash, order = seed.partition("-")
    return (init, order) if dash else (seed, seed)


def _in_order(experiment: Experiment, result: Result, rows: set[str]) -> list[str]:
    layer = experiment.layers.get(result.layer)
    named = [
        *experiment.rows,
        *(layer.rows if layer else ()),
        *(cell.row for cell in result.cells),
        *(hole.row for hole in result.holes),
        *(figure.row for figure in experiment.published),
    ]
    return [row for row in dict.fromkeys(named) if row in rows]


class _Footnotes:
    """Gathers footnotes, each sentence once."""

    def __init__(self, published: Sequence[Published]) -> None:
        self.sentences: list[str] = []
        sources = list(dict.fromkeys(_source(figure) for figure in published))
        # One source for all needs no mark; what is unverified always has one.
        self.of_all = (
            [f"Paper: {sources[0]}."] if len(sources) == 1 and all(f.is_verified for f in published) else []
        )

    def _number(self, sentence: str) -> int:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return self.sentences.index(sentence) + 1

    def of_hole(self, hole: Hole) -> list[int]:
        command = f" To make it: {hole.command}" if hole.command else ""
        return [self._number(_capital(_ended(hole.reason)) + command)]

    def of_paper(self, figure: Published) -> list[int]:
        found = [] if self.of_all else [self._number(_capital(_source(figure)) + ".")]
        return found + ([self._number(_capital(_ended(figure.note)))] if figure.note else [])


def _source(figure: Published) -> str:
    return f"{'' if figure.is_verified else UNVERIFIED + ': '}{place_of(figure)}, {_seen(figure)}"


def place_of(figure: Published) -> str:
    """``Table 2``, or ``Table 2 of …`` where it is of another paper than the experiment."""
    return f"{figure.where} of {figure.paper}" if figure.paper else figure.where


def _seen(figure: Published) -> str:
    said = SEEN.get(figure.seen, figure.seen)
    return f"seen {said}" if said.startswith(("on ", "in ")) else said


def _ended(sentence: str) -> str:
    return sentence if sentence.rstrip().endswith((".", "!", "?")) else sentence.rstrip() + "."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _seeds_in_words(counts: Mapping[int, int]) -> list[str]:
    several = sorted(n for n in counts if n > 1)
    said = []
    if several:
        span = f"{several[0]}" if len(several) == 1 else f"{several[0]} to {several[-1]}"
        said.append(f"± is the half width of a {LEVEL:.0%} interval over {span} seeds.".replace("%", " %", 1))
    if 1 in counts:
        said.append("A figure of one seed has no interval.")
    return said


def number(value: float, digits: int) -> str:
    """``value`` with so many digits after the point; with an exponent where it would be 0 or very long."""
    text = f"{value:.{digits}f}"
    if value and (not float(text) or abs(value) >= LARGE):
        text = f"{value:.{max(1, min(digits, 3))}e}".replace("e+0", "e+").replace("e-0", "e-")
    return text if float(text) else text.replace("-", "")


def ours_text(entry: Entry, column: Column, usual_n: int) -> str:
    """``92.4 ± 0.3``, or ``2.4 (1.2–6.9)`` where an interval is not over seeds; empty for nothing.

    ``(n = 2)`` is added where it rests on another number of seeds than most.
    """
    ours = entry.ours
    if ours is None:
        return HOLE if entry.hole else ""
    text = number(ours.mean, column.digits)
    if ours.low is not None and ours.high is not None and not ours.n:
        text += f" ({number(ours.low, column.digits)}–{number(ours.high, column.digits)})"
    elif ours.half_width is not None:
        text += f" ± {_half_width(ours.half_width, text, column.digits)}"
    return f"{text} (n = {ours.n})" if ours.n not in (0, usual_n) else text


def _half_width(value: float, beside: str, digits: int) -> str:
    return (
        f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+") if "e" in beside else f"{value:.{digits}f}"
    )


def paper_text(entry: Entry) -> str:
    """``92.36 ± 0.10`` as printed, with all the digits that the file gives; empty where the paper has none."""
    figure = entry.paper
    if figure is None:
        return ""
    return printed(figure.value) + (f" ± {printed(figure.spread)}" if figure.spread is not None else "")


def printed(value: float) -> str:
    """A published figure with the digits that it has."""
    return f"{value:.12g}"


def header(column: Column) -> str:
    """``SST-2 (%) ↑``: the name, the unit, and which way is better."""
    unit = f" ({column.unit})" if column.unit else ""
    arrow = f"{NO_BREAK}{ARROWS[column.better]}" if column.better in ARROWS else ""
    return f"{column.name}{unit}{arrow}"


SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")


def raised(marks: Iterable[int]) -> str:
    """The numbers of footnotes as superscripts."""
    return ",".join(map(str, marks)).translate(SUPERSCRIPTS)
