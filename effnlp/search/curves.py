"""Tables of learning curves: what runs showed at their rungs and cost until then, to be simulated on.

    python -m effnlp.search.curves multirun/NAME TABLE.csv.gz

makes one of a sweep whose trials ran to their ends and were looked at on the way: all of them with
``search/early_stopping=observe``, else those that came through. A table is a CSV file, gzipped or not, whose first
line is a comment with the space and the objectives in JSON; then there is a row for each look at a run: the values
of its dimensions, its seed, the fraction of its schedule, seconds and joules so far, record keys.
"""

import csv
import gzip
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from effnlp.menu import suggest
from effnlp.record import Record
from effnlp.search.attributes import OVERRIDES, RUNG, rungs_of, slots
from effnlp.search.problems import Look, Point, Problem, unit_of
from effnlp.search.space import Dimension, Space

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "tables" / "grid.csv.gz"
"""A grid of real runs."""

SECONDS, JOULES = "cost/total/own/seconds", "cost/total/own/energy_joules"
FIXED_COLUMNS = ("seed", "fraction", "seconds", "joules")


@dataclass(frozen=True)
class Curve:
    """One run: its looks by rising fraction, the last at 1."""

    point: dict[str, str]
    seed: int
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Table:
    """Curves of points of a space.

    Attributes:
        name: Of the sweep that they are from.
        objectives: Record key to direction, as that sweep had them.
        about: What the curves are of, in words.
    """

    name: str
    space: Space
    objectives: dict[str, str]
    curves: tuple[Curve, ...]
    about: str = ""

    @property
    def keys(self) -> list[str]:
        """Record keys that at least the ends of all curves have."""
        common = set.intersection(*(set(curve.looks[-1].values) for curve in self.curves))
        return sorted(common)


