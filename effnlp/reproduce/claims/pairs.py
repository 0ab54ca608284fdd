"""Claims about a cell held against something, or about each of several: a function a kind of the vocabulary."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from effnlp.reproduce.claims.figures import Figures, Place
from effnlp.reproduce.claims.samples import Sample, UndecidableError, contrast, exact, share_above
from effnlp.reproduce.claims.samples import ratio as ratio_of
from effnlp.reproduce.claims.verdict import Bound, Part, each, with_note
from effnlp.reproduce.result import Finding
from effnlp.statistics import LEVEL, Interval

Arguments = Mapping[str, Any]
Quantity = Callable[[Sample, Sample, float], Interval]
"""Of two samples and a level."""


def ratio(arguments: Arguments, figures: Figures) -> Finding:
    """Whether ``of / to`` is within its bounds; ``within_relative: 0.1`` is from 0.9 to 1.1."""
    bound = between(arguments)
    if "within_relative" in arguments:
        bound = Bound(1 - arguments["within_relative"], 1 + arguments["within_relative"])
    return _each_pair(arguments, figures, lambda of, to, level: ratio_of(of, to, level), bound, "ratio")


def paired_difference(arguments: Arguments, figures: Figures) -> Finding:
    """Whether ``of − to`` is within its bounds; ``within: 1`` is from −1 to 1."""
    bound = between(arguments)
    if "within" in arguments:
        bound = Bound(-arguments["within"], arguments["within"])
    return _each_pair(arguments, figures, difference, bound, "difference")


def retention(arguments: Arguments, figures: Figures) -> Finding:
    """Whether ``(of − floor) / (to − floor)`` is at least a share. The figures are such that more is better."""

    def kept(of: Sample, to: Sample, level: float) -> Interval:
        return share_above(of, to, float(arguments.get("floor", 0.0)), level)

    return _each_pair(arguments, figures, kept, Bound(low=arguments["at_least"]), "share that is kept")


def equals(arguments: Arguments, figures: Figures) -> Finding:
    """Whether ``of`` is ``to``, but for ``within`` (in the unit of the column) or ``within_relative`` (a share).

    This is a test of equivalence: it holds if the whole interval of the difference is within the tolerance
    (Schuirmann 1987, https://doi.org/10.1007/BF01068419), so that too few seeds never make two figures equal.
    Without a tolerance only exact figures can be.
    """
    if "within_relative" in arguments:
        width = float(arguments["within_relative"])
        return _each_pair(
            arguments, figures, relative_difference, Bound(-width, width), "relative difference"
        )
    width = float(arguments.get("within", 0.0))
    return _each_pair(arguments, figures, difference, Bound(-width, width), "difference")


def interval_excludes(arguments: Arguments, figures: Figures) -> Finding:
    """Whether the interval of ``of`` excludes a number, ``within`` around it, and all on the other ``side`` of it.

    It fails if the interval lies in what is to be excluded. An interval with the number in it never shows that they
    are the same: that is undecided.
    """
    number, width = float(arguments["number"]), float(arguments.get("within", 0.0))
    side = arguments.get("side")
    forbidden = Bound(
        -math.inf if side == "above" else number - width,
        math.inf if side == "below" else number + width,
        is_forbidden=True,
    )

    def itself(of: Sample, _: Sample, level: float) -> Interval:
        return contrast([of], [1], level)

    return _each_pair({**arguments, "to": number}, figures, itself, forbidden, "the figure itself")


def between(arguments: Arguments) -> Bound:
    """The bound of ``at_least`` and ``at_most``."""
    return Bound(float(arguments.get("at_least", -math.inf)), float(arguments.get("at_most", math.inf)))


def difference(of: Sample, to: Sample, level: float) -> Interval:
    """``of − to``."""
    return contrast([of, to], [1, -1], level)


def relative_difference(of: Sample, to: Sample, level: float) -> Interval:
    """``of / to − 1``; by Fieller where both vary.

    Raises:
        UndecidableError: As :func:`effnlp.reproduce.claims.samples.share_above`, or if ``to`` is 0.
    """
    if not to.is_exact:
        share = share_above(of, to, 0.0, level)
        return replace(share, mean=share.mean - 1, low=share.low - 1, high=share.high - 1)
    if to.mean == 0:
        raise UndecidableError(f"{to.name} is 0, and nothing is relative to it")
    return contrast([of, to], [1 / to.mean, -1 / to.mean], level)


def _each_pair(
    arguments: Arguments, figures: Figures, quantity: Quantity, bound: Bound, said: str
) -> Finding:
    """Whether a quantity is within a bound for each cell that ``of`` stands for."""
    parts = [_part(place, arguments["to"], figures, quantity, bound) for place in figures.places(arguments)]
    missing = figures.left_out(arguments)
    return with_note(each(parts, said), f"without a figure of ours: {', '.join(missing)}" if missing else "")


def _part(place: Place, to: Any, figures: Figures, quantity: Quantity, bound: Bound) -> Part:
    def estimate(level: float) -> Interval:
        return quantity(figures.sample(place), figures.to(place, to), level)

    def point() -> float | None:
        try:
            of, other = (exact(s.mean, s.name) for s in (figures.sample(place), figures.to(place, to)))
            return quantity(of, other, LEVEL).mean
        except UndecidableError:
            return None

    return Part(figures.compared(place, to), estimate, bound, point)
