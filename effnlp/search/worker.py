"""A worker of a sweep: one Hydra job that takes jobs from the ledger and runs each in a child process."""

import contextlib
import json
import logging
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from effnlp.compose import Composer, hydra_context
from effnlp.record import COMPLETED, FAILED, STOPPED, Events, Record, headline
from effnlp.search.attributes import COST, OVERRIDES, OWNER, REASON, RUNG, VALUES, rungs_of, slots
from effnlp.search.budget import cost_of, spent
from effnlp.search.children import Ended, alive, call_in_child, context, end_after
from effnlp.search.constraints import inside_of, violations
from effnlp.search.devices import occupy_share
from effnlp.search.leases import lease, sweep_goes_on, whether_lost
from effnlp.search.ledger import Job, Ledger, Owner, Wait
from effnlp.search.proposals import Proposer, legality_judge
from effnlp.search.rungs import Rung, Verdict
from effnlp.search.state import (
    Sweep,
    frontier_slots,
    locked,
    measured_quietly,
    objective_values,
    open_study,
    trial_folder,
)
from effnlp.search.trial import BUSY, Levels

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.2
"""Between two looks whether others made something to do."""

PARENT_SECONDS = 30.0
"""A parent on another machine that keeps no account of its time for so long is gone."""

FAILURES_TO_GIVE_UP = 5
"""If so many trials fail before any other goes well, no new one is started."""

WAIT_FOR_OTHERS_SECONDS = 3.0
"""Before a trial is tried again that another process still runs."""

KEPT = ("deployed.pt", "delta.safetensors")
"""What a run keeps of its model."""

ROOM_BYTES = 2**16
"""Less than the record of a trial and the entries of its study need."""


class DiskFullError(RuntimeError):
    """There is no more room where the sweep writes; the same command goes on when there is."""


def work(search: Mapping[str, Any], folder: Path) -> None:
    """What a worker job does, by the phase of the sweep."""
    sweep = Sweep.load(folder)
    index = int(search["worker"])
    occupy_share(index, sweep.workers, sweep.threads)
    pid, host = sweep.parent
    if host == socket.gethostname():
        end_after(pid)
    token = f"{sweep.session[:8]}-{search['phase']}-{index}-{uuid.uuid4().hex[:8]}"
    owner = Owner(sweep.session, index, token, socket.gethostname(), os.getpid())
    worker = _Worker(folder, sweep, owner, str(search["phase"]), context())
    with lease(folder, token, sweep.lease_seconds):
        {"trials": worker.trials, "replicates": worker.replicates, "final": worker.finals}[worker.phase]()


