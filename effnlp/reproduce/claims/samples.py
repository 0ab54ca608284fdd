"""Estimates with intervals of what claims are about: sums, ratios and powers of cells, over seeds and over examples.

Functions of numbers alone. A quantity is estimated once for each seed that all of its cells share, so that what a
seed does to both sides cancels; where they share fewer than two seeds, each cell has its own mean and variance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import optimize, stats

from effnlp.statistics import (
    LEVEL,
    Interval,
    Numbers,
    SeedMean,
    Seeds,
    check_level,
    difference_of_intervals,
    difference_of_means,
    examples_and_seeds,
    mean_over_seeds,
)

ROUNDING = 1e-12
"""What is smaller than this share of the terms of a sum is taken to be 0: decimal figures have no exact binary form."""

LARGEST_RATIO = 1e6
LARGEST_LOGARITHM = 700.0


class UndecidableError(ValueError):
    """The figures that are there give no interval; the message says why."""


@dataclass(frozen=True)
class Sample:
    """A figure of each seed, or one that is exact.

    Attributes:
        name: As a sentence calls it: ``int8 in SST-2``.
        values: Seed to figure; of an exact one, any seed.
        interval: What it brings along, at the usual level; None: it follows from the seeds.
        examples: Seed to (N,) scores of the examples whose mean is the figure; empty if there are none.
        asked: What the examples are; only scores of the same ones are paired.
    """

    name: str
    values: Mapping[str, float]
    is_exact: bool = False
    interval: tuple[float, float] | None = None
    examples: Mapping[str, Numbers] = field(default_factory=dict)
    asked: str = ""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.values.values())))


def exact(value: float, name: str = "") -> Sample:
    """A number that nothing is uncertain about."""
    return Sample(name or f"{value:g}", {"": value}, is_exact=True)


def logarithm(sample: Sample) -> Sample:
    """Of its figures; examples have none.

    Raises:
        UndecidableError: If one is not positive.
    """
    low = min([*sample.values.values(), *(sample.interval or ())])
    if low <= 0:
        raise UndecidableError(f"{sample.name} is {low:g}, and only positive figures have ratios")
    values = {seed: math.log(value) for seed, value in sample.values.items()}
    ends = (math.log(sample.interval[0]), math.log(sample.interval[1])) if sample.interval else None
    return replace(sample, values=values, interval=ends, examples={})


def contrast(samples: Sequence[Sample], weights: Sequence[float], level: float = LEVEL) -> Interval:
    """The sum of ``weight · figure`` with its interval; its ``n`` is the number of seeds, 0 if all are exact.

    By Student's t over the seeds that all sampled figures share, if these are two at least; else of unpaired means,
    with degrees of freedom by Welch and Satterthwaite. Two figures with scores of the same examples have the wider
    of this interval and the one over examples (:func:`effnlp.statistics.examples_and_seeds`).

    Figures that bring their intervals are independent of all others
    (:func:`effnlp.statistics.difference_of_intervals`).

    Raises:
        UndecidableError: If a figure that varies with seeds has a single one, or one has its interval at another
            level only.
    """
    check_level(level)
    terms = [(sample, weight) for sample, weight in zip(samples, weights, strict=True) if not sample.is_exact]
    constant = sum(w * s.mean for s, w in zip(samples, weights, strict=True) if s.is_exact)
    scale = sum(abs(w * s.mean) for s, w in zip(samples, weights, strict=True))
    if not terms:
        return _rounded(Interval(constant, constant, constant, 0, "exact figures"), scale)
    if any(sample.interval for sample, _ in terms):
        return _rounded(_of_intervals(terms, constant, level), scale)
    seeds = shared_seeds([sample for sample, _ in terms])
    if len(seeds) > 1:
        sums = {seed: constant + sum(w * s.values[seed] for s, w in terms) for seed in seeds}
        found, how = (
            _of_runs(sums),
            "over " + _counted(len(seeds), "paired seed" if len(terms) > 1 else "seed"),
        )
        if most := max((len(s.values) for s, _ in terms if len(s.values) > len(seeds)), default=None):
            how += f" (of up to {most}; only these are on all sides)"
    else:
        found, how = _of_means(terms, constant), "over unpaired seeds (Welch)"
    reach = float(stats.t.ppf((1 + level) / 2, found.freedom)) * math.sqrt(found.variance)
    how = f"t {how}" if reach else f"{how}, none of which differs"
    interval = Interval(found.mean, found.mean - reach, found.mean + reach, found.n, how)
    if len(terms) == 2 and share_examples(terms[0][0], terms[1][0]):
        (of, w), (to, v) = terms
        of_examples, to_examples = _mean_scores(of, to)
        interval = _with_examples(-v * to_examples, w * of_examples + constant, interval, level)
    return _rounded(interval, scale)


def ratio(of: Sample, to: Sample, level: float = LEVEL) -> Interval:
    """``of / to``, a geometric mean over seeds, by a :func:`contrast` of logarithms.

    Where both have scores of the same examples, the interval over these is of the linear part of the logarithm of
    the ratio (the delta method), which is enough for means that are known to a few per cent.

    Raises:
        UndecidableError: As :func:`contrast`, or if a figure is not positive.
    """
    logs = contrast([logarithm(of), logarithm(to)], [1, -1], level)
    if share_examples(of, to):
        of_examples, to_examples = _mean_scores(of, to)
        of_mean, to_mean = of_examples.mean(), to_examples.mean()
        shift = math.log(of_mean / to_mean)
        logs = _with_examples(to_examples / to_mean - shift, of_examples / of_mean, logs, level)
    if not logs.n:
        value = of.mean / to.mean
        return Interval(value, value, value, 0, logs.how)
    if logs.high > LARGEST_LOGARITHM:
        raise UndecidableError(
            f"the ratio of {of.name} to {to.name} varies so much that it has no bounded interval"
        )
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n, logs.how)


def share_above(of: Sample, to: Sample, floor: float = 0.0, level: float = LEVEL) -> Interval:
    """``(of − floor) / (to − floor)`` of means, with the interval of Fieller.

    It consists of the shares s for which the interval of ``of − s · to − (1 − s) · floor`` does not exclude 0.

    Source: Fieller (1954), https://doi.org/10.1111/j.2517-6161.1954.tb00159.x

    Raises:
        UndecidableError: As :func:`contrast`, or if ``to`` is not surely above the floor: then no finite interval
            exists.
    """
    above = contrast([to, exact(floor)], [1, -1], level)
    if above.low <= 0:
        raise UndecidableError(f"{to.name} is not surely above {floor:g}, so that nothing is a share of it")

    def left(share: float) -> Interval:
        return contrast([of, to, exact(floor)], [1, -share, share - 1], level)

    def root(end: str) -> float:
        low, high, step = value - 1e-9, value + 1e-9, max(1.0, abs(value)) / 16
        while getattr(left(low), end) < 0 and low > -LARGEST_RATIO:
            low, step = low - step, 2 * step
        step = max(1.0, abs(value)) / 16
        while getattr(left(high), end) > 0 and high < LARGEST_RATIO:
            high, step = high + step, 2 * step
        if abs(low) >= LARGEST_RATIO or abs(high) >= LARGEST_RATIO:
            raise UndecidableError(f"the share of {to.name} that {of.name} keeps is not bounded")
        return float(optimize.brentq(lambda share: getattr(left(share), end), low, high, xtol=1e-8))

    value = _ratio_of_means(of, to, floor)
    there = left(value)
    if not there.n or not there.width:
        return Interval(value, value, value, there.n, there.how)
    return Interval(value, root("low"), root("high"), there.n, f"{there.how}, by Fieller")


def shared_seeds(samples: Sequence[Sample]) -> list[str]:
    """The seeds that all have, sorted."""
    return sorted(set.intersection(*(set(sample.values) for sample in samples)))


def share_examples(of: Sample, to: Sample) -> bool:
    """Whether both have scores of the same examples, for every seed."""
    shapes = {scores.shape for sample in (of, to) for scores in sample.examples.values()}
    have = all(set(sample.examples) >= set(sample.values) and sample.examples for sample in (of, to))
    return have and of.asked == to.asked and len(shapes) == 1


def seeds_of(label: str) -> Seeds:
    """The seeds of initialisation and of order of a label, ``"0-1"`` or ``"0"`` where both are the same."""
    init, _, order = label.partition("-")
    return init, order or init


def _mean_scores(of: Sample, to: Sample) -> tuple[Numbers, Numbers]:
    """(N,) each: the scores of the examples, averaged over the seeds that are compared."""
    seeds = shared_seeds([of, to])
    first, second = (
        np.mean(
            [sample.examples[seed] for seed in (seeds if len(seeds) > 1 else sorted(sample.values))], axis=0
        )
        for sample in (of, to)
    )
    return first, second


def _with_examples(a: Numbers, b: Numbers, over_seeds: Interval, level: float) -> Interval:
    """The wider one of an interval over seeds and of that over examples of ``b − a``, which have scores (N,)."""
    found = examples_and_seeds(a, b, over_seeds, level)
    if found is over_seeds:
        return replace(found, how=f"{found.how}, wider than over {_counted(len(a), 'example')}")
    how = f"bootstrap over {_counted(len(a), 'example')}, wider than over {_counted(over_seeds.n, 'seed')}"
    return replace(found, n=over_seeds.n, how=how)


def _of_runs(values: Mapping[str, float]) -> SeedMean:
    """The mean of one figure a run.

    Runs that share a seed share its luck. Where every seed of initialisation met every seed of order, the analysis of
    variance says how much (:func:`effnlp.statistics.mean_over_seeds`); where only some did, what is independent are
    the means of all runs of one seed, be it of initialisation or of order: whichever vary more.
    """
    pairs, found = [seeds_of(label) for label in values], list(values.values())
    inits, orders = ({pair[place] for pair in pairs} for place in (0, 1))
    if len(set(pairs)) == len(inits) * len(orders) or len(inits) == len(orders) == len(pairs):
        return mean_over_seeds(found, pairs)
    grouped = [
        mean_over_seeds([
            float(np.mean([value for pair, value in zip(pairs, found, strict=True) if pair[place] == seed]))
            for seed in sorted(seeds)
        ])
        for place, seeds in enumerate((inits, orders)) if len(seeds) > 1
    ]  # fmt: skip
    return replace(max(grouped, key=lambda each: each.variance), mean=float(np.mean(found)))


def _of_means(terms: Sequence[tuple[Sample, float]], constant: float) -> SeedMean:
    """The sum of independent means of figures whose seeds differ."""
    total = None
    for sample, weight in terms:
        if len(sample.values) < 2:
            raise UndecidableError(f"{sample.name} has a single seed, and an interval needs 2")
        found = _of_runs(sample.values)
        minus = replace(found, mean=-weight * found.mean, variance=weight**2 * found.variance)
        total = difference_of_means(minus, total or SeedMean(constant, 0.0, 1.0, found.n, 0.0))
    assert total is not None
    return total


def _of_intervals(terms: Sequence[tuple[Sample, float]], constant: float, level: float) -> Interval:
    """The sum of independent figures of which intervals are known or follow from seeds."""
    total = Interval(constant, constant, constant, 0, "")
    for sample, weight in terms:
        if sample.interval is None:
            one = contrast([sample], [1], level)
        elif level != LEVEL:
            raise UndecidableError(f"{sample.name} has an interval of {LEVEL:.0%} only")
        else:
            one = Interval(sample.mean, *sample.interval, 1, "its own interval")
        low, high = sorted((-weight * one.low, -weight * one.high))
        minus = Interval(-weight * one.mean, low, high, one.n, one.how)
        total = replace(difference_of_intervals(minus, total), n=max(one.n, total.n), how=one.how)
    return total if len(terms) == 1 else replace(total, how="intervals of independent figures (MOVER)")


def _ratio_of_means(of: Sample, to: Sample, floor: float) -> float:
    sampled = [sample for sample in (of, to) if not sample.is_exact]
    seeds = shared_seeds(sampled) if sampled else []
    means = [
        sample.mean
        if sample.is_exact or len(seeds) < 2
        else float(np.mean([sample.values[s] for s in seeds]))
        for sample in (of, to)
    ]
    return (means[0] - floor) / (means[1] - floor)


def _rounded(interval: Interval, scale: float) -> Interval:
    """Ends that are 0 but for the rounding of numbers as large as ``scale`` are 0."""
    mean, low, high = (
        0.0 if abs(end) <= ROUNDING * scale else end for end in (interval.mean, interval.low, interval.high)
    )
    return Interval(mean, low, high, interval.n, interval.how)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
