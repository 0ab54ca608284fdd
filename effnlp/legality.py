"""Whether the parts of a config go together: computed from what their modules declare, before any work.

A model provides capabilities; every method, at each moment it acts, requires some, removes some and may
provide others. Walking through the moments in the order of a run shows whether each finds what it needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, zip_longest
from pathlib import Path
from typing import Any

from effnlp.menu import CAPABILITIES, Choice, choice_names, read_choice, suggest


class IllegalCombinationError(ValueError):
    """A choice needs something that another one removed or that the model does not have."""


MOST_WAYS_OUT = 8
"""How many ways out of a conflict a refusal names."""


TOLD = ("prepare", "finish")
"""Moments at which a method with the key ``moment`` can be told to act."""


@dataclass(frozen=True)
class Step:
    """One choice acting at one moment.

    Attributes:
        is_part: Whether it acts inside of the choice before it, which holds it.
    """

    moment: str
    choice: Choice
    is_part: bool = False


def plan(
    model: Choice,
    parts: Sequence[Choice],
    peft: Choice,
    compression: Mapping[str, Choice],
    order: Sequence[str],
    told: Mapping[str, str] | None = None,
    finetuning: Choice | None = None,
    peft_parts: Sequence[Choice] = (),
) -> list[Step]:
    """The moments of a run in the order in which they come.

    Args:
        compression: Slot (``pruning``) to the choice in it.
        order: The slots in the order in which they finish, after PEFT.
        told: Slot to the moment at which its method is told to act by its key ``moment``. One that is told to
            ``prepare`` makes the frozen base, so it comes before PEFT, and has nothing left to finish.
        finetuning: What the model is built for: classes, or a number.
        peft_parts: What ``peft`` combines, in the order in which it acts; at each moment all of them act.

    Raises:
        IllegalCombinationError: If ``order`` does not name every slot exactly once, or a slot is told to act
            at a moment that there is not.
    """
    if sorted(map(str, order)) != sorted(compression):
        raise IllegalCombinationError(
            f"compression.order must name each of {', '.join(sorted(compression))} once, got {list(order)}"
        )
    told = told or {}
    for slot, moment in told.items():
        if moment not in TOLD:
            raise IllegalCombinationError(
                f"compression.{slot}.moment must be {' or '.join(TOLD)}, got {moment!r}"
            )
    base = [compression[slot] for slot in order if told.get(slot) == "prepare"]
    late = [compression[slot] for slot in order if told.get(slot) != "prepare"]
    injected = [compression[slot] for slot in order if slot not in told]

    def tuned(moment: str) -> list[Step]:
        return [Step(moment, peft), *(Step(moment, part, is_part=True) for part in peft_parts)]

    return [
        Step("build", model),
        *(Step("build", part) for part in parts),
        *([Step("build", finetuning)] if finetuning else []),
        *(Step("prepare", choice) for choice in base),
        *tuned("prepare"),
        *(Step("prepare", choice) for choice in injected),
        *tuned("during"),
        *(Step("during", choice) for choice in late),
        *tuned("finish"),
        *(Step("finish", choice) for choice in late),
    ]


Conflict = tuple[Step, str, Choice | None]
"""A step, what it lacks, and who took that away; nobody: the model has it not."""


def first_conflict(steps: Sequence[Step]) -> Conflict | None:
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
        if group.startswith("model/") or group == "pretraining"
    ]
    slots = {
        group.split("/", 1)[1]: name for group, name in chosen.items() if group.startswith("compression/")
    }
    settings = config.get("compression", {})
    compression = {
        slot: as_set(read_choice(f"compression/{slot}", name, folders), settings.get(slot) or {})
        for slot, name in slots.items()
    }
    told = {slot: settings[slot]["moment"] for slot in slots if "moment" in (settings.get(slot) or {})}
    peft = read_choice("peft", chosen["peft"], folders)
    finetuning = read_choice("finetuning", chosen.get("finetuning", "classify"), folders)
    peft_parts = [
        read_choice(group, name, folders)
        for group, default in peft.parts.items()
        for name in chosen.get(group, default).split("+")
    ]
    return plan(model, parts, peft, compression, settings.get("order", []), told, finetuning, peft_parts)


def as_set(choice: Choice, settings: Mapping[str, Any]) -> Choice:
    """A choice with all that it requires with these settings."""
    requires = dict(choice.requires)
    for unless in not_neutral(choice, settings):
        for moment, names in choice.requires_unless[unless].items():
            requires[moment] = (*requires.get(moment, ()), *names)
    return replace(choice, requires=requires)


def not_neutral(choice: Choice, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys, each with its neutral value, of which a choice requires more because they have another value."""
    return [(key, value) for key, value in choice.requires_unless if settings.get(key, value) != value]


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
    unknown = "" if capability in CAPABILITIES else suggest(capability, list(CAPABILITIES))
    found = ways_out(config, chosen, folders, _at_odds(conflict, model, chosen, folders))
    shown = ", ".join(found[:MOST_WAYS_OUT]) + (", …" if len(found) > MOST_WAYS_OUT else "")
    advice = f"; what would work: {shown}" if found else ""
    raise IllegalCombinationError(
        f"{label(step.choice)} needs {capability.replace('_', ' ')} when it acts ({step.moment}), "
        f"{why}{unknown}{advice}"
    )


