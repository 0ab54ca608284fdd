"""Hydra's grammar of overrides and sweeps: what text says, and how values are written in it."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException

from effnlp.compose import ConfigError
from effnlp.menu import choice_names


def in_grammar(value: Any) -> str:
    """A value of a file in Hydra's grammar: text is in it already, the items of a list are choices.

    Raises:
        ConfigError: If a list is empty.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if not value:
            raise ConfigError("search.space.dimensions: a dimension needs a value, got an empty list")
        return ",".join(map(_one_value, value))
    return _one_value(value)


def _one_value(value: Any) -> str:
    """One value in Hydra's grammar, quoted where it would be taken for several."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_one_value, value))}]"
    if not isinstance(value, str) or _is_one(value):
        return str(value)
    return QuotedString(value, Quote.single).with_quotes()


def _is_one(text: str) -> bool:
    try:
        return not parse_override(f"x={text}").is_sweep_override()
    except ConfigError:
        return False


def parse_override(text: str) -> Override:
    """``KEY=VALUE``, parsed.

    Raises:
        ConfigError: If it does not parse.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"{text!r} does not parse: {str(error).strip().splitlines()[0]}") from error


def key_of(override: Override) -> str:
    """What it overrides, without a leading ``+`` or ``~``."""
    return str(override.get_key_element()).lstrip("+~")


def meaning(value: Any) -> str:
    """What a value says, however it is written: equal for ``1e-3`` and ``0.001``, ``[a, b]`` and ``['a','b']``.

    Args:
        value: Text in Hydra's grammar, or what a config holds.
    """
    return _meaning_of_text(value) if isinstance(value, str) else _canonical(value)


@lru_cache(maxsize=4096)
def _meaning_of_text(text: str) -> str:
    try:
        override = OverridesParser.create().parse_override(f"x={text}")
    except HydraException:
        return _canonical(text)
    return _canonical(text if override.is_sweep_override() else override.value())


def _canonical(value: Any) -> str:
    def plain(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {str(key): plain(item) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [plain(item) for item in node]
        return int(node) if isinstance(node, float) and node.is_integer() else node

    return json.dumps(plain(value), sort_keys=True, default=str)


def globbed(pattern: Glob, key: str, folders: Sequence[Path]) -> list[str]:
    """The choices of a group whose names match.

    Raises:
        ConfigError: If there is no such group, or no match.
    """
    names = choice_names(key, folders)
    if not names:
        raise ConfigError(
            f"{key}: glob() is about the choices of a config group, and there is no group {key}"
        )
    found: list[str] = pattern.filter(names)
    if not found:
        raise ConfigError(
            f"{key}: no choice matches {', '.join(pattern.include)}; there is {', '.join(names)}"
        )
    return found
