"""From overrides to a config: composition by Hydra, with errors that say what to type instead."""

import copy
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from effnlp.fitting import fits, wanted
from effnlp.identity import register_resolvers
from effnlp.menu import (
    choice_names,
    choices,
    conf_dir,
    config_folders,
    groups,
    read_choice,
    read_yaml,
    stacked_groups,
    suggest,
)


class ConfigError(ValueError):
    """The overrides do not make a config; the message says why and what would."""


@dataclass(frozen=True)
class Composed:
    """A config as plain containers, and what was chosen in it.

    Attributes:
        config: The resolved config without Hydra's own part.
        chosen: Config group to the name of the choice; stacked groups join names with ``+``.
        folder: Where Hydra would let the run write.
    """

    config: dict[str, Any]
    chosen: dict[str, str]
    folder: str


@contextmanager
def hydra_context() -> Iterator[None]:
    """Hydra's composition, once for many configs."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3", job_name="effnlp"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def search_path(config_dir: Path | None) -> list[str]:
    """The override that puts a user's folder on Hydra's search path."""
    if config_dir is None:
        return []
    quoted = str(config_dir.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{quoted}']"]


def compose(
    overrides: Sequence[str], config_dir: Path | None = None, name: str = "run", complete: bool = True
) -> Composed:
    """Compose inside a :func:`hydra_context`.

    Args:
        complete: Whether every mandatory value must be there.

    Raises:
        ConfigError: For an unknown group, choice or key, a value that does not parse, a group without a
            choice, or a mandatory value that is missing.
    """
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        folders = config_folders(config_dir)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    refuse_lists(overrides, folders)
    try:
        whole = hydra_compose(
            name, overrides=[*overrides, *search_path(config_dir)], return_hydra_config=True
        )
        return _taken_apart(whole, folders, complete)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(explain(str(error), overrides, folders)) from error


def _taken_apart(whole: Any, folders: Sequence[Path], complete: bool = True) -> Composed:
    from omegaconf import OmegaConf

    runtime = OmegaConf.to_container(whole.hydra.runtime.choices, resolve=True)
    folder = str(OmegaConf.select(whole, "hydra.run.dir"))
    own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(own))
    config = OmegaConf.to_container(own, resolve=True)
    assert isinstance(config, dict)
    assert isinstance(runtime, dict)
    chosen = chosen_groups(runtime, config)  # type: ignore[arg-type]
    check_groups(chosen, config, folders)
    if missing and complete:
        raise ConfigError(missing_message(missing[0], chosen, folders))
    return Composed({str(key): value for key, value in config.items()}, chosen, folder)


class Composer:
    """Composes many runs inside a :func:`hydra_context`: what only changes values starts from a config made before.

    Hydra applies values to the config that the choices of groups make; a search has many values to few choices.
    """

    KEPT = 256

    def __init__(self, config_dir: Path | None = None) -> None:
        self.config_dir = config_dir
        self.folders = config_folders(config_dir)
        self.groups = groups(self.folders)
        self.made: dict[tuple[str, ...], Any] = {}

    def __call__(self, overrides: Sequence[str]) -> Composed:
        """As :func:`compose`.

        Raises:
            ConfigError: As there.
        """
        from hydra import compose as hydra_compose
        from omegaconf import OmegaConf

        values = [override for override in overrides if self._is_value(override)]
        rest = tuple(override for override in overrides if override not in values)
        try:
            if rest not in self.made:
                if len(self.made) >= self.KEPT:
                    self.made.pop(next(iter(self.made)))
                self.made[rest] = hydra_compose(
                    "run", overrides=[*rest, *search_path(self.config_dir)], return_hydra_config=True
                )
            whole = copy.deepcopy(self.made[rest])
            for override in values:
                parsed = _parse(override)
                OmegaConf.update(whole, parsed.key_or_group, parsed.value(), merge=True)
            return _taken_apart(whole, self.folders)
        except Exception:  # whatever it is, the plain way says it in our words, or does it
            return compose(overrides, self.config_dir)

    def _is_value(self, override: str) -> bool:
        """Whether an override changes a value that is there, and nothing else."""
        key = override.partition("=")[0]
        return (
            "." in key and key[0] not in "+~" and "/" not in key and "@" not in key and key not in self.groups
        )


def _parse(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override)


def check_groups(chosen: Mapping[str, str], config: Mapping[Any, Any], folders: Sequence[Path]) -> None:
    """Every group of ``run.yaml`` has a choice.

    Raises:
        ConfigError: If one was taken out (``~peft``) or left empty (``data/filter=[]``).
    """
    for group in default_choices("run"):
        node: Any = config
        for part in group.split("/"):
            node = node.get(part) if isinstance(node, Mapping) else None
        if group not in chosen or node is None:
            names = choice_names(group, folders)
            raise ConfigError(f"{group} needs a choice: one of {', '.join(names)}")
    for owner in ("model", "peft"):
        for group in read_choice(owner, chosen[owner], folders).parts:
            if group not in chosen:
                names = choice_names(group, folders)
                raise ConfigError(f"{owner}={chosen[owner]} needs {group}: one of {', '.join(names)}")


def refuse_lists(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """A list of choices is for a stack, where each is named once.

    Raises:
        ConfigError: With how choices of that group are combined, if they can be.
    """
    known = groups(folders)
    for override in overrides:
        group, _, value = override.partition("=")
        if group not in known or not re.fullmatch(r"\[.*\]", value.strip()):
            continue
        names = [name.strip(" '\"") for name in value.strip()[1:-1].split(",")]
        if group not in stacked_groups(folders):
            raise ConfigError(f"{group} takes one choice, got {value}{how_to_combine(group, names, folders)}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{group} names {twice[0]} twice, in {value}: each acts once")


def how_to_combine(group: str, names: Sequence[str], folders: Sequence[Path]) -> str:
    """The end of a refusal of several choices: which choice of the group combines others; empty if none does."""
    for choice in choices(group, folders):
        for part in choice.parts:
            if part in stacked_groups(folders):
                known = choice_names(part, folders)
                combined = [name for name in names if name in known] or choice.parts[part].split("+")
                return f"; to combine: {group}={choice.name} '{part}=[{','.join(combined)}]'"
    return f": one of {', '.join(choice_names(group, folders))}"


def default_choices(name: str) -> dict[str, Any]:
    """Group to its default choice (a list for stacked groups) in ``run.yaml`` or ``sweep.yaml``."""
    entries = read_yaml(conf_dir() / f"{name}.yaml").get("defaults", [])
    return {
        str(group): choice
        for entry in entries
        if isinstance(entry, dict)
        for group, choice in entry.items()
        if not str(group).startswith("override ")
    }


def missing_message(key: str, chosen: Mapping[str, str], folders: Sequence[Path]) -> str:
    """Which mandatory value is missing, with what its config says of it."""
    group, _, name = key.rpartition(".")
    group = group.replace(".", "/")
    comment = ""
    for folder in folders:
        path = folder / group / f"{chosen.get(group)}.yaml"
        if path.is_file():
            found = re.search(rf"^{re.escape(name)}:[^#\n]*#\s*(.+)$", path.read_text(encoding="utf-8"), re.M)
            comment = f": {found.group(1)}" if found else ""
    needs = f"{group}={chosen[group]} needs" if group in chosen else "the config needs"
    return f"{needs} {key}{comment}; give {key}=…"


def chosen_groups(runtime: Mapping[Any, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Hydra's own record of the choices, without Hydra's groups.

    Hydra does not record stacked groups; their choices are the keys of their package, joined by ``+``.
    """
    found = {
        str(key).partition("@")[0]: str(value)
        for key, value in runtime.items()
        if not str(key).startswith("hydra/") and value is not None and _is_at_home(str(key))
    }
    of_run = default_choices("run")
    for group in stacked_groups([conf_dir()]):
        node: Any = config
        for part in group.split("/"):
            node = (node or {}).get(part)
        if node or group in of_run:  # another belongs to a choice that was not made
            found[group] = "+".join(node or {"none": None})
    return dict(sorted(found.items()))


