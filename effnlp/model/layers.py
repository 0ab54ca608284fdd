"""The layers of a model: which one a parameter belongs to, and a model with fewer of them.

Rates that fall with depth and gradual unfreezing go by the first, pruning by the second.

Legend: L layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from effnlp.model.surgery import encoder_of


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """The layers of an encoder, the one nearest to the input first.

    Raises:
        ValueError: If it has none, or is of a family whose layers are not known.
    """
    family: Any = getattr(encoder, "family", None)
    model: Any = getattr(encoder, "model", None)
    is_of_family = family is not None and isinstance(model, nn.Module)
    found = model.get_submodule(family.layers) if is_of_family else getattr(encoder, "layers", None)
    if not isinstance(found, nn.ModuleList) or not len(found):
        kind = f" of type {encoder.model_type!r}" if hasattr(encoder, "model_type") else ""
        raise ValueError(f"{type(encoder).__name__}{kind} has no layers that are known, one above the other")
    return list(found)


def droppable_layers(encoder: nn.Module) -> list[nn.Module]:
    """The layers of an encoder, if it can do without any one of them.

    Raises:
        ValueError: If it has none that are known, runs one layer several times, has a layer that makes what the others
            read, or something between two of them.
    """
    family: Any = getattr(encoder, "family", None)
    if family is not None and (family.is_repeated or family.carried):
        why = (
            "it runs the same layer again and again"
            if family.is_repeated
            else "its first layer serves the others"
        )
        raise ValueError(f"layers of models of type {encoder.model_type!r} cannot be dropped: {why}")
    layers = layers_of(encoder)
    if family is not None:
        _ = encoder.depth  # refuses what acts between two layers
    return layers


def keep_layers(encoder: nn.Module, kept: Sequence[int]) -> None:
    """Leave an encoder with some of its layers, in place.

    Args:
        kept: Positions of those that stay, ascending, at least one.

    Raises:
        ValueError: If none stays, or :func:`droppable_layers` refuses the encoder.
    """
    layers = droppable_layers(encoder)
    if not kept:
        raise ValueError(f"at least one of the {len(layers)} layers must stay")
    left = nn.ModuleList(layers[index] for index in kept)
    family: Any = getattr(encoder, "family", None)
    if family is None:
        encoder.layers = left
        return
    of_library: Any = encoder.model
    of_library.set_submodule(family.layers, left)
    config = of_library.config
    config.num_hidden_layers = len(left)
    if getattr(config, "layer_types", None) is not None:  # what kind of attention each layer has
        config.layer_types = [config.layer_types[index] for index in kept]


def depths(model: nn.Module) -> dict[str, int]:
    """The depth of each parameter: 0 below the layers, 1 … L in them, L + 1 above.

    Below lies what is read at the input (embeddings); above, what the last layer's output goes through and what is
    outside of the encoder (heads). Of our own encoders, what comes after the layers is above. A parameter that layers
    share has the depth of the highest.

    Raises:
        ValueError: If the encoder has no layers that are known.
    """
    encoder = encoder_of(model)
    layers = layers_of(encoder)
    inside = {id(p): depth for depth, layer in enumerate(layers, 1) for p in layer.parameters()}
    below = {id(parameter) for parameter in _below(encoder, inside)}
    above = len(layers) + 1
    return {
        name: inside.get(id(parameter), 0 if id(parameter) in below else above)
        for name, parameter in model.named_parameters()
    }


def _below(encoder: nn.Module, inside: Mapping[int, int]) -> list[nn.Parameter]:
    """The parameters of an encoder that lie below its layers, whose own are ``inside``."""
    outside = [(name, p) for name, p in encoder.named_parameters() if id(p) not in inside]
    family: Any = getattr(encoder, "family", None)
    if family is not None:
        after = tuple(f"model.{name}." for name in family.after)
        return [parameter for name, parameter in outside if not name.startswith(after)]
    first = next(place for place, p in enumerate(encoder.parameters()) if id(p) in inside)
    return [parameter for parameter in list(encoder.parameters())[:first] if id(parameter) not in inside]
