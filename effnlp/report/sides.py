"""The configurations that a comparison puts side by side, and whether they may stand there."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from effnlp.evaluation.predictions import Predictions
from effnlp.record import Record
from effnlp.report.candidates import Candidate, energy_method, seeds, with_method
from effnlp.report.units import interval_of
from effnlp.statistics import Seeds
from effnlp.task.reader import near

DEFAULT_KEYS = (
    "val/*", "test/*", "robustness/*/*", "robustness/checklist/*/*", "fairness/*/*", "model/bytes",
    "infer/*/flops", "infer/*/latency_seconds_p50", "cost/total/own/seconds", "cost/total/own/flops",
    "cost/total/own/energy_joules", "cost/total/own/co2e_grams", "cost/total/own/peak_memory_bytes",
)  # fmt: skip
"""What is compared unless keys are named; a star stands for one part of a key."""


@dataclass(frozen=True)
class Side:
    """A configuration under comparison.

    Attributes:
        label: What to call it.
        predictions: Of each run of the candidate, in their order: split to predictions; empty where it kept none.
    """

    label: str
    candidate: Candidate
    predictions: Sequence[Mapping[str, Predictions]] = ()

    @property
    def seeds(self) -> list[Seeds]:
        """Of initialisation and of order, of each run."""
        return [seeds(run.record) for run in self.candidate.runs]

    def values(self, key: str) -> dict[Seeds, float]:
        """The value of ``key``, which may name a method of energy, of each run that has it."""
        base = key.split(" [")[0]
        return {
            pair: values[base]
            for pair, values, method in self._of_runs
            if base in values and with_method(base, method) == key
        }

    @cached_property
    def _of_runs(self) -> list[tuple[Seeds, Mapping[str, float], str]]:
        """Seeds, values and method of energy of each run: looked up once, for there may be thousands."""
        return [
            (seeds(run.record), run.record.values, energy_method(run.record)) for run in self.candidate.runs
        ]


def chosen_keys(sides: Sequence[Side], patterns: Sequence[str] = ()) -> list[str]:
    """The keys of the sides that fit, in order of the patterns.

    Args:
        patterns: Keys or patterns, in which a star stands for anything, as in ``robustness/*``; none:
            ``DEFAULT_KEYS``.

    Raises:
        ValueError: If a pattern fits no key of any side; it names near ones.
    """
    known = sorted({key for side in sides for key in side.candidate.values})
    known = [key for key in known if interval_of(key, known) is None]
    if not patterns:
        return _unique(key for pattern in DEFAULT_KEYS for key in known if _fits(key, pattern))
    found = []
    for pattern in patterns:
        fitting = [key for key in known if fnmatch.fnmatchcase(key.split(" [")[0], pattern)]
        if not fitting:
            raise ValueError(f"no record has a value {pattern!r}{near(pattern, known)}")
        found += fitting
    return _unique(found)


def _fits(key: str, pattern: str) -> bool:
    parts, wanted = key.split(" [")[0].split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _unique(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))


def differences_in_place(records: Sequence[Record]) -> dict[str, list[str]]:
    """What must be alike for figures to be comparable and is not: name to the value in each record."""
    found: dict[str, list[str]] = {}
    identities = [record.identity for record in records]
    recipes: list[Any] = [identity.get("recipe") for identity in identities]
    flat = [
        {f"recipe.{key}": value for key, value in recipe.items()} if isinstance(recipe, Mapping) else {}
        for recipe in recipes
    ]
    for name in ("task", "task_fingerprint", "evaluator"):
        for identity, parts in zip(identities, flat, strict=True):
            parts[name] = identity.get(name)
    for name in _unique(name for parts in flat for name in parts):
        values = [str(parts.get(name)) for parts in flat]
        if len(set(values)) > 1:
            found[name] = values
    return found
