"""Linear layers for inference that multiply int8 activations by weights of few bits and sum up in int32.

Legend: b bits, I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.compression.quantization.integer import LARGEST, quantize_rows
from effnlp.compression.quantization.packed import PackedRows, Rounded, signed_numbers
from effnlp.compression.quantization.plain_product import integer_product
from effnlp.compression.quantization.products import ROWS_AT_ONCE


class PackedIntegerLinear(nn.Module):
    """A linear layer for inference: int8 activations times weights of b bits, summed up in int32.

    Weights stay packed and become int8 for the product alone. Activations have one scale for all, or else one a row,
    found when they come. There is no gradient.

    Args:
        rounded: The weights (O, I), symmetric, one scale an output.
        input_scale: Of all activations, a scalar; what is beyond 127 of it is cut off. None: one a row.

    Raises:
        ValueError: If the weights are not symmetric, or have several scales an output.
    """

    export_tolerance = 0.05
    """As for :class:`~effnlp.compression.quantization.products.DynamicInt8Linear`."""

    input_scale: Tensor | None

    def __init__(self, linear: Any, rounded: Rounded, input_scale: Tensor | None = None) -> None:
        super().__init__()
        if rounded.zeros is not None or rounded.scales.shape[1] != 1:
            raise ValueError(
                "integer products need symmetric weights with one scale an output, "
                f"got {rounded.scales.shape[1]} scales{'' if rounded.zeros is None else ' and zeros'}"
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.stored = PackedRows(rounded)
        self.register_buffer("input_scale", input_scale)  # ()
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """(O, I) float: what the numbers stand for."""
        return self.stored.rows(slice(None))

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.detach().reshape(-1, self.in_features).float()  # (R, I)
        weights = self._integers()  # (O, I)
        parts = [self._product(piece, weights) for piece in rows.split(ROWS_AT_ONCE)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts)  # (R, O)
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def for_export(self) -> nn.Module:
        """The same answers from all rows at once, without operations on bits."""
        plain = copy.copy(self)
        plain._modules = {**self._modules, "stored": self.stored.by_arithmetic()}
        return _AllAtOnce(plain)

    def _integers(self) -> Tensor:
        return signed_numbers(self.stored.numbers(slice(None)).to(torch.int16), self.stored.bits).to(
            torch.int8
        )

    def _product(self, rows: Tensor, weights: Tensor) -> Tensor:
        of_weights = self.stored.scales.squeeze(1)  # (O,)
        if self.input_scale is None:
            integers, scales = quantize_rows(rows)  # (R, I), (R, 1)
            out = integer_product(integers, weights) * scales * of_weights
        else:
            integers = (rows / self.input_scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)
            out = integer_product(integers, weights) * (self.input_scale * of_weights)
        return out if self.bias is None else out + self.bias


class _AllAtOnce(nn.Module):
    """A :class:`PackedIntegerLinear` in one expression, for a tracer."""

    def __init__(self, layer: PackedIntegerLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.reshape(-1, self.layer.in_features).float()  # (R, I)
        out = self.layer._product(rows, self.layer._integers())  # (R, O)
        return out.view(*x.shape[:-1], self.layer.out_features).to(x.dtype)
