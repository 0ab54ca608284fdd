"""Experiments from their files. Only the shape is judged here; :mod:`effnlp.reproduce.validate` judges the sense."""

import dataclasses
import datetime
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from effnlp.compose import ConfigError
from effnlp.fitting import fits, wanted
from effnlp.menu import suggest
from effnlp.reproduce.experiment import (
    LAYERS,
    Claim,
    Column,
    Computed,
    Experiment,
    Layer,
    Published,
)
from effnlp.reproduce.seeds import parse_seeds

CHAPTERS = (
    "data", "model", "pretraining", "finetuning", "compression", "hardware", "evaluation", "selection",
)  # fmt: skip
"""The folders of experiments, in the order in which they are shown."""

Part = TypeVar("Part")


def experiments_dir() -> Path:
    """Where the experiments lie: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent.parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def names() -> list[str]:
    """All experiments, by chapter and then by name."""
    return [path.stem for path in _files()]


def _files() -> list[Path]:
    folder = experiments_dir()
    return [path for chapter in CHAPTERS for path in sorted((folder / chapter).glob("*.yaml"))]


def find(name: str) -> Path:
    """The file of an experiment: by its name, or a path that ends in ``.yaml``.

    Raises:
        ConfigError: If there is none, which names near matches, or more than one.
    """
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ConfigError(f"there is no file {name}")
        return Path(name)
    found = [path for path in _files() if path.stem == name]
    if not found:
        raise ConfigError(f"there is no experiment {name!r}{suggest(name, names())}")
    if len(found) > 1:
        raise ConfigError(
            f"two experiments are called {name!r}: {found[0]} and {found[1]}; rename one of them"
        )
    return found[0]


def read(name: str) -> Experiment:
    """An experiment by its name or the path of its file; its shape only.

    Raises:
        ConfigError: Naming the file, and each key that is wrong and why, a line each.
    """
    path = find(name)
    return parse(_content(path), path)


def read_all() -> list[Experiment]:
    """All experiments, in the order of :func:`names`.

    Raises:
        ConfigError: As :func:`read`.
    """
    return [read(name) for name in names()]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML's own reader takes the last one in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if key.value in seen and key.value != "<<":
            raise yaml.constructor.ConstructorError(
                None, None, f"{key.value!r} is there twice", key.start_mark
            )
        seen.add(key.value)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _content(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def parse(content: Any, path: Path) -> Experiment:
    """What a file says. Its name and its folder give name and chapter.

    Raises:
        ConfigError: As :func:`read`.
    """
    problems: list[str] = []
    made = _experiment(content, path, problems)
    if problems or made is None:
        raise ConfigError("\n  ".join([f"{path}:", *problems]))
    return made


def _experiment(content: Any, path: Path, problems: list[str]) -> Experiment | None:
    if not isinstance(content, Mapping):
        problems.append(f"must hold a mapping, got {type(content).__name__}")
        return None
    node = dict(content)
    for key, make in (("columns", _column), ("claims", _claim), ("published", _published)):
        if key in node:
            node[key] = _each(node[key], key, make, problems)
    if "published" in node:
        node["published"] = list(itertools.chain(*node["published"]))
    if "layers" in node:
        made = [_layer(name, layer, problems) for name, layer in _items(node["layers"], "layers", problems)]
        node["layers"] = {layer.name: layer for layer in made if layer is not None}
    if "rows" in node:
        node["rows"] = _texts(node["rows"])
    for key, value in (("name", path.stem), ("chapter", path.resolve().parent.name)):
        if key in node:
            problems.append(f"{key}: is given by the path of the file; leave it out")
        node[key] = value
    return _build(Experiment, node, "", problems)


def _build(cls: type[Part], node: Mapping[str, Any], where: str, problems: list[str]) -> Part | None:
    """A dataclass from the keys of a mapping; None, and why, if these are not its fields."""
    before = len(problems)
    fields = {each.name: each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key, value in node.items():
        if key not in fields:
            problems.append(f"{_at(where, key)}: unknown key{suggest(str(key), list(fields))}")
        elif not fits(value, hints[key]):
            problems.append(
                f"{_at(where, key)}: must be {wanted(hints[key])}, got {value!r}{_exponent(value)}"
            )
    for name, each in fields.items():
        needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if needed and name not in node:
            problems.append(f"{_at(where, name)}: is missing")
    return cls(**node) if len(problems) == before else None


def _at(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _exponent(value: Any) -> str:
    """What to write instead where YAML takes a number for text: ``1e-6`` lacks a point."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", value):
        mantissa, _, exponent = value.lower().partition("e")
        point = mantissa if "." in mantissa else f"{mantissa}.0"
        sign = exponent if exponent[0] in "+-" else f"+{exponent}"
        return f"; write {point}e{sign}"
    return ""


