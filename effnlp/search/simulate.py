"""A sweep on a virtual clock: the ledger of real sweeps, over runs whose curves are known.

Thousands of trials take seconds. What is simulated is the search: proposals, rungs, verdicts, promotions, workers
that are busy or wait. What a real sweep spends besides its runs (start of processes, the look at a rung) is not.
"""

import functools
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from effnlp.search.attributes import slots
from effnlp.search.early_stopping.halving import SuccessiveHalving
from effnlp.search.ledger import Job, Ledger, Owner, Propose
from effnlp.search.pareto import hypervolume, on_frontier, oriented
from effnlp.search.problems import Look, Problem, dense_frontier, mean_seconds, true_values
from effnlp.search.proposals import Proposer
from effnlp.search.rungs import Rung
from effnlp.search.space import Space

SECONDS, JOULES = "cost/total/own/seconds", "cost/total/own/energy_joules"

UNLIMITED = 1_000_000
"""Slots of a budget that is not one of trials."""

Sampler = Callable[[Space, int], optuna.samplers.BaseSampler]
"""From the space and a seed; see :func:`effnlp.search.samplers.make_sampler`."""


@dataclass(frozen=True)
class Finished:
    """A trial that ran to its end.

    Attributes:
        spent: By all trials when it ended, in mean whole runs.
        seconds: On the virtual clock when it ended.
        values: As they were seen, noise and all, in the order of the objectives.
    """

    slot: int
    point: dict[str, str]
    values: tuple[float, ...]
    spent: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Simulated:
    """What a simulated sweep did.

    Attributes:
        finished: Trials that ran to their ends, in the order of their ends.
        trials: Slots of the budget that were taken.
        stopped, paused: How many trials were stopped at a rung, and how many wait at one at the end.
        spent: In mean whole runs: a trial stopped at a third of its schedule counts a third of its own length.
        seconds: On the virtual clock.
        idle_share: Of the workers' time, in [0, 1], until the last of them ended.
        joules: Spent; None if the problem does not know it.
        study: With the log of all decisions.
    """

    problem: Problem
    finished: list[Finished]
    trials: int
    stopped: int
    paused: int
    spent: float
    seconds: float
    idle_share: float
    joules: float | None
    study: optuna.Study

    def frontier(self, spent: float = float("inf")) -> list[Finished]:
        """The trials that had ended by then and that no other of them dominates, as they were seen."""
        ended = [trial for trial in self.finished if trial.spent <= spent]
        if not ended:
            return []
        values = np.array([trial.values for trial in ended])
        keep = on_frontier(oriented(values, list(self.problem.objectives.values())))
        return [trial for trial, is_kept in zip(ended, keep, strict=True) if is_kept]


@dataclass
class _Run:
    """A trial on the virtual clock.

    Attributes:
        looks: Those to come.
        seconds: Of its own, at the last look.
    """

    job: Job
    point: dict[str, str]
    looks: Iterator[Look]
    seconds: float = 0.0
    joules: float | None = 0.0
    rungs: int = 0


@dataclass
class _Clock:
    """Virtual seconds, and who is idle since when."""

    workers: int
    now: float = 0.0
    idle_seconds: float = 0.0
    idle_since: dict[int, float] = field(default_factory=dict)

    def busy_seconds(self, at: float) -> float:
        """Of all workers until then, if nothing changes before."""
        waiting = sum(at - since for since in self.idle_since.values())
        return self.workers * at - self.idle_seconds - waiting

    def employ(self, worker: int) -> None:
        """The worker has something to do from now on."""
        self.idle_seconds += self.now - self.idle_since.pop(worker)

    def release(self, worker: int) -> None:
        """The worker has nothing to do from now on."""
        self.idle_since[worker] = self.now


def simulate(
    problem: Problem,
    sampler: Sampler,
    halving: SuccessiveHalving | None,
    *,
    workers: int = 4,
    seed: int = 0,
    trials: int | None = None,
    whole_runs: float = math.inf,
) -> Simulated:
    """Search a problem until a budget is spent.

    Args:
        halving: The rule of early stopping; None: every trial runs to its end.
        seed: Of the sampler and of the noise of the runs: one point with one seed is one run, whoever asks.
        trials: Slots; None: as many as the other budget buys.
        whole_runs: What all trials may spend, in mean whole runs of the problem. A trial that would end later
            does not count.

    Raises:
        ValueError: If there is no budget.
    """
    if trials is None and math.isinf(whole_runs):
        raise ValueError("a simulation needs a budget: trials or whole_runs")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=[StudyDirection[d.upper()] for d in problem.objectives.values()],
        sampler=sampler(problem.space, seed),
    )
    simulation = _Simulation(problem, halving, study, seed, _Clock(workers))
    simulation.open(trials if trials is not None else UNLIMITED)
    simulation.run(whole_runs * mean_seconds(problem))
    return simulation.outcome()


