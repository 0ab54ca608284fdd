"""Whether an experiment makes sense: what it names is there, what it cites was seen, what it calls can be called."""

import inspect
from collections.abc import Iterator, Sequence

from effnlp.compose import ConfigError, bind
from effnlp.menu import suggest
from effnlp.reproduce.cells import load_function, takes_runs
from effnlp.reproduce.claims import VOCABULARY
from effnlp.reproduce.experiment import (
    CITABLE,
    SEEN,
    Claim,
    Computed,
    Experiment,
    Layer,
)
from effnlp.reproduce.figure import problems as problems_of_figure
from effnlp.reproduce.machine import NEEDS
from effnlp.reproduce.read import CHAPTERS

BETTER = ("max", "min")


def validate(experiment: Experiment) -> None:
    """Refuse an experiment that does not make sense, before anything runs.

    Raises:
        ConfigError: Naming its file, and each key that is wrong and why, a line each.
    """
    found = problems(experiment)
    if found:
        raise ConfigError("\n  ".join([f"{experiment.chapter}/{experiment.name}.yaml:", *found]))


def problems(experiment: Experiment) -> list[str]:
    """What is wrong, a sentence each that begins with the key; empty if nothing is."""
    return [
        *_of_names(experiment),
        *_of_published(experiment),
        *(found for layer in experiment.layers.values() for found in _of_layer(experiment, layer)),
        *(found for claim in experiment.claims for found in _of_claim(experiment, claim)),
        *problems_of_figure(experiment),
    ]


def rows_of(experiment: Experiment, layer: Layer) -> list[str] | None:
    """The rows that a layer can have cells in; None if that is known only once a function was called."""
    named = [*layer.rows, *(computed.row for computed in layer.computed if computed.row is not None)]
    if all(computed.row is not None for computed in layer.computed):
        return list(dict.fromkeys(named))
    return list(dict.fromkeys([*named, *experiment.rows])) if experiment.rows else None


def _of_names(experiment: Experiment) -> Iterator[str]:
    if experiment.chapter not in CHAPTERS:
        yield f"lies in {experiment.chapter!r}, which is no chapter{suggest(experiment.chapter, CHAPTERS)}"
    for what, given in (
        ("columns", [column.name for column in experiment.columns]),
        ("claims", [claim.name for claim in experiment.claims]),
        ("rows", list(experiment.rows)),
        ("published", [f"{each.row}, {each.column}" for each in experiment.published]),
    ):
        twice = sorted({name for name in given if given.count(name) > 1})
        yield from (f"{what}: {name!r} is there twice" for name in twice)
    if not experiment.columns:
        yield "columns: a table needs at least one"
    if not experiment.layers:
        yield "layers: an experiment needs at least one"
    for column in experiment.columns:
        if column.better not in (None, *BETTER):
            yield f"columns.{column.name}.better: must be max or min, got {column.better!r}"
        if column.scale == 0:
            yield f"columns.{column.name}.scale: must not be 0"
        if column.digits < 0:
            yield f"columns.{column.name}.digits: must not be negative, got {column.digits}"


def _of_published(experiment: Experiment) -> Iterator[str]:
    columns = [column.name for column in experiment.columns]
    rows = _all_rows(experiment)
    for figure in experiment.published:
        where = f"published ({figure.row}, {figure.column})"
        if figure.column not in columns:
            yield f"{where}: unknown column {figure.column!r}{suggest(figure.column, columns)}"
        if rows is not None and figure.row not in rows:
            yield f"{where}: unknown row {figure.row!r}{suggest(figure.row, rows)}"
        if figure.seen not in SEEN:
            yield f"{where}: seen must be one of {', '.join(CITABLE)}, got {figure.seen!r}"
        elif figure.seen not in CITABLE:
            yield f"{where}: a figure seen {SEEN[figure.seen]} must not stand as published; say it in a claim"
        if not figure.where.strip():
            yield f"{where}: where in the paper is empty"
        if figure.spread is not None and figure.spread < 0:
            yield f"{where}: spread must not be negative, got {figure.spread}"


