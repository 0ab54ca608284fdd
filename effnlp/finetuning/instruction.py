"""Fine-tune on several tasks put in words, and answer a task that was left out: its labels are never seen.

Source: Sanh et al. (2022), https://arxiv.org/abs/2110.08207; Wei et al. (2022), https://arxiv.org/abs/2109.01652

The run's own task is the one left out: nothing of its training split is read, the tokenizer included, and its
validation split selects nothing, so that the model at the end of the training is kept. What is trained are the tasks of
``with_tasks``; labels, texts and tokens of the record are theirs. Their own quality is ``val/<task>/…``.

- **In words.** Each class is a sentence, ``This question asks for a location.`` A text is read once with each sentence
  of its task, one head says how well they go together, and the sentence with the highest score is the answer. So a task
  that was never seen needs sentences and nothing else. Pairs of texts are put into one: the second stands after the
  first. Unlike the papers, whose models write the answer.
- **Cost.** An answer costs as many texts as there are classes. That is what is measured.
- **Chance.** One class in C. Small encoders learn which words go together in the tasks that they are trained on; on a
  task left out they may well be at chance. Here the mechanism is what can be tried, not the quality of large models.

Legend: B batch, C classes of a task.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.judge import ACCURACY
from effnlp.finetuning.mixing import Order, mixed_batches, temperature_of
from effnlp.finetuning.phrasings import PHRASINGS
from effnlp.model.classifier import Classifier, Tokenizer, count_params
from effnlp.model.instructed import InstructedModel, Sentences
from effnlp.task.companions import WithTasks, companion_configs
from effnlp.task.task import Task

if TYPE_CHECKING:
    from pytorch_lightning import Callback

REQUIRES = {"build": ("token_sequence",)}
PROVIDES = {"build": ("classes",)}

PLAIN = "It is {label}."
"""What a sentence says of a task of which nothing else is known."""


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that a task cannot be asked.

    Raises:
        ValueError: If its labels are numbers, or its texts come in pairs.
    """
    if task.is_regression:
        raise ValueError(
            f"finetuning=instruction tells classes apart, and the labels of task {task.name} are numbers: "
            "give finetuning=regress 'evaluation/quality=[regression]'"
        )
    if task.is_pair:
        raise ValueError(
            f"finetuning=instruction answers single texts, and task {task.name} has pairs: it can be among "
            "finetuning.with_tasks"
        )


def view(task: Task) -> Task:
    """The run's own task, of which nothing is learned."""
    return replace(task, is_left_out=True)


def companion_view(task: Task) -> Task:
    """A task that is learned: pairs of texts become one text each."""
    if not task.is_pair:
        return task
    return replace(task, splits={name: _in_one(table) for name, table in task.splits.items()})


