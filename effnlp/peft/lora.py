"""LoRA: train a low-rank change beside each frozen linear layer, and merge it in the end.

Source: Hu et al. (2022), https://arxiv.org/abs/2106.09685

Legend: r rank, I width in, O width out.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.method import note
from effnlp.model.surgery import encoder_of, layers_in_roles, replace_layers
from effnlp.peft.exchange import read_adapter
from effnlp.peft.freezing import freeze_all_but_head

REQUIRES = {"prepare": ("linear_layers",)}
REMOVES = {"prepare": ("trainable_weights",)}


class LoRALinear(nn.Module):
    """``base(x) + (alpha / rank) B A x``; B starts at zero, so that the layer starts as its base.

    Args:
        base: The frozen layer: an ``nn.Linear``, or an integer layer with ``in_features``, ``out_features``.
        rank: r.
        alpha: Scales the change by ``alpha / rank``.
        dropout: Rate on what A reads, in [0, 1).

    Raises:
        ValueError: If ``rank`` is not between 1 and the smaller width, or ``dropout`` outside [0, 1).
    """

    in_peft: ClassVar[dict[str, str]] = {"lora_A.weight": "a", "lora_B.weight": "b"}
    """The names of the parameters in the format of the package peft, to ours."""

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.out_features = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        smaller = min(self.in_features, self.out_features)
        if not 1 <= rank <= smaller:
            shape = f"{self.in_features} × {self.out_features}"
            raise ValueError(f"rank must be in 1 … {smaller} for a layer of {shape}, got {rank}")
        self.base = base
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, self.in_features))  # (r, I)
        self.b = nn.Parameter(torch.zeros(self.out_features, rank))  # (O, r)
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self._original: Tensor | None = None  # the base's weight of before the merge

    def delta(self) -> Tensor:
        """The change of the weight, (O, I), of rank r at most."""
        return self.scale * (self.b @ self.a)

    @property
    def is_merged(self) -> bool:
        """Whether the change is inside the base's weight now."""
        return self._original is not None

    def merge(self) -> None:
        """Add the change to the base's weight; from then on a call costs what the base costs.

        Raises:
            TypeError: If the base is not a float ``nn.Linear``: rounding to integers would lose the change.
        """
        if not isinstance(self.base, nn.Linear):
            raise TypeError(f"LoRA merges only into an nn.Linear, not into {type(self.base).__name__}")
        if not self.is_merged:
            self._original = self.base.weight.detach().clone()
            with torch.no_grad():
                self.base.weight.add_(self.delta())

    def unmerge(self) -> None:
        """Take the change out again: the very bytes of before, since a subtraction would round."""
        if self._original is not None and isinstance(self.base, nn.Linear):
            with torch.no_grad():
                self.base.weight.copy_(self._original)
            self._original = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        if self.is_merged:
            return self.base(x)
        # Scaled where it is narrow: the product with the scale is kept for the backward pass.
        narrow = linear(self.dropout(x), self.a) * self.scale  # (…, r)
        return self.base(x) + linear(narrow, self.b)  # (…, O)


class LoRA:
    """Only the changes and the head are trained.

    Unlike the paper, which trains query and value only, ``targets`` may name any role of the model.

    Args:
        rank: r, at least 1.
        alpha: The change is scaled by ``alpha / rank``.
        dropout: Rate on what the change reads, in [0, 1).
        targets: Roles of linear layers (``query``, ``value``, ``feedforward_up`` …).
        start: A folder with an adapter in the format of the package peft, from which the training begins.

    Raises:
        ValueError: If a value is outside its range, or ``targets`` is empty.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: Sequence[str] = ("query", "value"),
        start: str | None = None,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if alpha <= 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if isinstance(targets, str) or not targets:
            raise ValueError(f"targets must be a list with at least one role, got {targets!r}")
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha, dropout, tuple(targets)
        self.start = start

    def prepare(self, model: nn.Module) -> nn.Module:
        """Wrap the layers in the targeted roles and freeze the rest, in place.

        Raises:
            ValueError: If the encoder has no layer in one of the roles, or ``start`` is not of these layers.
        """
        layers = layers_in_roles(encoder_of(model), self.targets)
        freeze_all_but_head(model)
        model = replace_layers(model, layers, self._wrap)
        if self.start is not None:
            read_adapter(model, Path(self.start), LoRALinear)
        return model

    def _wrap(self, base: nn.Module) -> LoRALinear:
        return LoRALinear(base, self.rank, self.alpha, self.dropout)

    def finish(self, model: nn.Module) -> nn.Module:
        """Merge into float layers, which become plain again; beside integer layers the change stays."""
        layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
        if not layers:
            raise ValueError(f"nothing to merge: {type(model).__name__} has no LoRA layer")
        mergeable = [layer for layer in layers if isinstance(layer.base, nn.Linear)]
        note(model, "peft", {"layers": len(layers), "merged_layers": len(mergeable)})
        for layer in mergeable:
            layer.merge()
        return replace_layers(model, mergeable, lambda layer: layer.base)
