"""What a search can be simulated on, and three problems that are made for it.

A :class:`Problem` has a space, objectives, and a learning curve of each point of the space. Its three synthetic
ones are stated by their properties, each of which is a test:

- :func:`hard`: most of the space is no better than chance, a few per cent of the points lie near the frontier.
- :func:`easy`: nearly every point lies near the frontier.
- :func:`crossing`: small models learn faster at first and are overtaken by large ones.

Common to them: an error that falls by a power law of the training done (Hestness et al. 2017,
https://arxiv.org/abs/1712.00409) to an end that depends on the point; noise on each look; FLOPs that are known
from the start and lie decades apart; trainings of which the longest takes ten times as long as the shortest.
"""

import functools
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effnlp.search.pareto import front_numbers, oriented
from effnlp.search.space import Dimension, Space, parse

ERROR, FLOPS = "val/error", "infer/single_stream/flops"

CHANCE_ERROR = 0.5
NOISE = 0.006
"""Standard deviation of an error as it is seen: that of an error of 0.2 over some 4,000 texts."""

SHORTEST_SECONDS = 60.0
SPREAD_OF_LENGTHS = 10.0

Point = Mapping[str, str]
"""Dimension key to value as typed."""


@dataclass(frozen=True)
class Look:
    """What a run shows at one moment.

    Attributes:
        fraction: Of its own schedule that is done, in (0, 1].
        values: Record keys to figures.
        seconds, joules: Spent so far; None if it is not known.
    """

    fraction: float
    values: dict[str, float]
    seconds: float
    joules: float | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """A search whose runs are known beforehand.

    Attributes:
        run: Given a point, a seed and rising fractions, the look at each of them.
        truth: Given a point, the objectives of a whole run without noise.
        identity: Given a point, what it is: two points of one identity are the same run.
        points: All that there are, where they are listed; None: what the space offers.
    """

    name: str
    space: Space
    objectives: dict[str, str]
    run: Callable[[Point, int, Sequence[float]], Iterator[Look]]
    truth: Callable[[Point], dict[str, float]]
    identity: Callable[[Point], Hashable]
    points: Sequence[Point] | None = None


def whole(problem: Problem, point: Point, seed: int = 0) -> Look:
    """The end of a run."""
    return next(problem.run(point, seed, (1.0,)))


# Points of a space


def unit_of(dimension: Dimension, value: str) -> float:
    """The place in [0, 1] of a value of a numeric dimension; a dimension of one value is at 0."""
    number, low, high = float(value), dimension.low, dimension.high
    if dimension.log:
        number, low, high = math.log(number), math.log(low), math.log(high)
    return (number - low) / (high - low) if high > low else 0.0


def draw(space: Space, source: random.Random, near: Point | None = None, kept: float = 0.7) -> dict[str, str]:
    """A random point; with ``near``, one that differs from it in some dimensions.

    Args:
        kept: Chance that a dimension that ``near`` has keeps its value; a number that does not is drawn close
            to it as often as anywhere.
    """
    values: dict[str, str] = {}
    for dimension in space.dimensions:
        if not dimension.is_there(values):
            continue
        unit = source.random()
        if near is not None and dimension.key in near:
            before = near[dimension.key]
            if source.random() < kept:
                values[dimension.key] = before
                continue
            if not dimension.choices and source.random() < 0.5:
                unit = min(1 - 1e-9, max(0.0, unit_of(dimension, before) + source.gauss(0.0, 0.1)))
        values[dimension.key] = dimension.at(unit)
    return values


@functools.cache
def mean_seconds(problem: Problem, points: int = 2000) -> float:
    """What a whole run takes on average, over all points that are listed or so many random ones: the unit of
    budgets.
    """
    source = random.Random(0)
    some = problem.points or [draw(problem.space, source) for _ in range(points)]
    return sum(whole(problem, point).seconds for point in some) / len(some)


