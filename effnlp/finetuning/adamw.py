"""AdamW with linear warm-up and decay: how every fine-tuning of this package descends.

Source: Loshchilov and Hutter (2019), https://arxiv.org/abs/1711.05101; rates that fall with depth: Sun et al.
(2019), https://arxiv.org/abs/1905.05583
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from effnlp.model.layers import depths

if TYPE_CHECKING:
    from pytorch_lightning import Callback


def rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the highest rate at ``step`` (0-based) of ``steps``: up to 1 linearly, then down to 0."""
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


@dataclass(frozen=True)
class Descent:
    """The keys of a fine-tuning that say how to descend.

    Attributes:
        learning_rate: The highest rate, reached after the warm-up. A parameter may carry the attribute
            ``learning_rate_factor``, which multiplies it.
        weight_decay: Decoupled decay of weights. Vectors (biases, norms) are not decayed, nor parameters
            whose attribute ``weight_decay_factor`` is 0.
        warmup_fraction: Share of all steps.
        layer_decay: Multiplies the rate once more for each layer that a parameter lies further down: of L layers the
            i-th has the rate times ``layer_decay ** (L + 1 - i)``, the embeddings ``** (L + 1)``, the head 1. In
            (0, 1].
        gradual_unfreezing: Share of the steps over which layers become trainable, from the top down
            (:mod:`effnlp.finetuning.unfreezing`); 0: all from the beginning. In [0, 1).

    Raises:
        ValueError: If a value is outside its range.
    """

    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    layer_decay: float = 1.0
    gradual_unfreezing: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"finetuning.learning_rate must be above 0, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise ValueError(f"finetuning.weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"finetuning.warmup_fraction must be in [0, 1), got {self.warmup_fraction}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"finetuning.layer_decay must be in (0, 1], got {self.layer_decay}")
        if not 0 <= self.gradual_unfreezing < 1:
            raise ValueError(
                f"finetuning.gradual_unfreezing must be in [0, 1), got {self.gradual_unfreezing}"
            )

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers during the training."""
        if self.gradual_unfreezing == 0:
            return []
        from effnlp.finetuning.unfreezing import Unfreezing

        return [Unfreezing(self.gradual_unfreezing)]

    def layer_factors(self, model: nn.Module) -> dict[str, float]:
        """By how much the rate of each parameter is multiplied because of its depth.

        Raises:
            ValueError: If layers count and the model has none.
        """
        if self.layer_decay == 1 and self.gradual_unfreezing == 0:
            return dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
        try:
            depth_of = depths(model)
        except ValueError as error:
            given = f"layer_decay={self.layer_decay:g}, gradual_unfreezing={self.gradual_unfreezing:g}"
            raise ValueError(
                f"{error}: finetuning.layer_decay must be 1 and finetuning.gradual_unfreezing 0, got {given}"
            ) from None
        highest = max(depth_of.values())
        return {name: self.layer_decay ** (highest - depth) for name, depth in depth_of.items()}

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule.

        Frozen parameters are included, since a method may free them later; without a gradient they do not
        change, decay included.

        Raises:
            ValueError: If every parameter is frozen, or layers count and the model has none.
        """
        factors = self.layer_factors(model)
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            decays = parameter.dim() >= 2
            decay = self.weight_decay * float(getattr(parameter, "weight_decay_factor", 1.0)) * decays
            factor = float(getattr(parameter, "learning_rate_factor", 1.0)) * factors[name]
            rate = self.learning_rate * factor
            groups[rate, decay].append(parameter)
        if not any(parameter.requires_grad for group in groups.values() for parameter in group):
            raise ValueError("nothing to train: every parameter of the model is frozen")
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()],
            fused=True,  # one pass over each tensor: for MiniLM on a CPU a tenth of the time
        )
        # The fused form offers to undo a scaling of gradients itself; with the offer Lightning refuses to clip them.
        optimizer._step_supports_amp_scaling = False
        return optimizer, LambdaLR(optimizer, lambda step: rate_factor(step, steps, self.warmup_fraction))
