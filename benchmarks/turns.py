"""What is compared takes turns, so that a busy moment of the machine hits all of it; medians with their spread."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FEWEST_TURNS = 7
"""Of which the first two warm up."""


@dataclass(frozen=True)
class Spread:
    """The median of some values and their quartiles: half of the values lie between the latter."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


def compared(rounds: Mapping[str, Sequence[float]], reference: str) -> dict[str, dict[str, object]]:
    """For each candidate its spread and that of its ratio to the reference, taken round by round.

    Args:
        rounds: For each candidate one figure a round; the rounds of all candidates belong together.
        reference: The candidate that the others are divided by.
    """
    found: dict[str, dict[str, object]] = {}
    for name, values in rounds.items():
        ratios = [value / base for value, base in zip(values, rounds[reference], strict=True)]
        found[name] = {"seconds": asdict(Spread.of(values)), "ratio": asdict(Spread.of(ratios))}
    return found


def until(seconds: float, calls: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each call, in turns, until the time is up; two turns to warm up are not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    turn, end = 0, time.perf_counter() + seconds
    while turn < FEWEST_TURNS or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= 2:
                taken[name].append(time.perf_counter() - start)
        turn += 1
    return taken
