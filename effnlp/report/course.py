"""The course of a sweep: hypervolume against what was spent, limits, transfer, and how its trials ended.

Everything here is a function of records and of what ``sweep.json`` says; nothing reads a file or draws.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effnlp.record import COMPLETED
from effnlp.report.read import Loaded, Reading
from effnlp.report.units import human
from effnlp.search.budget import JOULES_PER_KILOWATT_HOUR, UNITS, cost_of
from effnlp.search.constraints import violations
from effnlp.search.progress import hypervolume_curve

QUANTITIES = {"trials": "trials", "hours": "hours of trials", "kilowatt_hours": "kWh", "flops": "FLOPs"}
"""What a course is drawn over. Hours are those of the trials added up, whatever ran at once."""

NAMES = {"trials": "trials", "hours": "time", "kilowatt_hours": "energy", "flops": "work", "labels": "labels"}
"""What a limit is on, for a reader."""


@dataclass(frozen=True)
class Course:
    """How a sweep came to its frontier; one entry a trial that ended, in the order of ending.

    Attributes:
        folder: Of the sweep.
        objectives: Record key to ``maximize`` or ``minimize``.
        hypervolume: Share of the box between the best and the worst seen that is dominated by then.
        spent: Quantity of :data:`QUANTITIES` to what had been spent by then; only those that records have.
        runs: The trials, by their folders.
    """

    folder: Path
    objectives: dict[str, str]
    hypervolume: list[float]
    spent: dict[str, list[float]]
    runs: list[Path]


def courses(reading: Reading) -> list[Course]:
    """The course of each sweep with at least two trials that count; of replicates nothing counts here."""
    found = []
    for folder, sweep in reading.sweeps.items():
        objectives = {str(key): str(way) for key, way in (sweep.get("objectives") or {}).items()}
        trials = [run for run in reading.loaded if run.folder.parent == folder / "trials"]
        trials = sorted((run for run in trials if run.folder.name.isdigit()), key=_ending)
        made = _course(folder, objectives, trials, sweep)
        if made is not None:
            found.append(made)
    return found


def _ending(run: Loaded) -> tuple[str, str]:
    identity = run.record.identity
    return str(identity.get("finished") or identity.get("started") or ""), run.folder.name


def _course(
    folder: Path, objectives: dict[str, str], trials: Sequence[Loaded], sweep: Mapping[str, Any]
) -> Course | None:
    counted = [_counts(run, objectives, sweep.get("constraints") or ()) for run in trials]
    rows = [
        [run.record.values[key] for key in objectives]
        for run, does in zip(trials, counted, strict=True)
        if does
    ]
    if len(rows) < 2 or not objectives:
        return None
    curve = iter(hypervolume_curve(np.array(rows, dtype=float), objectives, sweep.get("reference")))
    heights, reached = [], 0.0
    for does in counted:
        reached = next(curve) if does else reached
        heights.append(reached)
    costs = [cost_of(run.record.values) for run in trials]
    return Course(folder, objectives, heights, _spent(costs), [run.folder for run in trials])


def _counts(run: Loaded, objectives: Mapping[str, str], constraints: Sequence[str]) -> bool:
    values = run.record.values
    if run.record.status != COMPLETED or any(key not in values for key in objectives):
        return False
    try:
        return all(amount <= 0 for amount in violations(constraints, values).values())
    except KeyError:  # what a constraint is about was not measured
        return False


def _spent(costs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = {"hours": ("seconds", 3600.0), "kilowatt_hours": ("energy_joules", JOULES_PER_KILOWATT_HOUR),
             "flops": ("flops", 1.0)}  # fmt: skip
    found = {"trials": [float(count) for count in range(1, len(costs) + 1)]}
    for quantity, (name, per) in names.items():
        if any(name in cost for cost in costs):
            found[quantity] = list(itertools.accumulate(cost.get(name, 0.0) / per for cost in costs))
    return found


def limits(sweep: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a sweep's budget by quantity."""
    told = {"trials": sweep.get("trials"), **(sweep.get("limits") or {})}
    return {name: float(told[name]) for name in UNITS if _is_number(told.get(name))}


