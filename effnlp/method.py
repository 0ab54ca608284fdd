"""The contract of a method on models: up to three moments, each optional.

- ``prepare(model)`` before fine-tuning: inject, wrap, quantize a frozen base.
- during fine-tuning, ``callbacks()`` gives Lightning callbacks (they say *when*; functions of the method's
  file say *what*), and ``objective(base)`` may wrap the loss.
- ``finish(model)`` after it: merge, strip, convert to what is deployed.

A method that acts once may be a bare function from model to model: that is its ``finish``. What a method
needs, gives and takes away is written as literal constants of its module, so that it is read without
importing it (:mod:`effnlp.legality`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from effnlp.data.encodings import Batch

Objective = Callable[[nn.Module, "Batch"], Tensor]
"""The loss of a model on a batch with labels: a scalar."""


def prepare(methods: Sequence[Any], model: nn.Module) -> nn.Module:
    """Let each method prepare the model, in order."""
    for method in methods:
        if hasattr(method, "prepare"):
            model = method.prepare(model)
    return model


def callbacks(methods: Sequence[Any]) -> "list[Callback]":
    """The Lightning callbacks of all methods, in order."""
    return [callback for method in methods if hasattr(method, "callbacks") for callback in method.callbacks()]


def objective(methods: Sequence[Any], base: Objective) -> Objective:
    """The loss, wrapped by each method that wants to, in order."""
    for method in methods:
        if hasattr(method, "objective"):
            base = method.objective(base)
    return base


def finish(method: Any, model: nn.Module) -> nn.Module:
    """What the method makes of the trained model."""
    if hasattr(method, "finish"):
        return method.finish(model)
    if callable(method) and not hasattr(method, "prepare") and not hasattr(method, "callbacks"):
        return method(model)
    return model
