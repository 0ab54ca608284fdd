"""Fine-tune whatever is trainable to give a number: mean squared error on standardised labels, AdamW.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805, for STS-B of Cer et al. (2017),
https://aclanthology.org/S17-2001

Legend: B batch, N training texts.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.judge import Judge
from effnlp.task.task import Task

if TYPE_CHECKING:
    from pytorch_lightning import Callback

PROVIDES = {"build": ("own_head",)}
REMOVES = {"build": ("classes",)}


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that the labels are no numbers.

    Raises:
        ValueError: If the task has classes.
    """
    if not task.is_regression:
        raise ValueError(
            f"finetuning=regress learns numbers, and task {task.name} has the classes "
            f"{', '.join(map(repr, task.labels))}: give finetuning=classify"
        )


class Regress:
    """A number for each text.

    In training the model gives numbers of mean 0 and deviation 1, whatever the labels are, so that learning rates
    carry over from task to task; :meth:`finish` makes it give labels. Unlike the paper, which learns the labels as
    they are.

    Args:
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        layer_decay: As above.
        gradual_unfreezing: As above.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        layer_decay: float = 1.0,
        gradual_unfreezing: float = 0.0,
    ) -> None:
        self.descent = Descent(learning_rate, weight_decay, warmup_fraction, layer_decay, gradual_unfreezing)
        self.mean, self.deviation = 0.0, 1.0

    def read_labels(self, labels: np.ndarray) -> None:
        """Remember mean and deviation of the training labels, (N,).

        Raises:
            ValueError: If they are all the same.
        """
        self.mean, self.deviation = float(labels.mean()), float(labels.std())
        if not self.deviation > 0:
            raise ValueError(
                f"all {len(labels)} labels of the training texts are {self.mean:g}: nothing to learn"
            )

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of the batch, in deviations of the training labels: a scalar."""
        given = model(batch).squeeze(1).float()  # (B,), in half precision under autocast
        return F.mse_loss(given, (batch["labels"] - self.mean) / self.deviation)

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule."""
        return self.descent.optimizer(model, steps)

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers during the training."""
        return self.descent.callbacks()

    @property
    def judge(self) -> Judge:
        """Squared errors in units of the labels, of a model in training."""
        return Judge("mse", is_better_when_higher=False, of_batch=self._squared_errors)

    def _squared_errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        given = outputs.squeeze(1).float() * self.deviation + self.mean  # (B,)
        return (given - labels).square().sum()

    def finish(self, model: nn.Module) -> nn.Module:
        """Let a trained model give labels: its head is scaled and shifted, in place.

        Raises:
            TypeError: If its head is no float ``nn.Linear``.
        """
        head = model.head
        if not isinstance(head, nn.Linear):
            raise TypeError(f"numbers come from a linear head, got a {type(head).__name__}")
        with torch.no_grad():
            head.weight.mul_(self.deviation)
            head.bias.mul_(self.deviation).add_(self.mean)
        return model
