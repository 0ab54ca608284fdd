"""Budgets of a search: trials, hours, kilowatt-hours, FLOPs, labels; the first that ends closes it.

Charged is everything that the search spent: trials that ended, were stopped or failed, and replicates. Trials
that run when a budget ends are run to their end.
"""

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from effnlp.compose import ConfigError
from effnlp.record import write_atomically
from effnlp.search.attributes import COST, RUNG, rungs_of, slots

JOULES_PER_KILOWATT_HOUR = 3.6e6

UNITS = {"trials": "trials", "hours": "hours", "kilowatt_hours": "kWh", "flops": "FLOPs", "labels": "labels"}


@dataclass(frozen=True)
class Budget:
    """The limits of a search; None is none. Energy and FLOPs are those of the records' ``own`` costs.

    Attributes:
        trials: Trials started.
        hours: Of wall time while the sweep ran, over all its starts.
        labels: Labelled texts. Texts are labelled once: the largest training set of any trial counts.

    Raises:
        ConfigError: If a limit is not above 0, or trials are not a whole number.
    """

    trials: int
    hours: float | None = None
    kilowatt_hours: float | None = None
    flops: float | None = None
    labels: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 1:
            raise ConfigError(f"search.trials must be a whole number of at least 1, got {self.trials!r}")
        for name in ("hours", "kilowatt_hours", "flops", "labels"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"search.{name} must be a number above 0 or null, got {value!r}")

    def reached(self, spent: "Spent") -> str | None:
        """The limit that is reached first in the order of the attributes, in words; None if none is."""
        for name, limit in asdict(self).items():
            amount = getattr(spent, name)
            if limit is not None and amount is not None and amount >= limit:
                return f"{amount:.4g} of {limit:g} {UNITS[name]} are spent"
        return None


@dataclass(frozen=True)
class Spent:
    """What a search spent so far; None: a record has no such figure, so that the sum is not known."""

    trials: int
    hours: float
    kilowatt_hours: float | None
    flops: float | None
    labels: float


def cost_of(values: Mapping[str, float]) -> dict[str, float]:
    """What a budget needs of a record's values."""
    keys = {"flops": "cost/total/own/flops", "energy_joules": "cost/total/own/energy_joules",
            "seconds": "cost/total/own/seconds", "labels": "data/labels"}  # fmt: skip
    return {name: values[key] for name, key in keys.items() if key in values}


def spent(study: optuna.Study, folder: Path) -> Spent:
    """All that the trials in the study cost, their replicates, and the hours of the sweep's starts."""
    taken = slots(study)
    costs = [cost for trial in taken.values() if (cost := trial_cost(trial))]
    costs += [value for key, value in study.user_attrs.items() if key.startswith(f"{COST}:")]  # of replicates
    joules = _sum(costs, "energy_joules")
    return Spent(
        trials=len(taken),
        hours=wall_seconds(folder) / 3600,
        kilowatt_hours=None if joules is None else joules / JOULES_PER_KILOWATT_HOUR,
        flops=_sum(costs, "flops"),
        labels=max((cost.get("labels", 0.0) for cost in costs), default=0.0),
    )


def trial_cost(trial: FrozenTrial) -> dict[str, float]:
    """What a trial spent as far as the study knows: in all, or up to its last rung."""
    if COST in trial.user_attrs:
        return dict(trial.user_attrs[COST])
    if count := rungs_of(trial):
        shown = trial.user_attrs[f"{RUNG}{count - 1}"]
        return cost_of({**shown["values"], **shown["cost"]})
    return {}


def _sum(costs: list[dict[str, float]], name: str) -> float | None:
    """None only if no record has it: one that lacks it among others has spent some all the same."""
    found = [cost[name] for cost in costs if name in cost]
    return math.fsum(found) if found or not costs else None


@contextmanager
def running(folder: Path, session: str, every_seconds: float = 5.0) -> Iterator[None]:
    """Keep account of the time that this start of the sweep runs."""
    path = folder / "starts" / f"{session}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    begin, over = time.time(), threading.Event()

    def note() -> None:
        with contextlib.suppress(OSError):
            write_atomically(path, json.dumps({"began": begin, "seconds": time.time() - begin}))

    def keep() -> None:
        while not over.wait(every_seconds):
            note()

    note()
    thread = threading.Thread(target=keep, daemon=True, name="start-of-sweep")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        note()


def wall_seconds(folder: Path) -> float:
    """Seconds that the sweep ran, over all its starts."""
    total = 0.0
    for path in sorted((folder / "starts").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            total += float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    return total
