"""Early stopping replayed on stored learning curves: what a search spends until it is as good as random search.

Searches run on the virtual clock of :mod:`effnlp.search.simulate`, over the shipped table of real runs. All
searches of one seed propose the same points in the same order: they differ in what they stop.

Source: Li et al. (2020), https://arxiv.org/abs/1810.05934 (ASHA); Schmucker et al. (2021),
https://arxiv.org/abs/2106.12639 (MO-ASHA)
"""

import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from effnlp.reproduce.cells import Table
from effnlp.search import curves
from effnlp.search.attributes import rungs_of, slots
from effnlp.search.early_stopping.halving import SuccessiveHalving
from effnlp.search.problems import Problem
from effnlp.search.simulate import Finished, Simulated, quality_over_budget, simulate

ACCURACY = "val/accuracy"
FIRST_OBJECTIVE = {ACCURACY: "maximize"}

Clock = Literal["whole", "training"]
"""What a run's seconds are: all that it took; or its end's seconds times the fraction of its schedule, as if
nothing but training took time."""


@dataclass(frozen=True)
class Search:
    """A way to search.

    Attributes:
        rule: Choice of ``search/early_stopping``; None: every trial runs to its end.
        settings: Of the rule, other than its defaults.
        workers: On the virtual clock.
    """

    rule: str | None = None
    settings: Mapping[str, Any] | None = None
    workers: int = 1


RANDOM = Search()
ASHA = Search("asha")
ASHA_PROMOTION = Search("asha", {"variant": "promotion"})

GRID = "whole table"
TO_TARGET = "spent to random's end"
TRAINING = "training to random's end"
WALL = "clock at random's end"
EARLY_BEST = "best after a third"
FINAL_BEST = "best at the end"
PROMOTED = "promoted"
BEYOND = "promoted beyond 1/eta"

SINGLE: Mapping[str, Search] = {
    "random": RANDOM,
    "ASHA": ASHA,
    "ASHA, promotion": ASHA_PROMOTION,
    "ASHA, promotion, 8 workers": replace(ASHA_PROMOTION, workers=8),
}
SEVERAL: Mapping[str, Search] = {
    "random": RANDOM,
    "scalarised": Search("scalarised"),
    "MO-ASHA": Search("moasha"),
    "MO-ASHA, promotion": Search("moasha", {"variant": "promotion"}),
}


def one_objective(seeds: int, first_seed: int = 0, whole_runs: float = 30.0) -> Table:
    """Random search and ASHA for accuracy alone.

    The target of a seed is the best accuracy that its random search with one worker has at the end of the budget.
    A search that does not reach it counts as if it had with the last of its own budget, which flatters it.

    Args:
        seeds: How many searches of each kind.
        whole_runs: The budget of each search, in mean whole runs of the table.

    Returns:
        Row to column to seed to value: what was spent until the target was reached, in per cent of the budget (all
        of a run, or its training alone), and the virtual seconds until then; the best accuracy after a third and
        all of the budget, in per cent; and what :func:`promoted` and :func:`beyond_share` give.

    Raises:
        ValueError: If a number is not positive.
    """
    whole, training = problem("whole", FIRST_OBJECTIVE), problem("training", FIRST_OBJECTIVE)
    best = max(100 * whole.truth(point)[ACCURACY] for point in whole.points or ())
    found: dict[str, dict[str, dict[str, float]]] = {row: {} for row in (GRID, *SINGLE)}
    for seed in _seeds(seeds, first_seed):
        random = run_search(whole, RANDOM, seed, whole_runs)
        target = max(trial.values[0] for trial in random.finished)
        _put(found[GRID], {EARLY_BEST: best, FINAL_BEST: best}, seed)
        for row, search in SINGLE.items():
            done = random if search == RANDOM else run_search(whole, search, seed, whole_runs)
            alone = done if search == RANDOM else run_search(training, search, seed, whole_runs)
            figures = {
                TO_TARGET: 100 * spent_to(done, target) / whole_runs,
                TRAINING: 100 * spent_to(alone, target) / whole_runs,
                WALL: seconds_to(done, target),
                EARLY_BEST: 100 * best_by(done, whole_runs / 3),
                FINAL_BEST: 100 * best_by(done, whole_runs),
            }
            if search == ASHA_PROMOTION:
                figures |= {PROMOTED: promoted(done), BEYOND: beyond_share(done, 3)}
            _put(found[row], figures, seed)
    return found


