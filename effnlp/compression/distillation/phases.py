"""The phases of a distillation: a callback that says when."""

from typing import Any

import pytorch_lightning as pl

from effnlp.method import progress


class SwitchPhase(pl.Callback):
    """Before a step: be in the phase that the steps done call for.

    Args:
        method: Has ``advance(model, step, steps)``; one that changes something for a single step also ``rest()``.
    """

    def __init__(self, method: Any) -> None:
        self.method = method

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone, so that a resumed run is in the right phase."""
        self.method.advance(pl_module.model, *progress(trainer))

    def on_train_batch_end(self, *_: Any) -> None:
        """The optimizer has stepped."""
        if hasattr(self.method, "rest"):
            self.method.rest()