def _items(node: Any, where: str, problems: list[str]) -> list[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        problems.append(f"{where}: must be a mapping, got {node!r}")
        return []
    return [(str(key), value) for key, value in node.items()]


def _each(node: Any, where: str, make: Any, problems: list[str]) -> list[Any]:
    """What ``make`` makes of each mapping of a list; without those that have a problem."""
    if node is None:
        return []
    if not isinstance(node, list):
        problems.append(f"{where}: must be a list, got {node!r}")
        return []
    found = []
    for index, each in enumerate(node):
        here = f"{where}[{index}]"
        if not isinstance(each, Mapping):
            problems.append(f"{here}: must be a mapping, got {each!r}")
        elif (made := make(each, here, problems)) is not None:
            found.append(made)
    return found


def _texts(node: Any) -> Any:
    """Names as text: YAML reads the row 256 as a number."""
    return [_name(each) for each in node] if isinstance(node, list) else node


def _name(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if is_number else value


def _column(node: Mapping[str, Any], where: str, problems: list[str]) -> Column | None:
    return _build(Column, _named(node, "name"), where, problems)


def _named(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: _name(value) if key in keys else value for key, value in node.items()}


def _published(node: Mapping[str, Any], where: str, problems: list[str]) -> list[Published]:
    """One figure, or one a column where ``cells`` has a value, or a pair of a value and its spread, for each."""
    node = _named(node, "row", "column")
    if "cells" not in node:
        made = _build(Published, node, where, problems)
        return [made] if made else []
    both = sorted({"column", "value", "spread"} & set(node))
    if both:
        problems.append(f"{where}: has cells, which give {', '.join(both)} too; leave one of them out")
        return []
    rest = {key: value for key, value in node.items() if key != "cells"}
    found = []
    for column, value in _items(node["cells"], f"{where}.cells", problems):
        pair = value if isinstance(value, list) and len(value) == 2 else [value]
        figure = {**rest, "column": column, **dict(zip(("value", "spread"), pair, strict=False))}
        if (made := _build(Published, figure, f"{where}.cells.{column}", problems)) is not None:
            found.append(made)
    return found


def _layer(name: str, node: Any, problems: list[str]) -> Layer | None:
    where = f"layers.{name}"
    if name not in LAYERS:
        problems.append(f"{where}: unknown layer{suggest(name, LAYERS)}")
        return None
    if not isinstance(node, Mapping):
        problems.append(f"{where}: must be a mapping, got {node!r}")
        return None
    made = dict(node)
    if isinstance(rows := made.get("rows"), Mapping):
        made["rows"] = {str(_name(row)): [] if own is None else own for row, own in rows.items()}
    if "computed" in made:
        made["computed"] = _each(made["computed"], f"{where}.computed", _computed, problems)
    if "name" in made:
        problems.append(f"{where}.name: is the key of the layer; leave it out")
    seeds = _seeds(made.pop("seeds"), f"{where}.seeds", problems) if "seeds" in made else []
    here = f"{where}.seeds_of"
    own = {
        str(_name(row)): _seeds(given, f"{here}.{row}", problems)
        for row, given in _items(made.pop("seeds_of", {}), here, problems)
    }
    layer = _build(Layer, {**made, "name": name}, where, problems)
    return dataclasses.replace(layer, seeds=seeds, seeds_of=own) if layer else None


def _seeds(given: Any, where: str, problems: list[str]) -> list[tuple[int, int]]:
    try:
        return parse_seeds(given)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return []


def _computed(node: Mapping[str, Any], where: str, problems: list[str]) -> Computed | None:
    return _build(Computed, _named(node, "row", "column"), where, problems)


def _claim(node: Mapping[str, Any], where: str, problems: list[str]) -> Claim | None:
    """A claim; what is no key of every claim is an argument of its kind."""
    where = f"claims.{node['name']}" if isinstance(node.get("name"), str) else where
    of_all = {each.name for each in dataclasses.fields(Claim)} - {"kind", "arguments"}
    made = {key: value for key, value in node.items() if key in of_all}
    if "claim" in node:
        made["kind"] = node["claim"]
    arguments = {key: _argument(value) for key, value in node.items() if key not in (*of_all, "claim")}
    if isinstance(made.get("frozen"), datetime.datetime):
        made["frozen"] = made["frozen"].date()
    if not isinstance(frozen := made.get("frozen"), (datetime.date, type(None))):
        problems.append(f"{where}.frozen: must be a day, as 2026-11-22, got {frozen!r}")
        del made["frozen"]
    problems += [
        f"{where}.{path}: {value!r} is text{hint}" for path, value, hint in _numbers_as_text(arguments)
    ]
    return _build(Claim, {**made, "arguments": arguments}, where, problems)


def _argument(value: Any, key: str = "") -> Any:
    """An argument with the names of rows and columns as text."""
    if isinstance(value, Mapping):
        return {str(inner): _argument(each, str(inner)) for inner, each in value.items()}
    if isinstance(value, list):
        return [_argument(each, key) for each in value]
    return _name(value) if key in ("row", "column", "rows", "columns", "except") else value


def _numbers_as_text(node: Any, path: str = "") -> list[tuple[str, str, str]]:
    if isinstance(node, Mapping):
        return [found for key, each in node.items() for found in _numbers_as_text(each, _at(path, key))]
    if isinstance(node, list):
        return [
            found for index, each in enumerate(node) for found in _numbers_as_text(each, f"{path}[{index}]")
        ]
    hint = _exponent(node)
    return [(path, node, hint)] if hint else []