def _in_one(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(text=table["text"] + "\n" + table["text_pair"]).drop(columns="text_pair")


def sentences_of(task: Task, given: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """A sentence for each class of a task: as given, as the package knows the task, or its label's name.

    Raises:
        ValueError: If not one is given for each class, or two are the same.
    """
    if task.name in (given or {}):
        sentences = list((given or {})[task.name])
    else:
        known = PHRASINGS.get(task.name)
        about = known.about if known else {}
        pattern = known.hypothesis if known and set(task.labels) <= set(about) else PLAIN
        sentences = [pattern.format(label=about.get(label, label.replace("_", " "))) for label in task.labels]
    if len(sentences) != len(task.labels) or len(set(sentences)) != len(sentences):
        raise ValueError(
            f"finetuning.sentences.{task.name} must be {len(task.labels)} different sentences, for "
            f"{', '.join(task.labels)} in this order, got {sentences!r}"
        )
    return sentences


class Instruction:
    """Single-label classification of several tasks by one head, for one that is left out.

    Args:
        with_tasks: The tasks that are learned; see :mod:`effnlp.task.companions`.
        sentences: Task to a sentence for each of its classes, in their order; see :func:`sentences_of` for those
            that are not given.
        sampling: How many batches each task gets: ``proportional`` to its texts, ``equal``, or in between by
            ``temperature``.
        temperature: For ``sampling=temperature`` alone; see :func:`effnlp.finetuning.mixing.shares`.
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        label_smoothing: Probability mass spread over all classes of a task.
        layer_decay: See :class:`~effnlp.finetuning.adamw.Descent`.
        gradual_unfreezing: As above.

    Raises:
        ValueError: If a value is outside its range, or ``with_tasks`` names nothing or what there is not.
    """

    judge = ACCURACY
    settled_after = 1.0
    """No validation before the last one selects: it would read labels of the task left out."""
    data_dependent_compute = True
    """A batch costs as many texts as its task has classes, which its shape does not tell."""

    def __init__(
        self,
        with_tasks: WithTasks,
        sentences: Mapping[str, Sequence[str]] | None = None,
        sampling: str = "equal",
        temperature: float = 2.0,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        label_smoothing: float = 0.0,
        layer_decay: float = 1.0,
        gradual_unfreezing: float = 0.0,
    ) -> None:
        if not companion_configs(with_tasks):
            raise ValueError("finetuning.with_tasks names no task: nothing would be learned")
        self.temperature = temperature_of(sampling, temperature)
        self.descent = Descent(learning_rate, weight_decay, warmup_fraction, layer_decay, gradual_unfreezing)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"finetuning.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing, self.given = label_smoothing, sentences
        self.sentences: dict[str, Sentences] = {}
        self.starts = [0]  # the first class of each task, and the number of all
        self.max_length = 0

    def read_tasks(self, tasks: Sequence[Task], tokenizer: Tokenizer) -> None:
        """Remember what is said of the tasks, the one left out first."""
        names = [task.name for task in tasks]
        if wrong := [name for name in self.given or {} if name not in names]:
            raise ValueError(f"finetuning.sentences names {wrong[0]!r}, and the tasks are {', '.join(names)}")
        self.sentences = {task.name: Sentences(tokenizer, sentences_of(task, self.given)) for task in tasks}
        self.starts = list(itertools.accumulate((len(task.labels) for task in tasks), initial=0))
        self.max_length = int(tokenizer.max_length)  # type: ignore[attr-defined]

    def batches(
        self,
        tables: Sequence[pd.DataFrame],
        order: Order,
        epochs: int,
        batch_size: int,
        generator: torch.Generator,
    ) -> list[list[int]]:
        """The rows of each batch of the whole training; of the task left out there is none.

        Raises:
            ValueError: If a task would get no batch at all.
        """
        named = dict(zip(list(self.sentences)[1:], tables[1:], strict=True))
        return mixed_batches(named, order, epochs, batch_size, self.temperature, generator)

    def with_head(self, model: Classifier) -> InstructedModel:
        """The encoder of a built model with a head for all sentences."""
        return InstructedModel(model, self.sentences, self.max_length)

    def objective(self, model: InstructedModel, batch: Batch) -> Tensor:
        """Mean cross-entropy of a batch of one task among its sentences: a scalar."""
        labels = batch["labels"]  # (B,)
        task = bisect.bisect_right(self.starts, int(labels[0])) - 1
        scores = model.scores(batch, task)  # (B, C)
        return F.cross_entropy(scores, labels - self.starts[task], label_smoothing=self.label_smoothing)

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule."""
        return self.descent.optimizer(model, steps)

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers during the training."""
        return self.descent.callbacks()

    def finish(self, model: InstructedModel) -> InstructedModel:
        """Leave the model the sentences of the task left out."""
        name = next(iter(self.sentences))
        return model.of_task(name, self.sentences[name])

    def answering(self, model: InstructedModel, name: str) -> InstructedModel:
        """A finished model that is asked the sentences of another task."""
        return model.of_task(name, self.sentences[name].to(next(model.parameters()).device))

    def sizes(self, model: nn.Module) -> dict[str, float]:
        """All parameters are shared, the head too."""
        return {"shared_params": float(count_params(model)), "head_params": 0.0}
