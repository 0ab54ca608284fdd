"""Integers of few bits, packed into bytes, and layers that keep their weights in them.

A row is cut into groups of neighbours along the input, each with a scale of its own. A number q of 0 … 2^b - 1 stands
for (q - z) times the scale, where z, the zero of the group, stands for 0. What is stored is q XOR z, so that a weight
of zero is a field of zero bits, which :mod:`effnlp.model.sparse` packs. Of one bit there is no zero: 0 and 1 stand for
minus the scale and the scale.

Legend: R rows, C columns, G groups of S columns, b bits, I width in, O width out, V vocabulary, D width.
"""

import copy
import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from effnlp.compression.quantization.integer import TableKind

BITS = (2, 3, 4, 8)
"""Widths of numbers that a method may offer."""


def check_bits(bits: int) -> int:
    """``bits``, if it is one of :data:`BITS`."""
    if bits not in BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits!r}")
    return bits


def check_group_size(group_size: int | None) -> int | None:
    """``group_size``, if it is None or at least 1."""
    if group_size is not None and group_size < 1:
        raise ValueError(f"group_size must be at least 1, or null for whole rows, got {group_size}")
    return group_size


def columns_of_group(columns: int, group_size: int | None) -> int:
    """S for rows of C columns: all of them where they are no more than ``group_size``.

    Raises:
        ValueError: If groups of ``group_size`` do not fill a row.
    """
    if group_size is None or columns <= group_size:
        return columns
    if columns % group_size:
        fitting = [size for size in range(group_size, 0, -1) if columns % size == 0]
        raise ValueError(
            f"group_size {group_size} does not divide rows of {columns} weights; the next smaller that does is "
            f"{fitting[0]}"
        )
    return group_size


