"""Fine-tune whatever is trainable on labelled texts: cross-entropy, AdamW, linear warm-up and decay.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805; AdamW: Loshchilov and Hutter (2019),
https://arxiv.org/abs/1711.05101
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.judge import ACCURACY
from effnlp.task.task import Task

if TYPE_CHECKING:
    from pytorch_lightning import Callback

PROVIDES = {"build": ("classes", "single_task", "own_head")}


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that there are no classes to learn.

    Raises:
        ValueError: If the labels of the task are numbers.
    """
    if task.is_regression:
        raise ValueError(
            f"finetuning=classify learns classes, and the labels of task {task.name} are numbers: "
            "give finetuning=regress 'evaluation/quality=[regression]'"
        )


class Classify:
    """Single-label classification.

    Args:
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        label_smoothing: Probability mass spread over all classes.
        layer_decay: See :class:`~effnlp.finetuning.adamw.Descent`.
        gradual_unfreezing: As above.

    Raises:
        ValueError: If a value is outside its range.
    """

    judge = ACCURACY

    def __init__(
        self,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        label_smoothing: float = 0.0,
        layer_decay: float = 1.0,
        gradual_unfreezing: float = 0.0,
    ) -> None:
        self.descent = Descent(learning_rate, weight_decay, warmup_fraction, layer_decay, gradual_unfreezing)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"finetuning.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the batch: a scalar."""
        return F.cross_entropy(model(batch), batch["labels"], label_smoothing=self.label_smoothing)

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule."""
        return self.descent.optimizer(model, steps)

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers during the training."""
        return self.descent.callbacks()
