"""Which slot moved which cost: what each choice explains of each objective, and what it did to it.

An additive model of the choices is fitted to every objective over the configurations of a section that were trained
to their end. A slot is a choice with its settings: which pruning, and how much of it, is judged together. Costs that
are positive are taken by their logarithm, so that a choice multiplies them; a quality is taken as it is, so that a
choice adds to it. Of early stopping's survivors it says what it did *among them*.

fANOVA of a random forest (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html), the usual measure of
importance, gives neither intervals nor a test of what is chance, and does not say what a choice did.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from effnlp.report.additive import Design, Fit, Level, Share, fit, holm
from effnlp.report.candidates import CONFIDENCE, Candidate
from effnlp.report.summary import Section, short_names
from effnlp.report.units import DOWN, human

FREE = 10
"""Fewer degrees of freedom than these leave nothing worth saying."""

DISTINCT = 4
"""A numeric setting with more values than these is taken by thirds."""

MOST = 1000
"""Of more configurations so many are taken at most, evenly."""

NEUTRAL = "none"

NO_FACTORS = re.compile(r"tracking|search(/.*)?|meter|evaluation(/.*)?|task")
"""Groups that say how a run is measured, not what it is."""

NAMED = 3
"""So many slots of an objective are named in a sentence."""

CLEAR = 1 - CONFIDENCE
"""A slot moves an objective if its p, adjusted for all slots and objectives, is below this."""


@dataclass(frozen=True)
class Effect:
    """What a level does to an objective in comparison with its factor's reference: a factor or a difference.

    Attributes:
        is_ratio: Whether ``estimate``, ``low`` and ``high`` multiply the objective; else they are added to it.
        clear: Whether the 90 % interval leaves out that nothing happens.
    """

    level: Level
    is_ratio: bool
    estimate: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        nothing = 1.0 if self.is_ratio else 0.0
        return not self.low <= nothing <= self.high


@dataclass(frozen=True)
class Moved:
    """An objective, and what moved it.

    Attributes:
        explained: Share of its variance that all factors explain together.
        shares: Slot to what it alone explains, most first.
        effects: Of the factors' levels.
    """

    objective: str
    explained: float
    shares: dict[str, Share]
    effects: list[Effect]

    @property
    def movers(self) -> list[str]:
        """Slots that are shown to move it, most first."""
        return [slot for slot, share in self.shares.items() if share.p < CLEAR]


@dataclass(frozen=True)
class Importance:
    """Slots and objectives of a section, over so many configurations; ``left_out`` lack an objective.

    Attributes:
        slots: Name to its factors: a choice and its settings, or a setting of what is the same everywhere.
    """

    slots: dict[str, list[str]]
    moved: list[Moved]
    configurations: int
    left_out: int


def importance(section: Section) -> Importance | None:
    """What the choices of a section did; None where there is too little to tell them apart."""
    ranked = section.ranked[:: -(-len(section.ranked) // MOST) or 1]
    if len(ranked) <= FREE:
        return None
    factors, references = _factors(section, ranked)
    if not factors:
        return None
    design = Design.of(factors, references)
    if design.degrees_left < FREE:
        return None
    slots = _slots(section, list(factors))
    fits = {}
    for key, towards in section.objectives.items():
        means = np.array([candidate.values[key].mean for candidate in ranked])
        is_ratio = towards == DOWN and bool(means.min() > 0)
        values = np.log(means) if is_ratio else means
        if np.ptp(values) > 1e-9 * np.abs(values).max():
            fits[key] = is_ratio, fit(design, values, CONFIDENCE, slots)
    if not fits:
        return None
    adjusted = iter(holm([share.p for _, found in fits.values() for share in found.shares.values()]))
    moved = [_moved(key, is_ratio, found, adjusted) for key, (is_ratio, found) in fits.items()]
    return Importance(slots, moved, len(ranked), len(section.lacking))


def _moved(key: str, is_ratio: bool, found: Fit, adjusted: Iterator[float]) -> Moved:
    shares = {slot: Share(share.share, next(adjusted)) for slot, share in found.shares.items()}
    ordered = dict(sorted(shares.items(), key=lambda pair: -pair[1].share))
    effects = [
        Effect(level, is_ratio, *_back(is_ratio, level.estimate, level.low, level.high))
        for level in found.levels
    ]
    return Moved(key, found.explained, ordered, effects)


def _back(is_ratio: bool, *values: float) -> list[float]:
    return [float(np.exp(value)) for value in values] if is_ratio else list(values)


def _factors(section: Section, ranked: Sequence[Candidate]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What varies among the ranked: name to the level of each, and name to the level of reference."""
    names = short_names(section.groups)
    factors: dict[str, list[str]] = {}
    references: dict[str, str] = {}
    for group in section.groups:
        levels = [candidate.choices.get(group, NEUTRAL) for candidate in ranked]
        if not NO_FACTORS.fullmatch(group) and len(set(levels)) > 1:
            factors[names[group]] = levels
            references[names[group]] = NEUTRAL if NEUTRAL in levels else Counter(levels).most_common(1)[0][0]
    for key in section.settings:
        if NO_FACTORS.fullmatch(key.split(".")[0]):
            continue
        made, reference = _levels_of([candidate.settings.get(key) for candidate in ranked])
        if len(set(made)) > 1:
            factors[key], references[key] = made, reference
    return factors, references


