"""Asynchronous successive halving for several objectives (MO-ASHA): front by front, each front spread out.

Source: Schmucker et al. (2021), https://arxiv.org/abs/2106.12639; fronts: Deb et al. (2002),
https://doi.org/10.1109/4235.996017

Unlike there, identical records share their position, and the first record of a front's spread and every tie are
settled by the objectives, so that the order depends on nothing but the values.
"""

import numpy as np

from effnlp.search.early_stopping.halving import Rule, SuccessiveHalving
from effnlp.search.pareto import distinct, dominators, farthest_first, front_numbers


def preceding(values: np.ndarray, numbers: np.ndarray, item: int) -> np.ndarray:  # noqa: ARG001 - as all rules
    """(n,) bool: records of earlier fronts, and those before the item in its own; only that one is spread out."""
    fronts = front_numbers(values)
    before: np.ndarray = fronts < fronts[item]
    own = np.flatnonzero(fronts == fronts[item])
    rows, places = distinct(values[own])
    target = places[np.searchsorted(own, item)]
    earlier = farthest_first(rows, until=int(target))[:-1]
    before[own] = np.isin(places, earlier)
    return before


def positions(values: np.ndarray, numbers: np.ndarray, limit: int | None = None) -> np.ndarray:  # noqa: ARG001
    """(n,) int: how many records are before each one; exact below the limit, beyond it no front is spread out."""
    rows, places = distinct(values)
    fronts = front_numbers(rows)
    by_front = np.split(np.argsort(fronts, kind="stable"), np.cumsum(np.bincount(fronts))[:-1])
    copies = np.bincount(places, minlength=len(rows))
    found = np.empty(len(rows), dtype=np.int64)
    before = 0
    for front in by_front:
        spread = front if limit is not None and before >= limit else front[farthest_first(rows[front])]
        found[spread] = before + np.cumsum(copies[spread]) - copies[spread]
        before += int(copies[spread].sum())
    return found[places]


def always_preceding(values: np.ndarray, item: int) -> np.ndarray:
    """(n,) bool: records that dominate the item are of an earlier front, whatever is added."""
    return dominators(values, values[item])


def moasha(
    variant: str = "stopping",
    reduction_factor: int = 3,
    min_resource: int = 1,
    max_resource: int = 9,
    passes_every: int | None = 3,
) -> SuccessiveHalving:
    """Halving over all objectives at once; the settings are those of :class:`SuccessiveHalving`."""
    rule = Rule(preceding, positions, always_preceding)
    return SuccessiveHalving(variant, reduction_factor, min_resource, max_resource, rule, passes_every)
