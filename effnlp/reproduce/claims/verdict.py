"""From intervals and bounds to a verdict.

A claim that is several comparisons holds if each of them holds: then each interval may have the usual level, since
all must lie inside (the intersection-union test: Berger 1982, https://doi.org/10.1080/00401706.1982.10487790). It
fails if one fails: then the chance that one of many seems to is kept at that of a single one by intervals that are
wide enough to cover all at once (Bonferroni).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from effnlp.reproduce.claims.samples import UndecidableError
from effnlp.reproduce.result import FAILS, HOLDS, UNDECIDED, Finding
from effnlp.statistics import LEVEL, Interval

SLACK = 1e-9
"""A share of a bound by which rounding may pass it."""


@dataclass(frozen=True)
class Bound:
    """Where a quantity must lie, ends included.

    Attributes:
        is_forbidden: It must lie anywhere else instead.
    """

    low: float = -math.inf
    high: float = math.inf
    is_forbidden: bool = False

    def holds(self, interval: Interval) -> bool:
        """Whether the whole interval is where it must be."""
        return self._is_outside(interval) if self.is_forbidden else self._is_inside(interval)

    def fails(self, interval: Interval) -> bool:
        """Whether none of it is."""
        return self._is_inside(interval) if self.is_forbidden else self._is_outside(interval)

    def room(self, value: float) -> float:
        """How far the value is from where the bound would be broken; negative where it is."""
        inside = min(value - self.low, self.high - value)
        return -inside if self.is_forbidden else inside

    def _is_inside(self, interval: Interval) -> bool:
        return interval.low >= self.low - _slack(self.low) and interval.high <= self.high + _slack(self.high)

    def _is_outside(self, interval: Interval) -> bool:
        return interval.high < self.low - _slack(self.low) or interval.low > self.high + _slack(self.high)


def _slack(end: float) -> float:
    return SLACK * abs(end) if math.isfinite(end) else 0.0


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes:
        name: Of what is compared.
        estimate: The interval of a level; raises UndecidableError if there is none.
        point: The quantity without an interval, for parts that have none; None if it has no value either.
    """

    name: str
    estimate: Callable[[float], Interval]
    bound: Bound
    point: Callable[[], float | None] = lambda: None

    @functools.cached_property
    def interval(self) -> Interval | None:
        """Of the usual level; None if there is none."""
        return self.at(LEVEL)

    @functools.cached_property
    def reason(self) -> str:
        """Why there is no interval; empty if there is one."""
        try:
            self.estimate(LEVEL)
        except UndecidableError as error:
            return str(error)
        return ""

    def at(self, level: float) -> Interval | None:
        """The interval of that level, or None."""
        try:
            return self.estimate(level)
        except UndecidableError:
            return None


def simultaneous(parts: Sequence[Part]) -> float:
    """The level at which the intervals of all parts cover at once with the usual one (Bonferroni).

    Exact figures are certain and do not count.
    """
    uncertain = sum(part.interval is not None and part.interval.n > 0 for part in parts)
    return 1 - (1 - LEVEL) / max(1, uncertain)


def each(parts: Sequence[Part], said: str) -> Finding:
    """Whether each part lies within its bound.

    Args:
        said: What was computed, as the beginning of a sentence.

    Returns:
        With the figures of the worst one: of those that fail if one does, else of those that are undecided, else of
        those that hold.
    """
    if not parts:
        return Finding(UNDECIDED, why=f"{said}: there is no cell to check")
    if len(parts) == 1:
        return _single(parts[0], said)
    level = simultaneous(parts)
    known = [(part, part.interval, part.at(level)) for part in parts]
    failing = [(part, wide) for part, _, wide in known if wide and part.bound.fails(wide)]
    open_ = [
        (part, wide if narrow and part.bound.fails(narrow) else narrow)
        for part, narrow, wide in known
        if narrow is None or not part.bound.holds(narrow)
    ]
    counted = f"{len(parts) - len(open_)} of {len(parts)} hold"
    if failing:
        part, interval = min(failing, key=lambda pair: pair[0].bound.room(pair[1].mean))
        others = f" (and {len(failing) - 1} more)" if len(failing) > 1 else ""
        return finding(FAILS, interval, f"{said}: {part.name} fails{others}; {interval.how}; {counted}")
    if open_:
        part, worst = min(
            open_, key=lambda pair: -math.inf if pair[1] is None else pair[0].bound.room(pair[1].mean)
        )
        if worst is None:
            return Finding(UNDECIDED, part.point(), why=f"{said}: {part.name}: {part.reason}; {counted}")
        return finding(UNDECIDED, worst, f"{said}: {part.name} is undecided; {worst.how}; {counted}")
    part = min(parts, key=lambda part: part.bound.room(_there(part).mean))
    worst = _there(part)
    return finding(
        HOLDS, worst, f"{said}: all {len(parts)} hold, {part.name} with the least room; {worst.how}"
    )


def _single(part: Part, said: str) -> Finding:
    interval = part.interval
    if interval is None:
        return Finding(UNDECIDED, part.point(), why=f"{said}, {part.name}: {part.reason}")
    verdict = (
        HOLDS if part.bound.holds(interval) else FAILS if part.bound.fails(interval) else UNDECIDED
    )  # fmt: skip
    return finding(verdict, interval, f"{said}, {part.name}; {interval.how}")


def _there(part: Part) -> Interval:
    assert part.interval is not None
    return part.interval


def finding(verdict: str, interval: Interval, why: str) -> Finding:
    """A finding with the figures of an interval."""
    return Finding(verdict, interval.mean, interval.low, interval.high, interval.n, why)


def with_note(found: Finding, note: str) -> Finding:
    """With something more to say, if there is."""
    return replace(found, why=f"{found.why}; {note}") if note else found
