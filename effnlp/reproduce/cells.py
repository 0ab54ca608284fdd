"""From runs and functions to the cells of a table, and to the holes where there is none."""

import importlib
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnlp.menu import suggest
from effnlp.record import Record
from effnlp.reproduce.experiment import Column, Computed, Experiment, Layer
from effnlp.reproduce.result import Cell, Hole
from effnlp.statistics import Interval

if TYPE_CHECKING:
    from effnlp.reproduce.runs import Missing

log = logging.getLogger(__name__)

ONLY = "0"
"""The seed under which a value stands that belongs to none."""


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

Values = float | Interval | Sequence[float] | Mapping[str, float]
"""What a function may give as a cell: a number, an estimate with its 90 % interval, or a number of each seed."""

Table = Mapping[str, Mapping[str, Values]]
"""Row to column to values."""


def make_cells(
    experiment: Experiment,
    layer: Layer,
    runs: Mapping[str, Runs],
    missing: "Sequence[Missing]" = (),
) -> tuple[list[Cell], list[Hole]]:
    """All cells of a layer, and a hole for each that could not be made or lacks a seed.

    Args:
        runs: Row to its completed runs.
        missing: Runs of the layer that are not there.
    """
    cells: list[Cell] = []
    holes: list[Hole] = []
    for row in layer.rows:
        absent = [run for run in missing if run.row == row]
        for column in experiment.columns:
            if column.key is not None:
                found = from_runs(row, column, runs.get(row, ()), absent)
                cells += [made for made in found if isinstance(made, Cell)]
                holes += [made for made in found if isinstance(made, Hole)]
    for computed in layer.computed:
        for made in from_function(computed, experiment, layer, runs, missing):
            if isinstance(made, Hole):
                holes.append(made)
            elif any((made.row, made.column) == (other.row, other.column) for other in cells):
                holes.append(
                    Hole(made.row, made.column, f"{computed.function} gives this cell a second time")
                )
            else:
                cells.append(made)
    return cells, holes


def from_runs(row: str, column: Column, runs: Runs, missing: "Sequence[Missing]" = ()) -> list[Cell | Hole]:
    """The cell of a row in a column of records, and the reasons why it, or a seed of it, is not there.

    A column that is declared exact and whose values differ between seeds gives a hole that names them.
    """
    key = str(column.key)
    made: list[Cell | Hole] = [Hole(row, column.name, run.reason, run.command) for run in missing]
    values = {run.seed: run.record.values[key] * column.scale for run in runs if key in run.record.values}
    without = [run for run in runs if key not in run.record.values]
    if without:
        why = without[0].record.absent.get(key) or _unknown_key(key, without[0].record)
        made.append(Hole(row, column.name, f"{_seeds(run.seed for run in without)}: {why}"))
    if column.exact and len(set(values.values())) > 1:
        which = ", ".join(f"seed {seed}: {value:g}" for seed, value in values.items())
        made.append(Hole(row, column.name, f"{column.name} is declared exact, but differs: {which}"))
    elif values:
        with_predictions = {run.seed: run.folder for run in runs if run.seed in values}
        made.append(Cell(row, column.name, values, column.exact, examples=Examples.of(key, with_predictions)))
    return made


def _seeds(seeds: Iterable[str]) -> str:
    listed = list(seeds)
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def _unknown_key(key: str, record: Record) -> str:
    return f"the record has no {key}{suggest(key, sorted(record.values)) if key else ''}"


class Examples(Mapping[str, Sequence[float]]):
    """Seed to 1 or 0 for each example: whether its class was told right. Read when asked for.

    Attributes:
        split: ``val`` or ``test``.
        folders: Seed to the folder of its run.
    """

    def __init__(self, split: str, folders: Mapping[str, Path]) -> None:
        self.split, self.folders = split, dict(folders)

    @classmethod
    def of(cls, key: str, folders: Mapping[str, Path]) -> Mapping[str, Sequence[float]]:
        """Those behind a figure of records; none for a figure that is not a share of right answers."""
        from effnlp.evaluation.predictions import FILE

        split, _, figure = key.partition("/")
        kept = {seed: folder for seed, folder in folders.items() if (folder / FILE).exists()}
        return cls(split, kept) if figure == "accuracy" and kept else {}

    def __getitem__(self, seed: str) -> Sequence[float]:
        from effnlp.evaluation.predictions import load_predictions

        told = load_predictions(self.folders[seed])[self.split]
        right: list[float] = (told.logits.argmax(axis=1) == told.labels).astype(float).tolist()
        return right

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


