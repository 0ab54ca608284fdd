"""Linear layers for inference that multiply int8 by int8 and sum up in int32.

Legend: I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import copy

import torch
from torch import Tensor, nn

from effnlp.compression.quantization.backends import PackedProduct, usable
from effnlp.compression.quantization.integer import LARGEST, quantize_rows
from effnlp.compression.quantization.plain_product import integer_product

ROWS_AT_ONCE = 256
"""Rows that pass through all steps together, so that what lies between two steps stays in the cache: 1.4 to 2.5
times as fast as whole matrices at 2048 × 384 → 1536 (benchmarks/int8_linear.py)."""


class DynamicInt8Linear(nn.Module):
    """A linear layer for inference: int8 times int8, summed up in int32.

    Weights have one scale an output channel. Activations have one scale a row, found when they come, so that
    the result for a token does not depend on the other tokens of the batch. There is no gradient.

    Args:
        largest: What the largest activation of a row becomes, at most 127.
    """

    export_tolerance = 0.05
    """How far a logit may be from this one's where sums are made in another order: noise of one part in 10^7
    in the norms of MiniLM moves activations across the border between two integers, and a logit by 0.014."""

    integers: Tensor
    scales: Tensor
    packed: PackedProduct | None = None
    """Set by :func:`effnlp.compression.quantization.backends.use_backend`."""

    def __init__(self, linear: nn.Linear, largest: int = LARGEST) -> None:
        super().__init__()
        self.in_features, self.out_features, self.largest = linear.in_features, linear.out_features, largest
        integers, scales = quantize_rows(linear.weight.detach().float())
        self.register_buffer("integers", integers)  # (O, I)
        self.register_buffer("scales", scales.squeeze(1))  # (O,)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.detach().reshape(-1, self.in_features).float()  # (R, I)
        if (packed := usable(self.packed, rows)) is not None:
            return self._by_packed(packed, rows).view(*x.shape[:-1], self.out_features).to(x.dtype)
        out = rows.new_empty(rows.shape[0], self.out_features)  # (R, O)
        if len(rows) <= ROWS_AT_ONCE:
            self._fill(out, rows)
        else:
            for piece, result in zip(rows.split(ROWS_AT_ONCE), out.split(ROWS_AT_ONCE), strict=True):
                self._fill(result, piece)
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def for_export(self) -> nn.Module:
        """The same answers from all rows at once."""
        return _AllAtOnce(self)

    def _by_packed(self, packed: PackedProduct, rows: Tensor) -> Tensor:
        numbers, scales = round_rows(rows, self.largest)
        return self._scale(packed.product(numbers, self.integers, self.scales), scales)

    def _scale(self, out: Tensor, scales: Tensor) -> Tensor:
        """``out`` (R, O) times the scales of its rows, and the bias, in place."""
        return out.mul_(scales) if self.bias is None else torch.addcmul(self.bias, out, scales, out=out)

    def _fill(self, out: Tensor, rows: Tensor) -> None:
        integers, scales = quantize_rows(rows, self.largest)
        out.copy_(integer_product(integers, self.integers)).mul_(self.scales)
        self._scale(out, scales)


def round_rows(rows: Tensor, to_largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """The integers of :func:`quantize_rows` as floats (R, I), and the scales (R, 1), in fewer passes."""
    largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_())
    scales = largest.div_(to_largest).clamp_min_(torch.finfo(rows.dtype).tiny)  # (R, 1)
    return torch.div(rows, scales).round_(), scales


class _AllAtOnce(nn.Module):
    """A :class:`DynamicInt8Linear` in one expression, for a tracer."""

    def __init__(self, layer: DynamicInt8Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.reshape(-1, self.layer.in_features).float()  # (R, I)
        integers, scales = quantize_rows(rows, self.layer.largest)
        out = integer_product(integers, self.layer.integers) * self.layer.scales  # (R, O)
        bias = self.layer.bias
        out = out * scales if bias is None else torch.addcmul(bias, out, scales)
        return out.view(*x.shape[:-1], self.layer.out_features).to(x.dtype)


class StaticInt8Linear(nn.Module):
    """A linear layer for inference: int8 times int8, with one scale for all activations, known beforehand.

    What is beyond the range that the scale covers is cut off. There is no gradient.

    Args:
        scale: Of the activations; 127 of it is the largest that there is.
    """

    export_tolerance = 0.05
    """As for :class:`DynamicInt8Linear`."""

    integers: Tensor
    scales: Tensor
    input_scale: Tensor
    largest = LARGEST
    packed: PackedProduct | None = None
    """Set by :func:`effnlp.compression.quantization.backends.use_backend`."""

    def __init__(self, linear: nn.Linear, scale: float) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        integers, scales = quantize_rows(linear.weight.detach().float())
        self.register_buffer("integers", integers)  # (O, I)
        self.register_buffer("scales", scales.squeeze(1))  # (O,)
        self.register_buffer("input_scale", torch.tensor(scale))  # ()
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.detach().reshape(-1, self.in_features).float()  # (R, I)
        numbers = torch.div(rows, self.input_scale).round_().clamp_(-LARGEST, LARGEST)
        if (packed := usable(self.packed, rows)) is not None:
            out = packed.product(numbers, self.integers, self.scales, self.input_scale, self.bias)
        else:
            product = integer_product(numbers.to(torch.int8), self.integers)
            out = product * (self.input_scale * self.scales)  # (R, O)
            out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def for_export(self) -> nn.Module:
        """The same answers by plain products."""
        plain = copy.copy(self)
        plain.packed = None
        return plain
