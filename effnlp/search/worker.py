"""A worker of a sweep: one Hydra job that takes slots of the budget until none is left."""

import logging
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from effnlp.compose import Composed, ConfigError, compose, hydra_context
from effnlp.identity import config_hash
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir
from effnlp.record import COMPLETED, FAILED, Events, Record
from effnlp.search.children import alive, call_in_child, context, end_after, limit_threads
from effnlp.search.state import (
    FIRST,
    OVERRIDES,
    OWNER,
    REASON,
    REJECTED,
    SLOT,
    Sweep,
    frontier_slots,
    locked,
    measured_quietly,
    objective_values,
    open_study,
    slots,
    trial_folder,
)

log = logging.getLogger(__name__)

PROPOSALS_AT_MOST = 200
"""Proposals in a row that are illegal or known before a space with a continuum counts as exhausted."""

PROPOSALS_BEFORE_LISTING = 20
"""Proposals in a row after which the points of a space without a continuum are gone through instead."""

POINTS_TO_LIST = 20_000


def work(search: Mapping[str, Any], folder: Path) -> None:
    """What a worker job does, by the phase of the sweep."""
    sweep = Sweep.load(folder)
    limit_threads(sweep.threads)
    pid, host = sweep.parent
    if host == socket.gethostname():
        end_after(pid)
    worker = _Worker(folder, sweep, int(search["worker"]), str(search["phase"]), context())
    if search["phase"] == "trials":
        worker.trials()
    elif search["phase"] == "replicates":
        worker.replicates()
    else:
        worker.finals()


@dataclass(frozen=True)
class _Slot:
    """A slot of the budget, taken: the trial in it and what it runs."""

    number: int
    trial: FrozenTrial
    overrides: list[str]


