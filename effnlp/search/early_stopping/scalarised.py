"""Asynchronous successive halving on random weightings of the objectives: every trial is judged by its own.

Source: Schmucker et al. (2021), https://arxiv.org/abs/2106.12639, where it is the baseline with random weights

The sum is that of the objectives scaled to [0, 1] over the rung, with weights that are uniform on the simplex and
hang on the seed and the trial's number alone.
"""

from functools import partial

import numpy as np

from effnlp.search.early_stopping.halving import Rule, SuccessiveHalving
from effnlp.search.pareto import distinct, dominators


def weights(seed: int, number: int, objectives: int) -> np.ndarray:
    """(m,) weights of a trial, at least 0 with the sum 1, uniform on the simplex."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
    return generator.dirichlet(np.ones(objectives))


def scaled(values: np.ndarray) -> np.ndarray:
    """(n, m) values from 0 for the least to 1 for the greatest of each objective; 0 where all are the same."""
    spans = np.ptp(values, axis=0)
    made: np.ndarray = (values - values.min(axis=0)) / np.where(spans > 0, spans, 1.0)
    return made


def preceding(values: np.ndarray, numbers: np.ndarray, item: int, seed: int) -> np.ndarray:
    """(n,) bool: records with a lower sum by the item's weights; equal sums are in lexicographic order."""
    rows, places = distinct(values)
    before = _rows_before(scaled(rows), int(places[item]), weights(seed, int(numbers[item]), values.shape[1]))
    return before[places]


def positions(  # the limit saves nothing here
    values: np.ndarray,
    numbers: np.ndarray,
    limit: int | None = None,  # noqa: ARG001
    *,
    seed: int,
) -> np.ndarray:
    """(n,) int: how many records are before each one by its own weights."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    rows, places = distinct(values)
    copies, scaled_rows = np.bincount(places), scaled(rows)
    found = [
        copies[_rows_before(scaled_rows, place, weights(seed, number, values.shape[1]))].sum()
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
    ]
    return np.array(found, dtype=np.int64)


def _rows_before(rows: np.ndarray, place: int, of_item: np.ndarray) -> np.ndarray:
    # No matrix product: it may round rows differently, and what dominates must have no greater sum.
    sums = (rows * of_item).sum(axis=1)
    before: np.ndarray = sums < sums[place]
    before[:place] |= sums[:place] == sums[place]
    return before


def always_preceding(values: np.ndarray, item: int) -> np.ndarray:
    """(n,) bool: records that dominate the item have a lower sum by any weights and on any scale."""
    return dominators(values, values[item])


def scalarised(
    seed: int,
    variant: str = "stopping",
    reduction_factor: int = 3,
    min_resource: int = 1,
    max_resource: int = 9,
    passes_every: int | None = None,
) -> SuccessiveHalving:
    """Halving by random weights; ``seed`` is that of the weights, the others those of :class:`SuccessiveHalving`.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    rule = Rule(partial(preceding, seed=seed), partial(positions, seed=seed), always_preceding)
    return SuccessiveHalving(variant, reduction_factor, min_resource, max_resource, rule, passes_every)