@dataclass
class _Worker:
    folder: Path
    sweep: Sweep
    owner: Owner
    phase: str
    processes: Any
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        self.study = open_study(self.folder, self.sweep, self.owner.worker)
        self.halving = self.sweep.halving
        self.compose = Composer(self.config_dir)

    @property
    def config_dir(self) -> Path | None:
        return Path(self.sweep.config_dir) if self.sweep.config_dir else None

    def go_on(self) -> bool:
        """Whether the start of the sweep that this worker belongs to still runs."""
        pid, host = self.sweep.parent
        if host == socket.gethostname():
            return alive(pid)
        patience = max(self.sweep.lease_seconds, PARENT_SECONDS)
        return sweep_goes_on(self.folder, self.sweep.session, patience)

    def is_lost(self, owner: Mapping[str, Any]) -> str:
        """Whether another worker is gone."""
        return whether_lost(self.folder, owner, self.sweep.lease_seconds, self.owner.host)

    def ledger(self) -> Ledger:
        """The ledger as this worker keeps it."""
        proposer = Proposer(
            self.sweep.space, self._overrides, legality_judge(self.compose, self.config_dir), self.sweep.seed
        )
        return Ledger(
            self.study, self.sweep.objectives, self.halving, proposer, self.sweep.trials, self.owner,
            retries=self.sweep.retries, is_lost=self.is_lost,
            inside=inside_of(self.sweep.objectives, self.sweep.reference, self.sweep.constraints),
            checkpoints_at_most=self.sweep.checkpoints_at_most,
        )  # fmt: skip

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Alone with the state of the sweep."""
        with locked(self.folder, self.sweep):
            yield

    def trials(self) -> None:
        """Take jobs and run them."""
        ledger = self.ledger()
        with hydra_context():
            while self.go_on():
                with self.alone():
                    closed = self._closed()
                    job = ledger.take(time.time(), is_open=closed is None)
                if job is None:
                    return
                if isinstance(job, Wait):
                    time.sleep(WAIT_SECONDS)
                    continue
                try:
                    self._run_job(ledger, job)
                except BaseException as error:
                    is_told = isinstance(error, KeyboardInterrupt)
                    why = (
                        "the sweep was stopped"
                        if is_told
                        else f"the worker failed: {error or type(error).__name__}"
                    )
                    # Where the storage itself is what failed, the lease says in time that the trial is free.
                    with contextlib.suppress(Exception), self.alone():
                        ledger.release(job, why, time.time())
                    raise

    def _closed(self) -> str | None:
        """Why no new trial is started; None if one may be."""
        if self.sweep.has_limits and (limit := self.sweep.budget.reached(self._spent())) is not None:
            return limit
        return hopeless(self.study, self.sweep.session)

    def _spent(self) -> Any:
        return spent(self.study, self.folder)

    def _run_job(self, ledger: Ledger, job: Job) -> None:
        """Run one trial in a child, answer it at its rungs, and enter into the ledger what came of it."""
        folder = trial_folder(self.folder, job.slot)
        if job.how != "new":
            log.info(
                "trial %03d %s", job.slot, "is promoted" if job.how == "promoted" else "is taken up again"
            )
        start, said = time.monotonic(), Verdict("continue")

        def answer(rung: Rung) -> Verdict | None:
            nonlocal said
            with self.alone():
                verdict = ledger.report(job, rung, time.time())
            said = verdict or said
            return verdict

        levels = None
        if self.halving is not None:
            levels = Levels(self.halving.levels, self.halving.max_resource, job.known_rungs)
        ended = self._trial_in_child(job.overrides, folder, levels, answer)
        if ended.why == "stopped":
            raise KeyboardInterrupt
        if ended.code == BUSY:
            with self.alone():
                ledger.release(job)
            time.sleep(WAIT_FOR_OTHERS_SECONDS)
            return
        record = _record_in(folder)
        cost = cost_of(record.values) if record else _spent_before(folder)
        if said.word in ("stop", "pause") and ended.why != "refused":
            self._set_aside(ledger, job, said, cost)
            return
        if record is not None and record.status == COMPLETED and ended.why != "refused":
            self._complete(ledger, job, record)
            return
        reason, message = _what_went_wrong(ended, record, time.monotonic() - start, self.sweep)
        if reason == "error" and is_full(self.folder):
            reason, message = "disk", f"no room is left where the sweep writes ({self.folder})"
        if reason == "disk":
            raise DiskFullError(f"trial {job.slot:03d}: {message}")
        with self.alone():
            outcome = ledger.fail(job, reason, message, cost, time.time())
        if outcome == "abandon":
            log.warning("trial %03d is another worker's by now; what came of it here is not kept", job.slot)
            return
        if outcome == "again":
            log.warning("trial %03d %s: %s; it is taken up again", job.slot, reason, message)
            return
        self._write_failure(job, folder, record, reason, message)
        self._say(job, f"failed: {reason}: {message}")

    def _trial_in_child(
        self,
        overrides: Sequence[str],
        folder: Path,
        levels: Levels | None = None,
        answer: Callable[[Rung], Verdict | None] | None = None,
    ) -> Ended:
        from effnlp.search.trial import run_trial

        composed = self.compose(overrides)
        arguments = (overrides, folder, self.config_dir, composed, levels, self.sweep.memory_limit_bytes)
        return self._in_child(run_trial, arguments, folder, answer, self.sweep.time_limit_seconds)

    def _in_child(
        self,
        function: Callable[..., None],
        arguments: Sequence[Any],
        folder: Path,
        answer: Callable[[Any], Any] | None = None,
        limit_seconds: float | None = None,
    ) -> Ended:
        """Call a function in a child. How long the child was there goes to the events."""
        start = time.monotonic()
        ended = call_in_child(self.processes, function, arguments, self.go_on, answer, limit_seconds)
        if folder.is_dir():
            seconds = time.monotonic() - start
            with contextlib.suppress(OSError):
                Events(folder).add("process", phase=self.phase, worker=self.owner.worker, seconds=seconds)
        return ended

    def _set_aside(self, ledger: Ledger, job: Job, said: Verdict, cost: Mapping[str, float]) -> None:
        """A trial that was stopped or paused at a rung."""
        with self.alone():
            ledger.charge(job, cost)
            self._drop_checkpoints(ledger)
        if said.word == "stop":
            settle(self.study, self.folder, [job.slot])
        self._say(job, f"{'stopped' if said.word == 'stop' else 'paused'} at {said.sentence}")

    def _drop_checkpoints(self, ledger: Ledger) -> None:
        """Paused trials that will not go on need no checkpoint."""
        for slot in ledger.without_future():
            shutil.rmtree(trial_folder(self.folder, slot) / "checkpoints", ignore_errors=True)

    def _complete(self, ledger: Ledger, job: Job, record: Record) -> None:
        try:
            values = objective_values(record, self.sweep.objectives)
            violated = violations(self.sweep.constraints, record.values, record.absent)
        except KeyError as error:
            with self.alone():
                ledger.fail(job, "error", str(error.args[0]), cost_of(record.values), time.time())
            self._say(job, f"failed: {error.args[0]}")
            return
        with self.alone():
            if not ledger.complete(job, values, cost_of(record.values), violated):
                log.warning(
                    "trial %03d is another worker's by now; what came of it here is not kept", job.slot
                )
                return
            frontier = frontier_slots(self.study, self.sweep.objectives)
            self._forget_models(frontier)
            self._drop_checkpoints(ledger)
        figures = "  ".join(
            f"{key.rsplit('/', 1)[-1]} {value:<9.4g}"
            for key, value in zip(self.sweep.objectives, values, strict=True)
        )
        mark = "  *" if job.slot in frontier else "  !" if any(v > 0 for v in violated.values()) else "   "
        self._say(job, figures + mark)

    def _write_failure(
        self, job: Job, folder: Path, record: Record | None, reason: str, message: str
    ) -> None:
        """See to it that the folder of a failed trial says why."""
        if record is not None and record.status == FAILED and record.reason == reason:
            return
        record = record or Record(status=FAILED, identity={"overrides": job.overrides})
        record.status, record.reason, record.message = FAILED, reason, message
        folder.mkdir(parents=True, exist_ok=True)
        record.save(folder)

    def _overrides(self, values: Mapping[str, str]) -> list[str]:
        """What a trial is composed of. Unless the user has said otherwise, it measures what is asked for."""
        latency = str(any(map(measured_quietly, self.sweep.asked_for))).lower()
        said = [*self.sweep.fixed, *(f"{key}={value}" for key, value in values.items())]
        if any(override.startswith("evaluation.latency=") for override in said):
            return said
        return [*said, f"evaluation.latency={latency}"]

    def _say(self, job: Job, outcome: str) -> None:
        """One line of a trial: how many are done, what came of it, what it was, in the order of the space."""
        done = sum(t.state.is_finished() for t in slots(self.study).values())
        width = len(str(self.sweep.trials))
        varied = dict(override.split("=", 1) for override in job.overrides)
        keys = [d.key for d in self.sweep.space.dimensions if d.varies]
        shown = " ".join(f"{key}={_short(varied[key])}" for key in dict.fromkeys(keys) if key in varied)
        log.info("%*d/%d  trial %03d  %s  %s", width, done, self.sweep.trials, job.slot, outcome, shown)

    def _forget_models(self, frontier: list[int]) -> None:
        """A model that another dominates stays dominated: only the record of its trial is kept."""
        for number, trial in slots(self.study).items():
            if trial.state == TrialState.COMPLETE and number not in frontier:
                for replicate in range(self.sweep.seeds):
                    folder = trial_folder(self.folder, number, replicate)
                    for name in KEPT:
                        (folder / name).unlink(missing_ok=True)

    # After the trials

    def replicates(self) -> None:
        """Run candidates again with other seeds, each replicate by whoever is free, while the budget lasts.

        With ``replicate=frontier`` whoever comes to be on the frontier of the means on the way has its turn, too.
        """
        self._note_replicates()
        with hydra_context():
            while self.go_on() and (job := self._next_replicate()) is not None:
                self._replicate(*job)

    def _note_replicates(self) -> None:
        """What a replicate came to, where whoever ran it was lost before the study was told."""
        with self.alone():
            known = self.study.user_attrs
            for number in slots(self.study):
                for replicate in range(1, self.sweep.seeds):
                    record = _record_in(trial_folder(self.folder, number, replicate))
                    if (
                        record
                        and record.status == COMPLETED
                        and _replicate_key(number, replicate) not in known
                    ):
                        self._note_replicate(number, replicate, record)

    def _note_replicate(self, number: int, replicate: int, record: Record) -> None:
        values = objective_values(record, self.sweep.objectives)
        self.study.set_user_attr(_replicate_key(number, replicate), values)

    def _replicate(self, number: int, replicate: int) -> None:
        """One run with other seeds."""
        trial = slots(self.study)[number]
        overrides = [
            *trial.user_attrs[OVERRIDES], f"seed.init={replicate}", f"seed.order={replicate}",
        ]  # fmt: skip
        folder = trial_folder(self.folder, number, replicate)
        ended = self._trial_in_child(overrides, folder)
        if ended.why == "stopped":
            raise KeyboardInterrupt
        if ended.code == BUSY:  # it is given back: the claim of a process that is gone would keep it for ever
            (folder / "claim.json").unlink(missing_ok=True)
            time.sleep(WAIT_FOR_OTHERS_SECONDS)
            return
        record = _record_in(folder)
        if record is None or record.status != COMPLETED:
            reason, message = _what_went_wrong(ended, record, 0.0, self.sweep)
            if reason == "disk" or (reason == "error" and is_full(self.folder)):
                raise DiskFullError(f"trial {number:03d} with seed {replicate}: {message}")
            record = record or Record(status=FAILED, identity={"overrides": overrides})
            record.status, record.reason, record.message = FAILED, reason, message
            record.save(folder)
        with self.alone():
            self.study.set_user_attr(f"{COST}:{number:03d}-s{replicate}", cost_of(record.values))
            if record.status == COMPLETED:
                self._note_replicate(number, replicate, record)
            self._forget_models(frontier_slots(self.study, self.sweep.objectives))
        key = headline(record.values)
        outcome = f"{key} {record.values[key]:.4g}" if key else f"failed: {record.reason}"
        log.info("trial %03d with seed %d  %s", number, replicate, outcome)

    def _next_replicate(self) -> tuple[int, int] | None:
        """A replicate that nobody has run or runs; it is this worker's from now on."""
        with self.alone():
            if (limit := replace(self.sweep.budget, trials=sys.maxsize).reached(self._spent())) is not None:
                log.warning("no more replicates: %s", limit)
                return None
            for replicate in range(1, self.sweep.seeds):
                for number in self._replicated():
                    folder = trial_folder(self.folder, number, replicate)
                    claim = _claim_of(folder)
                    done = _record_in(folder)
                    is_over = done is not None and (done.status == COMPLETED or done.reason != "interrupted")
                    runs = claim is not None and claim["session"] == self.sweep.session
                    if is_over or (runs and claim is not None and self.is_lost(claim) != "yes"):
                        continue
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "claim.json").write_text(json.dumps(self.owner.__dict__), encoding="utf-8")
                    return number, replicate
        return None

    def _replicated(self) -> list[int]:
        """Slots of the candidates that are run with other seeds, the frontier first."""
        frontier = frontier_slots(self.study, self.sweep.objectives)
        if self.sweep.replicate == "frontier":
            return frontier
        done = [n for n, t in slots(self.study).items() if t.state == TrialState.COMPLETE]
        return [*frontier, *(number for number in done if number not in frontier)]

    def finals(self) -> None:
        """Measure the members of the frontier quietly, and evaluate them on the test split.

        One that came to be on it by its means may lack the model of its first seed: the next one is measured.
        """
        from effnlp.search.final import measure_final

        for number in frontier_slots(self.study, self.sweep.objectives):
            folders = [trial_folder(self.folder, number, replicate) for replicate in range(self.sweep.seeds)]
            with_model = [folder for folder in folders if (folder / "deployed.pt").exists()]
            for place, folder in enumerate(with_model):
                ended = self._in_child(measure_final, (folder, self.sweep.test, place == 0), folder)
                if ended.why == "stopped":
                    raise KeyboardInterrupt
                if ended.code != 0:
                    log.warning(
                        "trial %03d could not be measured again: see %s", number, folder / "output.log"
                    )