@dataclass
class _Simulation:
    """The state of a simulated sweep: its workers, each with a ledger, and what they run."""

    problem: Problem
    halving: SuccessiveHalving | None
    study: optuna.Study
    seed: int
    clock: _Clock
    ledgers: list[Ledger] = field(default_factory=list)
    coming: list[tuple[float, int, int, _Run, Look]] = field(default_factory=list)
    """When, a number that settles ties, worker, what shows what."""
    runs: list[_Run] = field(default_factory=list)
    paused: dict[int, _Run] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    looks: int = 0

    def open(self, trials: int) -> None:
        """Make the workers, all idle."""
        propose = proposer(self.problem, self.seed)
        for worker in range(self.clock.workers):
            owner = Owner("simulation", worker, token=str(worker))
            ledger = Ledger(self.study, self.problem.objectives, self.halving, propose, trials, owner)
            self.ledgers.append(ledger)
            self.clock.release(worker)

    def run(self, limit_seconds: float) -> None:
        """Go from look to look until there is none or the next would be beyond the limit."""
        self.employ()
        while self.coming:
            when, _, worker, run, look = heapq.heappop(self.coming)
            if self.clock.busy_seconds(when) > limit_seconds * (1 + 1e-12):
                over = self.clock.busy_seconds(when) - limit_seconds
                self.clock.now = when - over / (self.clock.workers - len(self.clock.idle_since))
                return
            self.clock.now = when
            run.seconds, run.joules = look.seconds, look.joules
            if self.goes_on(worker, run, look):
                self.advance(worker, run)
            else:
                self.clock.release(worker)
                self.employ()

    def goes_on(self, worker: int, run: _Run, look: Look) -> bool:
        """Tell the ledger what a run shows; whether its worker stays with it."""
        ledger = self.ledgers[worker]
        if look.fraction == 1.0:
            values = tuple(look.values[key] for key in self.problem.objectives)
            ledger.complete(run.job, values, _cost(look), {})
            spent = self.clock.busy_seconds(self.clock.now) / mean_seconds(self.problem)
            self.finished.append(Finished(run.job.slot, run.point, values, spent, self.clock.now))
            return False
        assert self.halving is not None
        level = self.halving.levels[run.rungs]
        steps = self.halving.max_resource
        verdict = ledger.report(
            run.job, Rung(run.rungs, level, level, steps, look.values, _cost(look)), self.clock.now
        )
        assert verdict is not None
        run.rungs += 1
        if verdict.word == "pause":
            self.paused[run.job.slot] = run
        return verdict.word == "continue"

    def employ(self) -> None:
        """Give idle workers what there is to do."""
        for worker in list(self.clock.idle_since):
            job = self.ledgers[worker].take(self.clock.now)
            if not isinstance(job, Job):
                return  # what there is not for one there is not for the next
            run = self.paused.pop(job.slot, None)
            if run is None:
                point = point_of(job.overrides)
                run = _Run(job, point, self.problem.run(point, self.seed, fractions_of(self.halving)))
                self.runs.append(run)
            run.job = job
            self.clock.employ(worker)
            self.advance(worker, run)

    def advance(self, worker: int, run: _Run) -> None:
        """Put the next look of a run on the clock."""
        look = next(run.looks)
        self.looks += 1
        when = self.clock.now + look.seconds - run.seconds
        heapq.heappush(self.coming, (when, self.looks, worker, run, look))

    def outcome(self) -> Simulated:
        """What it came to."""
        states = Counter(trial.state for trial in slots(self.study).values())
        joules = [run.joules for run in self.runs]
        busy = self.clock.busy_seconds(self.clock.now)
        return Simulated(
            problem=self.problem,
            finished=self.finished,
            trials=len(self.runs),
            stopped=states[TrialState.PRUNED],
            paused=len(self.paused),
            spent=busy / mean_seconds(self.problem),
            seconds=self.clock.now,
            idle_share=1 - busy / (self.clock.workers * self.clock.now) if self.clock.now > 0 else 0.0,
            joules=None if None in joules else sum(j for j in joules if j is not None),
            study=self.study,
        )


