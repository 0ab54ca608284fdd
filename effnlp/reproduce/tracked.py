"""The table of a reproduction in the tracker of its runs, as one more run in the group of the experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effnlp.compose import ConfigError, compose, hydra_context
from effnlp.record import COMPLETED, Record
from effnlp.reproduce.experiment import Experiment
from effnlp.reproduce.result import VERDICTS, Result
from effnlp.reproduce.table import Table, tabulate


def overrides_for(tracking: str, group: str, job_type: str | None = None) -> list[str]:
    """What chooses a tracker with a group and a type of job, as far as it knows of such.

    Raises:
        ConfigError: If there is no such tracker.
    """
    try:
        with hydra_context():
            keys = compose([f"tracking={tracking}"]).config["tracking"]
    except ConfigError as error:
        raise ConfigError(f"--tracking: {error}") from error
    wished = {"group": group, "job_type": job_type}
    more = [f"tracking.{key}={value}" for key, value in wished.items() if key in keys and value is not None]
    return [f"tracking={tracking}", *more]


def log_table(experiment: Experiment, result: Result, tracking: str, folder: Path) -> None:
    """Log the table of a result with its claims, if the tracker takes tables; what fails there is a warning.

    Args:
        tracking: A choice of the group ``tracking``.
        folder: Of the result; what the tracker keeps is below it.

    Raises:
        ConfigError: If there is no such tracker.
    """
    from hydra.utils import instantiate

    with hydra_context():
        config = compose(overrides_for(tracking, experiment.name, "table")).config["tracking"]
    tracker = instantiate(config, _convert_="all")
    if not hasattr(tracker, "log_scatter"):
        return
    identity = {"config_hash": f"table-{result.experiment}-{result.layer}", "seed_init": 0, "seed_order": 0}
    record = Record(COMPLETED, identity)
    verdicts = [claim.finding.verdict for claim in result.claims]
    record.put({f"claims/{verdict.replace(' ', '_')}": verdicts.count(verdict) for verdict in VERDICTS})
    record.put({"table/cells": len(result.cells), "table/holes": len(result.holes)})
    folder.mkdir(parents=True, exist_ok=True)
    tracker.start(identity, {"experiment": result.experiment, "layer": result.layer}, {}, folder)
    tracker.log_scatter("table", [], rows_of(tabulate(experiment, result)))
    tracker.log_scatter("claims", [], claims_of(result))
    tracker.finish(record)


def rows_of(table: Table) -> list[dict[str, Any]]:
    """A mapping for each row: column to our figure, and ``<column>, paper`` to the published one."""
    rows: list[dict[str, Any]] = []
    for name in table.rows:
        row: dict[str, Any] = {"row": name}
        for column in table.columns:
            entry = table.entry(name, column)
            unit = f" ({column.unit})" if column.unit else ""
            if table.has_ours(column):
                row[f"{column.name}{unit}"] = entry.ours.mean if entry.ours else None
            if table.has_paper(column):
                row[f"{column.name}{unit}, paper"] = entry.paper.value if entry.paper else None
        rows.append(row)
    return rows


def claims_of(result: Result) -> list[Mapping[str, Any]]:
    """A mapping for each claim."""
    return [
        {
            "claim": claim.name, "says": claim.says, "verdict": claim.finding.verdict,
            "estimate": claim.finding.estimate, "low": claim.finding.low, "high": claim.finding.high,
            "seeds": claim.finding.n,
        }
        for claim in result.claims
    ]  # fmt: skip