def _replicate_key(number: int, replicate: int) -> str:
    """Under which the study keeps the objectives of a replicate."""
    return f"{VALUES}:{number:03d}-s{replicate}"


def is_full(folder: Path) -> bool:
    """Whether so little room is left that a trial may have failed for it without a word."""
    return shutil.disk_usage(folder).free < ROOM_BYTES


def hopeless(study: optuna.Study, session: str) -> str | None:
    """Why it is of no use to start more trials: all of this start's failed so far, and not for being killed.

    What all share is wrong then, the data or the environment, and the budget had better be kept.
    """
    ran = [t for t in slots(study).values() if (t.user_attrs.get(OWNER) or {}).get("session") == session]
    failed = [
        t for t in ran if t.state == TrialState.FAIL and str(t.user_attrs.get(REASON)).startswith("error:")
    ]
    went_well = any(t.state in (TrialState.COMPLETE, TrialState.PRUNED) or rungs_of(t) for t in ran)
    if went_well or len(failed) < FAILURES_TO_GIVE_UP:
        return None
    return f"the first {len(failed)} trials of this start all failed"


def settle(study: optuna.Study, folder: Path, numbers: Sequence[int] | None = None) -> None:
    """See to it that every stopped trial has left a record, also one that was killed while it was stopping."""
    for number, trial in slots(study).items():
        if trial.state != TrialState.PRUNED or (numbers is not None and number not in numbers):
            continue
        where = trial_folder(folder, number)
        found = _record_in(where)
        if found is None or found.status != STOPPED:
            shown = trial.user_attrs[f"{RUNG}{rungs_of(trial) - 1}"]
            record = Record(STOPPED, {"overrides": trial.user_attrs[OVERRIDES]}, reason="stopped")
            record.message = trial.user_attrs[REASON]
            record.put({**shown["cost"], **shown["values"]})
            where.mkdir(parents=True, exist_ok=True)
            record.save(where)
        shutil.rmtree(where / "checkpoints", ignore_errors=True)