def _all_rows(experiment: Experiment) -> list[str] | None:
    """Rows that some layer has, or that are declared; None if a function decides."""
    found = list(experiment.rows)
    for layer in experiment.layers.values():
        rows = rows_of(experiment, layer)
        if rows is None:
            return None
        found += rows
    return list(dict.fromkeys(found))


def _of_layer(experiment: Experiment, layer: Layer) -> Iterator[str]:
    where = f"layers.{layer.name}"
    if not layer.rows and not layer.computed:
        yield f"{where}: makes no cell: it has neither rows nor computed"
    if layer.name == "analytic" and layer.rows:
        yield f"{where}.rows: the analytic layer computes and runs nothing; runs belong to small or full"
    if layer.rows and not layer.seeds:
        yield f"{where}.seeds: is missing; each row is run with each of them"
    for row in layer.seeds_of:
        if row not in layer.rows:
            yield f"{where}.seeds_of: unknown row {row!r}{suggest(row, list(layer.rows))}"
    if layer.rows and not layer.computed and all(column.key is None for column in experiment.columns):
        yield f"{where}: no column has a key, so that its runs make no cell"
    for name, amount in layer.needs.items():
        if name not in NEEDS:
            yield f"{where}.needs.{name}: unknown{suggest(name, list(NEEDS))}"
        elif amount <= 0:
            yield f"{where}.needs.{name}: must be above 0, got {amount}"
    columns = [column.name for column in experiment.columns]
    for index, computed in enumerate(layer.computed):
        here = f"{where}.computed[{index}]"
        if (computed.row is None) != (computed.column is None):
            yield f"{here}: a cell needs both row and column; a function that gives a table has neither"
        if computed.column is not None and computed.column not in columns:
            yield f"{here}: unknown column {computed.column!r}{suggest(computed.column, columns)}"
        if said := _of_function(computed, layer):
            yield f"{here}: {said}"


def _of_function(computed: Computed, layer: Layer) -> str | None:
    try:
        function = load_function(computed.function)
        bind(function, computed.arguments, "arguments", computed.function)
    except ValueError as error:
        return str(error)
    if takes_runs(function) and not layer.rows:
        return f"{computed.function} is a function of runs, and the layer has none"
    given = [*computed.arguments, *(["runs"] if takes_runs(function) else [])]
    missing = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and parameter.kind in NAMED and name not in given
    ]
    return f"{computed.function} needs the argument {missing[0]!r}" if missing else None


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _of_claim(experiment: Experiment, claim: Claim) -> Iterator[str]:
    where = f"claims.{claim.name}"
    if claim.layer not in experiment.layers:
        there = list(experiment.layers)
        yield f"{where}.layer: the experiment has no layer {claim.layer!r}{suggest(claim.layer, there)}"
        return
    if claim.not_testable is not None:
        if not claim.not_testable.strip():
            yield f"{where}.not_testable: say why"
        if not claim.kind:
            return
    if claim.kind not in VOCABULARY:
        yield f"{where}.claim: unknown kind {claim.kind!r}{suggest(claim.kind, list(VOCABULARY))}"
        return
    if claim.layer != "analytic" and claim.not_testable is None:
        for key in ("frozen", "pilot"):
            if not getattr(claim, key):
                yield f"{where}.{key}: is missing; beyond the analytic layer a bound is set by a pilot, on a day"
    kind = VOCABULARY[claim.kind]
    columns = {column.name: column for column in experiment.columns}
    wrong = list(unknown_names(experiment, claim, rows_of(experiment, experiment.layers[claim.layer])))
    wrong = wrong or kind.problems(claim.arguments, columns)
    yield from (f"{where}: {said}" for said in wrong)


def unknown_names(experiment: Experiment, claim: Claim, rows: Sequence[str] | None) -> Iterator[str]:
    """What a claim calls a row or a column and is none.

    Args:
        rows: Of its layer; None: not known yet.
    """
    columns = [column.name for column in experiment.columns]
    for place, known in (("row", rows), ("column", columns)):
        for reference in VOCABULARY[claim.kind].references(claim.arguments):
            if known is not None and place in reference and reference[place] not in known:
                name = str(reference[place])
                yield f"unknown {place} {name!r} in the layer {claim.layer}{suggest(name, known)}"
