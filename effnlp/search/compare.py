"""How a search would have done: simulated over seeds, against random proposals that spend the same."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from effnlp.compose import ConfigError
from effnlp.menu import suggest
from effnlp.search import curves
from effnlp.search.problems import SYNTHETIC, Problem
from effnlp.search.samplers import make_sampler
from effnlp.search.simulate import Simulated, quality_over_budget, simulate

SEEDS = 20

RANDOM = {"_target_": "optuna.samplers.RandomSampler", "_partial_": True}


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float], level: float = 0.95) -> "Interval":
        """By Student's t over at least two values."""
        found = np.asarray(values, dtype=float)
        mean = float(found.mean())
        error = float(found.std(ddof=1) / len(found) ** 0.5)
        reach = float(student.ppf((1 + level) / 2, len(found) - 1)) * error
        return cls(mean, mean - reach, mean + reach)

    def show(self, form: str = ".3f") -> str:
        """The mean, and the interval in brackets."""
        return f"{self.mean:{form}} ({self.lower:{form}} to {self.upper:{form}})"


@dataclass(frozen=True)
class Comparison:
    """A search and its reference on one problem, seed by seed at equal spending.

    Attributes:
        chosen, reference: What the simulated sweeps did.
        quality, reference_quality: Their hypervolumes at the end, as shares of that of the best frontier.
    """

    problem: Problem
    chosen: list[Simulated]
    reference: list[Simulated]
    quality: list[float]
    reference_quality: list[float]

    @property
    def gain(self) -> Interval:
        """The paired difference."""
        pairs = zip(self.quality, self.reference_quality, strict=True)
        return Interval.of([one - other for one, other in pairs])


def problem_named(name: str, objectives: Mapping[str, str] | None) -> tuple[Problem, str]:
    """The problem that ``--simulate`` names, and what it is, in words.

    Args:
        name: Empty for the table that is shipped; a synthetic problem; a table; the folder of a sweep.
        objectives: For a table; None: its own.

    Raises:
        ConfigError: If there is none of that name, or its table cannot be read or lacks an objective.
    """
    if name in SYNTHETIC:
        problem = SYNTHETIC[name]()
        return problem, f"the synthetic problem {name}"
    path = Path(name) if name else curves.SHIPPED
    try:
        if path.is_dir():
            table = curves.from_sweep(path)
        elif path.is_file():
            table = curves.read(path)
        else:
            known = ", ".join(SYNTHETIC)
            if not name:
                raise ConfigError(
                    f"--simulate: no table of runs is shipped; name one, a sweep's folder or {known}"
                )
            raise ConfigError(
                f"--simulate={name}: neither a table nor the folder of a sweep is there, and the problems are"
                f" {known}{suggest(name, list(SYNTHETIC))}"
            )
        problem = curves.problem_of(table, objectives)
    except (ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--simulate={name}: {error}") from error
    runs = f"{len(table.curves)} recorded runs of {len(problem.points or ())} points"
    return problem, f"{path}: {runs}{'; ' + table.about if table.about else ''}"


def compare(
    problem: Problem,
    sampler: Mapping[str, Any],
    halving_of: Callable[[int], Any],
    *,
    trials: int,
    workers: int,
    seeds: Sequence[int] = range(SEEDS),
) -> Comparison:
    """Simulate a search, and random proposals without early stopping that spend as much.

    Args:
        sampler: Config of the group ``search/sampler``.
        halving_of: From a seed to the rule of early stopping.
    """
    chosen, reference, quality, reference_quality = [], [], [], []
    quiet = logging.getLogger("effnlp.search.proposals")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # that a small space is exhausted would be said for every seed
    try:
        for seed in seeds:
            proposals = partial(make_sampler, sampler)
            found = simulate(problem, proposals, halving_of(seed), workers=workers, seed=seed, trials=trials)
            other = simulate(
                problem, partial(make_sampler, RANDOM), None,
                workers=workers, seed=seed, whole_runs=max(found.spent, 1e-9),
            )  # fmt: skip
            chosen.append(found)
            reference.append(other)
            quality += quality_over_budget(found, [float("inf")])
            reference_quality += quality_over_budget(other, [float("inf")])
    finally:
        quiet.setLevel(level)
    return Comparison(problem, chosen, reference, quality, reference_quality)


def rows_of(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What is told of a comparison: the figure, the chosen search, random."""

    def mean(figure: Callable[[Simulated], float], form: str) -> tuple[str, str]:
        both = (comparison.chosen, comparison.reference)
        first, second = (f"{np.mean([figure(one) for one in some]):{form}}" for some in both)
        return first, second

    rows = [
        (
            "hypervolume",
            Interval.of(comparison.quality).show(),
            Interval.of(comparison.reference_quality).show(),
        ),
        ("trials", *mean(lambda one: one.trials, ".1f")),
        ("of these finished", *mean(lambda one: len(one.finished), ".1f")),
        ("of these stopped", *mean(lambda one: one.stopped, ".1f")),
        ("of these paused", *mean(lambda one: one.paused, ".1f")),
        ("on the frontier", *mean(lambda one: len(one.frontier()), ".1f")),
        ("spent, in whole runs", *mean(lambda one: one.spent, ".1f")),
        ("hours", *mean(lambda one: one.seconds / 3600, ".3g")),
        ("workers idle", *mean(lambda one: one.idle_share, ".1%")),
    ]
    if all(one.joules is not None for one in (*comparison.chosen, *comparison.reference)):
        rows.append(("kWh", *mean(lambda one: (one.joules or 0.0) / 3.6e6, ".3g")))
    return rows
