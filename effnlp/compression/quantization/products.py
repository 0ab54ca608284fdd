"""Linear layers for inference that multiply int8 by int8 and sum up in int32.

Legend: I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import torch
from torch import Tensor, nn

from effnlp.compression.quantization.integer import LARGEST, quantize_rows

ROWS_AT_ONCE = 256
"""Rows that pass through all steps together, so that what lies between two steps stays in the cache: 1.4 to 2.5
times as fast as whole matrices at 2048 × 384 → 1536 (benchmarks/int8_linear.py)."""


class DynamicInt8Linear(nn.Module):
    """A linear layer for inference: int8 times int8, summed up in int32.

    Weights have one scale an output channel. Activations have one scale a row, found when they come, so that
    the result for a token does not depend on the other tokens of the batch. There is no gradient.
    """

    export_tolerance = 0.05
    """How far a logit may be from this one's where sums are made in another order: noise of one part in 10^7
    in the norms of MiniLM moves activations across the border between two integers, and a logit by 0.014."""

    integers: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        integers, scales = quantize_rows(linear.weight.detach().float())
        self.register_buffer("integers", integers)  # (O, I)
        self.register_buffer("scales", scales.squeeze(1))  # (O,)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.detach().reshape(-1, self.in_features).float()  # (R, I)
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

    def _fill(self, out: Tensor, rows: Tensor) -> None:
        integers, scales = quantize_rows(rows)
        out.copy_(torch._int_mm(integers, self.integers.t())).mul_(scales).mul_(self.scales)
        if self.bias is not None:
            out.add_(self.bias)


class _AllAtOnce(nn.Module):
    """A :class:`DynamicInt8Linear` in one expression, for a tracer."""

    def __init__(self, layer: DynamicInt8Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.reshape(-1, self.layer.in_features).float()  # (R, I)
        integers, scales = quantize_rows(rows)
        product = torch._int_mm(integers, self.layer.integers.t()) * scales * self.layer.scales  # (R, O)
        out = product if self.layer.bias is None else product + self.layer.bias
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
        integers = torch.div(rows, self.input_scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
        out = torch._int_mm(integers, self.integers.t()) * (self.input_scale * self.scales)  # (R, O)
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)


def integer_products_are_exact() -> bool:
    """Whether this machine sums up int8 products without saturating, as x86 before VNNI does in 16 bits."""
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, -largest.t()) == -64 * 127 * 127).all())


def need_exact_products() -> None:
    """Check this machine's integer products.

    Raises:
        RuntimeError: If they are wrong.
    """
    if not integer_products_are_exact():
        raise RuntimeError(
            "the int8 products of this CPU saturate (no VNNI); use compression/quantization=int8_weight_only"
        )
