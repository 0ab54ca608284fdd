"""One layer of an experiment as a result: its cells, the verdicts on its claims, and what it took."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from effnlp import provenance
from effnlp.compose import ConfigError
from effnlp.record import Record
from effnlp.reproduce.cells import Runs, make_cells, places
from effnlp.reproduce.claims import check
from effnlp.reproduce.experiment import Claim, Experiment, Layer
from effnlp.reproduce.machine import lacking
from effnlp.reproduce.result import NOT_TESTABLE, Cell, Checked, Finding, Hole, Result, Spent
from effnlp.reproduce.runs import Missing
from effnlp.reproduce.validate import unknown_names
from effnlp.reproduce.versions import versions_here, versions_of


def evaluate(
    experiment: Experiment,
    layer: Layer,
    command: str,
    runs: Mapping[str, Runs] | None = None,
    missing: Sequence[Missing] = (),
    spent: Spent | None = None,
    remarks: Sequence[str] = (),
) -> Result:
    """Make the cells of a layer and check its claims. Does no run.

    On a machine that lacks what the layer needs nothing is computed: every cell is a hole, every claim is not
    testable here.

    Args:
        command: What makes this result.
        runs: Row to its completed runs.
        missing: Runs of the layer that are not there.
        remarks: What is to be known of records that were used, such as that another evaluator measured them.
        spent: What the runs took; the seconds of the functions are added.

    Raises:
        ConfigError: If a claim names a row that a function was to give and did not.
    """
    runs, spent, start = runs or {}, spent or Spent(), time.perf_counter()
    lacks = lacking(layer.needs)
    cells: list[Cell] = []
    holes = unfilled(experiment, layer, lacks) if lacks else []
    claims = [claim for claim in experiment.claims if claim.layer == layer.name]
    if not lacks:
        cells, holes = make_cells(experiment, layer, runs, missing)
        _refuse_unknown_rows(experiment, claims, cells, holes)
    records = list({run.folder: run.record for row in runs.values() for run in row}.values())
    return Result(
        experiment=experiment.name,
        layer=layer.name,
        command=command,
        finished=provenance.now(),
        machine=in_common([record.identity.get("machine", {}) for record in records]) or provenance.machine(),
        versions=in_common([versions_of(record) for record in records]) or versions_here(),
        cells=cells,
        claims=[_checked(claim, experiment, cells, holes, lacks) for claim in claims],
        holes=holes,
        spent=replace(spent, seconds=spent.seconds + time.perf_counter() - start),
        fingerprints=_fingerprints(records),
        remarks=tuple(remarks),
        said=layer.said,
        design=layer.design,
    )


def unfilled(experiment: Experiment, layer: Layer, reason: str) -> list[Hole]:
    """A hole for every cell of which it is known that the layer has it."""
    of_runs = [(row, column.name) for row in layer.rows for column in experiment.columns if column.key]
    of_functions = [place for computed in layer.computed for place in places(computed, experiment, layer)]
    return [Hole(row, column, reason) for row, column in dict.fromkeys([*of_runs, *of_functions])]


def _refuse_unknown_rows(
    experiment: Experiment, claims: Sequence[Claim], cells: Sequence[Cell], holes: Sequence[Hole]
) -> None:
    """Rows of a function's table are known only now, unless it failed."""
    if holes:
        return
    rows = list(dict.fromkeys(cell.row for cell in cells))
    for claim in claims:
        if claim.not_testable is None:
            for said in unknown_names(experiment, claim, rows):
                raise ConfigError(f"{experiment.chapter}/{experiment.name}.yaml: claims.{claim.name}: {said}")


def _checked(
    claim: Claim, experiment: Experiment, cells: Sequence[Cell], holes: Sequence[Hole], lacks: str | None
) -> Checked:
    if why := claim.not_testable or lacks:
        finding = Finding(NOT_TESTABLE, why=why)
    else:
        finding = check(
            claim,
            {(cell.row, cell.column): cell for cell in cells},
            {(figure.row, figure.column): figure for figure in experiment.published},
            {column.name: column for column in experiment.columns},
            [(hole.row, hole.column) for hole in holes],
        )
    return Checked(
        name=claim.name,
        says=claim.says,
        kind=claim.kind,
        arguments=json.loads(json.dumps(claim.arguments)),
        finding=finding,
        frozen=claim.frozen.isoformat() if claim.frozen else None,
        pilot=claim.pilot,
    )


def in_common(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What some mappings say: where they differ, all of their values, with `` / `` between them."""
    keys = dict.fromkeys(key for one in each for key in one)
    found = {}
    for key in keys:
        values = _distinct(one[key] for one in each if key in one)
        found[key] = values[0] if len(values) == 1 else " / ".join(map(str, values))
    return found


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once; they need not be hashable."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _fingerprints(records: Sequence[Record]) -> dict[str, str]:
    identities = [record.identity for record in records if record.identity.get("task")]
    by_task = [{str(each["task"]): str(each.get("task_fingerprint"))} for each in identities]
    return in_common(by_task)
