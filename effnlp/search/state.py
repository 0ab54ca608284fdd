"""What a sweep is and where it stands: its specification, its study, and its frontier.

All state lies in the study's storage and in the sweep's folder: ``sweep.json`` (the specification) and
``trials/N``. Whoever holds the lock of the storage may change the study, so that the number of trials is exact
over any number of workers and restarts.
"""

import difflib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.menu import suggest
from effnlp.record import Record, write_atomically
from effnlp.search.attributes import UNDER, VALUES, slots
from effnlp.search.budget import Budget
from effnlp.search.early_stopping.halving import SuccessiveHalving
from effnlp.search.ledger import Rules, replay
from effnlp.search.pareto import on_frontier, oriented
from effnlp.search.space import Dimension, Space

log = logging.getLogger(__name__)

DIRECTIONS = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True)
class Sweep:
    """The specification of a sweep, as all its workers read it.

    Attributes:
        name: Of the sweep and of its study.
        command: The overrides as they were typed.
        objectives: Record key to ``maximize`` or ``minimize``.
        fixed: Overrides of every trial.
        dimensions: The space.
        first: Points to try first: dimension key to value as typed.
        trials: The budget in trials.
        workers: Jobs at once.
        threads: CPU threads of a trial.
        seeds: Runs of each candidate that is replicated.
        seed: Of the sampler.
        test: Whether the frontier is evaluated on the test split at the end.
        config_dir: A user's own configs.
        session: Identifies one start of the command; a trial owned by another session is an orphan.
        parent: Process id and host of the sweep.
        study: Name of its study; another than the sweep's own after an extension.
        limits: The other budgets: ``hours``, ``kilowatt_hours``, ``flops``, ``labels``; None is none.
        replicate: ``finished`` candidates are run with other seeds, or only the ``frontier``.
        constraints: What a member of the frontier must satisfy, as typed.
        reference: Record key of an objective to the value from which on a point is of no use.
        early_stopping: Config of the rule at rungs.
        storage: ``journal`` or the URL of a server.
        retries: How often a trial that was killed or lost is taken up again.
        time_limit_seconds, memory_limit_bytes: Of one trial; None is none.
        lease_seconds: How long a silent worker is waited for.
        checkpoints_at_most: Paused trials whose checkpoints are kept; None is all.
        transfer: What was taken from another search, if anything was.
    """

    name: str
    command: list[str]
    objectives: dict[str, str]
    fixed: list[str]
    dimensions: list[dict[str, Any]]
    first: list[dict[str, str]]
    trials: int
    workers: int
    threads: int
    seeds: int
    seed: int
    sampler: dict[str, Any]
    test: bool
    config_dir: str | None
    session: str
    parent: tuple[int, str]
    study: str = ""
    limits: dict[str, float | None] = field(default_factory=dict)
    replicate: str = "finished"
    constraints: list[str] = field(default_factory=list)
    reference: dict[str, float] = field(default_factory=dict)
    early_stopping: dict[str, Any] | None = None
    storage: str = "journal"
    retries: int = 1
    time_limit_seconds: float | None = None
    memory_limit_bytes: int | None = None
    lease_seconds: float = 60.0
    checkpoints_at_most: int | None = None
    transfer: dict[str, Any] | None = None

    @property
    def has_limits(self) -> bool:
        """Whether there is a budget in something else than trials."""
        return any(limit is not None for limit in self.limits.values())

    @property
    def asked_for(self) -> list[str]:
        """Record keys of objectives and constraints: what every trial must measure."""
        from effnlp.search.constraints import keys_of

        return [*self.objectives, *keys_of(self.constraints)]

    @property
    def budget(self) -> Budget:
        """All limits together."""
        return Budget(self.trials, **self.limits)

    @property
    def halving(self) -> SuccessiveHalving | None:
        """The rule of early stopping; None if every trial runs to its end."""
        from hydra.utils import instantiate

        if self.early_stopping is None:
            return None
        made: SuccessiveHalving | None = instantiate(self.early_stopping, _convert_="all")
        return made

    @property
    def space(self) -> Space:
        """The dimensions as objects."""
        made = []
        for entry in self.dimensions:
            condition = tuple(entry["condition"]) if entry["condition"] else None
            made.append(Dimension(**{**entry, "choices": tuple(entry["choices"]), "condition": condition}))
        return Space(tuple(made))

    def save(self, folder: Path) -> None:
        """Write ``sweep.json``."""
        write_atomically(folder / "sweep.json", json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Sweep":
        """Read ``sweep.json``."""
        content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        return cls(**{**known, "parent": tuple(known["parent"])})


def parse_objectives(texts: Sequence[str]) -> dict[str, str]:
    """``["val/accuracy:max"]`` to ``{"val/accuracy": "maximize"}``.

    Raises:
        ConfigError: If one has no direction, or there is none, or one twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, _, direction = str(text).rpartition(":")
        if direction not in DIRECTIONS or not key:
            raise ConfigError(f"search.objectives: an objective is KEY:max or KEY:min, got {text!r}")
        if key in found:
            raise ConfigError(f"search.objectives names {key} twice")
        if key.startswith("test/"):
            raise ConfigError(
                f"search.objectives: nothing selects on the test split; val{key.removeprefix('test')} is meant for it"
            )
        found[key] = DIRECTIONS[direction]
    if not found:
        raise ConfigError("search.objectives is empty; for instance [val/accuracy:max,model/bytes:min]")
    return found


def measured_quietly(key: str) -> bool:
    """Whether a record key is there only if latency is measured: all of inference but FLOPs and padding."""
    return key.startswith("infer/") and not key.endswith(("/flops", "/padding_waste"))


def open_study(folder: Path, sweep: Sweep, worker: int = 0) -> optuna.Study:
    """The sweep's study, made if it is not there.

    Each worker of each start draws from a random stream of its own: one that began again would propose again
    what is known.
    """
    from effnlp.search.samplers import make_sampler
    from effnlp.search.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=open_storage(sweep.storage, folder),
            study_name=sweep.study or sweep.name,
            directions=[StudyDirection[d.upper()] for d in sweep.objectives.values()],
            load_if_exists=True,
        )
    known = len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(sweep.sampler, sweep.space, sweep.seed, worker, known)
    return study


def locked(folder: Path, sweep: Sweep) -> AbstractContextManager[None]:
    """Alone with the state of the sweep, over all its processes and machines."""
    from effnlp.search import storage

    return storage.locked(sweep.storage, folder, sweep.name)


def verify(study: optuna.Study, sweep: Sweep) -> list[str]:
    """Take every decision at a rung again; what does not come out as it was written, empty if all does.

    Decisions from before an extension of the sweep are taken again under the rules of that time.
    """
    from effnlp.search.constraints import inside_of

    def rules_of(entry: Mapping[str, Any]) -> Rules:
        then = replace(sweep, **entry.get(UNDER, {}))
        halving = then.halving
        assert halving is not None
        inside = inside_of(then.objectives, then.reference, then.constraints)
        return Rules(then.objectives, halving, inside)

    return replay(study, rules_of)


def trial_folder(folder: Path, slot: int, replicate: int = 0) -> Path:
    """``trials/007``, or ``trials/007-s1`` for a replicate with other seeds."""
    return folder / "trials" / (f"{slot:03d}" + (f"-s{replicate}" if replicate else ""))


def objective_values(record: Record, objectives: Mapping[str, str]) -> list[float]:
    """The record's values of the objectives.

    Raises:
        KeyError: If the record lacks one; the message says why.
    """
    for key in objectives:
        if key not in record.values:
            near = difflib.get_close_matches(key, record.values, n=3)
            why = record.absent.get(key) or "no stage measures it" + (suggest(key, near) if near else "")
            raise KeyError(f"no objective: {key} is not in the record: {why}")
    return [record.values[key] for key in objectives]


def replicated(study: optuna.Study) -> dict[int, list[list[float]]]:
    """Slot to the objectives of its trial with each other seed that it was run with."""
    found: dict[int, list[list[float]]] = {}
    for key, values in study.user_attrs.items():
        if key.startswith(f"{VALUES}:"):
            found.setdefault(int(key.removeprefix(f"{VALUES}:").partition("-")[0]), []).append(values)
    return found


def frontier_slots(study: optuna.Study, objectives: Mapping[str, str]) -> list[int]:
    """Slots of the trials that ran to their end, satisfy all constraints, and that no other such dominates.

    One that was run with other seeds counts with its means: the best of many single runs is lucky, too.
    """
    done = {
        slot: trial
        for slot, trial in slots(study).items()
        if trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())
    }
    if not done:
        return []
    others = replicated(study)
    means = [np.mean([trial.values, *others.get(slot, [])], axis=0) for slot, trial in done.items()]
    values = oriented(np.array(means), list(objectives.values()))
    return [slot for slot, keep in zip(done, on_frontier(values), strict=True) if keep]
