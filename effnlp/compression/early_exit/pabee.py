"""PABEE: a text leaves once several heads in a row agree on its label.

Source: Zhou et al. (2020), https://arxiv.org/abs/2006.04152

Legend: B batch, K texts still inside, C classes, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effnlp.compression.early_exit.exits import (
    EarlyExitClassifier,
    Given,
    check_positive,
    loss_of_logits,
    use_exits,
    with_exits,
)
from effnlp.compression.early_exit.quality_target import QualityTarget, Targeted
from effnlp.data.encodings import Batch
from effnlp.method import Objective

REQUIRES = {"prepare": ("layer_outputs", "classes", "single_task")}
REMOVES = {"prepare": ("layer_outputs",)}


class ByAgreement(nn.Module):
    """The rule that trusts an exit the more, the more exits before it have said the same in a row.

    What it remembers of a text is its last label and the number of agreements, (K, 2).
    """

    def forward(self, pooled: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Doubt (K,): minus the agreements in a row (eq. 3)."""
        label = logits.argmax(-1)  # (K,)
        agreements = torch.zeros_like(label)
        if memory is not None:
            agreements = torch.where(label == memory[:, 0], memory[:, 1] + 1, 0)
        return -agreements.to(logits.dtype), torch.stack([label, agreements], 1)


def threshold_of(patience: int) -> float:
    """The doubt below which ``patience`` agreements lie."""
    return 1.0 - patience


def layer_weights(layers: int) -> Tensor:
    """(L,): of the losses of the heads, j for the j-th, adding up to 1 (eq. 4)."""
    weights = torch.arange(1, layers + 1, dtype=torch.float32)
    return weights / weights.sum()


class PABEE(Targeted):
    """The model and all its heads learn together, from the first step to the last.

    With a patience of at least the number of layers nobody leaves early: there are no more agreements than pairs of
    heads, and the last of them is at the last layer.

    Args:
        patience: How many times in a row a head must agree with the one before it for a text to leave; 0: all leave
            after the first layer.
        learning_rate_factor: Multiplies the base rate for the exits.
        largest_loss: Points of accuracy, in [0, 1), that leaving early may cost on training texts held out of the
            exits' losses; the patience is then chosen by it. None: the patience as given.
        calibration_texts: How many training texts are looked at for that; a fifth of them is held out.

    Raises:
        ValueError: If a value is outside its range.
    """

    data_dependent_compute = True

    def __init__(
        self,
        patience: int = 2,
        learning_rate_factor: float = 1.0,
        largest_loss: float | None = None,
        calibration_texts: int = 2048,
    ) -> None:
        if not patience >= 0 or patience != int(patience):
            raise ValueError(f"patience must be a whole number of at least 0, got {patience}")
        self.patience = int(patience)
        self.learning_rate_factor = check_positive("learning_rate_factor", learning_rate_factor)
        self.target = QualityTarget(largest_loss, calibration_texts, candidates=_every_patience)

    def prepare(self, model: nn.Module) -> EarlyExitClassifier:
        """Give the classifier its exits.

        Raises:
            ValueError: If the encoder cannot be run layer by layer, or has a single layer.
        """
        wrapped = with_exits(model, threshold_of(self.patience), self.learning_rate_factor, ByAgreement())
        wrapped.exits_in_use = True
        return wrapped

    def objective(self, base: Objective) -> Objective:
        """The mean of the losses of all heads, weighted by their depth."""

        def of_all_heads(model: nn.Module, batch: Batch) -> Tensor:
            if not isinstance(model, EarlyExitClassifier):
                return base(model, batch)
            rows = self.target.learning_rows(batch)
            *exits, last = (of_one for _, of_one in model.along(batch, len(model.exits) + 1, False))
            losses = [loss_of_logits(base, of_one, batch, rows, model) for of_one in exits]
            losses.append(base(Given(last, model), batch))
            return (torch.stack(losses) * layer_weights(len(losses)).to(last.device)).sum()

        return of_all_heads

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
        threshold = self.target.threshold_or(threshold_of(self.patience))
        return use_exits(model, threshold, {"patience": 1 - threshold, **self.target.values()})


def _every_patience(layers: int) -> list[float]:
    """The thresholds of every patience, from one that lets nobody leave to 1."""
    return [threshold_of(patience) for patience in range(layers, 0, -1)]
