"""The loop of a pre-training: pieces of documents in random order, AdamW, a look at texts held out.

It is plain torch and not the loop of the fine-tuning: nothing is selected, nothing stops early, and the result is
cached whole. One that is interrupted begins anew.

Legend: N documents, B batch, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.loop import LOG_EVERY, DivergedError, StepGauge
from effnlp.hardware.settings import Hardware
from effnlp.model.subwords import SubwordTokenizer, plain_ids

HELD_OUT_EVERY = 50
"""One document in so many is never trained on."""

MOST_HELD_OUT = 512
"""Pieces that the loss is measured on, at most."""

PAD_TO_MULTIPLE = 8
LARGEST_GRADIENT = 1.0

Report = Callable[[dict[str, float], int], None]
"""Receives a point of a curve and its step."""


def descent(learning_rate: float, weight_decay: float, warmup_fraction: float) -> Descent:
    """How a pre-training descends.

    Raises:
        ValueError: If a value is outside its range; it names the key of the pre-training.
    """
    try:
        return Descent(learning_rate, weight_decay, warmup_fraction)
    except ValueError as error:
        raise ValueError(str(error).replace("finetuning.", "pretraining.")) from None


class Objective(Protocol):
    """What is learned."""

    def pose(self, batch: Batch, tokenizer: SubwordTokenizer, generator: torch.Generator) -> Batch:
        """The batch as the model is to see it, with what it is to predict; on the CPU."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a posed batch: a scalar."""
        ...


@dataclass(frozen=True)
class Schedule:
    """The keys of a pre-training that say for how long and how.

    Attributes:
        steps: Optimiser steps.
        batch_size: Pieces in a batch.
        max_length: Longest piece in tokens, special tokens included; None: as long as the model reads.
        descent: Of the optimiser.
        seed: Of initial weights, order, dropout and what is predicted.

    Raises:
        ValueError: If a value is outside its range.
    """

    steps: int
    batch_size: int
    max_length: int | None
    descent: Descent
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"pretraining.{name} must be a whole number of at least {least}, got {value!r}"
                )

    def length(self, longest: int) -> int:
        """Longest piece in tokens for a model that reads ``longest``.

        Raises:
            ValueError: If the model reads less than is asked for, or there is no room beside the special tokens.
        """
        length = longest if self.max_length is None else self.max_length
        if not 4 <= length <= longest:
            raise ValueError(
                f"pretraining.max_length must be in 4 … {longest}, which the model reads, got {length}"
            )
        return length


@dataclass(frozen=True)
class Learnt:
    """How a pre-training went.

    Attributes:
        steps: Optimiser steps.
        documents: Those trained on.
        tokens: Trained on, each as often as it was, without padding.
        loss: On the documents held out, at the end.
    """

    steps: int
    documents: int
    tokens: int
    loss: float


def pieces(tokenizer: SubwordTokenizer, texts: Sequence[str], length: int) -> Encodings:
    """Ids of documents, each cut into pieces of at most ``length`` tokens.

    Documents are not packed: a piece holds tokens of one document, behind the token that begins every text. So no
    token ever attends to another document.
    """
    begin = tokenizer.encode([""]).ids.tolist()
    room = length - len(begin)
    rows = [
        [*begin, *row[start : start + room]]
        for row in plain_ids(tokenizer, texts)
        for start in range(0, len(row), room)
    ]
    return Encodings.from_lists(rows, tokenizer.pad_id)


def held_out(documents: int) -> list[bool]:
    """Which of N documents are never trained on."""
    return [
        index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 or index == documents - 1 for index in range(documents)
    ]


def batches(pieces: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Positions of the pieces of each of ``steps`` batches: all pieces once, in a new random order each time."""
    order: list[int] = []
    for _ in range(steps):
        while len(order) < min(batch_size, pieces):
            order += torch.randperm(pieces, generator=generator).tolist()
        yield order[:batch_size]
        del order[:batch_size]


def train(
    model: nn.Module,
    objective: Objective,
    tokenizer: SubwordTokenizer,
    texts: Sequence[str],
    schedule: Schedule,
    hardware: Hardware,
    gauge: StepGauge,
    report: Report,
) -> Learnt:
    """Train ``model`` in place; it ends on the CPU and in evaluation mode.

    Raises:
        DivergedError: If the loss is not finite.
    """
    length = schedule.length(tokenizer.max_length)
    is_out = held_out(len(texts))
    seen = pieces(tokenizer, [t for t, out in zip(texts, is_out, strict=True) if not out], length)
    unseen = pieces(tokenizer, [t for t, out in zip(texts, is_out, strict=True) if out], length)
    generator = torch.Generator().manual_seed(schedule.seed)
    device = hardware.torch_device()

    def posed(data: Encodings, positions: list[int], draws: torch.Generator) -> Batch:
        batch = objective.pose(data.batch(positions, pad_to_multiple=PAD_TO_MULTIPLE), tokenizer, draws)
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def loss_of(batch: Batch) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=hardware.precision.startswith("bf16")):
            return objective.loss(model, batch)

    model.to(device).train()
    optimizer, rates = schedule.descent.optimizer(model, schedule.steps)
    tokens = 0
    losses: list[float] = []
    order = batches(len(seen), schedule.batch_size, schedule.steps, generator)
    for step, positions in enumerate(order, start=1):
        gauge.let_others_measure()
        batch = posed(seen, positions, generator)
        tokens += int(batch["attention_mask"].sum())
        gauge.start_step(batch, "pretraining")
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        rates.step()
        gauge.end_step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise DivergedError(losses[-1], step, "the corpus")
        if step % LOG_EVERY == 0:
            rate = optimizer.param_groups[0]["lr"]
            report({"train/loss": sum(losses) / len(losses), "train/learning_rate": rate}, step)
            losses.clear()
    model.eval()
    # Drawn from a seed of their own: the same guesses whatever the number of steps.
    draws = torch.Generator().manual_seed(schedule.seed + 1)
    rows = list(range(min(len(unseen), MOST_HELD_OUT)))
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), schedule.batch_size):
            some = rows[start : start + schedule.batch_size]
            batch = posed(unseen, some, draws)
            gauge.start_step(batch, "held out")
            total += len(some) * float(loss_of(batch))
            gauge.end_step()
    model.to("cpu")
    return Learnt(schedule.steps, len(texts) - sum(is_out), tokens, total / len(rows))