def true_values(problem: Problem, points: Sequence[Point]) -> np.ndarray:
    """(n, m) objectives without noise, oriented: all to be minimised."""
    rows = [[found[key] for key in problem.objectives] for found in map(problem.truth, points)]
    return oriented(
        np.array(rows).reshape(len(rows), len(problem.objectives)), list(problem.objectives.values())
    )


@functools.cache
def dense_frontier(problem: Problem, points: int = 4000, rounds: int = 30) -> np.ndarray:
    """(k, m) oriented true objectives of the best points: of all that are listed, else of random ones and, round by
    round, variations of what is on the frontier by then.
    """
    combinations = problem.space.combinations()
    listed = problem.points
    if listed is None and combinations is not None and combinations <= points:
        listed = list(problem.space.points())
    if listed is not None:
        values = true_values(problem, listed)
        return np.unique(values[front_numbers(values) == 0], axis=0)
    source = random.Random(0)
    best = [draw(problem.space, source) for _ in range(points)]
    values = true_values(problem, best)
    for _ in range(rounds):
        kept = np.flatnonzero(front_numbers(values) == 0)
        best = [best[index] for index in kept]
        varied = [draw(problem.space, source, near=source.choice(best)) for _ in range(points // 10)]
        best += varied
        values = np.concatenate([values[kept], true_values(problem, varied)])
    return np.unique(values[front_numbers(values) == 0], axis=0)


# Learning curves


def power_law(fraction: float, start: float, end: float, rate: float, pace: float) -> float:
    """An error that begins at ``start``, is ``end`` after the whole schedule, and falls by a power law between.

    Args:
        fraction: Of the schedule, in [0, 1].
        rate: Exponent of the power law: the larger, the more is learned early.
        pace: The schedule's length in units of the time after which learning begins to slow down.
    """
    left, last = (1 + pace * fraction) ** -rate, (1 + pace) ** -rate
    return end + (start - end) * (left - last) / (1 - last)


@dataclass(frozen=True)
class _Nature:
    """What a synthetic run is: where its error ends, how it gets there, what it costs."""

    end: float
    rate: float
    pace: float
    flops: float
    size: float
    """In [0, 1], logarithmic: the largest takes ten times as long as the smallest."""


def _synthetic(name: str, dimensions: Mapping[str, object], nature: Callable[[Point], _Nature]) -> Problem:
    """A problem of what its runs are."""

    def run(point: Point, seed: int, fractions: Sequence[float]) -> Iterator[Look]:
        it = nature(point)
        seconds = SHORTEST_SECONDS * SPREAD_OF_LENGTHS**it.size
        for fraction in fractions:
            noise = random.Random(f"{name} {seed} {fraction} {sorted(point.items())}").gauss(0.0, NOISE)
            error = power_law(fraction, CHANCE_ERROR, it.end, it.rate, it.pace) + noise
            yield Look(fraction, {ERROR: min(1.0, max(0.0, error)), FLOPS: it.flops}, fraction * seconds)

    def truth(point: Point) -> dict[str, float]:
        it = nature(point)
        return {ERROR: it.end, FLOPS: it.flops}

    return Problem(
        name=name,
        space=parse(dimensions, [])[0],
        objectives={ERROR: "minimize", FLOPS: "minimize"},
        run=run,
        truth=truth,
        identity=lambda point: tuple(sorted(point.items())),
    )


MODEL_FLOPS = {"linear": 1e5, "recurrent": 1e6, "attention": 2e6}
"""Of one text through one layer of width 16; wider ones take more by a power of 1.5."""

LARGEST_FLOPS = 2e6 * 16**1.5 * 8


def _dense_flops(point: Point) -> float:
    layers = int(point.get("depth", 1))
    return MODEL_FLOPS[point["model"]] * (int(point["width"]) / 16) ** 1.5 * layers


def _size(flops: float) -> float:
    return math.log(flops / 1e5) / math.log(LARGEST_FLOPS / 1e5)


def _reachable_error(flops: float) -> float:
    """What a model of that size ends at if all else is right: 0.36 for the smallest, 0.09 for the largest."""
    return 0.36 - 0.27 * _size(flops)


def _compressed(point: Point) -> tuple[float, float]:
    """What is left of the FLOPs after compression, and what it adds to the error."""
    if point["compression"] == "quantized":
        return 0.3, 0.008
    if point["compression"] == "pruned":
        sparsity = float(point["sparsity"])
        return 1 - sparsity, 0.015 * sparsity / (1 - sparsity) ** 0.6
    return 1.0, 0.0


@functools.cache
def hard() -> Problem:
    """Most of the space is bad: learning rate and dropout must fit the model, else nothing is learned."""
    dimensions = {
        "model": "linear,recurrent,attention",
        "width": "tag(log,int(interval(16,256)))",
        "learning_rate": "tag(log,interval(1e-5,1e0))",
        "dropout": "interval(0.0,0.8)",
        "compression": "none,quantized,pruned",
        "model=attention": {"depth": "range(1,9)"},
        "compression=pruned": {"sparsity": "interval(0.3,0.99)"},
    }

    def nature(point: Point) -> _Nature:
        flops = _dense_flops(point)
        size, (left, added) = _size(flops), _compressed(point)
        dropout = float(point["dropout"])
        # The larger the model, the smaller its best learning rate and the more dropout it needs.
        decades = math.log10(float(point["learning_rate"])) - (-1.0 - 2.5 * size)
        if decades > 0.7:
            end = CHANCE_ERROR  # diverges
        else:
            end = _reachable_error(flops) + added + 0.3 * decades**2
            end += 1.2 * (dropout - (0.1 + 0.4 * size)) ** 2
        too_slow = min(1.0, max(0.0, -decades))
        rate = 1.2 - 0.5 * size - 0.4 * too_slow - 0.4 * dropout
        return _Nature(min(CHANCE_ERROR, end), rate, 15.0, flops * left, size)

    return _synthetic("hard", dimensions, nature)


@functools.cache
def easy() -> Problem:
    """Nearly every point is good for what it costs: what is drawn decides where on the frontier it lies."""
    dimensions = {
        "model": "linear,recurrent,attention",
        "width": "tag(log,int(interval(16,256)))",
        "learning_rate": "tag(log,interval(3e-3,3e-2))",
        "dropout": "interval(0.0,0.3)",
        "compression": "none,quantized",
        "model=attention": {"depth": "range(1,9)"},
    }

    def nature(point: Point) -> _Nature:
        flops = _dense_flops(point)
        size, (left, added) = _size(flops), _compressed(point)
        end = _reachable_error(flops) + added
        end += 0.02 * (math.log10(float(point["learning_rate"])) + 2.0) ** 2
        end += 0.1 * (float(point["dropout"]) - 0.15) ** 2
        return _Nature(end, 1.2 - 0.5 * size, 15.0, flops * left, size)

    return _synthetic("easy", dimensions, nature)


@functools.cache
def crossing() -> Problem:
    """Small models learn faster at first and are overtaken by larger ones, the largest of them last."""
    dimensions = {
        "model": "linear,recurrent,attention",
        "width": "tag(log,int(interval(16,256)))",
        "learning_rate": "tag(log,interval(1e-3,1e-1))",
        "compression": "none,quantized",
        "model=attention": {"depth": "range(1,9)"},
    }

    def nature(point: Point) -> _Nature:
        flops = _dense_flops(point)
        size, (left, added) = _size(flops), _compressed(point)
        end = 0.30 - 0.18 * size + added
        end += 0.06 * (math.log10(float(point["learning_rate"])) + 2.0) ** 2
        return _Nature(end, 1.5 - 1.3 * size, 30.0 - 20.0 * size, flops * left, size)

    return _synthetic("crossing", dimensions, nature)


SYNTHETIC: dict[str, Callable[[], Problem]] = {"hard": hard, "easy": easy, "crossing": crossing}
"""Name of a synthetic problem to the function that makes it."""