def _at_odds(
    conflict: Conflict, model: Choice, chosen: Mapping[str, str], folders: Sequence[Path]
) -> list[str]:
    """The groups of which one must change: of who lacks something, of who took it away, of what they are part of."""
    step, _, remover = conflict
    culprit = remover or model
    groups = [step.choice.group, culprit.group, *(group for group in chosen if group == "pretraining")]
    if culprit is model:
        groups[1:1] = [group for group in chosen if group.startswith("model/")]
    peft_parts = read_choice("peft", chosen["peft"], folders).parts
    return [*groups, *(group.partition("/")[0] for group in groups if group in peft_parts)]


def ways_out(
    config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path], at_odds: Sequence[str]
) -> list[str]:
    """Overrides that make a config legal, the smallest changes only.

    First another order of compression, and each of the two groups at odds changed alone. Where that does
    not help (there is more than one conflict), two groups are changed together, then three: what is left out, told
    to act at another moment, or another model, always of a group at odds in the first conflict that is left.

    Returns:
        Overrides to put in place of those for the same group; several that belong together are joined by
        ``with``.
    """
    of_each = [
        [way for way in changes(config, chosen, folders, group) if is_legal(config, chosen, folders, (way,))]
        for group in dict.fromkeys(at_odds)
    ]
    # By turns, so that no group with many choices hides what another offers.
    alone = [way for turn in zip_longest(*of_each) for way in turn if way is not None]
    order = _legal_order(config, chosen, folders)
    if alone or order:
        return [*([order] if order else []), *map(str, alone)]
    acting = [g for g in chosen if g in ("model", "peft") or g.startswith("compression/")]
    for size in range(2, len(acting) + 1):
        together = {frozenset(ways): ways for ways in _mended(config, chosen, folders, (), size)}
        if together:
            in_order = [sorted(ways, key=lambda way: acting.index(way.group)) for ways in together.values()]
            return [" with ".join(map(str, ways)) for ways in in_order]
    return []


def _mended(
    config: Mapping[str, Any],
    chosen: Mapping[str, str],
    folders: Sequence[Path],
    ways: tuple["Change", ...],
    size: int,
) -> Iterator[tuple["Change", ...]]:
    """Each way to be legal with ``size`` changes, those in ``ways`` and further ones of other groups."""
    new_config, new_chosen = changed(config, chosen, folders, ways)
    steps = gather(new_config, new_chosen, folders)
    conflict = first_conflict(steps)
    if conflict is None or len(ways) == size:
        if conflict is None and len(ways) == size:
            yield ways
        return
    done = {way.group for way in ways}
    for group in dict.fromkeys(_at_odds(conflict, steps[0].choice, new_chosen, folders)):
        if group in done or not (group in ("model", "peft") or group.startswith("compression/")):
            continue
        for way in changes(config, chosen, folders, group):
            if group == "model" or way.name in ("none", chosen[group]):
                yield from _mended(config, chosen, folders, (*ways, way), size)


