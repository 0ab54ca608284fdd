"""(IA)³: train vectors that scale keys, values and the inner activations of the feed-forward layers.

Source: Liu et al. (2022), https://arxiv.org/abs/2205.05638

Legend: I width in, O width out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from effnlp.method import note
from effnlp.model.surgery import encoder_of, layers_in_roles, replace_layers
from effnlp.peft.exchange import read_adapter
from effnlp.peft.freezing import freeze_all_but_head

REQUIRES = {"prepare": ("linear_layers",)}
REMOVES = {"prepare": ("trainable_weights",)}


class ScaledLinear(nn.Module):
    """``base(x) ⊙ l``, or ``base(x ⊙ l)`` where it is the input that is scaled; l starts at one.

    Args:
        base: The frozen layer: an ``nn.Linear``, or an integer layer with ``in_features``, ``out_features``.
        scales_input: Whether l multiplies what the layer reads.
    """

    in_peft: ClassVar[dict[str, str]] = {"ia3_l": "scale"}
    """The name of the parameter in the format of the package peft, to ours."""

    def __init__(self, base: nn.Module, scales_input: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        self.base, self.scales_input = base, scales_input
        self.scale = nn.Parameter(torch.ones(self.in_features if scales_input else self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        y: Tensor = self.base(x * self.scale) if self.scales_input else self.base(x) * self.scale
        return y

    def merged(self) -> nn.Linear:
        """The base with the scales in its weight (and bias), in place: a call costs what the base costs.

        Raises:
            TypeError: If the base is not a float ``nn.Linear``: rounding to integers would lose the scales.
        """
        if not isinstance(self.base, nn.Linear):
            raise TypeError(f"(IA)³ merges only into an nn.Linear, not into {type(self.base).__name__}")
        with torch.no_grad():
            self.base.weight.mul_(self.scale if self.scales_input else self.scale[:, None])  # (O, I)
            if self.base.bias is not None and not self.scales_input:
                self.base.bias.mul_(self.scale)
        return self.base


class IA3:
    """Only the scales and the head are trained.

    Args:
        targets: Roles of linear layers whose outputs are scaled.
        feedforward_targets: Roles of linear layers whose inputs are scaled.
        start: A folder with an adapter in the format of the package peft, from which the training begins.

    Raises:
        ValueError: If no role is named, or one is in both.
    """

    def __init__(
        self,
        targets: Sequence[str] = ("key", "value"),
        feedforward_targets: Sequence[str] = ("feedforward_down",),
        start: str | None = None,
    ) -> None:
        for name, roles in (("targets", targets), ("feedforward_targets", feedforward_targets)):
            if isinstance(roles, str):
                raise ValueError(f"{name} must be a list of roles, got {roles!r}")
        if not [*targets, *feedforward_targets]:
            raise ValueError("nothing to scale: targets and feedforward_targets are both empty")
        if both := sorted(set(targets) & set(feedforward_targets)):
            raise ValueError(f"the role {both[0]!r} is in targets and in feedforward_targets: scale it once")
        self.targets, self.feedforward_targets = tuple(targets), tuple(feedforward_targets)
        self.start = start

    def prepare(self, model: nn.Module) -> nn.Module:
        """Wrap the layers in the targeted roles and freeze the rest, in place.

        Raises:
            ValueError: If the encoder has no layer in one of the roles, or ``start`` is not of these layers.
        """
        encoder = encoder_of(model)
        of_output = layers_in_roles(encoder, self.targets)
        of_input = layers_in_roles(encoder, self.feedforward_targets)
        freeze_all_but_head(model)
        model = replace_layers(model, of_output, lambda base: ScaledLinear(base, scales_input=False))
        model = replace_layers(model, of_input, lambda base: ScaledLinear(base, scales_input=True))
        if self.start is not None:
            read_adapter(model, Path(self.start), ScaledLinear)
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Merge into float layers, which become plain again; beside integer layers the scales stay."""
        layers = [module for module in model.modules() if isinstance(module, ScaledLinear)]
        if not layers:
            raise ValueError(f"nothing to merge: {type(model).__name__} has no (IA)³ layer")
        mergeable = [layer for layer in layers if isinstance(layer.base, nn.Linear)]
        note(model, "peft", {"layers": len(layers), "merged_layers": len(mergeable)})
        return replace_layers(model, mergeable, lambda layer: layer.merged())
