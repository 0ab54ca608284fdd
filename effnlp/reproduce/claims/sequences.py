"""Claims about several cells together: a function a kind of the vocabulary."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnlp.reproduce.claims.figures import Figures, Place, beside, called, sequence
from effnlp.reproduce.claims.grammar import PLACES, names_in
from effnlp.reproduce.claims.samples import Sample, UndecidableError, contrast, exact, logarithm
from effnlp.reproduce.claims.verdict import Bound, Part, each, finding, simultaneous
from effnlp.reproduce.result import FAILS, HOLDS, UNDECIDED, Finding
from effnlp.statistics import LEVEL, Interval

Arguments = Mapping[str, Any]

NOT_BELOW, NOT_ABOVE = Bound(low=0.0), Bound(high=0.0)


def monotone(arguments: Arguments, figures: Figures) -> Finding:
    """Whether each cell is at least (at most) the one before it, but for a tolerance; ties are allowed."""
    sign = 1.0 if arguments["direction"] == "increasing" else -1.0
    places = list(sequence(arguments["of"]))
    bound = Bound(low=-float(arguments.get("tolerance", 0.0)))
    steps = [
        _difference(figures, after, dict(zip(PLACES, before, strict=True)), sign, bound)
        for before, after in itertools.pairwise(places)
    ]
    return each(steps, f"steps of a sequence that should be {arguments['direction']}")


def loglog_slope(arguments: Arguments, figures: Figures) -> Finding:
    """Whether the least-squares slope of log ``of`` against log ``x`` is within its bounds.

    There is one slope a seed. Cells that are ``x`` and vary count as their mean.
    """
    places = list(sequence(arguments["of"]))

    def slope(samples: Sequence[Sample], level: float) -> Interval:
        x = [_x(arguments["x"], number, place, figures) for number, place in enumerate(places)]
        if len(set(x)) < 2:
            raise UndecidableError("all x are the same, and a slope needs two")
        return contrast([logarithm(sample) for sample in samples], slope_weights(x), level)

    def estimate(level: float) -> Interval:
        return slope([figures.sample(place) for place in places], level)

    def point() -> float | None:
        try:
            return slope([exact(figures.sample(place).mean) for place in places], LEVEL).mean
        except UndecidableError:
            return None

    bound = Bound(float(arguments.get("at_least", -math.inf)), float(arguments.get("at_most", math.inf)))
    return each(
        [Part(f"{called(places[0])} to {called(places[-1])}", estimate, bound, point)], "log-log slope"
    )


def slope_weights(x: Sequence[float]) -> list[float]:
    """(N,) by which logarithms are weighted so that their sum is the slope of a line against log ``x``."""
    logs = np.log(np.asarray(x, dtype=float))
    centred = logs - logs.mean()
    weights: list[float] = (centred / (centred**2).sum()).tolist()
    return weights


def _x(x: Any, number: int, place: Place, figures: Figures) -> float:
    if not isinstance(x, Mapping):
        return float(x[number])
    found = figures.sample(beside(place, x)).mean
    if found <= 0:
        raise UndecidableError(
            f"{called(beside(place, x))} is {found:g}, and only positive figures have logarithms"
        )
    return found


def rank_flip(arguments: Arguments, figures: Figures) -> Finding:
    """Whether the first row is ahead of the second in one column and behind in the other.

    Ahead is better where both columns say what is better, else larger. It fails if the order is surely the same; a
    tie in exact figures is no order of its own.
    """
    first, second = arguments["of"]["row"]
    columns = arguments["of"]["column"]
    signs = _signs(figures, columns)
    ahead = [_difference(figures, (first, c), {"row": second}, signs[c]) for c in columns]
    return _sides(ahead, f"order of {first} and {second}", "flips", "does not flip")


def crossing(arguments: Arguments, figures: Figures) -> Finding:
    """Whether ``of − to`` has both signs along a sequence.

    It holds if two of the differences surely have opposite signs (intervals that cover all at once), and fails if
    all surely lie on one side, zero included.
    """
    places = list(sequence(arguments["of"]))
    gaps = [_difference(figures, place, arguments["to"]) for place in places]
    return _sides(gaps, "difference along a sequence", "crosses", "does not cross")


def pareto_dominates(arguments: Arguments, figures: Figures) -> Finding:
    """Whether a row is not worse than another by more than a tolerance in any column, and surely better in one."""
    columns = names_in(arguments["of"]["column"])
    row, other = arguments["of"]["row"], arguments["to"]["row"]
    given = arguments.get("tolerance", 0.0)
    tolerance = {c: float(given.get(c, 0.0) if isinstance(given, Mapping) else given) for c in columns}
    signs = _signs(figures, columns)
    gains = [
        _difference(figures, (row, c), {"row": other}, signs[c], Bound(low=-tolerance[c])) for c in columns
    ]
    said = f"gains of {row} on {other}"
    not_worse = each(gains, said)
    if not_worse.verdict == FAILS:
        return not_worse
    level = simultaneous(gains)
    better = [(part, found) for part in gains if (found := part.at(level)) and found.low > 0]
    never = [part.interval for part in gains if part.interval and NOT_ABOVE.holds(part.interval)]
    if len(never) == len(gains):
        worst = max(never, key=lambda interval: interval.high)
        return finding(FAILS, worst, f"{said}: it is better in none of {', '.join(columns)}; {worst.how}")
    if not_worse.verdict == UNDECIDED:
        return not_worse
    counted = f"{said}: not worse in any of {', '.join(columns)}"
    if better:
        part, found = max(better, key=lambda pair: _clarity(pair[1]))
        return finding(HOLDS, found, f"{counted}; shown is {part.name}; {found.how}")
    part, found = max(
        ((part, found) for part in gains if (found := part.at(level))), key=lambda p: _clarity(p[1])
    )
    return finding(
        UNDECIDED, found, f"{counted}, but surely better in none; shown is {part.name}; {found.how}"
    )


def _clarity(interval: Interval) -> float:
    """How surely it is above zero."""
    return interval.low / interval.width if interval.width else math.copysign(math.inf, interval.low or -1.0)


def _sides(parts: Sequence[Part], said: str, yes: str, no: str) -> Finding:
    """Whether two of some quantities surely have opposite signs.

    Of two, both must be sure, which the usual level is enough for; among more there are more chances of a wrong one.
    """
    known = [(part, part.interval) for part in parts if part.interval]
    if len(known) < len(parts):
        lacking = next(part for part in parts if part.interval is None)
        return Finding(UNDECIDED, lacking.point(), why=f"{said}: {lacking.name}: {lacking.reason}")
    level = LEVEL if len(parts) == 2 else simultaneous(parts)
    signed = [(part, found) for part in parts if (found := part.at(level)) and found.excludes_zero]
    for (before, first), (after, second) in itertools.pairwise(signed):
        if (first.low > 0) != (second.low > 0):
            sign = "above" if second.low > 0 else "below"
            why = (
                f"{said}: {yes} zero between {before.name} and {after.name}, where it is {sign}; {second.how}"
            )
            return finding(HOLDS, second, why)
    if any(all(bound.holds(interval) for _, interval in known) for bound in (NOT_BELOW, NOT_ABOVE)):
        part, nearest = min(known, key=lambda pair: abs(pair[1].mean))
        return finding(FAILS, nearest, f"{said}: {no}; nearest to zero {part.name}; {nearest.how}")
    part, nearest = min(
        known, key=lambda pair: abs(pair[1].mean) / pair[1].width if pair[1].width else math.inf
    )
    return finding(UNDECIDED, nearest, f"{said}: the sign is least sure for {part.name}; {nearest.how}")


def _difference(
    figures: Figures, place: Place, to: Mapping[str, str], sign: float = 1.0, bound: Bound = NOT_BELOW
) -> Part:
    """``sign`` times what the cell at a place is above that of ``to``."""

    def estimate(level: float) -> Interval:
        return contrast([figures.sample(place), figures.to(place, to)], [sign, -sign], level)

    def point() -> float | None:
        try:
            return sign * (figures.sample(place).mean - figures.to(place, to).mean)
        except UndecidableError:
            return None

    return Part(figures.compared(place, to), estimate, bound, point)


def _signs(figures: Figures, columns: Sequence[str]) -> dict[str, float]:
    """Column to 1 where more is better, −1 where less is; 1 for all unless all say what is."""
    better = [figures.columns[name].better if name in figures.columns else None for name in columns]
    return {
        name: -1.0 if None not in better and b == "min" else 1.0
        for name, b in zip(columns, better, strict=True)
    }
