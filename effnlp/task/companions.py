"""Further tasks beside that of a run: named in the config of a fine-tuning, loaded as any task is.

The key ``finetuning.with_tasks`` is a list of choices of the group ``task``, or a mapping from a name to keys that
change what the choice says; its key ``task`` names the choice where that is not the name itself::

    with_tasks: [sst2, ag_news]
    with_tasks: {sst2: {train_size: 3000}, reviews: {task: files, path: reviews.csv}}
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from effnlp.compose import ConfigError, bind
from effnlp.menu import choice_names, conf_dir, suggest
from effnlp.task.task import Task

WithTasks = Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None
"""The value of ``finetuning.with_tasks``; None: no further task."""

KEY = "finetuning.with_tasks"


def companion_configs(with_tasks: WithTasks) -> dict[str, dict[str, Any]]:
    """Name to the config of the task that is meant, resolved.

    Raises:
        ConfigError: For a name given twice or one that no record key can hold, a task or a key that there is
            not, and a value that is missing.
    """
    if isinstance(with_tasks, str):
        raise ConfigError(f"{KEY} must be a list or a mapping, got {with_tasks!r}: write [{with_tasks}]")
    names = list(with_tasks or ())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{KEY} names {twice[0]!r} twice")
    changes = dict(with_tasks) if isinstance(with_tasks, Mapping) else dict.fromkeys(names)
    return {name: _config(name, dict(changed or {})) for name, changed in changes.items()}


def _config(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"{KEY} names a task {name!r}: letters, digits, _, . and - make a name")
    choice = str(changes.pop("task", name))
    known = choice_names("task", [conf_dir()])
    if choice not in known:
        raise ConfigError(f"{KEY} names {choice!r}, which is no task{suggest(choice, known)}")
    node = OmegaConf.load(conf_dir() / "task" / f"{choice}.yaml")
    missing = sorted(key for key in OmegaConf.missing_keys(node) if key not in changes)
    if missing:
        raise ConfigError(f"{KEY}.{name} needs {missing[0]}: give {KEY}={{{name}: {{{missing[0]}: …}}}}")
    config = {**OmegaConf.to_container(node, resolve=True), **changes}  # type: ignore[dict-item]
    target = str(config["_target_"])
    keys = {key: value for key, value in config.items() if not key.startswith("_")}
    bind(get_object(target), keys, f"{KEY}.{name}", target)
    return config


def refuse_companions(task: Task, companions: Sequence[Task]) -> None:
    """Say before the training that tasks cannot be learned by one model.

    Raises:
        ValueError: If one is the run's own task, or they disagree on kind: pairs or single texts, classes or
            numbers.
    """
    for other in companions:
        if other.name == task.name or other.fingerprint == task.fingerprint:
            raise ValueError(f"{KEY} names {other.name!r}, which is the run's own task: leave it out")
        for kind, is_it, is_not in (
            ("is_pair", "pairs of texts", "single texts"),
            ("is_regression", "numbers", "classes"),
        ):
            if getattr(task, kind) != getattr(other, kind):
                ours, theirs = (is_it if getattr(one, kind) else is_not for one in (task, other))
                raise ValueError(
                    f"tasks of one model must be of one kind: {task.name} has {ours}, "
                    f"{other.name} of {KEY} has {theirs}"
                )


def named(task: Task, name: str) -> Task:
    """The task under the name by which it was asked for."""
    return replace(task, name=name)
