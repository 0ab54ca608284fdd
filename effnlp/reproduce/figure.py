"""What the figure of an experiment shows: points with intervals, and the paper's beside them.

The ``figure`` of an experiment has ``kind``, ``x``, ``y`` and ``log``:

- ``bars``: the rows across, a column up.
- ``lines``: across are the numbers in the names of the rows (``x: rows``) or a column; rows that differ in nothing but
  that number are one line.
- ``scatter``: one column against another, a point a row.

Columns of one unit share a panel, others get one of their own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effnlp.reproduce.experiment import Column, Experiment
from effnlp.reproduce.table import Table, header, printed

KINDS = ("bars", "lines", "scatter")
KEYS = ("kind", "x", "y", "log")
ROWS = "rows"
FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?([kKMGB]?)(?![\w.])")
LABELLED = 12
"""Up to so many points have their names written beside them."""

Place = float | str


@dataclass(frozen=True)
class Series:
    """Points of one kind, in the order in which a line joins them.

    Attributes:
        x: Names for bars, else numbers.
        low, high: Ends of the intervals of ``y``; None where there is none.
        names: The row of each point.
        is_paper: Drawn hollow.
        colour: Index of the colour; ours and the paper's share one.
    """

    name: str
    x: Sequence[Place]
    y: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]
    names: Sequence[str]
    is_paper: bool
    colour: int


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    kind: str
    x_title: str
    y_title: str
    log_x: bool
    log_y: bool
    series: Sequence[Series]
    categories: Sequence[str] = ()

    @property
    def labelled(self) -> bool:
        """Whether points are few enough for their names to stand beside them."""
        return (
            self.kind == "scatter" and len({name for each in self.series for name in each.names}) <= LABELLED
        )


@dataclass(frozen=True)
class _Point:
    row: str
    x: Place
    y: float
    low: float | None
    high: float | None


def problems(experiment: Experiment) -> list[str]:
    """What is wrong with the ``figure`` of an experiment, a sentence each; nothing where it has none."""
    asked = experiment.figure
    if asked is None:
        return []
    names = [column.name for column in experiment.columns]
    found = [f"figure: unknown key {key!r}, there are {', '.join(KEYS)}" for key in asked if key not in KEYS]
    if asked.get("kind") not in KINDS:
        found.append(f"figure: kind must be one of {', '.join(KINDS)}, got {asked.get('kind')!r}")
    y = _list(asked.get("y", []))
    if not y:
        found.append("figure: y must name a column at least")
    x = asked.get("x", ROWS)
    if asked.get("kind") == "scatter" and x == ROWS:
        found.append("figure: x of a scatter must be a column")
    if asked.get("kind") == "bars" and x != ROWS:
        found.append(f"figure: x of bars must be {ROWS}, got {x!r}")
    found += [
        f"figure: no column {name!r}; there are {', '.join(names)}"
        for name in [*y, *([x] if x != ROWS else [])]
        if name not in names
    ]
    found += [
        f"figure: log must list x or y, got {axis!r}"
        for axis in _list(asked.get("log", []))
        if axis not in ("x", "y")
    ]
    return found


def panels(experiment: Experiment, table: Table) -> list[Panel]:
    """The panels of the figure; none where the experiment asks for none, or the layer has none of its figures.

    Points that have no place on a logarithmic axis are left out.

    Raises:
        ValueError: If the figure is not one that could be drawn, saying what is wrong.
    """
    asked = experiment.figure
    if asked is None:
        return []
    if wrong := problems(experiment):
        raise ValueError(f"{experiment.name}: {'; '.join(wrong)}")
    x = asked.get("x", ROWS)
    log = _list(asked.get("log", []))
    across = None if x == ROWS else experiment.column(x)
    by_unit: dict[str, list[Column]] = {}
    for name in _list(asked["y"]):
        column = experiment.column(name)
        if table.has_ours(column):
            # Columns without a unit need not be of one kind.
            by_unit.setdefault(column.unit or f"\0{name}", []).append(column)
    found = []
    for columns in by_unit.values():
        series = _all_series(asked["kind"], table, columns, across, ("x" in log, "y" in log))
        if any(not each.is_paper for each in series):
            one = header(columns[0]) if len(columns) == 1 else columns[0].unit
            title = header(across) if across else ""
            rows = [row for row in table.rows if any(row in each.names for each in series)]
            found.append(
                Panel(
                    asked["kind"],
                    title,
                    one,
                    "x" in log,
                    "y" in log,
                    series,
                    rows if asked["kind"] == "bars" else (),
                )
            )
    return found


def _all_series(
    kind: str, table: Table, columns: Sequence[Column], across: Column | None, log: tuple[bool, bool]
) -> list[Series]:
    by_name: dict[str, dict[str, Place]] = {"": {row: row for row in table.rows}}
    groups = _lines(table.rows) if kind == "lines" else by_name
    found = []
    for column_number, column in enumerate(columns):
        for group_number, (group, rows) in enumerate(groups.items()):
            colour = column_number * len(groups) + group_number
            parts = [group] if group else []
            parts += [column.name] if len(columns) > 1 else []
            for is_paper in (False, True):
                points = [
                    point
                    for row, place in rows.items()
                    if (point := _point(kind, table, row, place, column, across, is_paper))
                    if _can_stand(point, log)
                ]
                if kind == "lines":
                    points.sort(key=lambda point: float(point.x))
                if points:
                    side = "paper" if is_paper else "ours"
                    name = f"{', '.join(parts)} ({side})" if parts else side
                    found.append(_series(name, points, is_paper, colour))
    return found


def _series(name: str, points: Sequence[_Point], is_paper: bool, colour: int) -> Series:
    return Series(
        name,
        [point.x for point in points],
        [point.y for point in points],
        [point.low for point in points],
        [point.high for point in points],
        [point.row for point in points],
        is_paper,
        colour,
    )


def _point(
    kind: str, table: Table, row: str, place: Place, column: Column, across: Column | None, is_paper: bool
) -> _Point | None:
    """Where ``row`` stands; the paper's figures stand at its own place across, or at ours where it has none."""
    up = _value(table, row, column, is_paper)
    if up is None:
        return None
    if across is None:
        return _Point(row, place, *up) if kind == "bars" or isinstance(place, float) else None
    found = _value(table, row, across, is_paper) or _value(table, row, across, False)
    return _Point(row, found[0], *up) if found else None


