"""What the study keeps of a trial beside its parameters and values: the names of its user attributes.

==============  =====================================================================================
``slot``        its number in the budget, which names its folder; a rejected proposal has none
``overrides``   what it is composed of
``hash``        of its config, by which a proposal is known to be known
``owner``       which worker of which start of the sweep runs it; null: nobody
``attempts``    its history: how and why earlier attempts ended
``rung:K``      what it showed at rung K: ``values``, ``cost`` so far, ``step`` of ``steps``, ``at`` seconds
``decision:K``  the verdict on it, and all that is needed to take it again
``promotion:K`` the same of a promotion after a pause
``paused``      the rung where it waits; null: it does not
``dropped``     its checkpoint is gone, it will not go on
``cost``        what it spent in all
``reason``      of a failed trial ``class: message``, of a stopped one the sentence of the decision
``rejected``    why a proposal was refused
``first``       it is a point that was to be tried first
``outside``     what it has that the extended space has not, by key
``values:K-sR`` (of the study) the objectives of trial K with the seeds R
==============  =====================================================================================
"""

from collections.abc import Iterable, Iterator

import optuna
from optuna.trial import FrozenTrial

SLOT, OVERRIDES, OWNER, REJECTED, REASON, FIRST = "slot", "overrides", "owner", "rejected", "reason", "first"
ATTEMPTS, PAUSED, DROPPED, COST, HASH, VALUES = "attempts", "paused", "dropped", "cost", "hash", "values"
RUNG, DECISION, PROMOTION = "rung:", "decision:", "promotion:"
OUTSIDE = "outside"
UNDER = "under"
"""In a decision: the rules of the search under which it was taken, where an extension has changed them."""


def slots(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Slot of the budget to the trial in it, in the order of the slots; rejected proposals have none."""
    found = [t for t in study.get_trials(deepcopy=False) if SLOT in t.user_attrs]
    return {int(t.user_attrs[SLOT]): t for t in sorted(found, key=lambda t: int(t.user_attrs[SLOT]))}


def rungs_of(trial: FrozenTrial) -> int:
    """How many rungs a trial has reported, all from the first."""
    count = 0
    while f"{RUNG}{count}" in trial.user_attrs:
        count += 1
    return count


def encode_slots(numbers: Iterable[int]) -> str:
    """Rising slots as text: ``0-3,5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def decode_slots(text: str) -> list[int]:
    """The slots of :func:`encode_slots`."""

    def ends() -> Iterator[tuple[int, int]]:
        for part in text.split(",") if text else []:
            low, _, high = part.partition("-")
            yield int(low), int(high or low)

    return [number for low, high in ends() for number in range(low, high + 1)]
