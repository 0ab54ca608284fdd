"""Gradual unfreezing: the head learns first, then one layer more at a time, from the top down.

Source: Howard and Ruder (2018), https://arxiv.org/abs/1801.06146

Legend: L layers.
"""

from typing import Any

import pytorch_lightning as pl
from torch import nn

from effnlp.method import progress
from effnlp.model.layers import depths


def lowest_depth(step: int, steps: int, share: float, layers: int) -> int:
    """The least depth (:func:`effnlp.model.layers.depths`) at which parameters learn in a step.

    Unlike the paper, which frees a layer an epoch, the L + 1 moments (each layer, then what is below them) are spread
    evenly over a share of the steps, so that any training has them all.

    Args:
        step: Steps done.
        steps: In all.
        share: Of the steps, after which all is free, in [0, 1); 0: from the beginning.
        layers: L.

    Returns:
        L + 1: only what is above the layers; 0: all.
    """
    if step >= share * steps:
        return 0
    return layers + 1 - int(step * (layers + 1) / (share * steps))


class Unfreezing(pl.Callback):
    """Keeps what lies below a depth from learning, step by step.

    Between steps every parameter is as the methods left it: what is frozen for a step is freed after it. So a parameter
    that a method freezes stays frozen, and the schedule follows from the steps done alone.

    Args:
        share: Of the steps, after which all is free.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.frozen: list[nn.Parameter] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """After the callbacks of the methods, which may have another phase begin."""
        self.freeze(pl_module.model, *progress(trainer))

    def on_train_batch_end(self, *_: Any) -> None:
        """The optimizer has stepped."""
        self.free()

    def freeze(self, model: nn.Module, step: int, steps: int) -> None:
        """Freeze what does not learn in the step that comes after ``step`` of ``steps``."""
        depth_of = depths(model)
        lowest = lowest_depth(step, steps, self.share, layers=max(depth_of.values()) - 1)
        parameters = dict(model.named_parameters())
        self.frozen = [
            parameters[name]
            for name, depth in depth_of.items()
            if depth < lowest and parameters[name].requires_grad
        ]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def free(self) -> None:
        """Free what was frozen for a step."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []
