"""The contract of a method on models: up to three moments, each optional.

- ``prepare(model)`` before fine-tuning: inject, wrap, quantize a frozen base.
- during fine-tuning, ``callbacks()`` gives Lightning callbacks (they say *when*; functions of the method's
  file say *what*), and ``objective(base)`` may wrap the loss.
- ``finish(model)`` after it: merge, strip, convert to what is deployed.

Between training and ``finish`` what one more task adds to a stored base is taken: the parameters that are trained. A
method that trains more than it keeps (a network that only shapes a prefix, the gates of a sparse change) has
``settle(model)``, which leaves what is kept and nothing else. Done twice, it changes nothing more, and
:func:`finish` sees to it that it was done.

A method that must see texts before it acts (for the scales of activations, or the importance of heads) has
``calibration_texts``, how many of the training split it wants, and ``calibrate(model, batches)``, called with batches
that have labels just before its ``finish``, or before ``prepare`` where its attribute ``calibrates_at`` says so. What
it learns of them it keeps in itself; the model is left as it is.

A method that must know how the task's texts are cut into tokens has ``read_data(data)``, called with what the data
stage made (:class:`effnlp.data.prepare.Prepared`), before anything is gathered; also where the method is made anew to
put a delta on its base.

A method that adds texts to those of the training, or that looks at another model first, has ``gather(data, around)``,
called before the model is built (:mod:`effnlp.gathering`).

A method that acts late and cannot serve every model may have ``check(model)``, which raises a ValueError. It is called
with the model as it is built, before any work is done on it.

A method that acts once may be a bare function from model to model: that is its ``finish``. What a method
needs, gives and takes away is written as literal constants of its module, so that it is read without
importing it (:mod:`effnlp.legality`).

A method may have the attribute ``settled_after``, in [0, 1], 0 where it is absent: the share of the training
steps before which the model is not yet what the method makes of it (a pruning schedule still rising, exits
still untrained). Before it no checkpoint may be chosen as the best, and nothing may stop early.

A method under which one step of training costs more than another, on texts of the same shape and with the same
parameters trained, says in the attribute ``step_kind`` (a string) of the model of which kind the coming step is: steps
of one kind are counted once. A method that could leave more than one model may have ``variants(model)``, called just
before its ``finish``: pairs of a name and a model, made of copies, which are evaluated beside the one that is deployed
(:mod:`effnlp.evaluation.variants`).

At a rung of a search a model in training is judged as what it would become: a copy of it and of its methods
is finished (:func:`preview`). Where ``finish`` alone says too little of that while a schedule runs, a method may
have ``preview(model, step, steps, batches)``, called in its place with the steps done, the steps in all and some
of the last training batches. What it gives must cost at inference about what the finished model will, and
follow from its arguments alone: a run that is taken up at a rung shows what the uninterrupted one would.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from effnlp.data.encodings import Batch
    from effnlp.data.prepare import Prepared

Objective = Callable[[nn.Module, "Batch"], Tensor]
"""The loss of a model on a batch with labels: a scalar."""


def check(methods: Iterable[Any], model: nn.Module) -> None:
    """Let each method refuse a model that it could not serve.

    Raises:
        ValueError: If one does.
    """
    for method in methods:
        if hasattr(method, "check"):
            method.check(model)


def prepare(methods: Sequence[Any], model: nn.Module, batches: "Sequence[Batch]" = ()) -> nn.Module:
    """Let each method prepare the model, in order.

    Args:
        batches: Training texts for those that calibrate now.
    """
    for method in methods:
        if hasattr(method, "prepare"):
            calibrate(method, model, batches, "prepare")
            model = method.prepare(model)
    return model


def wants_data(methods: Iterable[Any]) -> bool:
    """Whether a method has ``read_data``."""
    return any(hasattr(method, "read_data") for method in methods)


def read_data(methods: Iterable[Any], data: "Prepared") -> None:
    """Let each method read the task's texts as the model does."""
    for method in methods:
        if hasattr(method, "read_data"):
            method.read_data(data)


def texts_wanted(methods: Iterable[Any]) -> int:
    """How many training texts the one that wants most of them wants to see."""
    return max((int(getattr(method, "calibration_texts", 0)) for method in methods), default=0)


def calibrate(method: Any, model: nn.Module, batches: "Sequence[Batch]", moment: str) -> None:
    """Let a method that wants to see texts at this moment see them; the model is in the same mode after it.

    Raises:
        ValueError: If there are none.
    """
    wanted = int(getattr(method, "calibration_texts", 0))
    if not wanted or getattr(method, "calibrates_at", "finish") != moment:
        return
    if not batches:
        raise ValueError(f"{type(method).__name__} calibrates, and there are no texts for it")
    was_training, device = model.training, next(model.parameters()).device
    seen = [{key: value.to(device) for key, value in b.items()} for b in first_texts(batches, wanted)]
    method.calibrate(model.eval(), seen)
    model.train(was_training)


def first_texts(batches: "Sequence[Batch]", count: int) -> "Iterator[Batch]":
    """The batches up to the ``count``-th text, the last of them cut."""
    for batch in batches:
        size = min(count, len(batch["input_ids"]))
        if size <= 0:
            return
        yield {name: tensor[:size] for name, tensor in batch.items()}
        count -= size


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


def finish(method: Any, model: nn.Module, batches: "Sequence[Batch]" = ()) -> nn.Module:
    """What the method makes of the trained model.

    Args:
        batches: Training texts for one that calibrates now.
    """
    model = settle([method], model)
    calibrate(method, model, batches, "finish")
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
    batches = list(batches)
    device = next(model.parameters()).device
    model = model.cpu().eval()
    for method in methods:
        if hasattr(method, "preview"):
            moved = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
            model = method.preview(model.to(device), step, steps, moved).cpu()
        else:
            model = finish(method, model, batches)
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


TAKEN_AWAY = (
    "zeros",
    "groups_removed",
    "heads_removed",
    "units_removed",
    "weights_removed",
    "rows_removed",
    "layers_dropped",
)
"""Names under which methods note how much of a model they took away."""


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


def without_effect(model: nn.Module) -> list[str]:
    """The methods that count what they take away (:data:`TAKEN_AWAY`) and took nothing, by the path of their config."""
    counts = {
        name: [value for key, value in noted.items() if key in TAKEN_AWAY]
        for name, noted in applied(model).items()
    }
    return [name for name, taken in counts.items() if taken and not any(taken)]
