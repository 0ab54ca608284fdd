"""Which configuration to use: the best one within limits, or what comes nearest to them.

Everything here is a function of the candidates; nothing reads a file.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from effnlp.menu import suggest
from effnlp.report.candidates import Candidate, Estimate
from effnlp.report.units import UP, human


@dataclass(frozen=True)
class Limit:
    """What the mean of a candidate may be at most (or at least).

    Attributes:
        key: As in ``Candidate.values``.
        bound: In the unit of the key.
        is_upper: Whether it is an upper limit.
    """

    key: str
    bound: float
    is_upper: bool

    def excess(self, value: float) -> float:
        """How far ``value`` is beyond the limit, as a fraction of it (of 1 for a limit of 0); 0 if it is within."""
        beyond = value - self.bound if self.is_upper else self.bound - value
        return max(0.0, beyond / (abs(self.bound) or 1.0))

    def is_sure(self, estimate: Estimate) -> bool:
        """Whether the whole interval over replicates, and not only its mean, is within the limit."""
        away = estimate.half_width or 0.0
        return self.excess(estimate.mean + (away if self.is_upper else -away)) == 0

    def __str__(self) -> str:
        return f"{'at most' if self.is_upper else 'at least'} {human(self.key, self.bound)}"


@dataclass(frozen=True)
class Choice:
    """What was found under limits.

    Attributes:
        fitting: Candidates within all limits, the best first.
        rivals: Those of them, but the first, that lie within the noise of the first: the 90 % intervals of
            both over replicates overlap.
        misses: Candidates beyond a limit, the nearest first.
        passed_over: Candidates that lack a key, counted by the key and the reason.
    """

    fitting: list[Candidate]
    rivals: list[Candidate]
    misses: list[Candidate]
    passed_over: dict[tuple[str, str], int]


def choose(candidates: Sequence[Candidate], limits: Sequence[Limit], best: str, towards: str) -> Choice:
    """Sort candidates by whether they keep to ``limits``, then by the key ``best``.

    Equal values of ``best`` are settled by how much room the limits leave, then by the hash of the
    configuration, so that the order in which runs were read decides nothing.

    Args:
        towards: ``maximize`` or ``minimize``.

    Raises:
        ValueError: If a key is one that no candidate knows.
    """
    check_keys(candidates, [best, *(limit.key for limit in limits)])
    wanted = list(dict.fromkeys([best, *(limit.key for limit in limits)]))
    complete, lacking = [], Counter[tuple[str, str]]()
    for candidate in candidates:
        missing = [key for key in wanted if key not in candidate.values]
        if missing:
            lacking[missing[0], candidate.absent.get(missing[0].split(" [")[0], "not recorded")] += 1
        else:
            complete.append(candidate)

    def merit(candidate: Candidate) -> tuple[float, float, str]:
        mean = candidate.values[best].mean
        room = sum(_signed_excess(limit, candidate) for limit in limits)
        return -mean if towards == UP else mean, room, candidate.config_hash

    fits = {c.config_hash: total_excess(c, limits) == 0 for c in complete}
    fitting = sorted((c for c in complete if fits[c.config_hash]), key=merit)
    misses = sorted(
        (c for c in complete if not fits[c.config_hash]), key=lambda c: (total_excess(c, limits), *merit(c))
    )
    rivals = [c for c in fitting[1:] if overlap(c.values[best], fitting[0].values[best])]
    return Choice(fitting, rivals, misses, dict(lacking))


def total_excess(candidate: Candidate, limits: Sequence[Limit]) -> float:
    """How far a candidate is beyond its limits, all together."""
    return math.fsum(limit.excess(candidate.values[limit.key].mean) for limit in limits)


def _signed_excess(limit: Limit, candidate: Candidate) -> float:
    """Below 0 for a candidate that leaves room."""
    mean = candidate.values[limit.key].mean
    return (mean - limit.bound if limit.is_upper else limit.bound - mean) / (abs(limit.bound) or 1.0)


def overlap(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals of two estimates overlap; never where neither has one, its noise being unknown."""
    if one.half_width is None and other.half_width is None:
        return False
    return abs(one.mean - other.mean) <= (one.half_width or 0.0) + (other.half_width or 0.0)


def check_keys(candidates: Sequence[Candidate], keys: Sequence[str]) -> None:
    """Refuse a key that no candidate has a value for, or a reason to have none.

    Raises:
        ValueError: Names the key and those near it.
    """
    known = sorted({key for candidate in candidates for key in (*candidate.values, *candidate.absent)})
    for key in keys:
        if key not in known:
            shown = suggest(key, known)
            raise ValueError(
                f"no record has the key {key}{shown if 'did you mean' in shown else _few(known)}"
            )


def _few(known: Sequence[str]) -> str:
    own = [key for key in known if not key.startswith(("cost/", "data/", "train/"))]
    return f"; there is {', '.join(own)}" if own else ""


def in_words(candidate: Candidate, limits: Sequence[Limit]) -> list[str]:
    """For each limit that a candidate breaks: by how much."""
    said = []
    for limit in limits:
        mean = candidate.values[limit.key].mean
        if excess := limit.excess(mean):
            beyond = "above" if limit.is_upper else "below"
            by = f"{excess:.0%}" if excess < 1 else human(limit.key, abs(mean - limit.bound))
            said.append(
                f"{limit.key} {human(limit.key, mean)}, {by} {beyond} {human(limit.key, limit.bound)}"
            )
    return said
