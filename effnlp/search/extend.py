"""Extending a sweep: another space, other objectives, other constraints, with all that was tried already.

The study cannot be changed where it is: Optuna refuses a parameter whose values change. It is copied into a new
one of the same storage, trial by trial, each with its number, its slot, its rungs and its history.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from effnlp.compose import ConfigError
from effnlp.record import COMPLETED, Record
from effnlp.search.attributes import DECISION, OUTSIDE, OVERRIDES, PROMOTION, REASON, REJECTED, SLOT, UNDER
from effnlp.search.constraints import violations
from effnlp.search.grammar import meaning
from effnlp.search.space import Dimension, Space
from effnlp.search.transfer import fit

if TYPE_CHECKING:
    from effnlp.search.state import Sweep

log = logging.getLogger(__name__)

GIVEN = "fixed_params"
"""System attribute in which Optuna keeps the parameters of a trial that waits."""

RULES = ("objectives", "constraints", "reference", "early_stopping")
"""Attributes of a sweep that its decisions at rungs hang on."""

RecordOf = Callable[[int], Record | None]
"""From a slot to the record of the trial in it; None if there is none that can be read."""


# What differs


def differences(old: "Sweep", new: "Sweep") -> list[str]:
    """What makes ``new`` another search than ``old``: a line each, empty if nothing does."""
    lines = _objectives(old.objectives, new.objectives)
    lines += _dimensions(old.space, new.space)
    lines += _overrides(old.fixed, new.fixed)
    lines += [f"constraint {text} is gone" for text in old.constraints if text not in new.constraints]
    lines += [f"constraint {text} is new" for text in new.constraints if text not in old.constraints]
    for name, before, now in (
        ("reference", old.reference, new.reference),
        ("early_stopping", old.early_stopping, new.early_stopping),
        ("seed", old.seed, new.seed),
    ):
        if before != now:
            lines += _settings(name, before, now)
    return lines


def _objectives(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = [f"objective {key}:{way} is gone" for key, way in old.items() if key not in new]
    lines += [f"objective {key}:{way} is new" for key, way in new.items() if key not in old]
    lines += [
        f"objective {key} was {old[key]}, is {way}" for key, way in new.items() if old.get(key, way) != way
    ]
    if not lines and list(old) != list(new):
        lines.append(f"objectives were in the order {', '.join(old)}, are in the order {', '.join(new)}")
    return lines


def _dimensions(old: Space, new: Space) -> list[str]:
    before = {d.name: d for d in old.dimensions}
    now = {d.name: d for d in new.dimensions}
    lines = [f"dimension {d} is gone" for name, d in before.items() if name not in now]
    lines += [f"dimension {d} is new" for name, d in now.items() if name not in before]
    return lines + [
        f"dimension {name}: was {before[name].extent}, is {d.extent}{_more_and_fewer(before[name], d)}"
        for name, d in now.items()
        if name in before and before[name] != d
    ]


def _more_and_fewer(old: Dimension, new: Dimension) -> str:
    if not old.choices or not new.choices:
        return ""
    more = [f"+{choice}" for choice in new.choices if choice not in old.choices]
    fewer = [f"-{choice}" for choice in old.choices if choice not in new.choices]
    return f" ({' '.join(more + fewer) or 'in another order'})"


def _overrides(old: Sequence[str], new: Sequence[str]) -> list[str]:
    before, now = _by_key(old), _by_key(new)
    lines = [f"override {key}={value} is gone" for key, value in before.items() if key not in now]
    lines += [f"override {key}={value} is new" for key, value in now.items() if key not in before]
    return lines + [
        f"override {key}: was {before[key]}, is {value}"
        for key, value in now.items()
        if key in before and meaning(before[key]) != meaning(value)
    ]


def _settings(name: str, old: Any, new: Any) -> list[str]:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [f"{name}: was {old}, is {new}"]
    return [
        f"{name}.{key}: was {old.get(key, 'not set')}, is {new.get(key, 'not set')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return {override.partition("=")[0]: override.partition("=")[2] for override in overrides}


def check_extension(old: "Sweep", new: "Sweep") -> None:
    """Refuse what would put figures beside each other that cannot be compared: those of different tasks.

    Raises:
        ConfigError: Naming the override of the task that differs.
    """
    before, now = _of_task(old), _of_task(new)
    varied = {d.key for sweep in (old, new) for d in sweep.space.dimensions if d.varies}
    for key in dict.fromkeys([*before, *now]):
        was, is_now = before.get(key, "not set"), now.get(key, "not set")
        if key not in varied and meaning(was) != meaning(is_now):
            raise ConfigError(
                f"search.extend: {key} was {was}, is {is_now}: figures of different tasks are not comparable. "
                "Give this search a name of its own (search.name=…); search.warm_start.from=… takes over the "
                "best points of the other"
            )


def _of_task(sweep: "Sweep") -> dict[str, str]:
    """What all trials have in common of their task: overrides, and dimensions with a single value."""
    settings = {d.key: next(d.values()) for d in sweep.space.dimensions if not d.varies and not d.conditions}
    common = {**settings, **_by_key(sweep.fixed)}
    return {key: value for key, value in common.items() if key == "task" or key.startswith("task.")}


# The new study


def extend(new: "Sweep", old: "Sweep", folder: Path) -> "Sweep":
    """Copy the study in ``folder`` for a changed search, whose specification with its new study is returned.

    The old study stays in force until ``sweep.json`` names the new one, so that a kill in between loses nothing.
    To be called alone with the state of the sweep.

    Raises:
        ConfigError: If the two are not comparable.
    """
    from effnlp.search.state import open_study, trial_folder

    check_extension(old, new)
    study = open_study(folder, old)

    def record_of(slot: int) -> Record | None:
        try:
            return Record.load(trial_folder(folder, slot))
        except (OSError, ValueError):
            return None

    made = extend_study(study, old, new, study._storage, next_name(study.study_name), record_of)
    return replace(new, study=made.study_name)


def next_name(name: str) -> str:
    """``s`` to ``s@2``, ``s@2`` to ``s@3``."""
    stem, at, number = name.rpartition("@")
    return f"{stem}@{int(number) + 1}" if at and number.isdigit() else f"{name}@2"


def extend_study(
    study: optuna.Study, old: "Sweep", new: "Sweep", storage: optuna.storages.BaseStorage, name: str,
    record_of: RecordOf,
) -> optuna.Study:  # fmt: skip
    """A study of the changed search with all trials of ``study``: numbers, slots, attributes and states are kept.

    - Parameters are those of the new space, as far as the trial fits; a dimension that was not varied gets what
      the trial had by its overrides or its record. What does not fit is missing, and the trial says so
      (``outside``); it stays in the budget and, if it ran to its end, a candidate for the frontier.
    - A trial with a completed record is judged by the new objectives and constraints. If its record lacks one, it
      has failed with that reason; if an earlier extension had failed it so and nothing is lacking now, it has not.
    - Decisions at rungs stand, with the rules under which they were taken (``under``).
    - A point that waits to be tried and is not in the new space any more is rejected.

    What is left in the storage of an attempt that was cut off is made anew.

    Raises:
        ValueError: If ``name`` is that of the study itself.
    """
    if name == study.study_name:
        raise ValueError(f"an extended study needs a name of its own, got {name}")
    if name in optuna.study.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    directions = [StudyDirection[direction.upper()] for direction in new.objectives.values()]
    made = optuna.create_study(storage=storage, study_name=name, directions=directions)
    for key, value in study.user_attrs.items():
        made.set_user_attr(key, value)
    for trial in study.get_trials(deepcopy=False):
        made.add_trial(carried_over(trial, old, new, record_of))
    numbers = [trial.number for trial in made.get_trials(deepcopy=False)]
    assert numbers == list(range(len(numbers)))
    return made


def carried_over(trial: FrozenTrial, old: "Sweep", new: "Sweep", record_of: RecordOf) -> FrozenTrial:
    """A trial of the old search as one of the new; see :func:`extend_study`."""
    if trial.state == TrialState.WAITING:
        return _waiting(trial, old, new)
    made = copy.deepcopy(trial)
    record = record_of(int(trial.user_attrs[SLOT])) if SLOT in trial.user_attrs else None
    said = trial.user_attrs.get(OVERRIDES) or [*old.fixed, *_typed(trial.params, old.space)]
    outside = _refit(made, said, new, record)
    if SLOT in trial.user_attrs and outside:
        made.user_attrs[OUTSIDE] = outside
    else:
        made.user_attrs.pop(OUTSIDE, None)
    _keep_rules(made, old, new)
    if (
        record is not None
        and record.status == COMPLETED
        and made.state in (TrialState.COMPLETE, TrialState.FAIL)
    ):
        _judge_anew(made, record, new)
    elif made.state == TrialState.COMPLETE and _judged_differently(old, new):
        _fail(made, "its record cannot be read, so that the new objectives are unknown")
    elif len(old.objectives) != len(new.objectives) or list(old.objectives) != list(new.objectives):
        made.values = None
    return made


def _typed(parameters: Mapping[str, Any], space: Space) -> list[str]:
    """Parameters of the study as overrides."""
    by_name = {d.name: d for d in space.dimensions}
    return [
        f"{by_name[name].key}={value!r}" if isinstance(value, float) else f"{by_name[name].key}={value}"
        for name, value in parameters.items()
        if name in by_name
    ]


def _refit(trial: FrozenTrial, said: Sequence[str], new: "Sweep", record: Record | None) -> dict[str, str]:
    """Give a trial the parameters that it has in the new space; what it has otherwise, by key."""
    fitted = fit(new.space, said, record)
    distributions = {d.name: d.distribution() for d in new.space.dimensions}
    parameters = new.space.parameters(_with_settings(new.space, fitted.point, fitted.unlike))
    trial.params = parameters
    trial.distributions = {name: distributions[name] for name in parameters}
    return {**fitted.outside, **fitted.unlike, **_contrary(said, new)}


def _contrary(said: Sequence[str], new: "Sweep") -> dict[str, str]:
    """What was typed otherwise than the overrides of the new search."""
    typed, fixed = _by_key(said), _by_key(new.fixed)
    return {key: typed[key] for key in fixed if key in typed and meaning(typed[key]) != meaning(fixed[key])}


def _with_settings(space: Space, point: Mapping[str, str], unlike: Mapping[str, str]) -> dict[str, str]:
    """A point with the settings of the space that it shares."""
    whole: dict[str, str] = {}
    for d in space.dimensions:
        if not d.is_there(whole):
            continue
        if d.key in point:
            whole[d.key] = point[d.key]
        elif not d.varies and d.key not in unlike:
            whole[d.key] = next(d.values())
    return whole


def _waiting(trial: FrozenTrial, old: "Sweep", new: "Sweep") -> FrozenTrial:
    made = copy.deepcopy(trial)
    given = _typed(trial.system_attrs.get(GIVEN, {}), old.space)
    point = fit(new.space, given).point
    contrary = _contrary(given, new)
    lost = [
        said for key, said in zip(_by_key(given), given, strict=True) if key not in point or key in contrary
    ]
    if not lost:
        made.system_attrs[GIVEN] = new.space.parameters(point)
        return made
    made.state = TrialState.FAIL
    made.datetime_start = made.datetime_complete = datetime.now()
    made.user_attrs[REJECTED] = f"not in the extended space: {', '.join(lost)}"
    made.system_attrs.pop(GIVEN)
    return made


def _keep_rules(trial: FrozenTrial, old: "Sweep", new: "Sweep") -> None:
    """Decisions that were taken stand, and say under which rules, where these are others now."""
    rules = {name: getattr(old, name) for name in RULES if getattr(old, name) != getattr(new, name)}
    if list(old.objectives) != list(new.objectives):
        rules["objectives"] = old.objectives
    for key, entry in trial.user_attrs.items():
        if rules and key.startswith((DECISION, PROMOTION)):
            trial.user_attrs[key] = {**entry, UNDER: {**rules, **entry.get(UNDER, {})}}


def _judged_differently(old: "Sweep", new: "Sweep") -> bool:
    return list(old.objectives.items()) != list(new.objectives.items()) or old.constraints != new.constraints


def _judge_anew(trial: FrozenTrial, record: Record, new: "Sweep") -> None:
    from effnlp.search.state import objective_values

    kept = {key: value for key, value in trial.system_attrs.items() if not key.startswith("constraints:")}
    try:
        values = objective_values(record, new.objectives)
        violated = violations(new.constraints, record.values, record.absent)
    except KeyError as error:
        trial.system_attrs = kept
        _fail(trial, str(error.args[0]))
        return
    trial.state = TrialState.COMPLETE
    trial.values = values
    trial.user_attrs.pop(REASON, None)
    trial.system_attrs = {**kept, **{f"constraints:{key}": amount for key, amount in violated.items()}}


def _fail(trial: FrozenTrial, why: str) -> None:
    trial.values = None
    trial.state = TrialState.FAIL
    trial.user_attrs[REASON] = f"error: {why}"
