"""FastBERT: exits learn what the last head says, without labels; a text leaves where its uncertainty is low.

Source: Liu et al. (2020), https://arxiv.org/abs/2004.02178

Legend: B batch, K texts still inside, D width, C classes, S students (exits).
"""

import math
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.early_exit.exits import (
    EarlyExitClassifier,
    check_positive,
    check_threshold,
    entropy,
    use_exits,
    with_exits,
)
from effnlp.compression.early_exit.phases import SwitchPhase, TwoPhases
from effnlp.compression.early_exit.quality_target import QualityTarget, Targeted
from effnlp.data.encodings import Batch
from effnlp.method import Objective

REQUIRES = {"prepare": ("layer_outputs", "classes", "single_task")}
REMOVES = {"prepare": ("layer_outputs", "uninterrupted_training")}


class ByUncertainty(nn.Module):
    """The rule that doubts an exit by its entropy as a share of the largest possible, log C (eq. 8)."""

    def forward(self, pooled: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Doubt (K,), in [0, 1]; nothing is remembered."""
        return entropy(logits) / math.log(logits.shape[1]), None


def distillation_loss(students: Sequence[Tensor], teacher: Tensor, rows: Tensor | None = None) -> Tensor:
    """Sum over the students of the mean KL(student ‖ teacher), in nats (eq. 7).

    Args:
        students: S logits (B, C).
        teacher: Logits (B, C); no gradient reaches them.
        rows: (B,), the texts that count; None: all. Where there is none, the loss is 0.
    """
    of_students = torch.stack(list(students)).log_softmax(-1)  # (S, B, C)
    of_teacher = teacher.detach().log_softmax(-1)  # (B, C)
    divergences = (of_students.exp() * (of_students - of_teacher)).sum(-1)  # (S, B)
    if rows is None:
        return divergences.mean(1).sum()
    return (divergences * rows).sum() / rows.sum().clamp_min(1)


class FastBERT(Targeted):
    """Two phases: first the model with its last head, the teacher; then, with all of that frozen, its students.

    The second phase needs no labels: what the exits learn from is what the last head says of the same texts. Unlike
    the paper, both phases share one learning-rate schedule, and a student is a linear layer on what the model pools,
    without an attention of its own.

    Args:
        speed: Uncertainty in [0, 1] below which a text leaves: 0 is never, above 1 after the first layer.
        first_phase: Share of the training steps for the model, in (0, 1); the rest is for the exits.
        learning_rate_factor: Multiplies the base rate for the exits, single layers on frozen features.
        largest_loss: Points of accuracy, in [0, 1), that leaving early may cost on training texts held out of the
            exits' losses; the speed is then chosen by it. None: the speed as given.
        calibration_texts: How many training texts are looked at for that; a fifth of them is held out.

    Raises:
        ValueError: If a value is outside its range.
    """

    data_dependent_compute = True

    settled_after = 1.0
    """Only the last checkpoint counts: with less trained exits, which are less sure, texts stay longer."""

    def __init__(
        self,
        speed: float = 0.5,
        first_phase: float = 0.6,
        learning_rate_factor: float = 20.0,
        largest_loss: float | None = None,
        calibration_texts: int = 2048,
    ) -> None:
        self.speed = check_threshold(speed, "speed")
        self.phases = TwoPhases(first_phase)
        self.learning_rate_factor = check_positive("learning_rate_factor", learning_rate_factor)
        self.target = QualityTarget(largest_loss, calibration_texts)

    def prepare(self, model: nn.Module) -> EarlyExitClassifier:
        """Give the classifier its students.

        Raises:
            ValueError: If the encoder cannot be run layer by layer, or has a single layer.
        """
        self.phases.learn_first(model)
        return with_exits(model, self.speed, self.learning_rate_factor, ByUncertainty())

    def callbacks(self) -> list[pl.Callback]:
        """What switches the phase."""
        return [SwitchPhase(self.phases)]

    def advance(self, model: EarlyExitClassifier, step: int, steps: int) -> None:
        """Freeze and free what the phase after ``step`` of ``steps`` asks for."""
        self.phases.advance(model, step, steps)

    def objective(self, base: Objective) -> Objective:
        """The loss of the phase: of the last head, or of the students against it."""

        def of_the_phase(model: nn.Module, batch: Batch) -> Tensor:
            if not isinstance(model, EarlyExitClassifier) or not model.exits_in_use:
                return base(model, batch)
            heads = list(model.along(batch, len(model.exits) + 1, are_layers_frozen=True))
            # Of the teacher without the dropout of its head: students need not learn its noise.
            return self._loss_of_students(model, [logits for _, logits in heads[:-1]], batch, heads[-1][0])

        return of_the_phase

    def _loss_of_students(
        self, model: EarlyExitClassifier, students: Sequence[Tensor], batch: Batch, pooled: Tensor
    ) -> Tensor:
        """Of the students' logits; ``pooled`` (B, D) is what the teacher reads."""
        return distillation_loss(students, model.head(pooled), self.target.learning_rows(batch))

    def preview(
        self, model: EarlyExitClassifier, step: int, steps: int, batches: Sequence[Batch]
    ) -> nn.Module:
        """Train the students as the second phase would, shorter and on the last batches alone, and finish."""
        self.phases.fit_exits(model, step, steps, batches, self._loss_of_students)
        self.target.calibrate_preview(model, batches)
        return self.finish(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Let texts leave early from now on.

        Raises:
            ValueError: If the model was not prepared.
        """
        speed = self.target.threshold_or(self.speed)
        return use_exits(model, speed, {"speed": speed, **self.target.values()})
