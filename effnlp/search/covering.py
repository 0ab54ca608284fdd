"""Points of a space that try every pair of its choices: what is composed before anything runs.

Source: Cohen et al. (1997), https://doi.org/10.1109/32.605761 (greedy pairwise tests)
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from effnlp.search.space import Dimension, Space

Choice = tuple[Dimension, str]


def covering_points(space: Space, at_most: int) -> list[dict[str, str]]:
    """Points in which every two choices that can be made together are made together once.

    Legality is a matter of choices that do not go together, so that what no pair shows is rare. Numeric
    dimensions take their low end, middle and high end in turn.

    Args:
        at_most: Where more points would be needed, the last pairs are left out; the first points hold the most.
    """
    choices = [(d, value) for d in space.dimensions if d.choices for value in d.choices]
    alone = {frozenset([_named(choice)]): (choice,) for choice in choices}
    together = (pair for pair in combinations(choices, 2) if _go_together(*pair))
    pairs = {frozenset(map(_named, pair)): pair for pair in together}
    left: dict[frozenset[str], tuple[Choice, ...]] = {**pairs, **alone}
    points: list[dict[str, str]] = []
    while len(points) < at_most and (left or not points):
        seed = next(iter(left.values()), ())
        values, made = _point_around(space, seed, left, len(points))
        points.append(values)
        for size in (1, 2):
            for some in combinations(made, size):
                left.pop(frozenset(map(_named, some)), None)
    return points


def _named(choice: Choice) -> str:
    return f"{choice[0].name}={choice[1]}"


def _needed(choice: Choice) -> dict[str, str]:
    """What a point holds in which a choice is made: the choice, and those that bring its dimension."""
    return {**dict(choice[0].conditions), choice[0].key: choice[1]}


def _go_together(one: Choice, other: Choice) -> bool:
    if one[0] == other[0]:
        return False
    mine, theirs = _needed(one), _needed(other)
    return all(mine[key] == theirs[key] for key in mine.keys() & theirs.keys())


def _point_around(
    space: Space, seed: Sequence[Choice], left: Mapping[frozenset[str], Any], number: int
) -> tuple[dict[str, str], list[Choice]]:
    """A point with the choices of ``seed``, the others made so that many pairs of ``left`` are in it."""
    wanted = {key: value for choice in seed for key, value in _needed(choice).items()}
    values: dict[str, str] = {}
    made: list[Choice] = []
    for dimension in space.dimensions:
        if not dimension.is_there(values):
            continue
        if not dimension.choices:
            values[dimension.key] = wanted.get(dimension.key, dimension.at((0.0, 0.5, 1.0)[number % 3]))
            continue
        value = wanted.get(dimension.key)
        if value is None:
            # Turned by the number of the point, so that choices which bring nothing new are taken evenly.
            start = number % len(dimension.choices)
            turned = [(dimension, choice) for choice in dimension.choices[start:] + dimension.choices[:start]]
            value = max(turned, key=lambda choice: _fresh(choice, made, left))[1]
        values[dimension.key] = value
        made.append((dimension, value))
    return values, made


def _fresh(choice: Choice, made: Sequence[Choice], left: Mapping[frozenset[str], Any]) -> int:
    """How many pairs that are left a choice would make with those made."""
    name = _named(choice)
    return (frozenset([name]) in left) + sum(frozenset([name, _named(other)]) in left for other in made)
