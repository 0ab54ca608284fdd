"""Whether a value from a config fits the annotation of a parameter, and in words what would."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value``, a plain container or scalar, is of the annotated type.

    What a config cannot hold (a callable, a class of ours) is not judged: it is made from a ``_target_``.
    """
    origin, parameters = get_origin(hint), get_args(hint)
    if hint is None:
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in parameters)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in parameters)
    if hint is bool or hint is type(None):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    kind = origin or hint
    if kind in (list, tuple, Sequence):
        item = parameters[0] if parameters else Any
        return isinstance(value, list) and all(fits(one, item) for one in value)
    if kind in (dict, Mapping):
        item = parameters[1] if parameters else Any
        return isinstance(value, Mapping) and all(fits(one, item) for one in value.values())
    return True


def wanted(hint: Any) -> str:
    """The annotation in words."""
    origin, parameters = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(wanted(one) for one in parameters)
    if origin is Literal:
        return " or ".join(map(str, parameters))
    kind = origin or hint
    if kind in (list, tuple, Sequence):
        return f"a list, each of it {wanted(parameters[0])}" if parameters else "a list"
    if kind in (dict, Mapping):
        return "a mapping"
    return WORDS.get(hint, str(getattr(hint, "__name__", hint)))