def write(table: Table, path: Path) -> None:
    """Write a table; the same table gives the same bytes. Figures have seven digits."""
    keys = list(dict.fromkeys(d.key for d in table.space.dimensions))
    values = sorted({key for curve in table.curves for look in curve.looks for key in look.values})
    head = {
        "name": table.name,
        "about": table.about,
        "objectives": table.objectives,
        "dimensions": [d.__dict__ for d in table.space.dimensions],
        "keys": values,
    }
    text = io.StringIO()
    text.write(f"# {json.dumps(head)}\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*keys, *FIXED_COLUMNS, *values])
    for curve in table.curves:
        for look in curve.looks:
            fixed = (curve.seed, look.fraction, look.seconds, look.joules)
            cells = [*fixed, *(look.values.get(key) for key in values)]
            rows.writerow([*(curve.point.get(key, "") for key in keys), *map(_cell, cells)])
    content = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is no table or holds no curve; the message names the line where it can.
    """
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        first, _, rest = text.partition("\n")
        head = json.loads(first.removeprefix("#"))
        space = Space(tuple(Dimension(**entry) for entry in head["dimensions"]))
        values, objectives = list(head["keys"]), dict(head["objectives"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a table of curves: {error}") from error
    looks: dict[tuple[tuple[tuple[str, str], ...], int], list[Look]] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(rest)), start=3):
        try:
            point = tuple((d.key, row[d.key]) for d in space.dimensions if row[d.key] != "")
            look = _look(row, values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is not a look at a run: {error}") from error
        looks.setdefault((tuple(dict.fromkeys(point)), int(row["seed"])), []).append(look)
    if not looks:
        raise ValueError(f"{path} holds no curves")
    curves = []
    for (point, seed), found in looks.items():
        ordered = sorted(found, key=lambda look: look.fraction)
        if ordered[-1].fraction != 1.0:
            raise ValueError(f"{path}: the run of {dict(point)} has no end (a row with fraction 1)")
        curves.append(Curve(dict(point), seed, tuple(ordered)))
    return Table(head["name"], space, objectives, tuple(curves), head.get("about", ""))


def _look(row: Mapping[str, str], keys: Sequence[str]) -> Look:
    values = {key: float(row[key]) for key in keys if row[key] != ""}
    joules = float(row["joules"]) if row["joules"] != "" else None
    return Look(_exact(float(row["fraction"])), values, float(row["seconds"]), joules)


def _exact(fraction: float) -> float:
    """A fraction of small whole numbers, of which the file has but seven digits."""
    for below in range(1, 1001):
        if abs(fraction * below - round(fraction * below)) < 1e-6 * below:
            return round(fraction * below) / below
    return fraction


def from_sweep(folder: Path) -> Table:
    """The curves of a sweep's trials that ran to their end and were looked at, all at the same fractions.

    Raises:
        ValueError: If there is none.
    """
    from effnlp.search.state import Sweep, open_study, trial_folder

    spec = Sweep.load(folder)
    taken = slots(open_study(folder, spec))
    levels, end = (spec.halving.levels, spec.halving.max_resource) if spec.halving else ((), 1)
    space = spec.space
    curves = []
    for slot, trial in taken.items():
        if trial.state == TrialState.COMPLETE and rungs_of(trial) == len(levels):
            record = Record.load(trial_folder(folder, slot))
            point = _point_in(space, trial.user_attrs[OVERRIDES])
            looks = tuple(_looks(trial, record, [level / end for level in levels]))
            curves.append(Curve(point, int(record.identity.get("seed_init", 0)), looks))
    if len(curves) < len(taken):
        log.info("%d of %d trials have no whole curve and are left out", len(taken) - len(curves), len(taken))
    if not curves:
        raise ValueError(f"{folder} has no trial that ran to its end and was looked at on the way")
    return Table(spec.name, space, spec.objectives, tuple(_with_common_keys(curves, spec.objectives)))


def _point_in(space: Space, overrides: Sequence[str]) -> dict[str, str]:
    said = dict(override.split("=", 1) for override in overrides)
    point: dict[str, str] = {}
    for dimension in space.dimensions:
        if dimension.is_there(point) and dimension.key in said:
            point[dimension.key] = said[dimension.key]
    return point


def _looks(trial: FrozenTrial, record: Record, fractions: Sequence[float]) -> Iterator[Look]:
    for index, fraction in enumerate(fractions):
        shown = trial.user_attrs[f"{RUNG}{index}"]
        yield Look(fraction, dict(shown["values"]), shown["cost"][SECONDS], shown["cost"].get(JOULES))
    yield Look(1.0, dict(record.values), record.values[SECONDS], record.values.get(JOULES))


def _with_common_keys(curves: Sequence[Curve], objectives: Mapping[str, str]) -> Iterator[Curve]:
    """Only keys that every look at every run has, and the objectives, of which some are there at ends alone."""
    kept = set.intersection(*(set(look.values) for curve in curves for look in curve.looks)) | set(objectives)
    for curve in curves:
        looks = (
            Look(
                look.fraction, {k: v for k, v in look.values.items() if k in kept}, look.seconds, look.joules
            )
            for look in curve.looks
        )
        yield Curve(curve.point, curve.seed, tuple(looks))


def problem_of(table: Table, objectives: Mapping[str, str] | None = None) -> Problem:
    """The search that a table answers.

    A point that was not recorded is answered by the recorded one that is nearest to it (see :func:`distance`),
    and is the same run: a search proposes it once.

    Args:
        objectives: Others than the table's own, of its keys.

    Raises:
        ValueError: If the table lacks an objective.
    """
    chosen = dict(objectives or table.objectives)
    for key in chosen:
        if key not in table.keys:
            raise ValueError(f"the table {table.name} has no {key}{suggest(key, table.keys)}")
    by_point: dict[tuple[tuple[str, str], ...], list[Curve]] = {}
    for curve in table.curves:
        by_point.setdefault(_as_key(curve.point), []).append(curve)
    nearest: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {key: key for key in by_point}

    def identity(point: Point) -> tuple[tuple[str, str], ...]:
        key = _as_key(point)
        if key not in nearest:
            nearest[key] = min(by_point, key=lambda known: (distance(table.space, point, dict(known)), known))
        return nearest[key]

    def run(point: Point, seed: int, fractions: Sequence[float]) -> Iterator[Look]:
        curves = by_point[identity(point)]
        curve = curves[seed % len(curves)]
        return (_look_at(table, curve, fraction) for fraction in fractions)

    def truth(point: Point) -> dict[str, float]:
        ends = [curve.looks[-1].values for curve in by_point[identity(point)]]
        return {key: sum(end[key] for end in ends) / len(ends) for key in chosen}

    return Problem(table.name, table.space, chosen, run, truth, identity, tuple(map(dict, by_point)))


def _as_key(point: Point) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(point.items()))


def _look_at(table: Table, curve: Curve, fraction: float) -> Look:
    for look in curve.looks:
        if abs(look.fraction - fraction) < 1e-6:
            return look
    there = ", ".join(f"{look.fraction:.3g}" for look in curve.looks)
    raise ValueError(
        f"the table {table.name} has looks at {there} of a schedule, none at {fraction:.3g}: choose"
        " search.early_stopping.min_resource, max_resource and reduction_factor so that rungs are there"
    )


def distance(space: Space, one: Point, other: Point) -> float:
    """How far two points are from each other: 1 for every choice that differs or dimension that one of them lacks,
    and for a number the part of its range that lies between.
    """
    total = 0.0
    for dimension in space.dimensions:
        here, there = (
            point.get(dimension.key) if dimension.is_there(point) else None for point in (one, other)
        )
        if here is None or there is None or dimension.choices:
            total += float(here != there)
        else:
            total += abs(unit_of(dimension, here) - unit_of(dimension, there))
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a table of a sweep."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m effnlp.search.curves", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="the folder of a sweep")
    parser.add_argument("table", type=Path, help="the file to write: NAME.csv.gz or NAME.csv")
    parser.add_argument("--about", default="", help="what the curves are of, in words")
    options: Any = parser.parse_args(arguments)
    found = from_sweep(options.folder)
    write(Table(found.name, found.space, found.objectives, found.curves, options.about), options.table)
    size = options.table.stat().st_size
    sys.stdout.write(f"{options.table}: {len(found.curves)} curves, {size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
