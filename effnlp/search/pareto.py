"""Pareto frontiers: which points no other point beats.

All functions minimise; negate what is to be maximised (:func:`oriented` does it). n points, m objectives.
"""

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
