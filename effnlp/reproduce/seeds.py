"""Seeds as they are written: in a file of an experiment or on the command line."""

import itertools
import re
from collections.abc import Mapping
from typing import Any


def seed_name(init: int, order: int) -> str:
    """How a pair of seeds is called: ``"0"`` for (0, 0), ``"0-1"`` for (0, 1)."""
    return str(init) if init == order else f"{init}-{order}"


def parse_seeds(given: Any) -> list[tuple[int, int]]:
    """Pairs of ``seed.init`` and ``seed.order``.

    Args:
        given: A number of seeds (3 is 0, 1 and 2, the same for both), a list of seeds or of pairs, or a mapping
            of ``init`` and ``order`` to a number or a list, which are crossed. On the command line ``3``,
            ``0,4,5``, ``0-1,1-0`` or ``10x10``.

    Raises:
        ValueError: If it is none of these, or a seed is there twice.
    """
    found = _seeds_of_text(given) if isinstance(given, str) else _seeds_of_node(given)
    if not found:
        raise ValueError("at least one seed is needed")
    if len(set(found)) < len(found):
        raise ValueError(f"a seed is there twice: {given!r}")
    return found


def _seeds_of_node(given: Any) -> list[tuple[int, int]]:
    if isinstance(given, Mapping) and set(given) == {"init", "order"}:
        return list(itertools.product(_numbers(given["init"]), _numbers(given["order"])))
    if isinstance(given, list) and any(isinstance(each, list) for each in given):
        pairs = [tuple(_numbers(each)) if isinstance(each, list) else (each, each) for each in given]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"a pair is a seed of initialisation and one of order, got {given!r}")
        return [(init, order) for init, order in pairs]
    return [(seed, seed) for seed in _numbers(given)]


def _numbers(given: Any) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return list(range(given))
    if isinstance(given, list) and all(type(each) is int and each >= 0 for each in given):
        return given
    raise ValueError(
        f"must be a number of seeds, a list of them, or a mapping of init and order to these, got {given!r}"
    )


def _seeds_of_text(given: str) -> list[tuple[int, int]]:
    if re.fullmatch(r"\d+", given):
        return _seeds_of_node(int(given))
    if crossed := re.fullmatch(r"(\d+)x(\d+)", given):
        return _seeds_of_node({"init": int(crossed[1]), "order": int(crossed[2])})
    if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*,?", given):
        pairs = [each.split("-") for each in given.split(",") if each]
        return [(int(pair[0]), int(pair[-1])) for pair in pairs]
    raise ValueError(
        f"must be a number of seeds (3), seeds (0,4 or 0-1,1-0), or a cross (10x10), got {given!r}"
    )
