"""Magnitude pruning: zero the weights with the smallest absolute value, after training or while it goes on.

Source: Han et al. (2015), https://arxiv.org/abs/1506.02626; gradually: Zhu and Gupta (2017),
https://arxiv.org/abs/1710.01878
"""

from collections.abc import Mapping

import pytorch_lightning as pl
from torch import Tensor, nn

from effnlp.compression.pruning.held import HeldZeros, HoldZeros, refuse_frozen
from effnlp.compression.pruning.mask import (
    check_scope,
    check_sparsity,
    keep_masks,
    refuse_whole_layers,
    sparsity_of,
)
from effnlp.compression.pruning.schedule import Schedule
from effnlp.method import note
from effnlp.model.surgery import encoder_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers")}
REQUIRES_UNLESS = {("schedule", "one_shot"): {"during": ("trainable_weights",)}}


def prune_by_magnitude(model: nn.Module, sparsity: float, scope: str = "layer") -> nn.Module:
    """Zero the smallest weights of the encoder's linear layers, in place, and return ``model``.

    Embeddings, biases, norms and the head are not pruned.

    Args:
        sparsity: Fraction of the linear weights set to zero, in [0, 1); counts are exact.
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together.

    Raises:
        ValueError: If a value is outside its range, or the encoder has no linear layer.
    """
    linears = encoder_layers(model, nn.Linear)
    HeldZeros().drop(linears, magnitude_masks(linears, sparsity, scope))
    note(model, "compression/pruning", sparsity_of([linear.weight for linear in linears.values()]))
    return model


def magnitude_masks(
    layers: Mapping[str, nn.Linear], sparsity: float, scope: str = "layer"
) -> dict[str, Tensor]:
    """Which weights to keep, by name of the layer; zeros are the first to go."""
    return keep_masks({n: layer.weight.detach().abs() for n, layer in layers.items()}, sparsity, scope)


class Magnitude:
    """The choice ``compression/pruning=magnitude``.

    With a schedule that acts in training, what was dropped stays zero, and the rest learns to do without it. Then the
    weights must be trained: a PEFT method that freezes them goes with ``one_shot`` alone.

    Args:
        sparsity: See :func:`prune_by_magnitude`.
        scope: See :func:`prune_by_magnitude`.
        schedule: ``one_shot``: after the training. ``iterative`` or ``gradual``: see
            :class:`~effnlp.compression.pruning.schedule.Schedule`. One round of ``iterative`` is one-shot with
            recovery.
        warmup: As above, as are the others.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float,
        scope: str = "layer",
        schedule: str = "one_shot",
        warmup: float = 0.1,
        cooldown: float = 0.3,
        update_every: int = 4,
        rounds: int = 3,
    ) -> None:
        self.sparsity, self.scope = check_sparsity(sparsity), check_scope(scope)
        self.schedule = Schedule(schedule, warmup, cooldown, update_every, rounds)
        self.zeros = HeldZeros()

    @property
    def settled_after(self) -> float:
        """From here on the sparsity is the final one."""
        return self.schedule.settled_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check that this model can be pruned so; it is left as it is.

        Raises:
            ValueError: If nothing would be left of a layer, or zeros cannot be trained around.
        """
        refuse_whole_layers(encoder_layers(model, nn.Linear), self.sparsity)
        if self.schedule.acts_in_training:
            refuse_frozen(model, f"schedule={self.schedule.kind} trains what is left (one_shot does not)")
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What drops weights on the way and holds them at zero, if the schedule acts in training."""
        return [HoldZeros(self)] if self.schedule.acts_in_training else []

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Drop what is due after ``step`` of ``steps``."""
        if self.schedule.is_due(step, steps):
            sparsity = self.schedule.sparsity_at(step, steps, self.sparsity)
            if sparsity > 0:
                linears = encoder_layers(model, nn.Linear)
                self.zeros.drop(linears, magnitude_masks(linears, sparsity, self.scope))

    def finish(self, model: nn.Module) -> nn.Module:
        """Prune the trained model to the final sparsity; what is zero stays zero."""
        return prune_by_magnitude(model, self.sparsity, self.scope)