def budget_rows(sweep: Mapping[str, Any]) -> list[tuple[str, str, str, float | None]]:
    """What a sweep spent of each quantity: its name, the amount, the limit (``–``: none), and the share of it."""
    spent = (sweep.get("outcome") or {}).get("spent") or {}
    limited = limits(sweep)
    return [
        (
            NAMES[name],
            _amount(name, spent[name]),
            _amount(name, limited[name]) if name in limited else "–",
            spent[name] / limited[name] if name in limited else None,
        )
        for name in UNITS
        if _is_number(spent.get(name))
    ]


def _amount(quantity: str, value: float) -> str:
    if quantity == "hours":
        return human("hours/seconds", value * 3600)
    if quantity == "flops":
        return human("flops", value)
    text = f"{value:.0f}" if value == int(value) else f"{value:.3g}"
    return f"{text} kWh" if quantity == "kilowatt_hours" else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def transfer_in_words(sweep: Mapping[str, Any]) -> str | None:
    """What the points that were taken from elsewhere brought, and saved; None where there were none."""
    told = (sweep.get("outcome") or {}).get("transfer")
    if not told or not told.get("points"):
        return None
    points = told["points"] if _is_number(told["points"]) else len(told["points"])
    plural = "" if points == 1 else "s"
    text = f"{points:g} point{plural} from {told.get('from')} {'was' if points == 1 else 'were'} tried first."
    if not _is_number(told.get("hypervolume")) or not _is_number(told.get("spent")):
        return text
    quantity = str(told.get("quantity", "trials"))
    spent, without = told["spent"], told.get("spent_without")
    text += f" Alone they reached a hypervolume of {told['hypervolume']:.4g} for {_priced(quantity, spent)}"
    if not _is_number(without):
        return f"{text}; what the sweep proposed itself has not reached as much."
    saved = f"saved {_priced(quantity, without - spent)}" if without > spent else "saved nothing"
    text += f"; what the sweep proposed itself reached as much for {_priced(quantity, without)}"
    return f"{text}, so that the transfer {saved}."


def _priced(quantity: str, value: float) -> str:
    text = _amount(quantity, value)
    return text if text[-1].isalpha() else f"{text} {UNITS.get(quantity, quantity)}"


@dataclass(frozen=True)
class FailureClass:
    """Runs that failed for the same reason, with the first of them as an example."""

    reason: str
    count: int
    message: str
    folder: Path


def failure_classes(failures: Sequence[Loaded]) -> list[FailureClass]:
    """Failed runs by class, the most frequent first."""
    by_reason: dict[str, list[Loaded]] = {}
    for run in failures:
        by_reason.setdefault(run.record.reason or run.record.status, []).append(run)
    return [
        FailureClass(
            reason, len(cases), (cases[0].record.message or "").strip().partition("\n")[0], cases[0].folder
        )
        for reason, cases in sorted(by_reason.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    ]


def attempts_of(run: Loaded, reading: Reading) -> list[str]:
    """How earlier attempts at a run ended, in words, as the outcome of its sweep has them."""
    sweep = reading.sweeps.get(run.folder.parent.parent, {})
    history = ((sweep.get("outcome") or {}).get("attempts") or {}).get(run.folder.name, ())
    return [f"{entry.get('how')}: {entry.get('why')}" for entry in history]


def ends_in_words(sweep: Mapping[str, Any]) -> str:
    """How the trials of a sweep ended, and what ended it."""
    outcome = sweep.get("outcome") or {}
    names = {"complete": "finished", "fail": "failed"}
    states = outcome.get("trials") or {}
    parts = [f"{count} {names.get(state, state)}" for state, count in states.items()]
    retried = sum(
        any(e.get("how") != "stopped" for e in history)
        for history in (outcome.get("attempts") or {}).values()
    )
    parts += [f"{retried} of them tried again after being lost"] if retried else []
    if rejected := outcome.get("rejected_proposals"):
        parts.append(f"{rejected} proposals rejected beforehand")
    text = ", ".join(parts)
    return f"{text}; {outcome['ended_by']}" if text and outcome.get("ended_by") else text
