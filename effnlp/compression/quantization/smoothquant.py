"""SmoothQuant: move the outliers of activations into the weights before both become int8.

Source: Xiao et al. (2023), https://arxiv.org/abs/2211.10438

Legend: I width in, O width out, s (I,) the factors by which inputs are divided and weights multiplied.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments, of_equal_length
from effnlp.compression.quantization.backends import check_backend, use_backend
from effnlp.compression.quantization.integer import quantize_tables
from effnlp.compression.quantization.moment import check_texts
from effnlp.compression.quantization.packed import weights_in
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, encoder_of, replace_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers", "embeddings")}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}


class SmoothedInput(nn.Module):
    """Multiplies what a layer is given, where no norm could take the factors up."""

    factors: Tensor

    def __init__(self, layer: nn.Module, factors: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("factors", factors)  # (I,): 1 / s

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        y: Tensor = self.layer(x * self.factors)
        return y


def smoothing_factors(largest_inputs: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """s (eq. 4): max|X|^alpha / max|W|^(1 - alpha) of each input; 1 where either is zero.

    Args:
        largest_inputs: (I,).
        weights: Of all layers that are given these inputs, (O, I) each.
    """
    largest_weights = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)  # (I,)
    factors = largest_inputs.pow(alpha) / largest_weights.pow(1 - alpha)
    is_there = (largest_inputs > 0) & (largest_weights > 0) & torch.isfinite(factors) & (factors > 0)
    return torch.where(is_there, factors, torch.ones_like(factors))


def read_by(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> dict[str, list[str]]:
    """Names of norms to the names of the ``layers`` that are given their output, and are all that reads it.

    A norm is whatever ends with a multiplication by its weight of one dimension. Whether anything else reads its output
    is tried out: with half the weight and bias, and twice the input of the layers, what the encoder gives stays the
    same to the bit exactly if nothing else does, since halves and doubles are not rounded.
    """
    encoder = encoder_of(model)
    batch = next(of_equal_length(batch))
    norms = {name: module for name, module in encoder.named_modules() if _looks_like_a_norm(module)}
    given: dict[str, list[str]] = {}
    outputs: list[tuple[str, Tensor]] = []

    def produced(name: str) -> Any:
        return lambda _module, _args, output: outputs.append((name, output))

    def consumed(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            sources = [norm for norm, output in outputs if args and output is args[0]]
            for norm in sources:
                given.setdefault(norm, []).append(name)

        return hook

    with torch.no_grad(), ExitStack() as stack:
        for name, module in norms.items():
            stack.enter_context(module.register_forward_hook(produced(name)))
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_pre_hook(consumed(name)))
        expected = encoder(batch)
    found = {norm: list(dict.fromkeys(names)) for norm, names in given.items()}
    return {
        norm: names
        for norm, names in found.items()
        if _nothing_else_reads(encoder, norms[norm], [layers[name] for name in names], batch, expected)
    }


def _looks_like_a_norm(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    has_children = next(module.children(), None) is not None
    return weight is not None and weight.dim() == 1 and not has_children


def _nothing_else_reads(
    encoder: nn.Module, norm: nn.Module, readers: Sequence[nn.Module], batch: Batch, expected: Tensor
) -> bool:
    kept = {name: parameter.detach().clone() for name, parameter in norm.named_parameters()}
    with torch.no_grad(), ExitStack() as stack:
        try:
            for parameter in norm.parameters():
                parameter.mul_(0.5)
            for reader in readers:
                hook = reader.register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
                stack.enter_context(hook)
            return torch.equal(encoder(batch), expected)
        finally:
            for name, parameter in norm.named_parameters():
                parameter.copy_(kept[name])


def smooth(
    model: nn.Module, largest: Mapping[str, Tensor], folds: Mapping[str, Sequence[str]], alpha: float
) -> dict[str, int]:
    """Smooth every linear layer of the encoder that ``largest`` knows, in place; the function stays the same.

    Args:
        largest: Name of a layer to the largest magnitude of each of its inputs (I,).
        folds: Norms to the layers that alone read their output (:func:`read_by`): these share their factors, which
            the norm takes up.

    Returns:
        How many layers are ``folded`` and how many ``multiplied`` by factors when they are called.
    """
    encoder, linears = encoder_of(model), encoder_layers(model, nn.Linear)
    in_folds = {name for names in folds.values() for name in names}
    with torch.no_grad():
        for norm, names in folds.items():
            weights = [linears[name].weight for name in names]
            factors = smoothing_factors(largest[names[0]], weights, alpha)
            for weight in weights:
                weight.mul_(factors)
            for parameter in encoder.get_submodule(norm).parameters():
                parameter.div_(factors)
        alone = [name for name in linears if name in largest and name not in in_folds]
        for name in alone:
            linear = linears[name]
            factors = smoothing_factors(largest[name], [linear.weight], alpha)
            linear.weight.mul_(factors)
            replace_layers(model, [linear], partial(SmoothedInput, factors=1 / factors))
    return {"folded": len(in_folds), "multiplied": len(alone)}


class SmoothQuant:
    """Smoothed linear layers in int8, activations with one scale a token.

    Unlike the paper, layers whose inputs come from no norm of their own are smoothed, too, at the price of a
    multiplication for each input.

    Args:
        alpha: How much of the outliers goes into the weights, in [0, 1].
        calibration_texts: How many training texts are read.
        embeddings: Keep the embedding tables in int8.
        backend: Who multiplies: one of :data:`effnlp.compression.quantization.backends.NAMES`, or ``auto``, the
            first of :data:`effnlp.compression.quantization.backends.AUTO` that is there; the numbers are the same.

    Raises:
        ValueError: If a value is outside its range, or this machine lacks the back-end.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        calibration_texts: int = 128,
        embeddings: bool = True,
        backend: str = "auto",
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        self.alpha = alpha
        self.calibration_texts, self.embeddings = check_texts(calibration_texts), embeddings
        self.backend = check_backend(backend)
        self._largest: dict[str, Tensor] | None = None
        self._folds: dict[str, list[str]] = {}

    def calibrate(self, model: nn.Module, batches: list[Batch]) -> None:
        """Find the largest magnitude of every input, and which norms can take factors up."""
        linears = encoder_layers(model, nn.Linear)
        self._largest = input_moments(model, linears, batches, "max")
        self._folds = read_by(model, linears, batches[0])

    def finish(self, model: nn.Module) -> nn.Module:
        """Smooth, then turn every linear layer of the encoder into an integer one, in place.

        Raises:
            ValueError: If it has seen no texts, or the encoder has no linear layer.
            RuntimeError: If the integer products of this machine are wrong.
        """
        if self._largest is None:
            raise ValueError(
                "smoothquant needs the maxima of activations: it must see calibration texts first"
            )
        smoothed = smooth(model, self._largest, self._folds, self.alpha)
        tables = quantize_tables(model) if self.embeddings else 0
        linears = encoder_layers(model, nn.Linear)
        replace_layers(model, linears.values(), DynamicInt8Linear)
        noted: dict[str, float] = {
            "layers": len(linears),
            "int8_weights": weights_in(linears.values()) + tables,
        }
        noted |= {f"{how}_layers": count for how, count in smoothed.items()}
        noted |= use_backend(model, self.backend)
        note(model, "compression/quantization", noted)
        self._largest, self._folds = None, {}
        return model
