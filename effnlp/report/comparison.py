"""Two configurations side by side: differences with intervals, and what can be said of them so far.

By example where both have predictions of the same texts, by seed where their seeds coincide, else unpaired.
Everything here is a function of records and predictions; nothing reads a file or draws.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effnlp.report.answers import Answers, answers_of, scores_of
from effnlp.report.candidates import seeds
from effnlp.report.sides import Side
from effnlp.report.units import UP, direction
from effnlp.statistics import (
    LEVEL,
    Interval,
    Seeds,
    difference_of_intervals,
    difference_of_means,
    examples_and_seeds,
    mean_over_seeds,
    sample_to_decide,
    seeds_to_decide,
    t_interval,
    welch_interval,
)
from effnlp.variance import Components, components_of_seeds

BETTER, WORSE, UNDECIDED, EQUAL = "better", "worse", "undecided", "equal"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One key of both sides.

    Attributes:
        a, b: Means over the runs that were compared.
        difference: ``b - a`` with its interval; None where one run a side leaves it unknown.
        runs: How many of A and of B were compared.
        verdict: What B is against A: ``better``, ``worse``, ``undecided``, or ``equal`` where nothing is uncertain.
        lacking: How many more of ``lacking_what`` would decide an undecided one; None if that is unknown or
            beyond reach.
        lacking_what: ``seeds`` or ``examples``.
    """

    key: str
    a: float
    b: float
    difference: Interval | None
    verdict: str
    runs: tuple[int, int]
    lacking: int | None = None
    lacking_what: str = "seeds"


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        missing: Keys that are not on both sides, with the reason.
        notes: What a reader has to know.
    """

    a: Side
    b: Side
    rows: list[Row]
    missing: dict[str, str]
    answers: list[Answers]
    notes: list[str] = field(default_factory=list)


def compare(a: Side, b: Side, keys: Sequence[str], level: float = LEVEL) -> Comparison:
    """B against A in ``keys`` (as in ``Candidate.values``).

    Predictions of other texts than the other side's are of no use, and left out.
    """
    fingerprints = [side.candidate.runs[0].record.identity.get("task_fingerprint") for side in (a, b)]
    if fingerprints[0] != fingerprints[1]:
        a, b = (replace(side, predictions=()) for side in (a, b))
    rows, missing = [], {}
    for key in keys:
        first, second = a.values(key), b.values(key)
        if first and second:
            rows.append(_row(key, a, b, level))
        else:
            lacking = [side for side, found in ((a, first), (b, second)) if not found]
            missing[key] = "; ".join(f"{side.label} lacks it{_why(side, key)}" for side in lacking)
    return Comparison(a, b, rows, missing, answers_of(a, b), _notes(a, b, rows))


def _why(side: Side, key: str) -> str:
    base = key.split(" [")[0]
    if reason := side.candidate.absent.get(base):
        return f" ({reason})"
    others = [known for known in side.candidate.values if known.split(" [")[0] == base]
    return f" (it has {others[0]}, which is found in another way)" if others else ""


def _row(key: str, a: Side, b: Side, level: float) -> Row:
    first, second = a.values(key), b.values(key)
    common = sorted(set(first) & set(second))
    is_paired = bool(common) and len(common) == min(len(first), len(second))
    if is_paired:
        first, second = ({pair: side[pair] for pair in common} for side in (first, second))
    x, y = list(first.values()), list(second.values())
    seeds_of = list(first), list(second)
    scores = scores_of(key, a, first), scores_of(key, b, second)
    difference: Interval | None = None
    lacking, lacking_what = None, "seeds"
    if scores[0] is not None and scores[1] is not None and scores[0].shape[1] == scores[1].shape[1]:
        over_seeds = _over_seeds(scores[0].mean(axis=1), scores[1].mean(axis=1), seeds_of, is_paired, level)
        difference = examples_and_seeds(scores[0], scores[1], over_seeds, level)
        if difference.how == "bootstrap over examples":
            lacking_what = "examples"
            lacking = _more_examples(scores[1].mean(axis=0) - scores[0].mean(axis=0), level)
    elif _is_exact(key, x, y):
        change = y[0] - x[0]
        difference = Interval(change, change, change, 1, "exact")
    elif (difference := _over_seeds(x, y, seeds_of, is_paired, level)) is None and len(x) == len(y) == 1:
        difference = _of_repeats(key, a, b, first, second)
    verdict = verdict_of(key, difference)
    if verdict == UNDECIDED and lacking_what == "seeds" and min(len(x), len(y)) > 1:
        lacking = _more_seeds(x, y, seeds_of, is_paired, level)
    means = [math.fsum(values) / len(values) for values in (x, y)]
    return Row(
        key, means[0], means[1], difference, verdict, (len(x), len(y)),
        lacking if verdict == UNDECIDED else None, lacking_what,
    )  # fmt: skip


def verdict_of(key: str, difference: Interval | None) -> str:
    """What a difference ``b - a`` in ``key`` says of B."""
    if difference is None:
        return UNDECIDED
    if difference.low == difference.high == 0:
        return EQUAL
    if not difference.excludes_zero:
        return UNDECIDED
    return BETTER if (difference.mean > 0) == (direction(key) == UP) else WORSE


def _is_exact(key: str, x: Sequence[float], y: Sequence[float]) -> bool:
    """Whether the quantity is counted, not measured, and the same under all seeds."""
    is_counted = key.startswith("model/") or (key.startswith("infer/") and key.endswith("/flops"))
    return is_counted and len(set(x)) == len(set(y)) == 1


def _more_examples(differences: Floats, level: float) -> int | None:
    deviation = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    needed = sample_to_decide(float(differences.mean()), deviation, level)
    return None if needed is None else max(1, needed - len(differences))


def _over_seeds(
    x: ArrayLike, y: ArrayLike, seeds_of: tuple[list[Seeds], list[Seeds]], is_paired: bool, level: float
) -> Interval | None:
    """Of the difference of means over runs; None where a side has a single run."""
    if min(map(len, seeds_of)) < 2:
        return None
    if is_paired:
        return t_interval(np.subtract(y, x), level, seeds_of[0])
    return welch_interval(x, y, level, seeds_of)


def _more_seeds(
    x: ArrayLike, y: ArrayLike, seeds_of: tuple[list[Seeds], list[Seeds]], is_paired: bool, level: float
) -> int | None:
    if is_paired:
        return seeds_to_decide(mean_over_seeds(np.subtract(y, x), seeds_of[0]), level)
    first, second = (mean_over_seeds(values, seeds) for values, seeds in zip((x, y), seeds_of, strict=True))
    return seeds_to_decide(difference_of_means(first, second), level)


def _of_repeats(
    key: str, a: Side, b: Side, first: Mapping[Seeds, float], second: Mapping[Seeds, float]
) -> Interval | None:
    """From the intervals that each of two single runs has of its own; None if one has none."""
    base = key.split(" [")[0]
    intervals = []
    for side, value in ((a, first), (b, second)):
        values = next(run.record.values for run in side.candidate.runs if seeds(run.record) in value)
        low, high = values.get(f"{base}_low"), values.get(f"{base}_high")
        if low is None or high is None:
            return None
        intervals.append(Interval(values[base], low, high, 1, "repeats"))
    return difference_of_intervals(*intervals)


SPLIT_BY_SEEDS = r"(val|test)/(accuracy|loss|mse|pearson|bits_per_byte)"
"""The qualities of which it is shown which seeds move them."""


def components_of(side: Side, keys: Sequence[str], level: float = LEVEL) -> dict[str, Components]:
    """Components of variance over seeds of the qualities among ``keys``; nothing for a single run."""
    found = {}
    for key in keys:
        values = side.values(key)
        if re.fullmatch(SPLIT_BY_SEEDS, key):
            parts = components_of_seeds(list(values), list(values.values()), level)
            if parts is not None:
                found[key] = parts
    return found


def _notes(a: Side, b: Side, rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(
        row.difference and row.difference.how == "bootstrap over examples" and min(row.runs) == 1
        for row in rows
    ):
        notes.append(
            "One run a side: intervals over examples are of these very models, and say nothing of other seeds."
        )
    for side in (a, b):
        shared = _shared_seeds(side.seeds)
        if shared:
            notes.append(f"{side.label}: {shared}")
    machines = [
        str((side.candidate.runs[0].record.identity.get("machine") or {}).get("cpu")) for side in (a, b)
    ]
    if machines[0] != machines[1] and any(_is_of_a_machine(row.key) for row in rows):
        notes.append(f"Time and energy are of different machines: {machines[0]} and {machines[1]}.")
    return notes


def _is_of_a_machine(key: str) -> bool:
    return any(word in key for word in ("seconds", "joules", "grams", "per_second"))


def _shared_seeds(pairs: Sequence[Seeds]) -> str:
    """What follows from seeds that several runs share; empty where none do, or each met each."""
    counts = [len({pair[place] for pair in pairs}) for place in (0, 1)]
    if len(pairs) < 2 or counts == [len(pairs)] * 2 or (min(counts) > 1 and math.prod(counts) == len(pairs)):
        return ""
    for count, name in zip(counts, ("initialisation", "data order"), strict=True):
        if count == 1:
            return f"all runs have one seed of {name}, intervals over seeds say nothing of others."
    return "runs share seeds that are not crossed, intervals over seeds take them for independent and are too narrow."
