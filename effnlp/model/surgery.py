"""Find layers of a model's encoder and put others in their place.

Methods that wrap, prune or quantize work on the encoder. The head stays as it is: it is tiny, and it is what
the task itself trains.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def encoder_of(model: nn.Module) -> nn.Module:
    """``model.encoder``, known to be a module."""
    encoder = model.encoder
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"{type(model).__name__}.encoder must be a module, got {encoder!r}")
    return encoder


def encoder_layers(model: nn.Module, *kinds: type[Layer]) -> dict[str, Layer]:
    """The encoder's modules of some kinds, by their names inside the encoder; a shared module comes once.

    Args:
        model: Has the attribute ``encoder``.
        kinds: For instance ``nn.Linear``.

    Raises:
        ValueError: If there is none: a method without a target must not pass for one that was applied.
    """
    encoder = encoder_of(model)
    found = {name: module for name, module in encoder.named_modules() if isinstance(module, kinds)}
    if not found:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"nothing to do: {type(encoder).__name__} has no {wanted} layer")
    return found


def replace_layers(
    root: nn.Module, targets: Iterable[Layer], make: Callable[[Layer], nn.Module]
) -> nn.Module:
    """Put ``make(target)`` wherever ``root`` has ``target``, in place, and return ``root``.

    A module that several places share is made once and stays shared. What is new is in training or evaluation
    mode as what it replaces.
    """
    new = {id(target): make(target).train(target.training) for target in targets}
    places = [
        (name, new[id(module)])
        for name, module in root.named_modules(remove_duplicate=False)
        if id(module) in new
    ]
    for name, module in places:
        root.set_submodule(name, module)
    return root


def layers_in_roles(encoder: nn.Module, roles: Sequence[str]) -> list[nn.Module]:
    """The linear layers of an encoder in the given roles.

    Raises:
        ValueError: If a role has no layer; names near matches and the roles there are.
    """
    names: dict[str, Sequence[str]] = encoder.linear_roles()  # type: ignore[operator]
    for role in roles:
        if not names.get(role):
            close = difflib.get_close_matches(role, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            there = ", ".join(sorted(name for name in names if names[name])) or "none"
            kind = type(encoder).__name__
            raise ValueError(f"{kind} has no layer in the role {role!r}{hint} it has: {there}")
    return [encoder.get_submodule(name) for role in dict.fromkeys(roles) for name in names[role]]
