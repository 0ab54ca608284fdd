"""From overrides to a config: composition by Hydra, with errors that say what to type instead."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnlp.identity import register_resolvers
from effnlp.menu import choice_names, conf_dir, groups, suggest


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
    return [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []


def compose(overrides: Sequence[str], config_dir: Path | None = None, name: str = "run") -> Composed:
    """Compose inside a :func:`hydra_context`.

    Raises:
        ConfigError: For an unknown group, choice or key, or a value that does not parse.
    """
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folders = [conf_dir()] + ([config_dir] if config_dir else [])
    try:
        whole = hydra_compose(
            name, overrides=[*overrides, *search_path(config_dir)], return_hydra_config=True
        )
        runtime = OmegaConf.to_container(whole.hydra.runtime.choices, resolve=True)
        folder = str(OmegaConf.select(whole, "hydra.run.dir"))
        own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
        config = OmegaConf.to_container(own, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(str(error), overrides, folders)) from error
    assert isinstance(config, dict)
    assert isinstance(runtime, dict)
    return Composed(
        config={str(key): value for key, value in config.items()},
        chosen=chosen_groups(runtime, config),  # type: ignore[arg-type]
        folder=folder,
    )


STACKED = ("data/filter", "evaluation/quality", "evaluation/scenarios")
"""Groups of which several choices act one after another, each in a package of its own."""


def chosen_groups(runtime: Mapping[Any, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Hydra's own record of the choices, without Hydra's groups.

    Hydra does not record stacked groups; their choices are the keys of their package, joined by ``+``.
    """
    found = {
        str(key).partition("@")[0]: str(value)
        for key, value in runtime.items()
        if not str(key).startswith("hydra/") and value is not None
    }
    for group in STACKED:
        node: Any = config
        for part in group.split("/"):
            node = (node or {}).get(part)
        found[group] = "+".join(node or {"none": None})
    return dict(sorted(found.items()))


def explain(message: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """Hydra's error, with what was probably meant."""
    first = message.strip().splitlines()[0]
    all_groups = groups(folders)
    if found := re.search(r"Could not find '([^']+)'", message):
        group, _, name = found.group(1).rpartition("/")
        if group in all_groups:
            return f"{group} has no choice {name!r}{suggest(name, choice_names(group, folders))}"
    if found := re.search(r"Could not override '([^'@]+)", message):
        key = found.group(1)
        if key in all_groups:
            return owner_message(key, overrides, folders)
        if "/" in key or "." not in key:
            return f"there is no config group or key {key!r}{suggest(key, [*all_groups, *top_keys(folders)])}"
        path, _, last = key.rpartition(".")
        return f"{path} has no key {last!r}{suggest(last, keys_at(path, overrides, folders))}"
    if found := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", message):
        path = found.group(2).rpartition(".")[0]
        return f"{path or 'the config'} has no key {found.group(1)!r}" + suggest(
            found.group(1), keys_at(path, overrides, folders)
        )
    return first


def owner_message(group: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """Why a group that exists cannot be chosen here: it is a part of another choice."""
    parent, _, part = group.rpartition("/")
    owners = []
    import yaml

    for folder in folders:
        for path in sorted((folder / parent).glob("*.yaml")):
            entries = (yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader) or {}).get(
                "defaults", []
            )
            if any(isinstance(entry, dict) and part in entry for entry in entries):
                owners.append(f"{parent}={path.stem}")
    here = next((o for o in reversed(overrides) if o.startswith(f"{parent}=")), f"the default {parent}")
    return (
        f"{group} is a part that belongs to {' or '.join(owners) or 'no choice here'}; {here} has no such part. "
        f"Leave {group} out, or choose {' or '.join(owners)}"
    )


def top_keys(folders: Sequence[Path]) -> list[str]:
    """Keys at the top of ``run.yaml`` and of ``sweep.yaml``."""
    import yaml

    found = set()
    for name in ("run", "sweep"):
        path = folders[0] / f"{name}.yaml"
        if path.is_file():
            found |= set(yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
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
        whole = hydra_compose("run", overrides=only_groups)
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


def bind_all(config: Mapping[str, Any]) -> None:
    """Bind every key to the signature of its target: a partial would accept a misspelt key in silence.

    Raises:
        ConfigError: Naming the key, the target and near matches.
    """
    from hydra.errors import HydraException
    from hydra.utils import get_object

    for path, target, keys in targets(config):
        try:
            made = get_object(target)
        except (HydraException, ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{path}._target_={target} cannot be loaded: {error}") from error
        parameters = inspect.signature(made).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            continue
        for key in keys:
            if key not in parameters:
                raise ConfigError(f"{path} has no key {key!r} ({target}){suggest(key, list(parameters))}")
