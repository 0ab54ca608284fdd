"""DeeBERT: a text leaves after the first layer whose own head is sure of its label.

Source: Xin et al. (2020), https://arxiv.org/abs/2004.12993

Legend: B batch, D width, C classes.
"""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnlp.compression.early_exit.exits import (
    EarlyExitClassifier,
    check_positive,
    check_threshold,
    loss_of_logits,
    use_exits,
    with_exits,
)
from effnlp.compression.early_exit.phases import SwitchPhase, TwoPhases
from effnlp.compression.early_exit.quality_target import QualityTarget, Targeted
from effnlp.data.encodings import Batch
from effnlp.method import Objective

REQUIRES = {"prepare": ("layer_outputs", "classes", "single_task")}
REMOVES = {"prepare": ("layer_outputs", "uninterrupted_training")}


class DeeBERT(Targeted):
    """Two phases: first the model with its last head, then, with all of that frozen, the exits.

    Unlike the paper, both phases share one learning-rate schedule, and an exit pools as the model does.

    Args:
        threshold: Entropy in nats below which a text leaves (S in the paper), at least 0.
        first_phase: Share of the training steps for the model, in (0, 1); the rest is for the exits.
        learning_rate_factor: Multiplies the base rate for the exits: single layers on frozen features bear far
            more than a model does, and their phase is the falling end of the schedule. On SST-2 with MiniLM,
            100 steps at factor 1 leave exits near chance; between 10 and 30 they have learnt.
        largest_loss: Points of accuracy, in [0, 1), that leaving early may cost on training texts held out of the
            exits' losses; the threshold is then chosen by it. None: the threshold as given.
        calibration_texts: How many training texts are looked at for that; a fifth of them is held out.

    Raises:
        ValueError: If a value is outside its range.
    """

    data_dependent_compute = True

    settled_after = 1.0
    """Only the last checkpoint counts: before it, exits that are less trained are less sure, so that texts
    stay longer; by accuracy alone such a checkpoint would win and leave the model without early exits."""

    def __init__(
        self,
        threshold: float = 0.3,
        first_phase: float = 0.6,
        learning_rate_factor: float = 20.0,
        largest_loss: float | None = None,
        calibration_texts: int = 2048,
    ) -> None:
        self.threshold = check_threshold(threshold)
        self.phases = TwoPhases(first_phase)
        self.learning_rate_factor = check_positive("learning_rate_factor", learning_rate_factor)
        self.target = QualityTarget(largest_loss, calibration_texts)

    def prepare(self, model: nn.Module) -> EarlyExitClassifier:
        """Give the classifier its exits.

        Raises:
            ValueError: If the encoder cannot be run layer by layer, or has a single layer.
        """
        self.phases.learn_first(model)
        return with_exits(model, self.threshold, self.learning_rate_factor)

    def callbacks(self) -> list[pl.Callback]:
        """What switches the phase."""
        return [SwitchPhase(self.phases)]

    def advance(self, model: EarlyExitClassifier, step: int, steps: int) -> None:
        """Freeze and free what the phase after ``step`` of ``steps`` asks for."""
        self.phases.advance(model, step, steps)

    def objective(self, base: Objective) -> Objective:
        """The loss of the phase: of the last head, or the sum over the exits (eq. 2)."""

        def of_the_phase(model: nn.Module, batch: Batch) -> Tensor:
            if not model.exits_in_use:
                return base(model, batch)
            rows = self.target.learning_rows(batch)
            logits = model.exit_logits(batch)  # type: ignore[operator]
            return torch.stack([loss_of_logits(base, of_one, batch, rows) for of_one in logits]).sum()

        return of_the_phase

    def preview(
        self, model: EarlyExitClassifier, step: int, steps: int, batches: Sequence[Batch]
    ) -> nn.Module:
        """Train the exits as the second phase would, shorter and on the last batches alone, and finish."""

        def of_exits(_: EarlyExitClassifier, logits: Sequence[Tensor], batch: Batch, _last: Tensor) -> Tensor:
            rows = self.target.learning_rows(batch)
            return torch.stack(
                [loss_of_logits(_cross_entropy, of_one, batch, rows) for of_one in logits]
            ).sum()

        self.phases.fit_exits(model, step, steps, batches, of_exits)
        self.target.calibrate_preview(model, batches)
        return self.finish(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Let texts leave early from now on.

        Raises:
            ValueError: If the model was not prepared.
        """
        threshold = self.target.threshold_or(self.threshold)
        return use_exits(model, threshold, {"threshold": threshold, **self.target.values()})


def _cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch), batch["labels"])
