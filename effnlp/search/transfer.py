"""Warm start: the top of another search's frontier, expressed in this search's space, to be tried first.

The other may have been a sweep, or any folder of records: of the same task, of another one, or of a small proxy
(smaller models, less data).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effnlp.compose import ConfigError
from effnlp.menu import suggest
from effnlp.record import COMPLETED, Record
from effnlp.search.constraints import is_feasible, reference_point
from effnlp.search.early_stopping.moasha import positions
from effnlp.search.pareto import hypervolume, on_frontier, oriented
from effnlp.search.space import Space

if TYPE_CHECKING:
    import optuna

    from effnlp.search.state import Sweep

SCALE = re.compile(r"task|task\..*|model\.size|trainer\.(epochs|steps)")
"""Dimensions in which a proxy is smaller than what it stands for: where it is outside of them, they are left open."""

NAMED_AT_MOST = 4
"""Values and reasons that a message names."""


@dataclass(frozen=True)
class Fitted:
    """A run as a point of a space.

    Attributes:
        point: Dimension key to value as typed; what the run does not say is left open.
        outside: Dimensions of which the run has a value that is outside of them, with it.
        unlike: Settings of the space, dimensions with a single value, of which the run has another, with it.
    """

    point: dict[str, str]
    outside: dict[str, str]
    unlike: dict[str, str]


@dataclass(frozen=True)
class Transfer:
    """What is taken from another search.

    Attributes:
        points: To be tried first, the best first.
        overlap: Which dimensions they settle and which they leave open, in words.
        left_out: Why others that were as good were not taken, a sentence each.
        sources: Folder of the record that each point comes from.
        folder: Below which these are.
    """

    points: list[dict[str, str]]
    overlap: str
    left_out: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    folder: str = ""


def fit(space: Space, overrides: Sequence[str], record: Record | None = None) -> Fitted:
    """A run in a space: from what was typed, and else from the choices and the config of its record."""
    typed = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    settled: dict[str, str] = {}
    fitted = Fitted({}, {}, {})
    for dimension in space.dimensions:
        if not dimension.is_there(settled):
            continue
        said = list(said_of(dimension.key, typed, record))
        found = next((fits for value in said if (fits := dimension.fitting(value)) is not None), None)
        if not dimension.varies:
            settled[dimension.key] = next(dimension.values())
            if said and found is None:
                fitted.unlike[dimension.key] = _shown(said[0])
        elif found is not None:
            settled[dimension.key] = fitted.point[dimension.key] = found
        elif said:
            fitted.outside[dimension.key] = _shown(said[0])
    return fitted


def said_of(key: str, typed: Mapping[str, str], record: Record | None) -> Iterable[Any]:
    """What a run had for a key, in all the ways in which it may be written."""
    if key in typed:
        yield typed[key]
        return
    if record is None:
        return
    if key in record.choices:
        names = record.choices[key].split("+")  # of a stacked group
        yield from ([names[0], names] if len(names) == 1 else [names])
        return
    node: Any = record.config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return
        node = node[part]
    if not isinstance(node, Mapping):
        yield node


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def first_points_from(folder: Path, space: Space, objectives: Mapping[str, str], points: int) -> Transfer:
    """The best that other records show, as points of this space.

    Candidates are ranked as MO-ASHA ranks: front by front, each front spread out. Runs that differ in nothing
    but seeds are one candidate with their mean; runs of different data are ranked apart.

    Args:
        folder: Of a sweep, or any folder with records below it.
        points: How many are taken, where there are as many.

    Raises:
        ConfigError: If there are no records with these objectives, or none fits into the space at all.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise ConfigError(f"search.warm_start.points must be a whole number of at least 1, got {points!r}")
    taken: list[dict[str, str]] = []
    sources: list[str] = []
    left_out: list[str] = []
    candidates = _ranked(_candidates(Path(folder), objectives), objectives)
    for candidate in candidates:
        if len(taken) == points:
            break
        record = candidate.record
        fitted = fit(space, [str(o) for o in record.identity.get("overrides") or []], record)
        name = candidate.name
        outside = [f"{key}={value}" for key, value in fitted.outside.items() if not SCALE.fullmatch(key)]
        if outside:
            left_out.append(f"{name}: {', '.join(outside)} is not in this space")
        elif not fitted.point:
            left_out.append(f"{name}: it says nothing of any dimension of this space")
        elif fitted.point in taken:
            left_out.append(f"{name}: here it is the same as {sources[taken.index(fitted.point)]}")
        else:
            taken.append(fitted.point)
            sources.append(name)
    if not taken:
        reasons = "; ".join(left_out[:NAMED_AT_MOST]) + ("; …" if len(left_out) > NAMED_AT_MOST else "")
        raise ConfigError(
            f"search.warm_start.from: nothing in {folder} fits into this space: {reasons}. "
            f"There: {_varied(candidates)}. Here: {space}"
        )
    return Transfer(taken, _overlap(space, taken), left_out, sources, str(folder))


