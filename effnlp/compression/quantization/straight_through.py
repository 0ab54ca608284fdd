"""Layers that compute with rounded weights while the float weights behind them are trained.

The straight-through estimator: what rounding gives is used in the forward pass, and the backward pass goes through it
as if it had not been there.

Source: Bengio et al. (2013), https://arxiv.org/abs/1308.3432

Legend: R rows of C weights, one scale a row; I width in, O width out, V vocabulary, D width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnlp.compression.quantization.integer import TableKind, quantize_rows
from effnlp.compression.quantization.packed import (
    PackedEmbedding,
    PackedLinear,
    Rounded,
    find_scales,
    weights_in,
)
from effnlp.compression.quantization.packed_products import PackedIntegerLinear
from effnlp.compression.quantization.products import DynamicInt8Linear, StaticInt8Linear
from effnlp.method import note, progress
from effnlp.model.surgery import encoder_layers, encoder_of, replace_layers

ACTIVATION_BITS = (8, None)


class StraightThrough(torch.autograd.Function):
    """Numbers that stand for values, with the gradient of values / scales."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:  # noqa: ARG004
        """``values`` and ``numbers`` (…, C), ``scales`` (…, 1) that are not trained."""
        ctx.save_for_backward(scales)
        return numbers.view_as(numbers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """``gradient`` (…, C)."""
        (scales,) = ctx.saved_tensors
        return gradient / scales, None, None


class Rounding(nn.Module, ABC):
    """How rows become numbers of few bits. Numbers times scales is what the rows are rounded to.

    Attributes:
        bits: b: numbers are whole, and at most 2^(b-1) - 1 in magnitude; with 1, they are -1 and 1.
    """

    bits: int

    @abstractmethod
    def forward(self, values: Tensor, which: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Numbers (…, C), through which gradients pass, and scales (…, 1).

        Args:
            values: (…, C) float, the rows ``which`` of the weights.
        """

    @abstractmethod
    def begin(self, weight: Tensor) -> None:
        """Fit what is trained of the rounding to weights (R, C), from which on it acts."""


class MinMax(Rounding):
    """Evenly spaced numbers up to the largest magnitude of the row."""

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, values: Tensor, which: Tensor | slice) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Nothing is beyond the range, so that every gradient passes."""
        with torch.no_grad():
            scales = find_scales(values, self.bits, symmetric=True)[0].unsqueeze(-1)  # (…, 1)
            numbers = (values / scales).round_()
        return StraightThrough.apply(values, numbers, scales), scales

    def begin(self, weight: Tensor) -> None:
        """Nothing is trained."""


class RowInputs(nn.Module):
    """Activations in int8, one scale a token: what :class:`DynamicInt8Linear` does with them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(…, I) to numbers (…, I) and scales (…, 1)."""
        with torch.no_grad():
            rows = x.reshape(-1, x.shape[-1]).float()
            integers, scales = quantize_rows(rows)
            numbers, scales = integers.to(rows.dtype).view(x.shape), scales.view(*x.shape[:-1], 1)
        return StraightThrough.apply(x.float(), numbers, scales), scales


class RoundedLinear(nn.Module):
    """A linear layer that computes with rounded weights and, if it has ``inputs``, rounded activations.

    Its forward is that of the layer that it becomes: numbers are multiplied, and the product by the scales.

    Args:
        linear: Gives weight and bias, the very parameters.
        rounding: Of the weights.
        inputs: Maps activations (…, I) to numbers and scales, (…, 1) or of all together ().

    Attributes:
        latent: The float weights (O, I) that are trained.
        rounds: Whether it rounds; else it is the float layer.
    """

    def __init__(self, linear: nn.Linear, rounding: Rounding, inputs: nn.Module | None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.latent, self.bias = linear.weight, linear.bias
        self.rounding, self.inputs = rounding, inputs
        self.rounds = True

    @property
    def weight(self) -> Tensor:
        """(O, I): what it computes with."""
        return rounded_rows(self, self.latent, slice(None))

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        if not self.rounds or self.inputs is None:
            product = F.linear(x, self.weight)  # (…, O)
            return product if self.bias is None else product + self.bias
        numbers, scales = self.rounding(self.latent, slice(None))  # (O, I), (O, 1)
        rows, of_rows = self.inputs(x)
        product = F.linear(rows, numbers)  # (…, O); sums of whole numbers are exact
        of_weights = scales.squeeze(1)  # (O,)
        scaled = product * of_rows * of_weights if of_rows.dim() else product * (of_rows * of_weights)
        return (scaled if self.bias is None else scaled + self.bias).to(product.dtype)


class RoundedEmbedding(nn.Module):
    """A table that is read with rounded rows; stands for ``nn.Embedding`` or ``nn.EmbeddingBag``.

    Attributes:
        latent: The float rows (V, D) that are trained.
        rounds: Whether it rounds; else it is the float table.
    """

    def __init__(self, table: Any, rounding: Rounding) -> None:
        super().__init__()
        self.kind = TableKind.of(table)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.latent, self.rounding, self.rounds = table.weight, rounding, True

    @property
    def weight(self) -> Tensor:
        """(V, D): what is read."""
        return rounded_rows(self, self.latent, slice(None))

    def forward(
        self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """What the table of the rounded rows gives; only the rows that are read are rounded."""

        def rows(which: Tensor) -> Tensor:
            return rounded_rows(self, F.embedding(which, self.latent, self.padding_idx), which)

        return self.kind.read(rows, ids, offsets, per_sample_weights)


def rounded_rows(layer: "RoundedLinear | RoundedEmbedding", values: Tensor, which: Tensor | slice) -> Tensor:
    """The rows ``which``, whose float ``values`` (…, C) are these, as the layer uses them."""
    if not layer.rounds:
        return values
    numbers, scales = layer.rounding(values, which)
    return numbers * scales


def rounded_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of a model that compute with rounded weights, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, RoundedLinear | RoundedEmbedding)
    }


def check_activation_bits(activation_bits: int | None) -> int | None:
    """``activation_bits``, if it is 8 or None."""
    if activation_bits not in ACTIVATION_BITS:
        raise ValueError(f"activation_bits must be 8, or null for float, got {activation_bits!r}")
    return activation_bits


def check_begins_after(begins_after: float) -> float:
    """``begins_after``, if it is in [0, 1]."""
    if not 0 <= begins_after <= 1:
        raise ValueError(f"begins_after must be in [0, 1], got {begins_after}")
    return begins_after


def round_in_training(
    model: nn.Module,
    make_rounding: Callable[[Tensor], Rounding],
    make_inputs: Callable[[str], nn.Module | None],
    embeddings: bool,
) -> nn.Module:
    """Let every linear layer of the encoder compute with rounded weights, in place.

    Args:
        make_rounding: From the weights (R, C) of a layer, or of the table of words, to their rounding.
        make_inputs: From the name of a linear layer inside the encoder to the rounding of its activations.
        embeddings: Round the tables, too: that of the words like the layers. Others (positions, types), which are
            small and bear less, go to 8 bits.

    Raises:
        ValueError: If the encoder has no linear layer or, with ``embeddings``, no table.
        RuntimeError: If activations are rounded and the integer products of this machine are wrong.
    """
    linears = encoder_layers(model, nn.Linear)
    inputs = {name: make_inputs(name) for name in linears}
    tables: dict[str, Any] = encoder_layers(model, nn.Embedding, nn.EmbeddingBag) if embeddings else {}
    words = word_table(model)
    for name, linear in linears.items():
        made = RoundedLinear(linear, make_rounding(linear.weight.detach()), inputs[name])
        replace_layers(model, [linear], lambda _, made=made: made)  # type: ignore[misc]
    for table in tables.values():
        rounding = make_rounding(table.weight.detach()) if words in (table, None) else MinMax(8)
        made_table = RoundedEmbedding(table, rounding)
        replace_layers(model, [table], lambda _, made=made_table: made)  # type: ignore[misc]
    return model


def word_table(model: nn.Module) -> nn.Module | None:
    """The table of the words; None where the encoder does not say which it is."""
    find = getattr(encoder_of(model), "word_embeddings", None)
    return None if find is None else find()


def deploy_rounded(model: nn.Module, noted: Mapping[str, float]) -> nn.Module:
    """Put packed layers in the place of those that round in training, in place; the logits stay the same.

    Args:
        noted: What to write down beside the numbers of layers and weights.

    Raises:
        ValueError: If there are none: the model was not prepared.
    """
    layers = rounded_layers(model)
    if not layers:
        raise ValueError(f"nothing to round: {type(model).__name__} has no layer that was prepared for it")
    linears = [layer for layer in layers.values() if isinstance(layer, RoundedLinear)]
    in_int8 = [layer for layer in layers.values() if layer.rounding.bits == 8]
    counts = {"layers": len(linears), "int8_weights": weights_in(in_int8)}
    counts["packed_weights"] = weights_in(layers.values()) - counts["int8_weights"]
    with torch.no_grad():
        replace_layers(model, layers.values(), deployed_layer)
    note(model, "compression/quantization", {**counts, **noted})
    return model


def deployed_layer(layer: Any) -> nn.Module:
    """The packed layer that a layer becomes."""
    numbers, scales = layer.rounding(layer.latent, slice(None))  # (R, C), (R, 1)
    numbers, scales, bits = numbers.detach(), scales.detach(), layer.rounding.bits
    stored = (numbers + 1) / 2 if bits == 1 else numbers + (1 << (bits - 1))
    rounded = Rounded(stored.to(torch.uint8), scales, None, bits)
    if isinstance(layer, RoundedEmbedding):
        return PackedEmbedding(layer, rounded)
    if layer.inputs is None:
        return PackedLinear(layer, rounded)
    input_scale = getattr(layer.inputs, "scale", None)
    if bits < 8:
        return PackedIntegerLinear(layer, rounded, input_scale)
    made: Any = (
        DynamicInt8Linear(layer) if input_scale is None else StaticInt8Linear(layer, float(input_scale))
    )
    made.integers, made.scales = numbers.to(torch.int8), scales.squeeze(1)
    return made


class BeginRounding(pl.Callback):
    """Says when layers begin to round: before a step, and after one, so that a validation finds what is trained.

    Args:
        begins_after: Share of the steps before which weights stay float, in [0, 1].
    """

    def __init__(self, begins_after: float) -> None:
        self.begins_after = begins_after

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone."""
        switch_rounding(pl_module.model, self.begins_after, *progress(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone."""
        switch_rounding(pl_module.model, self.begins_after, *progress(trainer))


def switch_rounding(model: nn.Module, begins_after: float, step: int, steps: int) -> None:
    """Let layers round, or not, as they do after ``step`` of ``steps``."""
    begins_at = math.ceil(begins_after * steps)
    for layer in rounded_layers(model).values():
        layer.rounds = step >= begins_at
        if 0 < step == begins_at:  # at 0 it began with the weights as they were built
            layer.rounding.begin(layer.latent.detach())
