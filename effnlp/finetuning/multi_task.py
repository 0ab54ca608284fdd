"""Fine-tune whatever is trainable on several tasks at once: one encoder, a head for each task.

Source: Liu et al. (2019), https://arxiv.org/abs/1901.11504; sampling: Raffel et al. (2020),
https://arxiv.org/abs/1910.10683, section 3.5.2; weighting: Kendall et al. (2018), https://arxiv.org/abs/1705.07115

The run's own task is the target: its validation split selects, its quality is the run's, and what is deployed has its
head. The tasks of ``with_tasks`` are learned beside it; their quality is in the record as ``val/<task>/…``.

- **Data.** The training texts of all tasks stand one after another, each task filtered by itself. The classes are
  counted on from task to task, so that a label says its task, and no batch needs a further field.
- **Batches.** A batch holds one task (:mod:`effnlp.finetuning.mixing`). The whole order is a list made at once, so that
  a run is taken up in its middle. An epoch is as many batches as the texts of all tasks make; with
  ``sampling=proportional`` each text comes once an epoch.
- **Heads.** The rows of one linear layer; a batch is judged by those of its task. Trained rates, frozen layers and
  everything else that knows ``model.head`` need not know of tasks. ``finish`` leaves the rows of the target.

Legend: B batch, C classes of all tasks together, K tasks.
"""

import bisect
import copy
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.judge import Judge
from effnlp.finetuning.mixing import Order, mixed_batches, temperature_of
from effnlp.model.classifier import Tokenizer, count_params
from effnlp.task.companions import WithTasks, companion_configs
from effnlp.task.task import Task

if TYPE_CHECKING:
    from pytorch_lightning import Callback

PROVIDES = {"build": ("classes", "own_head")}

WEIGHTINGS = ("equal", "uncertainty")


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that there are no classes to learn.

    Raises:
        ValueError: If the labels of the task are numbers.
    """
    if task.is_regression:
        raise ValueError(
            f"finetuning=multi_task learns classes, and the labels of task {task.name} are numbers: "
            "give finetuning=regress 'evaluation/quality=[regression]'"
        )


class MultiTask:
    """Single-label classification of several tasks.

    Args:
        with_tasks: The tasks beside the run's own; see :mod:`effnlp.task.companions`.
        sampling: How many batches each task gets: ``proportional`` to its texts, ``equal``, or in between by
            ``temperature``.
        temperature: For ``sampling=temperature`` alone; see :func:`effnlp.finetuning.mixing.shares`.
        weighting: ``equal``, or ``uncertainty``: the loss of each task is divided by a variance that is trained.
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        label_smoothing: Probability mass spread over all classes of a task.
        layer_decay: See :class:`~effnlp.finetuning.adamw.Descent`.
        gradual_unfreezing: As above.

    Raises:
        ValueError: If a value is outside its range, or ``with_tasks`` names what there is not.
    """

    def __init__(
        self,
        with_tasks: WithTasks = None,
        sampling: str = "proportional",
        temperature: float = 2.0,
        weighting: str = "equal",
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        label_smoothing: float = 0.0,
        layer_decay: float = 1.0,
        gradual_unfreezing: float = 0.0,
    ) -> None:
        companion_configs(with_tasks)
        if weighting not in WEIGHTINGS:
            raise ValueError(
                f"finetuning.weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}"
            )
        self.descent = Descent(learning_rate, weight_decay, warmup_fraction, layer_decay, gradual_unfreezing)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"finetuning.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing, self.weighting = label_smoothing, weighting
        self.temperature = temperature_of(sampling, temperature)
        self.names: list[str] = []
        self.starts = [0]  # the first class of each task, and the number of all
        self.heads: dict[str, nn.Linear] = {}

    def read_tasks(self, tasks: Sequence[Task], _: Tokenizer | None = None) -> None:
        """Remember the tasks, the run's own first."""
        self.names = [task.name for task in tasks]
        self.starts = list(itertools.accumulate((len(task.labels) for task in tasks), initial=0))

    def batches(
        self,
        tables: Sequence[pd.DataFrame],
        order: Order,
        epochs: int,
        batch_size: int,
        generator: torch.Generator,
    ) -> list[list[int]]:
        """The rows of each batch of the whole training, in the table of all tasks.

        Args:
            tables: The training texts of each task.
            order: How the texts of one task are ordered.

        Raises:
            ValueError: If a task would get no batch at all.
        """
        named = dict(zip(self.names, tables, strict=True))
        return mixed_batches(named, order, epochs, batch_size, self.temperature, generator)

    def with_head(self, model: nn.Module) -> nn.Module:
        """The model, built for the classes of all tasks, with what else is trained for them."""
        if self.weighting == "uncertainty":
            # Of the head, so that it is trained wherever the head is: log of the variance, s of the paper.
            head: Any = model.head
            head.register_parameter("log_variances", nn.Parameter(torch.zeros(len(self.names))))
        return model

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of a batch of one task among the classes of that task: a scalar."""
        logits, labels = model(batch), batch["labels"]  # (B, C), (B,)
        task = bisect.bisect_right(self.starts, int(labels[0])) - 1
        start, end = self.starts[task], self.starts[task + 1]
        loss = F.cross_entropy(logits[:, start:end], labels - start, label_smoothing=self.label_smoothing)
        log_variances = getattr(model.head, "log_variances", None)
        if log_variances is None:
            return loss
        return (
            loss * torch.exp(-log_variances[task]) + log_variances[task] / 2
        )  # eq. 10, log s = s² / 2 there

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule."""
        return self.descent.optimizer(model, steps)

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers during the training."""
        return self.descent.callbacks()

    @property
    def judge(self) -> Judge:
        """Accuracy on the run's own task, of a model in training."""
        return Judge("accuracy", True, self._right)

    def _right(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, : self.starts[1]].argmax(-1) == labels).sum()

    def finish(self, model: nn.Module) -> nn.Module:
        """Leave the model the head of the run's own task, in place; those of the others are kept here."""
        joint = model.head
        if not isinstance(joint, nn.Linear):
            raise TypeError(f"the heads of tasks are rows of a linear head, got a {type(joint).__name__}")
        for name, (start, end) in zip(self.names, itertools.pairwise(self.starts), strict=True):
            self.heads[name] = _rows(joint, start, end)
        model.head = self.heads[self.names[0]]
        return model

    def answering(self, model: nn.Module, name: str) -> nn.Module:
        """A finished model with the head of another task; they share the encoder.

        What methods did to the head (rounded it, say) they did to that of the run's own task alone.
        """
        other = copy.copy(model)
        device = next(model.parameters()).device
        other._modules = {**model._modules, "head": self.heads[name].to(device).eval()}
        return other

    def sizes(self, model: nn.Module) -> dict[str, float]:
        """What the tasks share: parameters of the encoder, of all heads, and of both for a task."""
        head: Any = model.head
        shared = count_params(model) - count_params(head)
        own = sum(count_params(each) for each in self.heads.values())
        return {
            "shared_params": shared,
            "head_params": own,
            "params_per_task": (shared + own) / len(self.heads),
        }


def _rows(head: nn.Linear, start: int, end: int) -> nn.Linear:
    """A head of some of the classes of ``head``; its parameters carry what those of ``head`` carried."""
    part = nn.Linear(head.in_features, end - start, device=head.weight.device, dtype=head.weight.dtype)
    for own, joint in ((part.weight, head.weight), (part.bias, head.bias)):
        own.data.copy_(joint.data[start:end])
        own.requires_grad_(joint.requires_grad)
        own.__dict__.update(joint.__dict__)
    return part
