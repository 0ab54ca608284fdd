"""How much the answers of a model change when the weights of a layer do, on calibration texts.

What is measured is how far answers move from those of the model as it is: the Kullback–Leibler divergence of the
classes' probabilities, of a number half the squared difference. It needs no labels, is zero where nothing changes,
and its Hessian there is never negative.

Sources: the trace of the Hessian by random probes: Dong et al. (2020), https://arxiv.org/abs/1911.03852; its
Gauss–Newton form: Martens (2020), https://arxiv.org/abs/1412.1193

Legend: B texts, C classes, J the derivative of the logits by a layer's weights, A the Hessian by the logits.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from effnlp.data.encodings import Batch


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """How far answers are from those of reference, a scalar: summed over the texts, both (B, C); C = 1 is a number."""
    # In double: of a change of 1e-4 the square counts.
    logits, reference = (x.reshape(len(x), -1).double() for x in (logits, reference))
    if logits.shape[1] == 1:
        return (logits - reference).square().sum() / 2
    return kl_div(logits.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="sum")


def cotangent(logits: Tensor, signs: Tensor) -> Tensor:
    """A root of A times random ``signs``, both (B, C): for classes with probabilities p, √p s - p (√p · s).

    With signs of mean 0 that know nothing of each other, the mean of its outer product is A: diag(p) - p p^T.
    """
    if logits.shape[1] == 1:
        return signs
    p = logits.softmax(1)
    scaled = p.sqrt() * signs
    return scaled - p * scaled.sum(1, keepdim=True)


def hessian_traces(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    probes: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Of each layer the trace of the Hessian of the mean :func:`divergence` by its ``weight``, estimated.

    tr(J^T A J) is the mean of |J^T A^½ s|² over random signs s (Hutchinson): a backward pass a probe gives all layers.

    Args:
        model: In evaluation mode; it is left as it was.
        probes: Draws of signs for each batch.
        generator: On the CPU.

    Raises:
        ValueError: If there are no texts.
    """
    texts = _count(batches)
    weights: dict[str, Any] = {name: layer.weight for name, layer in layers.items()}
    traces = dict.fromkeys(layers, 0.0)
    with ExitStack() as stack, torch.enable_grad():
        for weight in weights.values():
            stack.callback(weight.requires_grad_, weight.requires_grad)
            weight.requires_grad_(True)
        for batch in batches:
            logits = model(batch)
            logits = logits.reshape(len(logits), -1)  # (B, C)
            for _ in range(probes):
                signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
                gradients = torch.autograd.grad(
                    logits,
                    list(weights.values()),
                    cotangent(logits.detach(), signs),
                    retain_graph=True,
                    allow_unused=True,
                )
                for name, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None:
                        traces[name] += float(gradient.square().sum()) / (probes * texts)
    return traces


def loss_increases(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    changed: Sequence[Callable[[Tensor], Tensor]],
) -> dict[str, list[float]]:
    """Of each layer, for each way to change its ``weight`` alone: the mean :func:`divergence` of a text.

    Args:
        model: In evaluation mode; it is left as it was.

    Raises:
        ValueError: If there are no texts.
    """
    texts = _count(batches)
    increases: dict[str, list[float]] = {}
    with torch.no_grad():
        reference = [model(batch) for batch in batches]
        for name, layer in layers.items():
            weight: Any = layer.weight
            kept, increases[name] = weight.data, []
            try:
                for change in changed:
                    weight.data = change(kept)
                    moved = [divergence(model(b), r) for b, r in zip(batches, reference, strict=True)]
                    increases[name].append(float(torch.stack(moved).sum()) / texts)
            finally:
                weight.data = kept
    return increases


def _count(batches: Sequence[Batch]) -> int:
    texts = sum(len(batch["input_ids"]) for batch in batches)
    if texts == 0:
        raise ValueError("the sensitivity of layers is measured on texts, got none")
    return texts