@dataclass(frozen=True)
class Change:
    """Another choice, or another setting of the one that is there.

    Attributes:
        group: What is changed, ``compression/quantization``.
        name: The choice, with its own settings.
        setting: The key that is set and its value: when it is told to act, say. None for a choice by its defaults.
        note: What else must change on the command line.
        is_stack: Whether it is a list of choices; ``name`` joins them by ``+``.
    """

    group: str
    name: str
    setting: tuple[str, Any] | None = None
    note: str = ""
    is_stack: bool = False

    def __str__(self) -> str:
        if self.is_stack:
            return f"{self.group}=[{self.name.replace('+', ',')}]"
        if self.setting is not None:
            key, value = self.setting
            return f"{self.group.replace('/', '.')}.{key}={value}"
        return f"{self.group}={self.name}{self.note}"


def changes(
    config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path], group: str
) -> Iterator[Change]:
    """Everything else that a group could be, the same choice at another moment or otherwise set first.

    Of what is combined: its other orders, or without one of its parts.
    """
    combined = read_choice("peft", chosen["peft"], folders).parts
    if group in combined:
        names = chosen.get(group, combined[group]).split("+")
        others = [*permutations(names), *combinations(names, len(names) - 1)]
        yield from (Change(group, "+".join(o), is_stack=True) for o in others if o and list(o) != names)
        return
    key = f"{group.replace('/', '.')}.moment"
    here = _moment(config, group)
    if here is not None:
        yield from (Change(group, chosen[group], ("moment", moment)) for moment in TOLD if moment != here)
    for setting in not_neutral(read_choice(group, chosen[group], folders), _settings(config, group)):
        yield Change(group, chosen[group], setting)
    for name in choice_names(group, folders):
        if name != chosen[group]:
            gone = here is not None and "moment" not in read_choice(group, name, folders).keys
            given = here != read_choice(group, chosen[group], folders).keys.get("moment")
            yield Change(group, name, note=f" (without {key})" if gone and given else "")


def is_legal(
    config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path], ways: Sequence[Change]
) -> bool:
    """Whether a config would be legal with some groups changed."""
    return first_conflict(gather(*changed(config, chosen, folders, ways), folders)) is None


def changed(
    config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path], ways: Sequence[Change]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The config and its choices with some groups changed."""
    chosen = dict(chosen)
    compression = dict(config.get("compression", {}))
    for way in ways:
        if way.group == "model":
            chosen = {group: name for group, name in chosen.items() if not group.startswith("model/")}
            chosen |= read_choice("model", way.name, folders).parts
        if way.group == "peft":
            chosen = {group: name for group, name in chosen.items() if not group.startswith("peft/")}
        chosen[way.group] = way.name
        if way.group.startswith("compression/"):
            slot = way.group.partition("/")[2]
            if way.setting is None:
                compression[slot] = read_choice(way.group, way.name, folders).keys
            else:
                key, value = way.setting
                compression[slot] = {**_settings(config, way.group), key: value}
    return {**config, "compression": compression}, chosen


def _moment(config: Mapping[str, Any], group: str) -> str | None:
    """When the method of a compression slot is told to act."""
    return _settings(config, group).get("moment")


def _settings(config: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """The settings of a compression slot."""
    if not group.startswith("compression/"):
        return {}
    return config.get("compression", {}).get(group.partition("/")[2]) or {}


def _legal_order(config: Mapping[str, Any], chosen: Mapping[str, str], folders: Sequence[Path]) -> str | None:
    """The order of compression, two slots swapped (neighbours first), that makes the config legal: an override."""
    compression = config.get("compression", {})
    order = list(compression.get("order", []))
    for one, other in sorted(combinations(range(len(order)), 2), key=lambda pair: pair[1] - pair[0]):
        swapped = order.copy()
        swapped[one], swapped[other] = order[other], order[one]
        changed = {**config, "compression": {**compression, "order": swapped}}
        if first_conflict(gather(changed, chosen, folders)) is None:
            return f"compression.order=[{','.join(swapped)}]"
    return None


def label(choice: Choice) -> str:
    """The choice as a user types it."""
    return f"{choice.group}={choice.name}"
