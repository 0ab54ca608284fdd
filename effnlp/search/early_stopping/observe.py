"""Look at every rung and stop nothing: learning curves for a table that searches are simulated on.

Source: Eggensperger et al. (2015), https://ojs.aaai.org/index.php/AAAI/article/view/9375 (tabulated surrogates)
"""

import numpy as np

from effnlp.search.early_stopping.halving import Rule, SuccessiveHalving


def preceding(values: np.ndarray, numbers: np.ndarray, item: int) -> np.ndarray:  # noqa: ARG001 - as all rules
    """(n,) bool: no record comes before another."""
    return np.zeros(len(values), dtype=bool)


def positions(values: np.ndarray, numbers: np.ndarray, limit: int | None = None) -> np.ndarray:  # noqa: ARG001
    """(n,) int: all are first."""
    return np.zeros(len(values), dtype=np.int64)


def always_preceding(values: np.ndarray, item: int) -> np.ndarray:  # noqa: ARG001
    """(n,) bool: none."""
    return np.zeros(len(values), dtype=bool)


def observe(reduction_factor: int = 3, min_resource: int = 1, max_resource: int = 27) -> SuccessiveHalving:
    """Rungs as those of :class:`SuccessiveHalving`, where every trial goes on."""
    rule = Rule(preceding, positions, always_preceding)
    return SuccessiveHalving("stopping", reduction_factor, min_resource, max_resource, rule)