def from_function(
    computed: Computed,
    experiment: Experiment,
    layer: Layer,
    runs: Mapping[str, Runs],
    missing: "Sequence[Missing]" = (),
) -> list[Cell | Hole]:
    """The cells that a function gives, or a hole with what it raised.

    A function of runs is not called while one of them is missing: its figures would be of another experiment.
    """
    try:
        function = load_function(computed.function)
        arguments: dict[str, Any] = dict(computed.arguments)
        if takes_runs(function):
            if missing:
                count = f"{len(missing)} of its runs {'is' if len(missing) == 1 else 'are'} missing"
                why = f"{computed.function} was not called: {count}"
                return [
                    Hole(*place, why, missing[0].command) for place in places(computed, experiment, layer)
                ]
            arguments["runs"] = runs
        found = function(**arguments)
        table: Table = found if computed.row is None else {computed.row: {str(computed.column): found}}
        return [
            _computed_cell(row, experiment.column(name), values, layer)
            for row, columns in table.items()
            for name, values in columns.items()
        ]
    except Exception as error:  # whatever a function does, the rest of the table is still to be shown
        log.debug("%s failed", computed.function, exc_info=True)
        why = f"{computed.function}: {type(error).__name__}: {error}"
        return [Hole(*place, why) for place in places(computed, experiment, layer)]


def places(computed: Computed, experiment: Experiment, layer: Layer) -> list[tuple[str, str]]:
    """Rows and columns of the cells that a function is to give, as far as that is known before it is called.

    Of a function that gives a table these are the cells that are published or that claims are about, or else one in
    a row of its name.
    """
    if computed.row is not None:
        return [(computed.row, str(computed.column))]
    of_runs = {column.name for column in experiment.columns if column.key is not None and layer.rows}
    published = [(figure.row, figure.column) for figure in experiment.published]
    claimed = [
        (str(each["row"]), str(each["column"]))
        for claim in experiment.claims
        if claim.layer == layer.name
        for each in claim.arguments.values()
        if isinstance(each, Mapping)
        and isinstance(each.get("row"), str)
        and isinstance(each.get("column"), str)
    ]
    alone = {(other.row, other.column) for other in layer.computed if other.row is not None}
    found = [each for each in [*published, *claimed] if each[1] not in of_runs and each not in alone]
    name = computed.function.rpartition(".")[2]
    free = [column.name for column in experiment.columns if column.name not in of_runs]
    return list(dict.fromkeys(found)) or [(name, free[0] if free else experiment.columns[0].name)]


def _computed_cell(row: str, column: Column, values: Values, layer: Layer) -> Cell | Hole:
    interval = None
    if isinstance(values, Interval):
        by_seed, interval = {ONLY: values.mean}, (values.low, values.high)
    elif isinstance(values, Mapping):
        by_seed = {str(seed): float(value) for seed, value in values.items()}
    elif isinstance(values, Sequence):
        by_seed = {str(seed): float(value) for seed, value in enumerate(values)}
    else:
        by_seed = {ONLY: float(values)}
    is_exact = interval is None and (column.exact or layer.name == "analytic")
    wrong = {seed: value for seed, value in by_seed.items() if not math.isfinite(value)}
    if interval and not all(map(math.isfinite, interval)):
        return Hole(str(row), column.name, f"its interval has no end: {interval[0]:g} to {interval[1]:g}")
    if wrong or not by_seed:
        which = ", ".join(f"seed {seed}: {value}" for seed, value in wrong.items()) or "no value at all"
        return Hole(str(row), column.name, f"not a finite number: {which}")
    if is_exact and len(set(by_seed.values())) > 1:
        which = ", ".join(f"seed {seed}: {value:g}" for seed, value in by_seed.items())
        return Hole(str(row), column.name, f"{column.name} is exact, but differs: {which}")
    return Cell(str(row), column.name, by_seed, is_exact, interval)


def load_function(name: str) -> Callable[..., Any]:
    """The function of a dotted name.

    Raises:
        ValueError: If it cannot be imported or is not there; names near matches.
    """
    module, _, last = name.rpartition(".")
    try:
        found = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported: {error}") from error
    if not callable(made := getattr(found, last, None)):
        known = [key for key, value in vars(found).items() if inspect.isfunction(value) and key[0] != "_"]
        raise ValueError(f"{module} has no function {last!r}{suggest(last, known)}")
    function: Callable[..., Any] = made
    return function


def takes_runs(function: Callable[..., Any]) -> bool:
    """Whether a function is of the runs of its layer: its first parameter is called ``runs``."""
    return next(iter(inspect.signature(function).parameters), None) == "runs"