def check_groups(layers: Mapping[str, Any], group_size: int | None) -> None:
    """Check the groups of every layer that has a ``weight`` of rows, by name.

    Raises:
        ValueError: Naming the first layer whose rows are not filled.
    """
    for name, layer in layers.items():
        try:
            columns_of_group(layer.weight.shape[1], group_size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Rounded:
    """Rows of numbers of few bits.

    Attributes:
        numbers: q, uint8 (R, C).
        scales: Float (R, G).
        zeros: z, uint8 (R, G); None: 2^(b-1) everywhere, and the smallest number stays unused (symmetric).
        bits: b; with 1 both numbers are used, and ``zeros`` is None.
    """

    numbers: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: int

    @property
    def values(self) -> Tensor:
        """Float (R, C): what the numbers stand for."""
        return stands_for(self.numbers, self.scales, self.zeros, self.bits)


def stands_for(numbers: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """``numbers`` (…, C) with ``scales`` and ``zeros`` (…, G) to floats (…, C)."""
    by_group = numbers.unflatten(-1, (scales.shape[-1], -1)).to(scales.dtype)  # (…, G, S)
    zero = None if zeros is None else zeros.to(scales.dtype).unsqueeze(-1)  # (…, G, 1)
    signed = signed_numbers(by_group, bits) if zero is None else by_group - zero
    return (signed * scales.unsqueeze(-1)).flatten(-2)


def signed_numbers(numbers: Tensor, bits: int) -> Tensor:
    """Symmetric numbers q of any signed type to those around zero that are multiplied by the scale."""
    return numbers * 2 - 1 if bits == 1 else numbers - (1 << (bits - 1))


def find_scales(values: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """The scale of each group, and the number that stands for zero.

    Args:
        values: (…, S).
        symmetric: The largest magnitude is the largest number; else the range from the smallest value to the largest,
            zero included, is spread over all numbers.

    Returns:
        Scales (…), in the type of ``values``, and zeros uint8 (…), None where symmetric.
    """
    tiny = torch.finfo(values.dtype).tiny
    if symmetric:
        return (values.abs().amax(-1) / ((1 << (bits - 1)) - 1)).clamp_min(tiny), None
    low, high = values.amin(-1).clamp_max(0), values.amax(-1).clamp_min(0)  # (…)
    scales = ((high - low) / ((1 << bits) - 1)).clamp_min(tiny)
    return scales, (-low / scales).round().to(torch.uint8)


def nearest(values: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """The numbers q, uint8, that stand for what is next to ``values``; all shapes broadcast."""
    zero = 1 << (bits - 1) if zeros is None else zeros
    smallest = 1 if zeros is None else 0
    return ((values / scales).round() + zero).clamp(smallest, (1 << bits) - 1).to(torch.uint8)


def round_rows(values: Tensor, bits: int, group_size: int | None = None, symmetric: bool = True) -> Rounded:
    """Round each value to the nearest number of its group.

    Args:
        values: (R, C) float.
        group_size: S; None: whole rows.

    Raises:
        ValueError: If groups do not fill a row.
    """
    groups = values.unflatten(1, (-1, columns_of_group(values.shape[1], group_size)))  # (R, G, S)
    scales, zeros = find_scales(groups, bits, symmetric)
    numbers = nearest(groups, scales.unsqueeze(-1), None if zeros is None else zeros.unsqueeze(-1), bits)
    return Rounded(numbers.flatten(1), scales, zeros, bits)


def fields_of(bits: int) -> list[tuple[int, int]]:
    """How a number is cut into fields of 8, 4, 2 or 1 bits: lowest bit and width of each. 3 is 2 and 1."""
    fields, at = [], 0
    for width in (8, 4, 2, 1):
        if bits & width:
            fields.append((at, width))
            at += width
    return fields


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Numbers below 2^b, uint8 (R, C), to bytes, uint8 (R, about b C / 8).

    Field by field; of n bytes for fields of w bits byte j holds columns j, j + n, … from its low bits on. A row ends
    with a byte.
    """
    parts = []
    for at, width in fields_of(bits):
        field = (numbers >> at) & ((1 << width) - 1)  # (R, C)
        in_a_byte = 8 // width
        padded = F.pad(field, (0, -field.shape[1] % in_a_byte))
        pieces = padded.unflatten(1, (in_a_byte, -1)).unbind(1)  # 8 / w of (R, n)
        byte = pieces[0].clone()
        for index, piece in enumerate(pieces[1:], start=1):
            byte |= piece << (index * width)
        parts.append(byte)
    return torch.cat(parts, dim=1)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The numbers, uint8 (…, C), that :func:`pack` put into bytes (…, n)."""
    numbers, start = None, 0
    for at, width in fields_of(bits):
        in_a_byte = 8 // width
        end = start - (-columns // in_a_byte)
        byte = packed[..., start:end]
        pieces = [(byte >> low) & ((1 << width) - 1) for low in range(0, 8, width)] if width < 8 else [byte]
        field = torch.cat(pieces, dim=-1)[..., :columns]  # (…, C)
        numbers = field if numbers is None else numbers | (field << at)
        start = end
    assert numbers is not None
    return numbers


class PackedRows(nn.Module):
    """Rows of numbers of few bits, kept as bytes.

    Attributes:
        weight_count: R C.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor | None

    def __init__(self, rounded: Rounded) -> None:
        super().__init__()
        self.bits, self.columns = rounded.bits, rounded.numbers.shape[1]
        self.weight_count = rounded.numbers.numel()
        zero = _spread(rounded.zeros, self.bits, self.columns)
        self.register_buffer("packed", pack(rounded.numbers ^ zero, self.bits))  # (R, n)
        self.register_buffer("scales", rounded.scales)  # (R, G)
        self.register_buffer("zeros", rounded.zeros)  # (R, G)

    def numbers(self, which: Tensor | slice) -> Tensor:
        """q of the rows ``which``, uint8."""
        zeros = None if self.zeros is None else self.zeros[which]
        return unpack(self.packed[which], self.bits, self.columns) ^ _spread(zeros, self.bits, self.columns)

    def rows(self, which: Tensor | slice) -> Tensor:
        """The rows ``which`` as floats."""
        zeros = None if self.zeros is None else self.zeros[which]
        return stands_for(self.numbers(which), self.scales[which], zeros, self.bits)

    def by_arithmetic(self) -> "RowsByArithmetic":
        """The same rows without operations on bits."""
        return RowsByArithmetic(Rounded(self.numbers(slice(None)), self.scales, self.zeros, self.bits))


class RowsByArithmetic(nn.Module):
    """:class:`PackedRows` for a graph whose runtimes have no operations on bits; a weight of zero is no zero byte."""

    packed: Tensor
    scales: Tensor
    zeros: Tensor | None

    def __init__(self, rounded: Rounded) -> None:
        super().__init__()
        self.bits, self.columns = rounded.bits, rounded.numbers.shape[1]
        self.register_buffer("packed", pack(rounded.numbers, self.bits))  # (R, n)
        self.register_buffer("scales", rounded.scales)  # (R, G)
        self.register_buffer("zeros", rounded.zeros)  # (R, G)

    def numbers(self, which: Tensor | slice) -> Tensor:
        """q of the rows ``which``, as floats."""
        packed, numbers, start = self.packed[which].float(), [], 0
        for at, width in fields_of(self.bits):
            end = start - (-self.columns // (8 // width))
            byte = packed[..., start:end]
            from_low = [torch.floor(byte / (1 << low)) for low in range(0, 9, width)]
            pieces = [low - (1 << width) * high for low, high in itertools.pairwise(from_low)]
            numbers.append(torch.cat(pieces, dim=-1)[..., : self.columns] * (1 << at))  # (…, C)
            start = end
        return functools.reduce(torch.add, numbers)

    def rows(self, which: Tensor | slice) -> Tensor:
        """The rows ``which`` as floats."""
        zeros = None if self.zeros is None else self.zeros[which]
        return stands_for(self.numbers(which), self.scales[which], zeros, self.bits)


def _in_plain_operators(layer: Any) -> Any:
    plain = copy.copy(layer)
    plain._modules = {**layer._modules, "stored": layer.stored.by_arithmetic()}
    return plain


def _spread(zeros: Tensor | None, bits: int, columns: int) -> Tensor | int:
    """The zero of every column, (…, C), from those of the groups (…, G)."""
    if zeros is None:
        return 1 << (bits - 1)
    return zeros.unsqueeze(-1).expand(*zeros.shape, columns // zeros.shape[-1]).flatten(-2)


class ProductWithRows(torch.autograd.Function):
    """``x @ rows.T``; the float copy is gone after the product, not after the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, stored: PackedRows | RowsByArithmetic) -> Tensor:
        """``x`` (…, I) to (…, O)."""
        ctx.stored = stored  # type: ignore[attr-defined]
        return F.linear(x, stored.rows(slice(None)).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """``gradient`` (…, O) to (…, I)."""
        return gradient @ ctx.stored.rows(slice(None)).to(gradient.dtype), None


class PackedLinear(nn.Module):
    """A frozen linear layer with weights of few bits; the bias stays a float parameter.

    The arithmetic is in float: what is saved is memory, not work.
    """

    def __init__(self, linear: Any, rounded: Rounded) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.stored = PackedRows(rounded)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """(O, I) float: what the numbers stand for."""
        return self.stored.rows(slice(None))

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        product = ProductWithRows.apply(x, self.stored)  # (…, O)
        return product if self.bias is None else product + self.bias

    def for_export(self) -> nn.Module:
        """The same answers by plain operators."""
        plain: nn.Module = _in_plain_operators(self)
        return plain


class PackedEmbedding(nn.Module):
    """A frozen table of rows of few bits; stands for ``nn.Embedding`` or ``nn.EmbeddingBag``."""

    def __init__(self, table: Any, rounded: Rounded) -> None:
        super().__init__()
        self.kind = TableKind.of(table)
        self.stored = PackedRows(rounded)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx

    @property
    def weight(self) -> Tensor:
        """(V, D) float: what the numbers stand for."""
        return self.stored.rows(slice(None))

    def forward(
        self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """What the float layer gives for the rounded table; only the rows that are read become floats."""
        return self.kind.read(self.stored.rows, ids, offsets, per_sample_weights)

    def for_export(self) -> nn.Module:
        """The same answers by plain operators."""
        return self.kind.for_export(_in_plain_operators(self))


def weights_in(layers: Iterable[Any]) -> int:
    """How many weights the layers have."""
    return sum(layer.weight.numel() for layer in layers)