@dataclass
class _Worker:
    folder: Path
    sweep: Sweep
    index: int
    phase: str
    processes: Any
    judged: dict[tuple[str, ...], tuple[str | None, str]] = field(default_factory=dict)

    @property
    def config_dir(self) -> Path | None:
        return Path(self.sweep.config_dir) if self.sweep.config_dir else None

    def go_on(self) -> bool:
        """Whether the sweep that started this worker still runs, as far as this machine can tell."""
        pid, host = self.sweep.parent
        return host != socket.gethostname() or alive(pid)

    def trials(self) -> None:
        """Take slots and run what is in them."""
        study = open_study(self.folder, self.sweep, self.index)
        with hydra_context():
            while self.go_on():
                with locked(self.folder):
                    slot = self._orphan(study) or self._propose(study)
                if slot is None:
                    return
                record = self._run(slot.overrides, trial_folder(self.folder, slot.number))
                if record.reason == "interrupted":
                    raise KeyboardInterrupt
                self._tell(study, slot, record)

    def _orphan(self, study: optuna.Study) -> _Slot | None:
        """A trial that an earlier start of the sweep left unfinished."""
        for number, trial in sorted(slots(study).items()):
            owner = trial.user_attrs.get(OWNER)
            if trial.state == TrialState.RUNNING and owner != self.sweep.session:
                study._storage.set_trial_user_attr(trial._trial_id, OWNER, self.sweep.session)
                log.info("trial %03d goes on where it stopped", number)
                return _Slot(number, trial, list(trial.user_attrs[OVERRIDES]))
        return None

    def _propose(self, study: optuna.Study) -> _Slot | None:
        """A new trial, legal and not known yet; None if the budget is spent or the space exhausted."""
        taken = slots(study)
        if len(taken) >= self.sweep.trials:
            return None
        known = {t.user_attrs.get("hash") for t in taken.values()}
        points = self.sweep.space.combinations()
        listed = points is not None and points <= POINTS_TO_LIST
        for _ in range(PROPOSALS_BEFORE_LISTING if listed else PROPOSALS_AT_MOST):
            if (slot := self._judged(study, taken, known)) is not None:
                return slot
        if listed and (point := self._untried(known)) is not None:
            study.enqueue_trial(self.sweep.space.parameters(point))
            return self._judged(study, taken, known)
        log.warning(
            "the space is exhausted: no legal point that is not known is left after %d trials", len(taken)
        )
        return None

    def _judged(self, study: optuna.Study, taken: Mapping[int, FrozenTrial], known: set[Any]) -> _Slot | None:
        """One proposal; a slot if it is legal and new."""
        trial = study.ask()
        overrides = self._overrides(self.sweep.space.sample(trial))
        refusal, digest = self._judge(overrides, known)
        if refusal is not None:
            trial.set_user_attr(REJECTED, refusal)
            study.tell(trial, state=TrialState.FAIL)
            if trial.user_attrs.get(FIRST):
                log.warning("a point of search.first is left out: %s", refusal)
            return None
        number = max(taken, default=-1) + 1
        trial.set_user_attr("hash", digest)
        trial.set_user_attr(OVERRIDES, overrides)
        trial.set_user_attr(OWNER, self.sweep.session)
        trial.set_user_attr(SLOT, number)
        return _Slot(number, study._storage.get_trial(trial._trial_id), overrides)

    def _untried(self, known: set[Any]) -> dict[str, str] | None:
        """Some legal point that is not known yet; None if there is none."""
        points = list(self.sweep.space.points())
        random.Random(f"{self.sweep.seed} {len(known)}").shuffle(points)
        for point in points:
            if self._judge(self._overrides(point), known)[0] is None:
                return point
        return None

    def _overrides(self, values: Mapping[str, str]) -> list[str]:
        """What a trial is composed of. Unless the user has said otherwise, it measures what is an objective."""
        latency = str(any(map(measured_quietly, self.sweep.objectives))).lower()
        said = [*self.sweep.fixed, *(f"{key}={value}" for key, value in values.items())]
        if any(override.startswith("evaluation.latency=") for override in said):
            return said
        return [*said, f"evaluation.latency={latency}"]

    def _judge(self, overrides: list[str], known: set[Any]) -> tuple[str | None, str]:
        """Why a proposal is refused (None if it is not), and its config hash."""
        asked = tuple(overrides)
        if asked not in self.judged:
            self.judged[asked] = self._legality(overrides)
        refusal, digest = self.judged[asked]
        return refusal or ("known already" if digest in known else None), digest

    def _legality(self, overrides: list[str]) -> tuple[str | None, str]:
        folders = [conf_dir()] + ([self.config_dir] if self.config_dir else [])
        try:
            composed: Composed = compose(overrides, self.config_dir)
            check(composed.config, composed.chosen, folders)
        except (ConfigError, IllegalCombinationError) as error:
            return str(error), ""
        return None, config_hash(composed.config)

    def _run(self, overrides: list[str], folder: Path) -> Record:
        """Run overrides in a child; its record, or a failed one if the child left none."""
        from effnlp.search.trial import run_trial

        start = time.monotonic()
        code = self._in_child(run_trial, (overrides, folder, self.config_dir), folder)
        if code is None:
            raise KeyboardInterrupt
        record = _record_in(folder)
        if record is None or (record.status == FAILED and code not in (0, 1)):
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            reason = "killed" if code < 0 else "error"
            record = Record(status=FAILED, identity={"overrides": overrides}, reason=reason)
            record.message = f"the process ended with {how} after {time.monotonic() - start:.0f} s"
            folder.mkdir(parents=True, exist_ok=True)
            record.save(folder)
        return record

    def _in_child(self, function: Callable[..., None], arguments: Sequence[Any], folder: Path) -> int | None:
        """Call a function in a child; its exit code. How long the child was there goes to the events."""
        start = time.monotonic()
        code = call_in_child(self.processes, function, arguments, self.go_on)
        if folder.is_dir():
            seconds = time.monotonic() - start
            Events(folder).add("process", phase=self.phase, worker=self.index, seconds=seconds)
        return code

    def _tell(self, study: optuna.Study, slot: _Slot, record: Record) -> None:
        number, storage_id = slot.number, slot.trial._trial_id
        with locked(self.folder):
            try:
                if record.status != COMPLETED:
                    raise KeyError(f"{record.reason}: {record.message}")
                values = objective_values(record, self.sweep.objectives)
            except KeyError as error:
                study._storage.set_trial_user_attr(storage_id, REASON, error.args[0])
                study.tell(slot.trial.number, state=TrialState.FAIL)
                self._say(study, slot, f"failed: {error.args[0]}")
                return
            study.tell(slot.trial.number, values)
            frontier = frontier_slots(study, self.sweep.objectives)
            self._forget_models(study, frontier)
        figures = "  ".join(
            f"{key.rsplit('/', 1)[-1]} {value:<9.4g}"
            for key, value in zip(self.sweep.objectives, values, strict=True)
        )
        self._say(study, slot, figures + ("  *" if number in frontier else "   "))

    def _say(self, study: optuna.Study, slot: _Slot, outcome: str) -> None:
        """One line of a trial: how many are done, what came of it, what it was, in the order of the space."""
        done = sum(t.state.is_finished() for t in slots(study).values())
        width = len(str(self.sweep.trials))
        varied = dict(override.split("=", 1) for override in slot.overrides)
        keys = [d.key for d in self.sweep.space.dimensions if d.varies]
        shown = " ".join(f"{key}={_short(varied[key])}" for key in dict.fromkeys(keys) if key in varied)
        log.info("%*d/%d  trial %03d  %s  %s", width, done, self.sweep.trials, slot.number, outcome, shown)

    def _forget_models(self, study: optuna.Study, frontier: list[int]) -> None:
        """A model that another dominates stays dominated: only the record of its trial is kept."""
        for number, trial in slots(study).items():
            if trial.state == TrialState.COMPLETE and number not in frontier:
                for replicate in range(self.sweep.seeds):
                    folder = trial_folder(self.folder, number, replicate)
                    (folder / "deployed.pt").unlink(missing_ok=True)

    def replicates(self) -> None:
        """Run the members of the frontier again with other seeds; this worker's share of them."""
        study = open_study(self.folder, self.sweep, self.index)
        taken = slots(study)
        jobs = [
            (number, replicate)
            for replicate in range(1, self.sweep.seeds)
            for number in frontier_slots(study, self.sweep.objectives)
        ]
        for number, replicate in jobs[self.index :: self.sweep.workers]:
            overrides = [
                *taken[number].user_attrs[OVERRIDES],
                f"seed.init={replicate}",
                f"seed.order={replicate}",
            ]
            record = self._run(overrides, trial_folder(self.folder, number, replicate))
            if record.reason == "interrupted":
                raise KeyboardInterrupt
            accuracy = record.values.get("val/accuracy")
            outcome = f"val/accuracy {accuracy:.4g}" if accuracy is not None else f"failed: {record.reason}"
            log.info("trial %03d with seed %d  %s", number, replicate, outcome)

    def finals(self) -> None:
        """Measure the members of the frontier quietly, and evaluate them on the test split."""
        from effnlp.search.final import measure_final

        study = open_study(self.folder, self.sweep, self.index)
        for number in frontier_slots(study, self.sweep.objectives):
            for replicate in range(self.sweep.seeds):
                folder = trial_folder(self.folder, number, replicate)
                if not (folder / "deployed.pt").exists():
                    continue
                code = self._in_child(measure_final, (folder, self.sweep.test, replicate == 0), folder)
                if code != 0:
                    log.warning(
                        "trial %03d could not be measured again: see %s", number, folder / "output.log"
                    )


def _short(value: str) -> str:
    """A number as drawn has up to 17 digits, which say nothing to a reader."""
    try:
        return f"{float(value):.3g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def _record_in(folder: Path) -> Record | None:
    """The record that a child left, if it did."""
    try:
        return Record.load(folder)
    except (FileNotFoundError, ValueError):
        return None