def several_objectives(
    seeds: int,
    first_seed: int = 0,
    whole_runs: float = 30.0,
    shares: Sequence[float] = (0.3, 0.6, 1.0),
    workers: int = 2,
) -> Table:
    """Random search, scalarised halving and MO-ASHA for accuracy and FLOPs: hypervolume after shares of the budget.

    Args:
        shares: Of ``whole_runs``, in (0, 1]; a column each, called ``hypervolume at 30 %``.

    Returns:
        Row to column to seed to hypervolume, as a share of that of the table's own frontier
        (:class:`effnlp.search.simulate.Score`).

    Raises:
        ValueError: If a number is not positive or a share is outside (0, 1].
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong or not shares:
        raise ValueError(f"shares must be in (0, 1], got {wrong or list(shares)}")
    both = problem("whole")
    found: dict[str, dict[str, dict[str, float]]] = {row: {} for row in SEVERAL}
    budgets = [share * whole_runs for share in shares]
    for seed in _seeds(seeds, first_seed):
        for row, search in SEVERAL.items():
            done = run_search(both, replace(search, workers=workers), seed, whole_runs)
            qualities = quality_over_budget(done, budgets)
            names = [f"hypervolume at {share:.0%}".replace("%", " %") for share in shares]
            _put(found[row], dict(zip(names, qualities, strict=True)), seed)
    return found


# What a search came to


def spent_to(done: Simulated, target: float) -> float:
    """Mean whole runs that all workers spent until a trial of that accuracy ended; all of them if none did."""
    reached = _first(done, target)
    return reached.spent if reached else done.spent


def seconds_to(done: Simulated, target: float) -> float:
    """On the virtual clock, as :func:`spent_to`."""
    reached = _first(done, target)
    return reached.seconds if reached else done.seconds


def _first(done: Simulated, target: float) -> Finished | None:
    return next((trial for trial in done.finished if trial.values[0] >= target), None)


def best_by(done: Simulated, whole_runs: float) -> float:
    """The best first objective, which is to be maximised, of the trials that ended by then; 0 if none did."""
    return max((trial.values[0] for trial in done.finished if trial.spent <= whole_runs), default=0.0)


def promoted(done: Simulated) -> float:
    """The share of the records of all rungs whose trials went on to the next rung or the end."""
    sizes = rung_sizes(done)
    return sum(sizes[1:]) / sum(sizes[:-1])


def beyond_share(done: Simulated, reduction_factor: int) -> float:
    """How many trials beyond 1 / eta of the first rung's n went on, over the square root of n.

    Some that are in the best share when they are promoted are not when the rung is full. The paper expects them to
    be of the order of the square root of n.
    """
    first, second = rung_sizes(done)[:2]
    return float((second - first / reduction_factor) / math.sqrt(first))


def rung_sizes(done: Simulated) -> list[int]:
    """How many trials have a record at each rung, from the first on, and how many ended."""
    reached = [rungs_of(trial) for trial in slots(done.study).values()]
    return [*(sum(count > rung for count in reached) for rung in range(max(reached))), len(done.finished)]


# The searches


@functools.cache
def table() -> curves.Table:
    """The shipped table of real runs."""
    return curves.read(curves.SHIPPED)


def problem(clock: Clock, objectives: Mapping[str, str] | None = None) -> Problem:
    """The search that the shipped table answers by that clock; for its own objectives, or for those."""
    found = table()
    if clock == "training":
        found = replace(found, curves=tuple(map(_without_start, found.curves)))
    return curves.problem_of(found, objectives)


def _without_start(curve: curves.Curve) -> curves.Curve:
    whole = curve.looks[-1].seconds
    return replace(curve, looks=tuple(replace(look, seconds=look.fraction * whole) for look in curve.looks))


def run_search(of: Problem, search: Search, seed: int, whole_runs: float) -> Simulated:
    """Search until so many mean whole runs are spent."""
    if whole_runs <= 0:
        raise ValueError(f"whole_runs must be above 0, got {whole_runs}")
    with _exhaustion_unsaid():
        return simulate(
            of, _sampler, rule_of(search, seed), workers=search.workers, seed=seed, whole_runs=whole_runs
        )


@contextmanager
def _exhaustion_unsaid() -> Iterator[None]:
    """That the points of the table are used up would be said for each seed."""
    quiet = logging.getLogger("effnlp.search.proposals")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield
    finally:
        quiet.setLevel(level)


def _sampler(space: Any, seed: int) -> Any:
    from effnlp.search.samplers import make_sampler

    return make_sampler(_config("sampler", "random"), space, seed)


def rule_of(search: Search, seed: int) -> SuccessiveHalving | None:
    """The rule as a sweep has it, with the settings of the search."""
    from hydra.utils import instantiate

    if search.rule is None:
        return None
    config = {**_config("early_stopping", search.rule), **(search.settings or {})}
    if "seed" in config:  # of random weights; a sweep interpolates its own
        config["seed"] = seed
    made: SuccessiveHalving = instantiate(config, _convert_="all")
    return made


@functools.cache
def _config(group: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from effnlp.menu import conf_dir

    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "search" / group / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def _seeds(seeds: int, first_seed: int) -> range:
    if seeds < 1 or first_seed < 0:
        raise ValueError(f"seeds must be at least 1 and first_seed at least 0, got {seeds} and {first_seed}")
    return range(first_seed, first_seed + seeds)


def _put(columns: dict[str, dict[str, float]], figures: Mapping[str, float], seed: int) -> None:
    for column, value in figures.items():
        columns.setdefault(column, {})[str(seed)] = value
