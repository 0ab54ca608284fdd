"""Asynchronous successive halving: at each rung the best share of the trials so far goes on.

Source: Jamieson and Talwalkar (2016), https://arxiv.org/abs/1502.07943; asynchronous: Li et al. (2020),
https://arxiv.org/abs/1810.05934

What "best" means is the rule's to say. n records in a rung, m objectives, all to be minimised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from effnlp.search.pareto import dominators

VARIANTS = ("stopping", "promotion")


@dataclass(frozen=True)
class Rule:
    """How the records of a rung are ordered: functions of their values (n, m) alone, and of numbers of trials.

    Identical records share the best of their positions. None of these depends on the order of the records.

    Attributes:
        preceding: ``(values, numbers, item) -> (n,) bool``: the records before ``item``.
        positions: ``(values, numbers, limit) -> (n,) int``: how many records are before each one; for those with
            at least ``limit`` before them any number from ``limit`` on will do.
        always_preceding: ``(values, item) -> (n,) bool``: records before ``item`` that stay so whatever is added.
    """

    preceding: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    positions: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    always_preceding: Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Decision:
    """Whether a trial goes on beyond a rung, and why.

    Attributes:
        position: How many records of the rung are before it.
        of: How many records the rung has, its own among them.
        quota: How many of these may go on.
        beaten_by: Index of a record before it, one that dominates it where there is one; None at position 0.
    """

    goes_on: bool
    position: int
    of: int
    quota: int
    beaten_by: int | None


def levels(min_resource: int, max_resource: int, reduction_factor: int) -> tuple[int, ...]:
    """Levels of the rungs, ``min_resource * reduction_factor**k`` below ``max_resource``, which is the end itself.

    By repeated multiplication: the logarithm that others take loses a level where it is rounded down.
    """
    found = []
    level = min_resource
    while level < max_resource:
        found.append(level)
        level *= reduction_factor
    return tuple(found)


def step_of(level: int, max_resource: int, steps: int) -> int:
    """Step, of a trial's own ``steps``, after which it has reached a level: ``ceil(level / max_resource * steps)``."""
    return -(-level * steps // max_resource)


def quota(n: int, reduction_factor: int) -> int:
    """How many of n records may go on: ``floor(n / eta)``, and the first one in any case."""
    return max(1, n // reduction_factor)


@dataclass(frozen=True)
class SuccessiveHalving:
    """Settings of the rungs, and the decisions there.

    Records that are not ``inside`` (beyond the reference point, below the floor) are after all that are, in the
    rule's order among themselves, and never go on; they count in the size of the rung.

    Args:
        variant: ``stopping`` ends a trial that is not within the quota when it arrives; ``promotion`` pauses it,
            and it may go on later.
        reduction_factor: eta in the papers: one in how many goes on.
        min_resource: Level of the first rung.
        max_resource: R in the papers: the level at which a trial is finished.
        rule: How records are ordered.
        passes_every: Every so many-th trial passes the first rung whatever it shows, as in a second bracket of
            Hyperband (Li et al. 2018, https://arxiv.org/abs/1603.06560): a hedge where first looks mislead. Its
            record competes there all the same. None: no trial does.

    Raises:
        ValueError: If a setting is not what it must be.
    """

    variant: str
    reduction_factor: int
    min_resource: int
    max_resource: int
    rule: Rule
    passes_every: int | None = None

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        for name, least in (("reduction_factor", 2), ("min_resource", 1), ("max_resource", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        every = self.passes_every
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 2):
            raise ValueError(f"passes_every must be a whole number of at least 2 or null, got {every!r}")
        if self.min_resource >= self.max_resource:
            raise ValueError(
                f"min_resource must be below max_resource, got {self.min_resource} and {self.max_resource}"
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of the rungs, ascending; the end, ``max_resource``, is none of them."""
        return levels(self.min_resource, self.max_resource, self.reduction_factor)

    def passes(self, rung: int, number: int) -> bool:
        """Whether trial ``number`` passes a rung (from 0) whatever it shows there."""
        return rung == 0 and self.passes_every is not None and number % self.passes_every == 0

    def decide(
        self, values: np.ndarray, item: int, inside: np.ndarray | None, numbers: np.ndarray
    ) -> Decision:
        """Whether the record ``item`` is within the quota of its rung as it is now.

        Args:
            values: (n, m), those of all records of the rung.
            inside: (n,) bool: which records are within the limits; None: all.
            numbers: (n,) int: numbers of the trials.

        Raises:
            ValueError: If the arrays do not fit or a value is not finite.
        """
        values, inside, numbers = _checked(values, inside, numbers)
        peers = np.flatnonzero(inside == inside[item])
        preceding = np.zeros(len(values), dtype=bool)
        preceding[peers] = self.rule.preceding(
            values[peers], numbers[peers], int(np.searchsorted(peers, item))
        )
        if not inside[item]:
            preceding |= inside
        position, allowed = int(preceding.sum()), quota(len(values), self.reduction_factor)
        return Decision(
            goes_on=bool(inside[item]) and position < allowed,
            position=position,
            of=len(values),
            quota=allowed,
            beaten_by=_best_of(preceding, values, numbers, item),
        )

    def positions(self, values: np.ndarray, inside: np.ndarray | None, numbers: np.ndarray) -> np.ndarray:
        """(n,) int: the positions of all records, each as :meth:`decide` gives it."""
        values, inside, numbers = _checked(values, inside, numbers)
        found = np.empty(len(values), dtype=np.int64)
        for peers, before in ((inside, 0), (~inside, int(inside.sum()))):
            found[peers] = before + self.rule.positions(values[peers], numbers[peers], len(values))
        return found

    def going_on(self, values: np.ndarray, inside: np.ndarray | None, numbers: np.ndarray) -> list[int]:
        """Indices of the records within the quota, the first first; at one position the lowest number first."""
        values, inside, numbers = _checked(values, inside, numbers)
        allowed = quota(len(values), self.reduction_factor)
        peers = np.flatnonzero(inside)
        positions = self.rule.positions(values[peers], numbers[peers], allowed)
        within = positions < allowed
        found: list[int] = peers[within][np.lexsort((numbers[peers][within], positions[within]))].tolist()
        return found

    def may_still_go_on(
        self, values: np.ndarray, item: int, n_at_most: int, inside: np.ndarray | None = None
    ) -> bool:
        """Whether a paused record could be within the quota once the rung is fuller.

        False is certain: even with the greatest quota, records that will always be before it take it up.

        Args:
            n_at_most: How many records the rung will ever have, at most.
        """
        values, inside, _ = _checked(values, inside, np.arange(len(values)))
        before = self.rule.always_preceding(values, item) & inside
        most = quota(max(n_at_most, len(values)), self.reduction_factor)
        return bool(inside[item] and before.sum() < most)


def _checked(
    values: np.ndarray, inside: np.ndarray | None, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"values must have the shape (records, objectives), got {values.shape}")
    inside = np.ones(len(values), dtype=bool) if inside is None else np.asarray(inside, dtype=bool)
    numbers = np.asarray(numbers, dtype=np.int64)
    for name, given in (("inside", inside), ("numbers", numbers)):
        if given.shape != (len(values),):
            raise ValueError(f"{name} of shape {given.shape} does not fit {len(values)} records")
    if not np.isfinite(values).all():
        raise ValueError("the values of a record in a rung must be finite: others are failed trials")
    return values, inside, numbers


def _best_of(preceding: np.ndarray, values: np.ndarray, numbers: np.ndarray, item: int) -> int | None:
    """The lexicographically least of the preceding records, of those that dominate the item if some do."""
    dominating = preceding & dominators(values, values[item])
    candidates = np.flatnonzero(dominating if dominating.any() else preceding)
    if len(candidates) == 0:
        return None
    order = np.lexsort((numbers[candidates], *values[candidates].T[::-1]))
    return int(candidates[order[0]])
