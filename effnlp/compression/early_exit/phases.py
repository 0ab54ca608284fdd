"""Two phases of a fine-tuning: first the model with its last head, then, with all of that frozen, its exits.

Legend: B batch, D width, C classes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.early_exit.exits import EarlyExitClassifier
from effnlp.data.encodings import Batch
from effnlp.method import progress

LossOfExits = Callable[[EarlyExitClassifier, Sequence[Tensor], Batch, Tensor], Tensor]
"""The loss of the logits (B, C) of every exit on a batch, given what the last head reads (B, D): a scalar."""

PREVIEW_RATE = 1e-2
"""Highest learning rate of exits in a preview: what the default rate gives times the default factor of the exits."""

PREVIEW_PASSES = 4
"""How often a preview goes through its batches, at most."""


class SwitchPhase(pl.Callback):
    """Before a step: be in the phase that the steps done call for."""

    def __init__(self, phases: "TwoPhases") -> None:
        self.phases = phases

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone, so that a resumed run is in the right phase."""
        self.phases.advance(pl_module.model, *progress(trainer))


class TwoPhases:
    """Which parameters learn when.

    Args:
        first_phase: Share of the training steps for the model, in (0, 1); the rest is for the exits.

    Raises:
        ValueError: If it is outside its range.
    """

    def __init__(self, first_phase: float) -> None:
        if not 0 < first_phase < 1:
            raise ValueError(f"first_phase must be in (0, 1), got {first_phase}")
        self.first_phase = first_phase
        self.of_first_phase: list[nn.Parameter] = []

    def learn_first(self, model: nn.Module) -> None:
        """Remember what learns in the first phase: whatever does in the model as it is without exits."""
        self.of_first_phase = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def begins_second(self, steps: int) -> int:
        """How many of ``steps`` are done when the exits begin to learn."""
        return math.ceil(self.first_phase * steps)

    def advance(self, model: EarlyExitClassifier, step: int, steps: int) -> None:
        """Freeze and free what the phase after ``step`` of ``steps`` asks for."""
        trains_exits = step >= self.begins_second(steps)
        model.exits_in_use = trains_exits
        model.exits.requires_grad_(trains_exits)
        for parameter in self.of_first_phase:
            parameter.requires_grad_(not trains_exits)

    def fit_exits(
        self,
        model: EarlyExitClassifier,
        step: int,
        steps: int,
        batches: Sequence[Batch],
        loss_of_exits: LossOfExits,
    ) -> None:
        """Train the exits for a preview after ``step`` of ``steps``: as the second phase would, but shorter.

        Untrained exits are unsure of every text: the model would be judged as one that nobody leaves early, as
        good as the model without exits and dearer.
        """
        left = steps - max(step, self.begins_second(steps))
        if batches:
            fit_exits(model, batches, min(left, PREVIEW_PASSES * len(batches)), loss_of_exits)


def fit_exits(
    model: EarlyExitClassifier, batches: Sequence[Batch], steps: int, loss_of_exits: LossOfExits
) -> None:
    """Train the exits, in place, on what the frozen model makes of a few batches.

    The layers are run once a batch; after that a step is a product with a matrix of D × C. Nothing is random.

    Args:
        batches: With labels; taken in turn.
        steps: Of AdamW, the rate falling linearly to zero.
    """
    model.eval()
    with torch.no_grad():
        pooled = [  # of each batch, of each layer: (B, D)
            [read for read, _ in model.along(batch, len(model.exits) + 1, are_layers_frozen=True)]
            for batch in batches
        ]
    model.exits.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.exits.parameters(), lr=PREVIEW_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = PREVIEW_RATE * (1 - step / steps)
        index = step % len(pooled)
        *below, last = pooled[index]
        with torch.enable_grad():
            logits = [head(features) for head, features in zip(model.exits, below, strict=True)]
            loss = loss_of_exits(model, logits, batches[index], last)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.exits.requires_grad_(False)
