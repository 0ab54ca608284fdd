"""What the layers of an encoder are given by calibration texts: sums of squares, products and largest values.

Legend: N tokens of all texts, I width in of a layer, X (N, I) what it is given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.surgery import encoder_of

MOMENTS = ("squares", "outer", "max")


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Batch], what: str
) -> dict[str, Tensor]:
    """A statistic of what each layer is given, over the tokens of all texts; padding is left out.

    Args:
        model: Has the attribute ``encoder``, which is run in evaluation mode.
        layers: Modules of the encoder whose input ends with their width.
        batches: Have ``input_ids`` and ``attention_mask``.
        what: ``squares``: the sum over tokens of x²; ``outer``: X^T X; ``max``: the largest absolute value.

    Returns:
        Name of the layer to its statistic: (I,), of ``outer`` (I, I); sums in float64. A layer that no text reaches
        is not in it.

    Raises:
        ValueError: If ``what`` is none of the three, or there is no text.
    """
    if what not in MOMENTS:
        raise ValueError(f"what must be one of {', '.join(MOMENTS)}, got {what!r}")
    found: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        if what == "max":
            here = x.abs().amax(0)  # (I,)
            found[name] = here.maximum(found[name]) if name in found else here
            return
        if what == "outer":
            # Of one group in single precision, of all in double: as exact as is needed, in half the time.
            x = x.float()
            here = (x.T @ x).double()  # (I, I)
        else:
            here = x.double().square().sum(0)  # (I,)
        found[name] = found[name].add_(here) if name in found else here

    see_inputs(model, layers, batches, add)
    return {name: found[name] for name in layers if name in found}


def see_inputs(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    see: Callable[[str, Tensor], None],
) -> None:
    """Show what each layer is given, time after time: ``see(name, x)`` with x (n, I), detached, no padding in it.

    The encoder is run as a whole, so that no text leaves early, and is in the same mode after it.

    Raises:
        ValueError: If there is no text.
    """
    encoder = encoder_of(model)
    was_training = encoder.training
    seen = 0

    def shown(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))  # (…, I)
            see(name, x.detach().reshape(-1, x.shape[-1]))

        return hook

    with ExitStack() as stack, torch.no_grad():
        stack.callback(encoder.train, was_training)
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_pre_hook(shown(name), with_kwargs=True))
        encoder.eval()
        for batch in batches:
            for group in of_equal_length(batch):
                seen += len(group["input_ids"])
                encoder(group)
    if seen == 0:
        raise ValueError("the inputs of layers need texts to be seen, got none")


def of_equal_length(batch: Batch) -> Iterator[Batch]:
    """The texts of a batch in groups of equal length, without their padding.

    So whatever a layer is given belongs to a token, also where tokens are dropped or put before those of a text.
    """
    mask = batch["attention_mask"].bool()  # (B, T)
    lengths = mask.sum(1)  # (B,)
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(1)  # (K,)
        if length == 0:
            continue
        kept = mask[rows]  # (K, T), with `length` marks in each row
        yield {
            name: value[rows][kept].view(len(rows), length) if value.shape == mask.shape else value[rows]
            for name, value in batch.items()
        }
