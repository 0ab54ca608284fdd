"""BERxiT: one small head, shared by all layers, learns whether the exit at hand is wrong.

Source: Xin et al. (2021), https://aclanthology.org/2021.eacl-main.8/; beside
Xin et al. (2020), https://arxiv.org/abs/2004.12993

Legend: B batch, K texts still inside, D width, C classes.
"""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnlp.compression.early_exit.exits import (
    EarlyExitClassifier,
    Given,
    check_positive,
    check_threshold,
    loss_of_logits,
    use_exits,
    with_exits,
)
from effnlp.compression.early_exit.quality_target import QualityTarget, Targeted
from effnlp.data.encodings import Batch
from effnlp.method import Objective, progress

REQUIRES = {"prepare": ("layer_outputs", "classes", "single_task")}
REMOVES = {"prepare": ("layer_outputs",)}


class LearnedDoubt(nn.Module):
    """The rule that asks a linear layer, one for all exits, how likely the exit is wrong.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, pooled: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Doubt (K,), in [0, 1], by what the exit reads; nothing is remembered."""
        return self.linear(pooled).squeeze(-1).sigmoid(), None

    def loss(self, pooled: Tensor, logits: Tensor, labels: Tensor, rows: Tensor | None) -> Tensor:
        """The mean squared distance of the doubt from 1 where the exit is wrong and 0 where it is right.

        It moves this rule alone, not the layers that it looks at.

        Args:
            pooled: (B, D).
            logits: (B, C).
            labels: (B,).
            rows: (B,), the texts that count; None: all.
        """
        doubt, _ = self(pooled.detach(), logits, None)  # (B,)
        is_wrong = (logits.argmax(-1) != labels).to(doubt.dtype)
        if rows is None:
            return F.mse_loss(doubt, is_wrong)
        return ((doubt - is_wrong).square() * rows).sum() / rows.sum().clamp_min(1)


class Alternate(pl.Callback):
    """Before a step: have the exits learn or rest, by turns."""

    def __init__(self, method: "BERxiT") -> None:
        self.method = method

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone, so that a resumed run takes the right turn."""
        self.method.advance(pl_module.model, progress(trainer)[0])


class BERxiT(Targeted):
    """By turns, a step is for the last head alone and for all heads together; the layers learn in both.

    The doubt of the paper's code is used here, where the paper speaks of certainty: one minus the other, so that in
    this slot a larger threshold always lets more texts leave. Unlike the paper, what teaches the doubt does not move
    the layers, and only classes are told apart.

    Args:
        threshold: Doubt in [0, 1] below which a text leaves: 0 is never, above 1 after the first layer.
        learning_rate_factor: Multiplies the base rate for the exits and for the head that doubts.
        largest_loss: Points of accuracy, in [0, 1), that leaving early may cost on training texts held out of the
            exits' losses; the threshold is then chosen by it. None: the threshold as given.
        calibration_texts: How many training texts are looked at for that; a fifth of them is held out.

    Raises:
        ValueError: If a value is outside its range.
    """

    data_dependent_compute = True

    def __init__(
        self,
        threshold: float = 0.1,
        learning_rate_factor: float = 1.0,
        largest_loss: float | None = None,
        calibration_texts: int = 2048,
    ) -> None:
        self.threshold = check_threshold(threshold)
        self.learning_rate_factor = check_positive("learning_rate_factor", learning_rate_factor)
        self.target = QualityTarget(largest_loss, calibration_texts)

    def prepare(self, model: nn.Module) -> EarlyExitClassifier:
        """Give the classifier its exits and the head that doubts them.

        Raises:
            ValueError: If the encoder cannot be run layer by layer, or has a single layer.
        """
        width = getattr(getattr(model, "encoder", None), "width", 1)
        wrapped = with_exits(model, self.threshold, self.learning_rate_factor, LearnedDoubt(width))
        wrapped.exits_in_use = True
        return wrapped

    def callbacks(self) -> list[pl.Callback]:
        """What changes the turn."""
        return [Alternate(self)]

    def advance(self, model: EarlyExitClassifier, step: int) -> None:
        """Free the exits in every second step, the first of all being for the last head."""
        learns = step % 2 == 1
        model.exits.requires_grad_(learns)
        model.rule.requires_grad_(learns)

    def objective(self, base: Objective) -> Objective:
        """The loss of the turn: of the last head, or the sum over all heads and over the doubts of the exits."""

        def of_the_turn(model: nn.Module, batch: Batch) -> Tensor:
            if not isinstance(model, EarlyExitClassifier):
                return base(model, batch)
            if not next(model.exits.parameters()).requires_grad:
                return base(model, batch)
            assert isinstance(model.rule, LearnedDoubt)
            rows = self.target.learning_rows(batch)
            *exits, last = model.along(batch, len(model.exits) + 1, are_layers_frozen=False)
            losses = [loss_of_logits(base, logits, batch, rows, model) for _, logits in exits]
            doubts = [model.rule.loss(pooled, logits, batch["labels"], rows) for pooled, logits in exits]
            return torch.stack([*losses, *doubts, base(Given(last[1], model), batch)]).sum()

        return of_the_turn

    def preview(
        self,
        model: EarlyExitClassifier,
        step: int,  # noqa: ARG002
        steps: int,  # noqa: ARG002
        batches: Sequence[Batch],
    ) -> nn.Module:
        """What it is now: the exits learn all along."""
        self.target.calibrate_preview(model, batches)
        return self.finish(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Let texts leave early from now on.

        Raises:
            ValueError: If the model was not prepared.
        """
        threshold = self.target.threshold_or(self.threshold)
        return use_exits(model, threshold, {"threshold": threshold, **self.target.values()})
