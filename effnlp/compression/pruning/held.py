"""Zeros that stay zero while the rest is trained on.

Momentum and weight decay move weights whose gradient is zero, so that a mask that is applied once does not last.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.method import progress
from effnlp.model.surgery import encoder_layers


class HeldZeros:
    """Which weights are held at zero. The zeros themselves are the state: a resumed training finds them again."""

    def __init__(self) -> None:
        self._dropped: dict[str, Tensor] = {}

    @torch.no_grad()
    def drop(self, layers: Mapping[str, nn.Linear], keep: Mapping[str, Tensor]) -> None:
        """Set to zero what is not kept, and hold it there from now on."""
        self._dropped = {name: ~keep[name] for name in layers}
        self.put_back(layers)

    def take_up(self, layers: Mapping[str, nn.Linear]) -> None:
        """Hold what is zero now."""
        self._dropped = {name: layer.weight.detach() == 0 for name, layer in layers.items()}

    @torch.no_grad()
    def put_back(self, layers: Mapping[str, nn.Linear]) -> None:
        """Set to zero what an optimizer has moved."""
        for name, dropped in self._dropped.items():
            layers[name].weight.masked_fill_(dropped, 0.0)

    @torch.no_grad()
    def silence(self, layers: Mapping[str, nn.Linear]) -> None:
        """Drop the gradients of what is held: they must not count where gradients are clipped by their norm."""
        for name, dropped in self._dropped.items():
            gradient = layers[name].weight.grad
            if gradient is not None:
                gradient.masked_fill_(dropped, 0.0)

    def __bool__(self) -> bool:
        return bool(self._dropped)


class Holding(Protocol):
    """A method that holds zeros."""

    zeros: HeldZeros

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Bring the zeros to where they are after ``step`` of ``steps``, if they are due."""
        ...


class HoldZeros(pl.Callback):
    """Says when zeros are put back, and when there are to be more of them: both before a checkpoint is written."""

    def __init__(self, method: Holding) -> None:
        self.method = method

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A training that is taken up holds the zeros that it finds."""
        if trainer.global_step > 0:
            self.method.zeros.take_up(encoder_layers(pl_module.model, nn.Linear))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Before gradients are clipped."""
        if self.method.zeros:
            self.method.zeros.silence(encoder_layers(pl_module.model, nn.Linear))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the weights alone."""
        if self.method.zeros:
            self.method.zeros.put_back(encoder_layers(pl_module.model, nn.Linear))
        self.method.advance(pl_module.model, *progress(trainer))


def refuse_frozen(model: nn.Module, why: str) -> None:
    """Check that the encoder's linear weights are trained.

    Raises:
        ValueError: If one is not; ``why`` begins the message.
    """
    frozen = [n for n, layer in encoder_layers(model, nn.Linear).items() if not layer.weight.requires_grad]
    if frozen:
        raise ValueError(f"{why}, and {frozen[0]}.weight is frozen by another method")
