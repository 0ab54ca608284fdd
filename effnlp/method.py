"""The contract of a method on models: up to three moments, each optional.

- ``prepare(model)`` before fine-tuning: inject, wrap, quantize a frozen base.
- during fine-tuning, ``callbacks()`` gives Lightning callbacks (they say *when*; functions of the method's
  file say *what*), and ``objective(base)`` may wrap the loss.
- ``finish(model)`` after it: merge, strip, convert to what is deployed.

Between training and ``finish`` what one more task adds to a stored base is taken: the parameters that are trained. A
method that trains more than it keeps (a network that only shapes a prefix, the gates of a sparse change) has
``settle(model)``, which leaves what is kept and nothing else. Done twice, it changes nothing more, and
:func:`finish` sees to it that it was done.

A method that acts once may be a bare function from model to model: that is its ``finish``. What a method
needs, gives and takes away is written as literal constants of its module, so that it is read without
importing it (:mod:`effnlp.legality`).

A method may have the attribute ``settled_after``, in [0, 1], 0 where it is absent: the share of the training
steps before which the model is not yet what the method makes of it (a pruning schedule still rising, exits
still untrained). Before it no checkpoint may be chosen as the best, and nothing may stop early.

At a rung of a search a model in training is judged as what it would become: a copy of it and of its methods
is finished (:func:`preview`). Where ``finish`` alone says too little of that while a schedule runs, a method may
have ``preview(model, step, steps, batches)``, called in its place with the steps done, the steps in all and some
of the last training batches. What it gives must cost at inference about what the finished model will, and
follow from its arguments alone: a run that is taken up at a rung shows what the uninterrupted one would.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

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


def settle(methods: Sequence[Any], model: nn.Module) -> nn.Module:
    """Let each method leave of the trained model what it keeps, in order."""
    for method in methods:
        if hasattr(method, "settle"):
            model = method.settle(model)
    return model


def finish(method: Any, model: nn.Module) -> nn.Module:
    """What the method makes of the trained model."""
    model = settle([method], model)
    if hasattr(method, "finish"):
        return method.finish(model)
    if callable(method) and not hasattr(method, "prepare") and not hasattr(method, "callbacks"):
        return method(model)
    return model


def preview(
    methods: Sequence[Any], model: nn.Module, step: int, steps: int, batches: "Iterable[Batch]" = ()
) -> nn.Module:
    """What the methods, in order, would make of a model in training; neither they nor it are touched.

    Args:
        step: Training steps done.
        steps: Training steps in all.
        batches: Some of the last training batches, with labels.

    Returns:
        Another model, on the CPU and in evaluation mode.
    """
    # Together: what a method remembers of the model must be found in the copy.
    model, methods = copy.deepcopy((model, list(methods)))
    device = next(model.parameters()).device
    model = model.cpu().eval()
    for method in methods:
        if hasattr(method, "preview"):
            moved = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
            model = method.preview(model.to(device), step, steps, moved).cpu()
        else:
            model = finish(method, model)
    return model.eval()


def settled_after(methods: Sequence[Any]) -> float:
    """The share of the training steps from which on a checkpoint is what all methods make of the model.

    Raises:
        ValueError: If a method names a share outside [0, 1].
    """
    latest = 0.0
    for method in methods:
        share = float(getattr(method, "settled_after", 0.0))
        if not 0 <= share <= 1:
            raise ValueError(f"settled_after of {type(method).__name__} must be in [0, 1], got {share}")
        latest = max(latest, share)
    return latest


def progress(trainer: "Trainer") -> tuple[int, int]:
    """Optimizer steps done, and steps in all.

    Schedules follow these two alone, so that a resumed run equals an uninterrupted one. The steps in all are
    the attribute ``steps`` of the trained module, or else the trainer's estimate, which takes the epoch at
    hand for all of them.

    Raises:
        ValueError: If the training has no end that could be counted in steps.
    """
    total = getattr(trainer.lightning_module, "steps", None) or trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError("a schedule needs an end: set the trainer's max_steps or max_epochs")
    return trainer.global_step, int(total)


def note(model: nn.Module, method: str, values: Mapping[str, float]) -> None:
    """Write down on the model what a method did to it, for the record.

    Args:
        method: The path of the method's config without its choice, ``compression/pruning``.
        values: Name with its unit to the value: ``zeros``, ``layers``, ``sparsity``.
    """
    model.applied = {**applied(model), method: dict(values)}  # type: ignore[assignment]


def applied(model: nn.Module) -> dict[str, dict[str, float]]:
    """What methods noted on the model, by method."""
    return getattr(model, "applied", {})