def fractions_of(halving: SuccessiveHalving | None) -> tuple[float, ...]:
    """Where a run is looked at: at its rungs, if there are any, and at its end."""
    if halving is None:
        return (1.0,)
    return (*(level / halving.max_resource for level in halving.levels), 1.0)


def proposer(problem: Problem, seed: int) -> Propose:
    """Proposals of the study's sampler that are not known yet; none any more once there was none."""

    def judge(overrides: Sequence[str]) -> tuple[None, str]:
        return None, str(problem.identity(point_of(overrides)))

    proposals = Proposer(problem.space, overrides_of, judge, seed)
    is_exhausted = False

    def propose(
        study: optuna.Study, taken: Mapping[int, FrozenTrial]
    ) -> tuple[optuna.Trial, list[str], str] | None:
        nonlocal is_exhausted
        made = None if is_exhausted else proposals(study, taken)
        is_exhausted = made is None
        return made

    return propose


def overrides_of(point: Mapping[str, str]) -> list[str]:
    """What a run of the point would be composed of."""
    return [f"{key}={value}" for key, value in point.items()]


def point_of(overrides: Sequence[str]) -> dict[str, str]:
    """The inverse of :func:`overrides_of`."""
    return dict(override.split("=", 1) for override in overrides)


def _cost(look: Look) -> dict[str, float]:
    spent = {SECONDS: look.seconds}
    return spent if look.joules is None else {**spent, JOULES: look.joules}


# How good a frontier is


@dataclass(frozen=True, eq=False)
class Score:
    """The hypervolume of points as a share of that of the best frontier there is.

    An objective whose frontier is above 0 and spans more than a factor of ten counts by its logarithm: what costs
    half as much counts the same everywhere.

    Attributes:
        ideal, reference: (m,) ends of the objectives on that scale: the best of the frontier, and its worst with a
            tenth of the range beyond.
        by_logarithm: (m,) bool.
        whole: Hypervolume of the best frontier between them.
    """

    ideal: np.ndarray
    reference: np.ndarray
    by_logarithm: np.ndarray
    whole: float

    @classmethod
    def of(cls, frontier: np.ndarray) -> "Score":
        """The score that gives 1 to a frontier (k, m), oriented."""
        least, greatest = frontier.min(axis=0), frontier.max(axis=0)
        by_logarithm = (least > 0) & (greatest > 10 * least)
        scaled = _scaled(frontier, by_logarithm)
        ideal, worst = scaled.min(axis=0), scaled.max(axis=0)
        spans = np.where(worst > ideal, worst - ideal, 1.0)
        made = cls(ideal, worst + 0.1 * spans, by_logarithm, 1.0)
        return cls(ideal, made.reference, by_logarithm, made(frontier))

    def __call__(self, values: np.ndarray) -> float:
        """The share of points (n, m), oriented."""
        if len(values) == 0:
            return 0.0
        units = (_scaled(values, self.by_logarithm) - self.ideal) / (self.reference - self.ideal)
        return hypervolume(units[on_frontier(units)], np.ones(units.shape[1])) / self.whole


def _scaled(values: np.ndarray, by_logarithm: np.ndarray) -> np.ndarray:
    return np.where(by_logarithm, np.log10(np.where(by_logarithm, values, 1.0)), values)


@functools.cache
def score_of(problem: Problem) -> Score:
    """The score against the problem's own best frontier, without noise."""
    return Score.of(dense_frontier(problem))


def quality_over_budget(simulated: Simulated, budgets: Sequence[float]) -> list[float]:
    """Score of the frontier after each of rising budgets, in mean whole runs.

    The frontier is that of the figures as they were seen, which is what a user is given; it is scored by what its
    members are without noise, so that luck earns nothing.
    """
    score, problem = score_of(simulated.problem), simulated.problem
    known: dict[tuple[int, ...], float] = {}
    found = []
    for budget in budgets:
        members = simulated.frontier(budget)
        slots_there = tuple(trial.slot for trial in members)
        if slots_there not in known:
            known[slots_there] = score(true_values(problem, [trial.point for trial in members]))
        found.append(known[slots_there])
    return found