@dataclass(frozen=True)
class _Candidate:
    """A configuration of the other search: one of its records, and the mean of its objectives."""

    name: str
    record: Record
    values: tuple[float, ...]
    data: tuple[str, str]


def _candidates(folder: Path, objectives: Mapping[str, str]) -> list[_Candidate]:
    from effnlp.report.read import read_records

    try:
        loaded = read_records([folder]).loaded
    except ValueError as error:
        raise ConfigError(f"search.warm_start.from: {error}") from error
    completed = [run for run in loaded if run.record.status == COMPLETED]
    able = [run for run in completed if all(key in run.record.values for key in objectives)]
    if not able:
        lacking = [key for key in objectives if not any(key in run.record.values for run in completed)]
        known = sorted({key for run in completed for key in run.record.values})
        near = suggest(lacking[0], known) if lacking else ""
        raise ConfigError(
            f"search.warm_start.from: none of {len(completed)} completed records in {folder} has "
            f"{' and '.join(lacking or objectives)}{near if 'did you mean' in near else ''}"
        )
    groups: dict[tuple[str, ...], list[Any]] = {}
    for run in able:
        identity = run.record.identity
        data = (str(identity.get("task", "")), str(identity.get("task_fingerprint", "")))
        groups.setdefault((*data, str(identity.get("config_hash", run.folder))), []).append(run)
    return [
        _Candidate(
            name=str(runs[0].folder.relative_to(folder)),
            record=runs[0].record,
            values=tuple(float(np.mean([run.record.values[key] for run in runs])) for key in objectives),
            data=(task, fingerprint),
        )
        for (task, fingerprint, _), runs in groups.items()
    ]


def _ranked(candidates: Sequence[_Candidate], objectives: Mapping[str, str]) -> list[_Candidate]:
    """The best first; those that equal each other in rank by their objectives and then their names."""
    placed = []
    for data in sorted({candidate.data for candidate in candidates}):
        of_data = [candidate for candidate in candidates if candidate.data == data]
        values = oriented(np.array([c.values for c in of_data]), list(objectives.values()))
        places = positions(values, np.arange(len(of_data)))
        placed += [
            (int(place), *row, candidate.name, candidate)
            for place, row, candidate in zip(places, values.tolist(), of_data, strict=True)
        ]
    return [entry[-1] for entry in sorted(placed, key=lambda entry: entry[:-1])]


def _overlap(space: Space, points: Sequence[Mapping[str, str]]) -> str:
    keys = list(dict.fromkeys(d.key for d in space.dimensions if d.varies))
    settled = [key for key in keys if any(key in point for point in points)]
    rest = [key for key in keys if key not in settled]
    number = f"{len(points)} points" if len(points) > 1 else "1 point"
    return f"{number} with {', '.join(settled)}" + (f"; left open: {', '.join(rest)}" if rest else "")


def _varied(candidates: Sequence[_Candidate]) -> str:
    """What the other search varied: keys and some of their values."""
    found: dict[str, list[str]] = {}
    for candidate in candidates:
        for override in candidate.record.identity.get("overrides") or []:
            key, _, value = str(override).lstrip("+").partition("=")
            if value not in found.setdefault(key, []):
                found[key].append(value)
    shown = [
        f"{key}={','.join(values[:NAMED_AT_MOST])}{',…' if len(values) > NAMED_AT_MOST else ''}"
        for key, values in found.items()
        if len(values) > 1
    ]
    return " ".join(shown) or "nothing varied"


# What it was worth


@dataclass(frozen=True)
class Saved:
    """What a transfer saved.

    Attributes:
        hypervolume: Of the transferred points alone.
        spent: What they had cost when they had reached it.
        spent_without: What the search's own proposals had cost when they alone had reached as much; None if
            they never did.
        reference: (m,) oriented; where hypervolume is measured from.
    """

    hypervolume: float
    spent: float
    spent_without: float | None
    reference: tuple[float, ...]


