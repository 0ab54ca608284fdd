"""Pareto frontiers: which points no other point beats, which are next, and how a front is spread.

All functions minimise; negate what is to be maximised (:func:`oriented` does it). n points, m objectives.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


def oriented(values: np.ndarray, directions: Sequence[str]) -> np.ndarray:
    """(n, m) values with every objective to be minimised.

    Raises:
        ValueError: If a direction is neither ``minimize`` nor ``maximize``, or their number is not m.
    """
    unknown = [direction for direction in directions if direction not in ("minimize", "maximize")]
    if unknown:
        raise ValueError(f"a direction is 'minimize' or 'maximize', got {unknown[0]!r}")
    if values.ndim != 2 or values.shape[1] != len(directions):
        raise ValueError(f"values of shape {values.shape} do not fit {len(directions)} directions")
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in directions])
    return values * signs


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether ``a`` (m,) is no worse than ``b`` (m,) in all objectives and better in one."""
    return bool(np.all(a <= b) and np.any(a < b))


def dominators(values: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(n,) bool: which of ``values`` (n, m) dominate ``point`` (m,)."""
    mask: np.ndarray = np.all(values <= point, axis=1) & np.any(values < point, axis=1)
    return mask


def on_frontier(values: np.ndarray) -> np.ndarray:
    """(n,) bool: points that no other dominates. Identical points are all on it or all off it.

    Raises:
        ValueError: If a value is NaN; such a point has no place in an order.
    """
    if values.size and np.isnan(values).any():
        raise ValueError("a point with NaN cannot be ranked")
    mask = np.zeros(len(values), dtype=bool)
    kept = np.empty_like(values)
    size = 0
    # Whatever dominates a point comes before it in lexicographic order, so the frontier so far decides.
    for index in np.lexsort(values.T[::-1]):
        point, frontier = values[index], kept[:size]
        if not np.any(np.all(frontier <= point, axis=1) & np.any(frontier < point, axis=1)):
            mask[index] = True
            kept[size] = point
            size += 1
    return mask


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows in lexicographic order (k, m), and for each row of ``values`` its place there (n,)."""
    order = np.lexsort(values.T[::-1])
    ordered = values[order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    places = np.empty(len(values), dtype=np.int64)
    places[order] = np.cumsum(new) - 1
    return ordered[new], places


def front_numbers(values: np.ndarray) -> np.ndarray:
    """(n,) int: 0 for points that no other dominates, 1 for those only points of front 0 dominate, and so on.

    Identical points share their front. The fronts are those of Deb et al. (2002),
    https://doi.org/10.1109/4235.996017, found as by Zhang et al. (2015),
    https://doi.org/10.1109/TEVC.2014.2308305: whatever dominates a point comes before it in lexicographic
    order, and if a front has such a point, so has each front before it. So a binary search over the fronts so
    far finds the first without one. Unlike there, a front of up to three objectives is no list to walk
    through: of the points so far, only the staircase of the other two objectives matters.

    Raises:
        ValueError: If a value is NaN; such a point has no place in an order.
    """
    if np.isnan(values).any():
        raise ValueError("a point with NaN cannot be ranked")
    rows, places = distinct(values)
    of_rows = {1: _fronts_of_one, 2: _fronts_of_two, 3: _fronts_of_three}.get(
        values.shape[1], _fronts_of_many
    )
    fronts: np.ndarray = np.array(of_rows(rows), dtype=np.int64)[places]
    return fronts


# Each of these takes distinct rows in lexicographic order and returns their fronts.


def _fronts_of_one(rows: np.ndarray) -> list[int]:
    return list(range(len(rows)))


def _fronts_of_two(rows: np.ndarray) -> list[int]:
    least: list[float] = []  # second objective in each front, ascending
    fronts = []
    for second in rows[:, 1].tolist():
        front = bisect_right(least, second)
        fronts.append(front)
        least[front : front + 1] = [second]
    return fronts


def _fronts_of_three(rows: np.ndarray) -> list[int]:
    # The staircase of a front: second objectives ascending, with the least third objective up to each.
    staircases: list[tuple[list[float], list[float]]] = []
    fronts = []
    for second, third in rows[:, 1:].tolist():
        low, high = 0, len(staircases)
        while low < high:
            middle = (low + high) // 2
            seconds, thirds = staircases[middle]
            step = bisect_right(seconds, second)
            if step and thirds[step - 1] <= third:
                low = middle + 1
            else:
                high = middle
        fronts.append(low)
        if low == len(staircases):
            staircases.append(([second], [third]))
            continue
        seconds, thirds = staircases[low]
        start = end = bisect_left(seconds, second)
        while end < len(thirds) and thirds[end] >= third:
            end += 1
        seconds[start:end] = [second]
        thirds[start:end] = [third]
    return fronts


def _fronts_of_many(rows: np.ndarray) -> list[int]:
    members: list[list[int]] = []
    fronts = []
    for index, row in enumerate(rows):
        low, high = 0, len(members)
        while low < high:
            middle = (low + high) // 2
            if np.any(np.all(rows[members[middle]] <= row, axis=1)):
                low = middle + 1
            else:
                high = middle
        fronts.append(low)
        members[low : low + 1] = [[*members[low], index]] if low < len(members) else [[index]]
    return fronts


STEPS_OF_RANGE = 2**7 * 3**4 * 5**2 * 7 * 11 * 13
"""A range in the whole numbers that distances are taken between, so that ties are exact: rescaling, which rounds,
breaks none. With many divisors, so that values at equal distances mostly stay so."""


def farthest_first(points: np.ndarray, until: int | None = None) -> np.ndarray:
    """Order in which the points cover their set best: each next one is the farthest from all before it.

    Distances are Euclidean, every objective in units of its range over ``points`` (one that is constant counts
    nothing). The first point, and which of several equally far ones is next, is settled by the objectives: the
    lexicographically least. Only identical points are then in the order of their indices.

    Source: Gonzalez (1985), https://doi.org/10.1016/0304-3975(85)90224-5

    Args:
        points: (k, m), those of one front.
        until: Index of a point to stop at; it is the last of the order.

    Returns:
        Indices of the points, (k,) or fewer.

    Raises:
        ValueError: If a value is not finite: there is no distance to it.
    """
    if not np.isfinite(points).all():
        raise ValueError("the distances between points need finite values")
    if len(points) == 0:
        return np.empty(0, dtype=np.int64)
    sorting = np.lexsort(points.T[::-1])
    spans = np.ptp(points, axis=0)
    scaled = (points[sorting] - points.min(axis=0)) / np.where(spans > 0, spans, 1.0)
    grid = np.ascontiguousarray(np.rint(scaled * STEPS_OF_RANGE).astype(np.int64).T)  # (m, k)
    firsts = grid[0].tolist()  # ascending
    # Of each point the squared distance to the nearest of the chosen; -1 for these.
    nearest = np.full(len(points), np.iinfo(np.int64).max)
    order = [0]
    while len(order) < len(points) and sorting[order[-1]] != until:
        chosen = order[-1]
        # No point is farther from the chosen than this one was: none beyond that distance gets nearer now.
        reach = math.isqrt(int(nearest[chosen]))
        start, end = bisect_left(firsts, firsts[chosen] - reach), bisect_right(firsts, firsts[chosen] + reach)
        squared = grid[:, start:end] - grid[:, chosen : chosen + 1]
        squared *= squared
        np.minimum(nearest[start:end], squared.sum(axis=0), out=nearest[start:end])
        nearest[chosen] = -1
        order.append(int(nearest.argmax()))
    return sorting[order]


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume that the points dominate below ``reference`` (m,), for any m, by slicing along the first axis.

    Exact; exponential in m in the worst case, meant for up to three objectives and hundreds of points.
    """
    inside = values[np.all(values < reference, axis=1)]
    if len(inside) == 0:
        return 0.0
    if values.shape[1] == 1:
        return float(reference[0] - inside[:, 0].min())
    inside = inside[np.argsort(inside[:, 0], kind="stable")]
    edges = np.append(inside[:, 0], reference[0])
    widths = np.diff(edges)
    return float(
        sum(
            width * hypervolume(inside[: i + 1, 1:], reference[1:])
            for i, width in enumerate(widths)
            if width > 0
        )
    )
