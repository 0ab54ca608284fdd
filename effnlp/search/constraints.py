"""Placeholder of the lead until the real module is committed; overwrite it freely."""

from collections.abc import Callable, Mapping, Sequence


def parse_constraints(texts: Sequence[str]) -> list[str]:
    return list(texts)


def parse_reference(reference: Mapping[str, float], objectives: Mapping[str, str]) -> dict[str, float]:
    return dict(reference)


def keys_of(texts: Sequence[str]) -> list[str]:
    return []


def violations(texts: Sequence[str], values: Mapping[str, float]) -> dict[str, float]:
    return {}


def inside_of(
    objectives: Mapping[str, str], reference: Mapping[str, float], constraints: Sequence[str]
) -> Callable[[Mapping[str, float]], bool]:
    return lambda values: True
