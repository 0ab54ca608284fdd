"""Symmetric int8 numbers, and layers that keep their weights in them.

One scale a row: 127 stands for the largest magnitude of the row, 0 for 0, so that zeros stay zeros.

Legend: I width in, O width out, V vocabulary, D width.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from effnlp.model.export import MeanOfRows
from effnlp.model.surgery import encoder_layers, replace_layers

LARGEST = 127  # -128 stays unused: the range is symmetric


def quantize_rows(values: Tensor, largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """Round each row to the nearest of 255 evenly spaced numbers.

    Args:
        values: (R, C) float.
        largest: What the largest magnitude of a row becomes; there are ``2 * largest + 1`` numbers.

    Returns:
        int8 (R, C), and the scales (R, 1) in the type of ``values``: ``integers * scales`` is near
        ``values``, at most half a scale away. A row of zeros has the smallest scale there is.
    """
    scales = values.abs().amax(1, keepdim=True).div_(largest)  # (R, 1)
    scales.clamp_min_(torch.finfo(values.dtype).tiny)
    return torch.div(values, scales).round_().to(torch.int8), scales


class Int8Linear(nn.Module):
    """A frozen linear layer with int8 weights, one scale an output channel; the bias stays a float parameter.

    The arithmetic is in float: what is saved is memory, not work.
    """

    integers: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        integers, scales = quantize_rows(linear.weight.detach())
        self.register_buffer("integers", integers)  # (O, I)
        self.register_buffer("scales", scales.squeeze(1))  # (O,)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """(O, I) float: what the integers stand for."""
        return self.integers.to(self.scales.dtype) * self.scales.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        product = ProductWithIntegers.apply(x, self.integers) * self.scales  # (…, O)
        return product if self.bias is None else product + self.bias


class ProductWithIntegers(torch.autograd.Function):
    """``x @ integers.T``; the float copy is gone after the product, not after the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, integers: Tensor) -> Tensor:
        """``x`` (…, I) and ``integers`` (O, I) to (…, O)."""
        ctx.save_for_backward(integers)
        return F.linear(x, integers.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """``gradient`` (…, O) to (…, I)."""
        (integers,) = ctx.saved_tensors
        return gradient @ integers.to(gradient.dtype), None


class Int8Embedding(nn.Module):
    """A frozen table of int8 rows, one scale a row; stands for ``nn.Embedding`` or ``nn.EmbeddingBag``."""

    integers: Tensor
    scales: Tensor

    def __init__(self, table: nn.Embedding | nn.EmbeddingBag) -> None:
        super().__init__()
        self.kind = TableKind.of(table)
        integers, scales = quantize_rows(table.weight.detach())
        self.register_buffer("integers", integers)  # (V, D)
        self.register_buffer("scales", scales)  # (V, 1)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx

    @property
    def weight(self) -> Tensor:
        """(V, D) float: what the integers stand for."""
        return self.rows(slice(None))

    def rows(self, which: Tensor | slice) -> Tensor:
        """The rows ``which`` as floats."""
        return self.integers[which].to(self.scales.dtype) * self.scales[which]

    def forward(
        self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """What the float layer gives for the rounded table; only the rows that are read become floats."""
        return self.kind.read(self.rows, ids, offsets, per_sample_weights)

    def for_export(self) -> nn.Module:
        """The same answers by plain operators: which rows are read depends on the ids, not on their number."""
        return self.kind.for_export(self)


@dataclass(frozen=True)
class TableKind:
    """How a table is read, apart from how its rows are stored.

    Attributes:
        mode: How the rows of a bag become one; None for an ``nn.Embedding``.
        padding_idx: An id that does not count in a bag.
    """

    mode: str | None
    padding_idx: int | None
    include_last_offset: bool

    @classmethod
    def of(cls, table: Any) -> "TableKind":
        """The kind of a float table, or of one that knows its own.

        Raises:
            ValueError: If reading changes the table.
        """
        if isinstance(known := getattr(table, "kind", None), cls):
            return known
        if table.max_norm is not None:
            raise ValueError(f"a table with max_norm changes when it is read, got max_norm={table.max_norm}")
        if isinstance(table, nn.EmbeddingBag):
            return cls(table.mode, table.padding_idx, table.include_last_offset)
        return cls(None, table.padding_idx, False)

    def read(
        self,
        rows: Callable[[Tensor], Tensor],
        ids: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """What the float layer gives for a table whose ``rows`` are these."""
        if self.mode is None:
            return rows(ids)
        used, places = ids.unique(return_inverse=True)  # (U,), shape of ids
        padding = None
        if self.padding_idx is not None:
            found = (used == self.padding_idx).nonzero()
            padding = int(found) if len(found) else None
        return F.embedding_bag(
            places,
            rows(used),
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=padding,
        )

    def for_export(self, table: nn.Module) -> nn.Module:
        """What ``table``, whose attribute ``kind`` this is, becomes in a graph.

        Raises:
            ValueError: If its bags are not means.
        """
        if self.mode is None:
            return table
        if self.mode != "mean":
            raise ValueError(f"a table of integers in mode {self.mode!r} cannot be exported, only 'mean'")
        rows = copy.copy(table)
        rows.kind = replace(self, mode=None)  # type: ignore[assignment]
        return MeanOfRows(rows, self.padding_idx)


def quantize_tables(model: nn.Module) -> int:
    """Keep the encoder's embedding tables in int8, in place; how many weights that were.

    Raises:
        ValueError: If the encoder has no table.
    """
    tables: dict[str, Any] = encoder_layers(model, nn.Embedding, nn.EmbeddingBag)
    replace_layers(model, tables.values(), Int8Embedding)
    return sum(table.weight.numel() for table in tables.values())
