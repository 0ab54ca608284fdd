"""What adapters share: a bottleneck behind a frozen layer, and where it is put.

Legend: I width in, D width out, m width of the bottleneck.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from effnlp.menu import suggest
from effnlp.method import note
from effnlp.model.surgery import encoder_of, layers_in_roles, replace_layers
from effnlp.peft.freezing import freeze_all_but_head, is_norm, thaw

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "relu": relu,
    "silu": silu,
    "tanh": torch.tanh,
}

DOWN_STD = 1e-2
"""Of the weights of a down-projection at the start, after Houlsby et al. (2019), cut off at twice that."""


class Bottleneck(nn.Module):
    """``up(activation(down(x)))``: what an adapter adds to what it reads.

    Args:
        down: From D to m.
        up: From m to D; zero at the start, so that nothing is added.
        activation: A name of :data:`ACTIVATIONS`.
    """

    def __init__(self, down: nn.Module, up: nn.Module, activation: str) -> None:
        super().__init__()
        self.down, self.up, self.activation = down, up, activation

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        y: Tensor = self.up(ACTIVATIONS[self.activation](self.down(x)))
        return y


class AdaptedLinear(nn.Module):
    """``y + adapter(y)`` with ``y = base(x)``. No linear layer equals it, so that it is never merged.

    Args:
        base: The frozen layer, with ``in_features``, ``out_features``; it may be wrapped itself.
        adapter: From (…, D) to (…, D).
    """

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.in_features, self.out_features = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        self.base, self.adapter = base, adapter

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, D)."""
        y: Tensor = self.base(x)
        return y + self.adapter(y)


def dense_bottleneck(width: int, model_width: int, activation: str) -> Bottleneck:
    """Two dense layers with their biases: 2 m D + m + D parameters.

    Unlike the paper, the up-projection starts at zero and not near it, so that the model starts as its base to the bit.

    Args:
        width: m.
        model_width: D.
        activation: A name of :data:`ACTIVATIONS`.

    Raises:
        ValueError: If ``width`` is above ``model_width``: that is no bottleneck.
    """
    if not 1 <= width <= model_width:
        raise ValueError(
            f"width must be in 1 … {model_width} for an adapter of layers of width {model_width}, got {width}"
        )
    down, up = nn.Linear(model_width, width), nn.Linear(width, model_width)
    nn.init.trunc_normal_(down.weight, std=DOWN_STD, a=-2 * DOWN_STD, b=2 * DOWN_STD)
    for zero in (down.bias, up.weight, up.bias):
        nn.init.zeros_(zero)
    return Bottleneck(down, up, activation)


def check_adapter(width: int, activation: str, targets: Sequence[str]) -> tuple[str, ...]:
    """The targets of an adapter, if its settings make sense without a model.

    Raises:
        ValueError: If ``width`` is below 1, ``activation`` unknown or no role is named.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"there is no activation {activation!r}{suggest(activation, [*ACTIVATIONS])}")
    if isinstance(targets, str) or not targets:
        raise ValueError(f"targets must be a list with at least one role, got {targets!r}")
    return tuple(targets)


def insert(
    model: nn.Module, targets: Sequence[str], make: Callable[[int], nn.Module], train_norms: bool
) -> nn.Module:
    """Put an adapter behind each layer in the targeted roles and freeze the rest, in place.

    Args:
        make: Makes an adapter for layers of a width.
        train_norms: Whether the norms of the encoder are trained too, at the full rate.

    Raises:
        ValueError: If the encoder has no layer in one of the roles, or no norm that could be trained.
    """
    encoder = encoder_of(model)
    layers = layers_in_roles(encoder, targets)
    norms = [module for module in encoder.modules() if is_norm(module)] if train_norms else []
    if train_norms and not norms:
        raise ValueError(f"train_norms: {type(encoder).__name__} has no norm")
    # One for a layer that several places share, as the layer itself is one.
    adapters = {id(layer): make(int(layer.out_features)) for layer in layers}  # type: ignore[arg-type]
    freeze_all_but_head(model)
    thaw((parameter for norm in norms for parameter in norm.parameters(recurse=False)), 1.0)
    return replace_layers(model, layers, lambda base: AdaptedLinear(base, adapters[id(base)]))


def leave_unmerged(model: nn.Module) -> nn.Module:
    """Write down how many adapters stay, since none can be merged, and return ``model``.

    Raises:
        ValueError: If there is none.
    """
    layers = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    if not layers:
        raise ValueError(f"nothing was inserted: {type(model).__name__} has no adapter")
    note(model, "peft", {"layers": len(layers), "merged_layers": 0})
    return model
