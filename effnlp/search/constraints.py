"""What a result must satisfy: constraints on record keys, and a reference point that it must be better than.

A constraint is typed ``model/bytes <= 2e7``. How far it is violated is told with Optuna's sign, at most 0 where
it is satisfied, and relative to its bound, so that several are comparable.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from effnlp.compose import ConfigError
from effnlp.menu import suggest
from effnlp.search.pareto import on_frontier, oriented

FORM = re.compile(r"\s*([^\s<>=]+)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A bound on a record key.

    Attributes:
        relation: ``<=``, ``<``, ``>=`` or ``>``.
    """

    key: str
    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.key} {self.relation} {self.bound:g}"

    @property
    def is_upper(self) -> bool:
        """Whether it bounds from above."""
        return self.relation in ("<=", "<")

    def violation(self, value: float) -> float:
        """How far ``value`` is beyond the bound, relative to it (absolute for a bound of 0); at most 0: satisfied.

        Raises:
            ValueError: If the value is NaN.
        """
        if math.isnan(value):
            raise ValueError(f"{self.key} is NaN, which satisfies nothing")
        beyond = value - self.bound if self.is_upper else self.bound - value
        relative = beyond / (abs(self.bound) or 1.0)
        strict = self.relation in ("<", ">")
        return sys.float_info.epsilon if strict and beyond == 0 else relative


def parse_constraints(texts: Sequence[str]) -> list[Constraint]:
    """``["model/bytes <= 2e7"]``, parsed.

    Raises:
        ConfigError: If one is no constraint, or two on one key cannot both be satisfied or say the same twice.
    """
    if isinstance(texts, str):
        raise ConfigError(f'search.constraints is a list such as ["model/bytes <= 2e7"], got {texts!r}')
    found = [_parsed(str(text)) for text in texts]
    for i, one in enumerate(found):
        for other in found[:i]:
            if one.key == other.key:
                _check_pair(other, one)
    return found


def _parsed(text: str) -> Constraint:
    rule = "a constraint is KEY <= NUMBER, or with <, >= or >"
    match = FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"search.constraints: {rule}, got {text!r}")
    key, relation, number = match.groups()
    try:
        bound = float(number)
    except ValueError:
        raise ConfigError(f"search.constraints: {rule}; {number!r} in {text!r} is no number") from None
    if not math.isfinite(bound):
        raise ConfigError(f"search.constraints: a bound is finite, got {text!r}")
    if key.startswith("test/"):
        raise ConfigError(
            f"search.constraints: nothing selects on the test split; val{key.removeprefix('test')} is meant for it"
        )
    return Constraint(key, relation, bound)


def _check_pair(one: Constraint, other: Constraint) -> None:
    if one.is_upper == other.is_upper:
        side = "above" if one.is_upper else "below"
        raise ConfigError(f"search.constraints bounds {one.key} from {side} twice, {one} and {other}")
    upper, lower = (one, other) if one.is_upper else (other, one)
    if lower.bound > upper.bound or (
        lower.bound == upper.bound and "=" not in upper.relation + lower.relation
    ):
        raise ConfigError(f"search.constraints: nothing satisfies both {one} and {other}")


def keys_of(texts: Sequence[str]) -> list[str]:
    """Record keys that constraints are about, each once."""
    return list(dict.fromkeys(constraint.key for constraint in parse_constraints(texts)))


def violations(
    texts: Sequence[str], values: Mapping[str, float], absent: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Constraint, as typed, to how far a record's values violate it; at most 0: satisfied.

    Raises:
        KeyError: If a key is not among the values; the message says why, if ``absent`` does.
    """
    found = {}
    for text, constraint in _by_text(tuple(texts)).items():
        if constraint.key not in values:
            why = (absent or {}).get(constraint.key) or "no stage measures it" + suggest(
                constraint.key, _near(constraint.key, values)
            )
            raise KeyError(f"no constraint: {constraint.key} is not in the record: {why}")
        found[text] = constraint.violation(values[constraint.key])
    return found


@lru_cache(maxsize=64)
def _by_text(texts: tuple[str, ...]) -> dict[str, Constraint]:
    return dict(zip(texts, parse_constraints(texts), strict=True))


def _near(key: str, known: Mapping[str, float]) -> list[str]:
    import difflib

    return difflib.get_close_matches(key, known, n=3)


def is_feasible(violated: Mapping[str, float]) -> bool:
    """Whether all constraints are satisfied."""
    return all(amount <= 0 for amount in violated.values())


def on_feasible_frontier(values: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """(n,) bool: the feasible points that no other feasible one dominates. ``values`` (n, m) are minimised."""
    mask = np.zeros(len(values), dtype=bool)
    mask[feasible] = on_frontier(values[feasible])
    return mask


# At a rung


def final_at_rung(key: str) -> bool:
    """Whether a record key has at a rung the value that it will have at the end.

    A trial is looked at as what it would become, so that its FLOPs, bytes and counts are known there; how good
    it will be is not, and latency is not measured there.
    """
    return key.startswith(("model/", "data/")) or (key.startswith("infer/") and key.endswith("/flops"))


def only_grows(key: str) -> bool:
    """Whether a record key is a cost so far: what exceeds its bound at a rung exceeds it at the end."""
    return key.startswith("cost/")


def hopeless(texts: Sequence[str], shown: Mapping[str, float]) -> list[str]:
    """Constraints, as typed, that what a trial shows at a rung violates for good."""
    return [
        text
        for text, constraint in _by_text(tuple(texts)).items()
        if constraint.key in shown
        and (final_at_rung(constraint.key) or (only_grows(constraint.key) and constraint.is_upper))
        and constraint.violation(shown[constraint.key]) > 0
    ]


def inside_of(
    objectives: Mapping[str, str], reference: Mapping[str, float], texts: Sequence[str]
) -> Callable[[Mapping[str, float]], bool]:
    """Whether what a trial shows at a rung is of any use: better than the reference, and not hopeless.

    What is not shown there says nothing against it.
    """
    known = dict(objectives)
    bounds = dict(reference)

    def is_inside(shown: Mapping[str, float]) -> bool:
        worse = any(
            (shown[key] <= bound) if known[key] == "maximize" else (shown[key] >= bound)
            for key, bound in bounds.items()
            if key in shown
        )
        return not worse and not hopeless(texts, shown)

    return is_inside


# The reference point


def parse_reference(given: Mapping[str, float] | None, objectives: Mapping[str, str]) -> dict[str, float]:
    """``{"val/accuracy": 0.5}``, checked: objective to the value from which on a result is of no use.

    Raises:
        ConfigError: If a key is no objective or a value no finite number.
    """
    found: dict[str, float] = {}
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"search.reference is a mapping such as {{val/accuracy: 0.5}}, got {given!r}")
    for key, value in (given or {}).items():
        if key not in objectives:
            raise ConfigError(f"search.reference: {key} is not an objective{suggest(key, list(objectives))}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"search.reference: {key} must be a finite number, got {value!r}")
        found[str(key)] = float(value)
    return found


def reference_point(reference: Mapping[str, float], objectives: Mapping[str, str]) -> np.ndarray:
    """(m,) oriented; infinite for objectives that the reference does not name."""
    row = np.array([[reference.get(key, math.nan) for key in objectives]])
    point = oriented(row, list(objectives.values()))[0]
    return np.where(np.isnan(point), np.inf, point)


def inside(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(n,) bool: points (n, m) better than ``reference`` (m,) in all objectives, both oriented."""
    found: np.ndarray = np.all(values < reference, axis=1)
    return found
