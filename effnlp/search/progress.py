"""How far a search has come: hypervolume against what was spent, time spent, and what is left of it.

Everything here is a function of its arguments; n points, m objectives.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from effnlp.search.pareto import dominates, hypervolume, oriented

DECADES_FROM = 20.0
"""Values above zero whose largest is so many times the smallest are compared on a logarithmic scale."""

MARGIN = 0.1
"""The reference point lies so much of the range beyond the worst, so that extreme points count as well."""

OBJECTIVES_AT_MOST = 3
"""Hypervolume is of the first three objectives: it is exponential in their number."""


def in_unit_box(
    values: np.ndarray,
    objectives: Mapping[str, str],
    reference: Mapping[str, float] | None = None,
) -> np.ndarray:
    """(n, m) values between 0 (best seen) and 1 (worst seen), all to be minimised.

    An objective that spans decades is scaled by its logarithm; a constant one is 0. Values worse than a
    reference come out above 1 + :data:`MARGIN`, and so dominate nothing of the box.

    Args:
        values: (n, m), as in records.
        objectives: Record key to ``maximize`` or ``minimize``, in the order of the columns.
        reference: Record key to the worst value that still counts; the worst seen, where it has none.
    """
    if len(values) == 0:
        return values.astype(float)
    columns = []
    for index, (key, direction) in enumerate(objectives.items()):
        bound = (reference or {}).get(key)
        column = values[:, index].astype(float) if bound is None else np.append(values[:, index], bound)
        if column.min() > 0 and column.max() / column.min() > DECADES_FROM:
            column = np.log(column)
        column = oriented(column[:, None], [direction])[:, 0]
        worst = column.max() if bound is None else column[-1]
        column = column[: len(values)]
        width = worst - column.min()
        scaled = (column - column.min()) / width if width > 0 else np.zeros(len(values))
        columns.append(np.where(column > worst, 2.0, scaled))
    return np.stack(columns, axis=1)


def hypervolume_curve(
    values: np.ndarray,
    objectives: Mapping[str, str],
    reference: Mapping[str, float] | None = None,
) -> list[float]:
    """Share of the box between the best and the worst seen that the first 1, 2, … n points dominate.

    The box is that of all n points, so that the curve only rises; of more than three objectives the first
    three count. The last figure of a search changes with its box: compare curves of one call only.
    """
    scaled = in_unit_box(values, objectives, reference)[:, :OBJECTIVES_AT_MOST]
    if scaled.size == 0:
        return []
    corner = np.full(scaled.shape[1], 1.0 + MARGIN)
    kept = np.empty((0, scaled.shape[1]))
    volume, curve = 0.0, []
    for point in scaled:
        if np.all(point < corner) and not np.any(np.all(kept <= point, axis=1)):
            kept = np.vstack([[other for other in kept if not dominates(point, other)] + [point]])
            volume = hypervolume(kept, corner) / float(np.prod(corner))
        curve.append(volume)
    return curve


def merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of intervals as intervals apart from each other, rising."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def covered(intervals: Sequence[tuple[float, float]], until: float) -> float:
    """Length of what the intervals, apart from each other, cover before ``until``."""
    return sum(max(0.0, min(end, until) - start) for start, end in intervals)


def remaining_seconds(
    durations: Sequence[float], running: Sequence[float], to_start: int, workers: int
) -> float | None:
    """Seconds until trials are through, by the mean duration of those that ended; None before there is one.

    Args:
        durations: Of trials that ended, in seconds.
        running: How long each running trial has been running, in seconds. One that is over the mean is taken
            to have a tenth of the mean before it still.
        to_start: How many trials have not begun.
        workers: Trials at once.
    """
    if not durations:
        return None
    mean = float(np.mean(durations))
    left = [max(mean - seconds, 0.1 * mean) for seconds in running]
    # Each worker takes the next trial as soon as it is free; the last one to end is what counts.
    free = sorted([*left, *[0.0] * max(0, workers - len(left))])[: max(1, workers)]
    for _ in range(to_start):
        free[0] += mean
        free.sort()
    return free[-1]


def steps_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a rising step function that say where it changes, and its end."""
    changes = [b for a, b in pairwise(points) if b[1] != a[1]]
    kept = [*points[:1], *changes]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