def _slots(section: Section, factors: Sequence[str]) -> dict[str, list[str]]:
    """Name to factors: each choice that varies with its settings, and settings of other groups alone."""
    names = short_names(section.groups)
    prefixes = {f"{group.replace('/', '.')}.": name for group, name in names.items() if name in factors}
    slots: dict[str, list[str]] = {}
    for factor in factors:
        owners = [prefix for prefix in prefixes if factor.startswith(prefix)]
        slots.setdefault(prefixes[max(owners, key=len)] if owners else factor, []).append(factor)
    return slots


def _levels_of(values: Sequence[str | None]) -> tuple[list[str], str]:
    """Levels of a setting, numbers with many values by thirds; who has no such setting counts as the reference."""
    known = [value for value in values if value is not None]
    numbers = [number for value in known if (number := _number(value)) is not None]
    if len(numbers) == len(known) and len(set(numbers)) > DISTINCT:
        low, high = np.quantile(numbers, [1 / 3, 2 / 3], method="nearest")
        named = {-1: f"up to {low:.3g}", 0: "between", 1: f"above {high:.3g}"}
        thirds = [0 if value is None else _third(float(value), low, high) for value in values]
        return [named[third] for third in thirds], named[0]
    reference = Counter(known or [NEUTRAL]).most_common(1)[0][0]
    return [reference if value is None else value for value in values], reference


def _third(number: float, low: float, high: float) -> int:
    return -1 if number <= low else 1 if number > high else 0


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def effect_in_words(effect: Effect, key: str) -> str:
    """``×0.26 (0.25 to 0.28)`` or ``−0.0120 (−0.0210 to −0.0030)``."""
    if effect.is_ratio:
        return f"×{effect.estimate:.3g} ({effect.low:.3g} to {effect.high:.3g})"
    estimate, low, high = (_signed(key, value) for value in (effect.estimate, effect.low, effect.high))
    return f"{estimate} ({low} to {high})"


def _signed(key: str, value: float) -> str:
    return f"{'−' if value < 0 else '+'}{human(key, abs(value))}"


def in_words(found: Importance) -> list[str]:
    """A sentence for each objective: what moved it, how much, and the largest clear effect of each."""
    sentences = []
    for moved in found.moved:
        parts = [_slot_in_words(moved, slot, found.slots[slot]) for slot in moved.movers[:NAMED]]
        said = "; ".join(parts) or f"nothing is shown to, over {found.configurations} configurations"
        sentences.append(f"What moves {moved.objective}: {said}")
    return sentences


def _slot_in_words(moved: Moved, slot: str, factors: Sequence[str]) -> str:
    clear = [effect for effect in moved.effects if effect.level.factor in factors and effect.clear]
    text = f"{slot} {100 * moved.shares[slot].share:.0f} %"
    if not clear:
        return text
    largest = max(clear, key=lambda one: abs(np.log(one.estimate)) if one.is_ratio else abs(one.estimate))
    setting = "" if largest.level.factor == slot else f"{largest.level.factor}="
    return f"{text} ({setting}{largest.level.level} {effect_in_words(largest, moved.objective)})"
