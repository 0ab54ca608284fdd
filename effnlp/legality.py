"""Whether the parts of a config go together: computed from what their modules declare, before any work.

A model provides capabilities; every method, at each moment it acts, requires some, removes some and may
provide others. Walking through the moments in the order of a run shows whether each finds what it needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnlp.menu import Choice, choice_names, read_choice


class IllegalCombinationError(ValueError):
    """A choice needs something that another one removed or that the model does not have."""


@dataclass(frozen=True)
class Step:
    """One choice acting at one moment."""

    moment: str
    choice: Choice


def plan(
    model: Choice,
    parts: Sequence[Choice],
    peft: Choice,
    compression: Mapping[str, Choice],
    order: Sequence[str],
    told: Mapping[str, str] | None = None,
) -> list[Step]:
    """The moments of a run in the order in which they come.

    Args:
        compression: Slot (``pruning``) to the choice in it.
        order: The slots in the order in which they finish, after PEFT.
        told: Slot to the moment at which its method is told to act by its key ``moment``. One that is told to
            ``prepare`` makes the frozen base, so it comes before PEFT, and has nothing left to finish.

    Raises:
        ValueError: If ``order`` does not name every slot exactly once.
    """
    if sorted(order) != sorted(compression):
        raise ValueError(f"compression.order must name each of {sorted(compression)} once, got {list(order)}")
    told = told or {}
    base = [compression[slot] for slot in order if told.get(slot) == "prepare"]
    late = [compression[slot] for slot in order if told.get(slot) != "prepare"]
    injected = [compression[slot] for slot in order if slot not in told]
    return [
        Step("build", model),
        *(Step("build", part) for part in parts),
        *(Step("prepare", choice) for choice in [*base, peft, *injected]),
        *(Step("during", choice) for choice in [peft, *late]),
        *(Step("finish", choice) for choice in [peft, *late]),
    ]


def first_conflict(steps: Sequence[Step]) -> tuple[Step, str, Choice | None] | None:
    """The first step that lacks a capability, which one, and the choice that removed it (None: nobody had it)."""
    there: set[str] = set()
    removed_by: dict[str, Choice] = {}
    for step in steps:
        for name in step.choice.requires.get(step.moment, ()):
            if name not in there:
                return step, name, removed_by.get(name)
        for name in step.choice.removes.get(step.moment, ()):
            there.discard(name)
            removed_by[name] = step.choice
        there.update(step.choice.provides.get(step.moment, ()))
    return None


def gather(config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path]) -> list[Step]:
    """The steps of a composed config.

    Args:
        config: The composed config as plain containers.
        chosen: Config group to the name of the choice in it, as Hydra reports it.
        folders: Where the configs lie.
    """
    model = read_choice("model", chosen["model"], folders)
    parts = [
        read_choice(group, name, folders)
        for group, name in sorted(chosen.items())
        if group.startswith("model/")
    ]
    slots = {
        group.split("/", 1)[1]: name for group, name in chosen.items() if group.startswith("compression/")
    }
    compression = {slot: read_choice(f"compression/{slot}", name, folders) for slot, name in slots.items()}
    settings = config.get("compression", {})
    told = {slot: settings[slot]["moment"] for slot in slots if "moment" in (settings.get(slot) or {})}
    peft = read_choice("peft", chosen["peft"], folders)
    return plan(model, parts, peft, compression, settings.get("order", []), told)


def check(config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path]) -> list[Step]:
    """The plan of a composed config, if it is legal.

    Raises:
        IllegalCombinationError: Naming both choices and what would work in place of either.
    """
    steps = gather(config, chosen, folders)
    conflict = first_conflict(steps)
    if conflict is None:
        return steps
    step, capability, remover = conflict
    model = steps[0].choice
    culprit = remover or model
    why = f"which {label(culprit)} takes away" if remover else f"which {label(model)} does not have"
    works = [
        *alternatives(step.choice, config, chosen, folders),
        *alternatives(culprit, config, chosen, folders),
    ]
    advice = f"; what would work: {', '.join(works)}" if works else "; change both"
    raise IllegalCombinationError(
        f"{label(step.choice)} needs {capability.replace('_', ' ')} when it acts ({step.moment}), {why}{advice}"
    )


def alternatives(
    choice: Choice, config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path]
) -> list[str]:
    """Other choices of the same group with which the rest of the config is legal, as overrides."""
    found = []
    for name in choice_names(choice.group, folders):
        if name == choice.name:
            continue
        if choice.group == "model":
            trial = {g: n for g, n in chosen.items() if not g.startswith("model/")} | {"model": name}
        else:
            trial = {**chosen, choice.group: name}
        settings = dict(config)
        if choice.group.startswith("compression/"):
            slot = choice.group.split("/", 1)[1]
            keys = read_choice(choice.group, name, folders).keys
            settings["compression"] = {**config.get("compression", {}), slot: keys}
        if first_conflict(gather(settings, trial, folders)) is None:
            found.append(f"{choice.group}={name}")
    return found


def label(choice: Choice) -> str:
    """The choice as a user types it."""
    return f"{choice.group}={choice.name}"