def _is_at_home(key: str) -> bool:
    """Whether Hydra's key of a choice, ``peft`` or ``peft@peft.parts.lora``, is of the package of its own group."""
    group, _, package = key.partition("@")
    return package in ("", group.replace("/", "."))


def explain(message: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """Hydra's error, with what was probably meant."""
    all_groups = groups(folders)
    for override in overrides:
        if reason := parse_error(override):
            return f"{override!r} does not parse (KEY=VALUE does): {reason}"
        key, _, value = override.partition("=")
        if value == "null" and key in all_groups:
            return f"{key} needs a choice: one of {', '.join(choice_names(key, folders))}"
    if found := re.search(r"Could not (?:find|load) '([^']+)'", message):
        group, _, name = found.group(1).rpartition("/")
        if what := builds_on_missing(group, name, overrides):
            return what
        names = choice_names(group, folders) if group in all_groups else hydra_choices(group)
        if names:
            return f"{group} has no choice {name!r}{suggest(name, names)}"
    if found := re.search(r"Could not override '([^'@]+)", message):
        key = found.group(1)
        if key in all_groups:
            return owner_message(key, overrides, folders)
        if "/" in key or "." not in key:
            return f"there is no config group or key {key!r}{suggest(key, [*all_groups, *top_keys()])}"
        path, _, last = key.rpartition(".")
        return no_key_message(path, last, overrides, folders)
    if found := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", message):
        return no_key_message(found.group(2).rpartition(".")[0], found.group(1), overrides, folders)
    return message.strip().splitlines()[0]


def builds_on_missing(group: str, name: str, overrides: Sequence[str]) -> str | None:
    """What to install if a choice of ours was made that builds on one of a package that is not there."""
    typed = dict(override.partition("=")[::2] for override in overrides).get(group, name)
    config = conf_dir() / group / f"{typed}.yaml"
    if typed == name or not config.is_file():
        return None
    install = re.search(r"pip install '[^']+'", config.read_text(encoding="utf-8"))
    return f"{group}={typed} builds on {name!r}, which is not there" + (f": {install[0]}" if install else "")


def parse_error(override: str) -> str | None:
    """Why Hydra cannot read an override; None if it can."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException as error:
        lines = f"{error.__cause__}\n{error}".splitlines()
        return next(line for line in lines if line not in ("", "None"))
    return None


def hydra_choices(group: str) -> list[str]:
    """Choices of a group of Hydra's own, for instance ``hydra/launcher``."""
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    return sorted(loader.get_group_options(group)) if group.startswith("hydra/") else []


def no_key_message(path: str, key: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """That there is no such key, near matches, and which other choice of the group has it."""
    group = path.replace(".", "/")
    if group in groups(folders):
        owners = [choice.name for choice in choices(group, folders) if key in choice.keys]
        if owners:
            unlike = " and ".join(f"{group}={owner}" for owner in owners)
            return f"{group}={_chosen(group, overrides)} has no key {key!r}, unlike {unlike}"
    return f"{path or 'the config'} has no key {key!r}{suggest(key, keys_at(path, overrides, folders))}"


def owner_message(group: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """Why a group that exists cannot be chosen here: it is a part of another choice."""
    parent = group.rpartition("/")[0]
    owners = [f"{parent}={choice.name}" for choice in choices(parent, folders) if group in choice.parts]
    if not owners:
        of_sweeps = group in default_choices("sweep")
        return f"{group} belongs to effnlp sweep" if of_sweeps else f"{group} is no part of a run"
    return (
        f"{group} is a part that belongs to {' or '.join(owners)}; {parent}={_chosen(parent, overrides)} has no "
        f"such part. Leave {group} out, or choose {' or '.join(owners)}"
    )


def _chosen(group: str, overrides: Sequence[str]) -> str:
    """The choice of a group on the command line, or else its default."""
    typed = [o.partition("=")[2] for o in overrides if o.startswith(f"{group}=")]
    return typed[-1] if typed else str(default_choices("run").get(group, "none"))


def top_keys() -> list[str]:
    """Keys at the top of ``run.yaml`` and of ``sweep.yaml``."""
    found = {str(key) for name in ("run", "sweep") for key in read_yaml(conf_dir() / f"{name}.yaml")}
    return sorted(found - {"defaults", "hydra"})


def keys_at(path: str, overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Keys below a dotted path, in the config that the group overrides among ``overrides`` make."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = groups(folders)
    only_groups = [o for o in overrides if o.partition("=")[0] in known]
    try:
        whole = hydra_compose("run", overrides=[*only_groups, *search_path(next(iter(folders[1:]), None))])
        node = OmegaConf.select(whole, path) if path else whole
    except (HydraException, OmegaConfBaseException):
        return []
    return [str(key) for key in node if not str(key).startswith("_")] if isinstance(node, DictConfig) else []


def targets(config: Any, path: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every ``(path, _target_, its keys)`` below a config."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield (
                path,
                str(config["_target_"]),
                {k: v for k, v in config.items() if not str(k).startswith("_")},
            )
        for key, value in config.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))


PLAIN_SETTINGS = {"trainer": "effnlp.finetuning.loop.TrainerSettings"}
"""Sections of a config that have no ``_target_``, and what takes their keys."""


def bind_all(config: Mapping[str, Any]) -> None:
    """Bind every key to the signature of its target: a partial would accept a misspelt key in silence.

    Values are held against the annotations, and what ``run.yaml`` itself holds against its types there.

    Raises:
        ConfigError: Naming the key, the target and near matches, or the value and what it must be.
    """
    from hydra._internal.utils import _locate as locate  # hydra.utils.get_object also logs what it raises

    of_run = read_yaml(conf_dir() / "run.yaml")
    for path, default in _leaves({key: of_run[key] for key in of_run if key not in ("defaults", "hydra")}):
        value, kind = _at(config, path), type(default) if default is not None else str | None
        if not fits(value, kind):
            raise ConfigError(f"{path} must be {wanted(kind)}, got {value!r}")
    plain = [(path, target, dict(config[path])) for path, target in PLAIN_SETTINGS.items()]
    for path, target, keys in [*targets(config), *plain]:
        try:
            made = locate(target)
        except (ImportError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}._target_={target} cannot be loaded: {reason}") from error
        bind(made, keys, path, target)


def bind(made: Any, keys: Mapping[str, Any], path: str, target: str) -> None:
    """Hold the keys of one target against its signature.

    Raises:
        ConfigError: As :func:`bind_all`.
    """
    parameters = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    try:
        hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except NameError:  # annotated with names that only type checkers import
        hints = {}
    for key, value in keys.items():
        if key not in parameters and not open_ended:
            raise ConfigError(f"{path} has no key {key!r} ({target}){suggest(key, list(parameters))}")
        if key in hints and not fits(value, hints[key]):
            raise ConfigError(f"{path}.{key} must be {wanted(hints[key])}, got {value!r}")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _at(config: Mapping[str, Any], path: str) -> Any:
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def refuse_contradictions(overrides: Sequence[str]) -> None:
    """A key that is given twice with different values is a mistake; Hydra would take the last in silence.

    Raises:
        ConfigError: Naming both.
    """
    given: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if not key.startswith("~") and given.setdefault(key, override) != override:
            raise ConfigError(f"{key} is given twice, {given[key]} and {override}: leave one of them out")