def is_transferred(points: Sequence[Mapping[str, str]], overrides: Sequence[str]) -> bool:
    """Whether a trial, by its overrides, is one of the points that were transferred."""
    said = set(overrides)
    return any(all(f"{key}={value}" in said for key, value in point.items()) for point in points)


def saved_by_transfer(
    values: np.ndarray, cost: np.ndarray, transferred: np.ndarray, reference: np.ndarray | None = None
) -> Saved:
    """Compare transferred points with the search's own proposals, each as if they had been alone.

    Own proposals may have learned from transferred points, so that what they would have needed without is
    rather more than less.

    Args:
        values: (n, m) oriented values of the trials in the order in which they ended; a row of NaN for one
            without final values (stopped, failed), which has cost something all the same.
        cost: (n,) what each one cost, in any unit of a budget.
        transferred: (n,) bool.
        reference: (m,) oriented; where it is infinite (by default everywhere), a tenth of the range that an
            objective takes beyond the worst value of it, so that also the ends of a frontier count.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if values.ndim != 2 or not len(values) == len(cost) == len(transferred):
        raise ValueError(
            f"{len(values)} rows of values, {len(cost)} costs and {len(transferred)} flags do not fit"
        )
    finished = ~np.isnan(values).any(axis=1)
    reference = _finite(
        np.full(values.shape[1], np.inf) if reference is None else reference, values[finished]
    )
    ours, theirs = np.flatnonzero(~transferred), np.flatnonzero(transferred)
    goal = _reached(values[theirs], finished[theirs], reference)
    spent = _spent_until(goal, values[theirs], finished[theirs], cost[theirs], reference)
    assert spent is not None
    return Saved(
        goal,
        spent,
        _spent_until(goal, values[ours], finished[ours], cost[ours], reference),
        tuple(map(float, reference)),
    )


def _finite(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    if len(values) == 0:
        return np.where(np.isfinite(reference), reference, 0.0)
    worst, spread = values.max(axis=0), np.ptp(values, axis=0)
    margin = np.where(spread > 0, spread, np.maximum(np.abs(worst), 1.0)) / 10
    return np.where(np.isfinite(reference), reference, worst + margin)


def _reached(values: np.ndarray, finished: np.ndarray, reference: np.ndarray) -> float:
    done = values[finished]
    return hypervolume(done[on_frontier(done)], reference)


def _spent_until(
    goal: float, values: np.ndarray, finished: np.ndarray, cost: np.ndarray, reference: np.ndarray
) -> float | None:
    """Sum of the costs until the hypervolume is at least ``goal``; None if it never is."""
    # It never falls, so that the first trial after which it is reached is found by halving.
    low, high = 0, len(values)
    enough = goal * (1 - 1e-12)
    if _reached(values, finished, reference) < enough:
        return None
    while low < high:
        middle = (low + high) // 2
        if _reached(values[:middle], finished[:middle], reference) >= enough:
            high = middle
        else:
            low = middle + 1
    return float(cost[:low].sum())


def transfer_outcome(sweep: "Sweep", study: "optuna.Study", transfer: Transfer) -> dict[str, Any]:
    """What a sweep says of its transfer when it is over, spent in FLOPs where all trials have them."""
    from optuna.trial import TrialState

    from effnlp.search.attributes import OVERRIDES, slots
    from effnlp.search.budget import trial_cost

    ended = [trial for trial in slots(study).values() if trial.state.is_finished()]
    ended.sort(key=lambda trial: (str(trial.datetime_complete), trial.number))
    lost = [math.nan] * len(sweep.objectives)
    rows = [
        trial.values if trial.state == TrialState.COMPLETE and is_feasible(trial.constraints) else lost
        for trial in ended
    ]
    flops = [trial_cost(trial).get("flops") for trial in ended]
    unit = "trials" if None in flops else "flops"
    values = np.array(rows, dtype=float).reshape(len(ended), len(sweep.objectives))
    saved = saved_by_transfer(
        oriented(values, list(sweep.objectives.values())),
        np.ones(len(ended)) if unit == "trials" else np.array(flops, dtype=float),
        np.array(
            [is_transferred(transfer.points, trial.user_attrs[OVERRIDES]) for trial in ended], dtype=bool
        ),
        reference_point(sweep.reference, sweep.objectives),
    )
    return {
        "from": transfer.folder, "points": len(transfer.points), "overlap": transfer.overlap,
        "left_out": transfer.left_out, "quantity": unit, **asdict(saved),
    }  # fmt: skip
