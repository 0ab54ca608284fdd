"""Fine-tune whatever is trainable on labelled texts: cross-entropy, AdamW, linear warm-up and decay.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805; AdamW: Loshchilov and Hutter (2019),
https://arxiv.org/abs/1711.05101
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch


def rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the highest rate at ``step`` (0-based) of ``steps``: up to 1 linearly, then down to 0."""
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


class Classify:
    """Single-label classification.

    Args:
        learning_rate: The highest rate, reached after the warm-up. A parameter may carry the attribute
            ``learning_rate_factor``, which multiplies it.
        weight_decay: Decoupled decay of weights. Vectors (biases, norms) are not decayed, nor parameters
            whose attribute ``weight_decay_factor`` is 0.
        warmup_fraction: Share of all steps.
        label_smoothing: Probability mass spread over all classes.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        label_smoothing: float = 0.0,
    ) -> None:
        if learning_rate <= 0:
            raise ValueError(f"finetuning.learning_rate must be above 0, got {learning_rate}")
        if weight_decay < 0:
            raise ValueError(f"finetuning.weight_decay must be at least 0, got {weight_decay}")
        if not 0 <= warmup_fraction < 1:
            raise ValueError(f"finetuning.warmup_fraction must be in [0, 1), got {warmup_fraction}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"finetuning.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.label_smoothing = label_smoothing

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the batch: a scalar."""
        return F.cross_entropy(model(batch), batch["labels"], label_smoothing=self.label_smoothing)

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule.

        Frozen parameters are included, since a method may free them later; without a gradient they do not
        change, decay included.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for parameter in model.parameters():
            decays = parameter.dim() >= 2
            decay = self.weight_decay * float(getattr(parameter, "weight_decay_factor", 1.0)) * decays
            rate = self.learning_rate * float(getattr(parameter, "learning_rate_factor", 1.0))
            groups[rate, decay].append(parameter)
        if not any(parameter.requires_grad for group in groups.values() for parameter in group):
            raise ValueError("nothing to train: every parameter of the model is frozen")
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
        )
        return optimizer, LambdaLR(optimizer, lambda step: rate_factor(step, steps, self.warmup_fraction))