def _value(
    table: Table, row: str, column: Column, is_paper: bool
) -> tuple[float, float | None, float | None] | None:
    entry = table.entry(row, column)
    if not is_paper:
        return (entry.ours.mean, entry.ours.low, entry.ours.high) if entry.ours else None
    paper = entry.paper
    if paper is None:
        return None
    if paper.spread is None:
        return paper.value, None, None
    return paper.value, paper.value - paper.spread, paper.value + paper.spread


def _can_stand(point: _Point, log: tuple[bool, bool]) -> bool:
    return not (log[0] and isinstance(point.x, float) and point.x <= 0) and not (log[1] and point.y <= 0)


def _lines(rows: Sequence[str]) -> dict[str, dict[str, Place]]:
    """Rows by what is left of their names without their last number: each with that number, or its name.

    If every row would be a line of its own, all rows are one line.
    """
    found: dict[str, dict[str, Place]] = {}
    for row in rows:
        name, number = number_in(row)
        found.setdefault(name, {})[row] = row if number is None else number
    if len(found) == len(rows) > 1:
        return {"": {row: place for places in found.values() for row, place in places.items()}}
    return found


def number_in(row: str) -> tuple[str, float | None]:
    """The name of a row without its last number, and that number: ``fused, 4k tokens`` is ``fused, tokens``, 4000."""
    numbers = list(NUMBER.finditer(row))
    if not numbers:
        return row, None
    last = numbers[-1]
    suffix = last.group(1)
    value = float(last.group(0).removesuffix(suffix) if suffix else last.group(0)) * FACTORS[suffix]
    rest = f"{row[: last.start()].rstrip(' =')} {row[last.end() :].strip()}"
    return rest.strip(" ,"), value


def ticks_of(panel: Panel) -> list[float]:
    """Where a line's numbers stand, if they are few: the axis is marked there."""
    places = sorted({x for series in panel.series for x in series.x if isinstance(x, float)})
    return places if panel.kind == "lines" and len(places) <= 8 else []


def label_sides(panel: Panel) -> list[list[tuple[str, str] | None]]:
    """Where the name of each point of each series stands: ``left`` or ``right`` of it, and ``top`` or ``bottom``.

    To the side where there is more room, and by turns above and below, since neighbours would cover each other.
    None for a point of the paper where ours has the name of the row and there are too many to name each.
    """
    is_full = sum(len(series.x) for series in panel.series) > LABELLED
    ours = {name for series in panel.series if is_full and not series.is_paper for name in series.names}
    places = [
        (math.log(x) if panel.log_x else x, number, index)
        for number, series in enumerate(panel.series)
        for index, x in enumerate(map(float, series.x))
        if not series.is_paper or series.names[index] not in ours
    ]
    middle = (min(places)[0] + max(places)[0]) / 2
    sides: list[list[tuple[str, str] | None]] = [[None] * len(series.x) for series in panel.series]
    for turn, (x, number, index) in enumerate(sorted(places)):
        sides[number][index] = ("right" if x <= middle else "left", "bottom" if turn % 2 else "top")
    return sides


def caption(panels: Sequence[Panel]) -> str:
    """What the marks of the panels mean, in a sentence or two."""
    series = [each for panel in panels for each in panel.series]
    has_intervals = any(low is not None for each in series if not each.is_paper for low in each.low)
    ours = "Filled: ours, with 90 % intervals over seeds." if has_intervals else "Filled: ours."
    return f"{ours} Hollow: the paper’s figures." if any(each.is_paper for each in series) else ours


def described(series: Series, index: int) -> str:
    """What a point says of itself."""
    low, high = series.low[index], series.high[index]
    ends = (
        f" ({printed(round(low, 6))} to {printed(round(high, 6))})"
        if low is not None and high is not None
        else ""
    )
    return f"{series.names[index]}, {series.name}: {series.y[index]:.6g}{ends}"


def _list(value: Any) -> list[Any]:
    if isinstance(value, str | Mapping):
        return [value]
    return list(value or [])
