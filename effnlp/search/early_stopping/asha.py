"""Asynchronous successive halving on the first objective alone (ASHA); the others are only recorded.

Source: Li et al. (2020), https://arxiv.org/abs/1810.05934
"""

import numpy as np

from effnlp.search.early_stopping.halving import Rule, SuccessiveHalving


def preceding(values: np.ndarray, numbers: np.ndarray, item: int) -> np.ndarray:  # noqa: ARG001 - as all rules
    """(n,) bool: records that are better in the first objective."""
    better: np.ndarray = values[:, 0] < values[item, 0]
    return better


def positions(values: np.ndarray, numbers: np.ndarray, limit: int | None = None) -> np.ndarray:  # noqa: ARG001
    """(n,) int: how many records are better than each one in the first objective."""
    first = values[:, 0]
    return np.searchsorted(np.sort(first), first, side="left")


def always_preceding(values: np.ndarray, item: int) -> np.ndarray:
    """(n,) bool: records that are better in the first objective stay so."""
    return preceding(values, np.arange(len(values)), item)


def asha(
    variant: str = "stopping",
    reduction_factor: int = 3,
    min_resource: int = 1,
    max_resource: int = 9,
    passes_every: int | None = None,
) -> SuccessiveHalving:
    """Halving by the first objective; the settings are those of :class:`SuccessiveHalving`."""
    rule = Rule(preceding, positions, always_preceding)
    return SuccessiveHalving(variant, reduction_factor, min_resource, max_resource, rule, passes_every)