def _what_went_wrong(ended: Ended, record: Record | None, seconds: float, sweep: Sweep) -> tuple[str, str]:
    """The class of a failure, one of ``oom, nan, timeout, killed, disk, error``, and a sentence."""
    if ended.why == "timeout":
        return "timeout", f"it ran longer than search.time_limit_seconds={sweep.time_limit_seconds:g}"
    if ended.why == "refused":
        return "killed", "another worker has taken it over"
    code = ended.code or 0
    if code < 0:
        return "killed", f"the process ended with signal {-code} after {seconds:.0f} s"
    if code in (0, 1) and record is not None and record.status == FAILED:
        if record.reason == "interrupted":
            return "killed", f"a signal from outside ended it after {seconds:.0f} s"
        return record.reason or "error", record.message or "no word of why"
    return "error", f"the process ended with exit code {code} after {seconds:.0f} s; see output.log"


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


def _spent_before(folder: Path) -> dict[str, float]:
    """What an attempt without a record had spent when it last wrote a checkpoint, as far as it says."""
    try:
        attempt = json.loads((folder / "checkpoints" / "attempt.json").read_text(encoding="utf-8"))
        return cost_of(attempt["values"])
    except (OSError, ValueError, KeyError):
        return {}


def _claim_of(folder: Path) -> dict[str, Any] | None:
    """Who took a replicate."""
    try:
        claim: dict[str, Any] = json.loads((folder / "claim.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return claim
