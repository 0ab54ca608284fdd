"""One option for each layer, so that the errors are least and the costs stay within a budget: solved exactly.

A multiple-choice knapsack. It is a dynamic programme over what the layers so far cost. Of the choices made so far it
keeps those that no cheaper one equals, and of these the ones that could still end at least as well as the best that is
known: with a price for a unit of cost, what is left to decide has a lower bound (Lagrange), which at the right price is
close.

Source: Sinha and Zoltners (1979), https://doi.org/10.1287/opre.27.3.503

Legend: L layers, K options of each, λ the price.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

HALVINGS = 100
"""Of the interval in which the price lies."""


@dataclass(frozen=True)
class Partial:
    """Choices for the first layers that are still in the race.

    Attributes:
        costs: (S,) what each costs, ascending.
        errors: (S,) what each loses, descending.
        before: (S,) the place, among those for one layer less, of what each goes on from.
        options: (S,) its option for the last of these layers.
    """

    costs: Integers
    errors: Floats
    before: Integers
    options: Integers


def assign(costs: ArrayLike, errors: ArrayLike, budget: int) -> list[int]:
    """The option of each layer in a choice with the least sum of errors among those that cost at most ``budget``.

    Args:
        costs: (L, K) integers, not negative.
        errors: (L, K) finite.
        budget: In the unit of ``costs``.

    Returns:
        L numbers below K.

    Raises:
        ValueError: If a number is out of range, or no choice is within the budget; names the smallest possible.
    """
    cost, error = np.asarray(costs, np.int64), np.asarray(errors, np.float64)
    if cost.ndim != 2 or cost.shape != error.shape or 0 in cost.shape:
        raise ValueError(
            f"costs and errors must be tables of layers by options, got {cost.shape}, {error.shape}"
        )
    if (cost < 0).any() or not np.isfinite(error).all():
        raise ValueError("costs must not be negative, and errors must be finite")
    smallest = int(cost.min(1).sum())
    if smallest > budget:
        raise ValueError(f"no choice is within a budget of {budget}: the smallest possible is {smallest}")
    price = _price(cost, error, budget)
    priced = (error + price * cost).min(1)  # (L,)
    left = np.append(priced[::-1].cumsum()[::-1], 0.0)  # (L + 1,) from layer i on
    cheapest = np.append(cost.min(1)[::-1].cumsum()[::-1], 0)  # (L + 1,)
    known = float(error[np.arange(len(cost)), _greedy(cost, error, budget, price)].sum())
    allowance = 1e-9 * (np.abs(error).max(1).sum() + price * budget)  # sums made in another order
    steps = [Partial(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64))]
    for i in range(len(cost)):
        grown = _grow(steps[-1], cost[i], error[i], budget - int(cheapest[i + 1]))
        bound = grown.errors + price * (grown.costs - budget) + left[i + 1]
        steps.append(_only(grown, bound <= known + allowance))
    return _path(steps)


def _grow(partial: Partial, cost: Integers, error: Floats, most: int) -> Partial:
    """One layer more: all that cost at most ``most``, without those that a cheaper or equal one is as good as."""
    costs = (partial.costs[:, None] + cost).ravel()  # (S K,)
    errors = (partial.errors[:, None] + error).ravel()
    kept = np.flatnonzero(costs <= most)
    order = kept[np.lexsort((errors[kept], costs[kept]))]  # by cost, then by error
    best_before = np.append(np.inf, np.minimum.accumulate(errors[order])[:-1])
    order = order[errors[order] < best_before]
    return Partial(costs[order], errors[order], order // len(cost), order % len(cost))


def _only(partial: Partial, which: NDArray[np.bool_]) -> Partial:
    return Partial(partial.costs[which], partial.errors[which], partial.before[which], partial.options[which])


def _path(steps: list[Partial]) -> list[int]:
    """The options of the best of the last step, from the first layer on."""
    place = len(steps[-1].errors) - 1  # they descend
    options: list[int] = []
    for step in reversed(steps[1:]):
        options.append(int(step.options[place]))
        place = int(step.before[place])
    return options[::-1]


def _price(cost: Integers, error: Floats, budget: int) -> float:
    """λ: the lowest at which the best choice, without a budget, is within it; 0 where none is needed."""
    if _cost_at(0.0, cost, error) <= budget:
        return 0.0
    low, high = 0.0, 1e-12
    while _cost_at(high, cost, error) > budget:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _cost_at(middle, cost, error) > budget:
            low = middle
        else:
            high = middle
    return high


def _options_at(price: float, cost: Integers, error: Floats) -> Integers:
    """(L,) of each layer the option with the least priced error, the cheapest of equal ones."""
    priced = error + price * cost
    tied = priced <= priced.min(1, keepdims=True)
    return np.where(tied, cost, np.iinfo(np.int64).max).argmin(1)


def _cost_at(price: float, cost: Integers, error: Floats) -> int:
    return int(cost[np.arange(len(cost)), _options_at(price, cost, error)].sum())


def _greedy(cost: Integers, error: Floats, budget: int, price: float) -> Integers:
    """A choice within the budget: that at the price, then the best improvement that fits, until none does."""
    rows = np.arange(len(cost))
    chosen = _options_at(price, cost, error)
    while True:
        spare = budget - int(cost[rows, chosen].sum())
        gain = error[rows, chosen][:, None] - error  # (L, K)
        gain[cost - cost[rows, chosen][:, None] > spare] = 0.0
        if gain.max() <= 0:
            return chosen
        layer, option = np.unravel_index(gain.argmax(), gain.shape)
        chosen[layer] = option
