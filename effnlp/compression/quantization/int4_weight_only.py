"""Weight-only int4: embeddings and linear weights are kept in groups of 4-bit numbers, and become floats when used.

Source: Dettmers and Zettlemoyer (2023), https://arxiv.org/abs/2212.09720; on a frozen base that LoRA trains:
Dettmers et al. (2023), https://arxiv.org/abs/2305.14314
"""

from typing import Any

from torch import nn

from effnlp.compression.quantization.moment import check_moment
from effnlp.compression.quantization.packed import (
    PackedEmbedding,
    PackedLinear,
    Rounded,
    check_group_size,
    check_groups,
    round_rows,
    weights_in,
)
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"prepare": ("embeddings",), "finish": ("embeddings",)}
REMOVES = {
    "prepare": ("float_linear_layers", "trainable_weights"),
    "finish": ("float_linear_layers", "trainable_weights"),
}

BITS = 4


class Int4WeightOnly:
    """Two weights to a byte. Unlike QLoRA's, the numbers are evenly spaced, and the scales are floats.

    Args:
        group_size: Neighbours along the input that share a scale; a row of fewer is one group, and so is every row
            where it is None.
        symmetric: 15 numbers around zero; else 16 from the smallest value to the largest.
        embeddings: Round the embedding tables, too.
        moment: ``finish`` rounds the trained model; ``prepare`` rounds the base before fine-tuning, which
            then is frozen: only what a parameter-efficient method adds or frees is trained.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        group_size: int | None = 64,
        symmetric: bool = False,
        embeddings: bool = True,
        moment: str = "finish",
    ) -> None:
        self.group_size, self.moment = check_group_size(group_size), check_moment(moment)
        self.symmetric, self.embeddings = symmetric, embeddings

    def check(self, model: nn.Module) -> None:
        """Refuse groups that do not fill a row, before the training."""
        check_groups(_layers(model, self.embeddings), self.group_size)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Round the base, if that is the moment."""
        return self._quantize(model) if self.moment == "prepare" else model

    def finish(self, model: nn.Module) -> nn.Module:
        """Round the trained model, if that is the moment."""
        return self._quantize(model) if self.moment == "finish" else model

    def _quantize(self, model: nn.Module) -> nn.Module:
        return quantize_to_four_bits(model, self.group_size, self.symmetric, self.embeddings)


def quantize_to_four_bits(
    model: nn.Module, group_size: int | None, symmetric: bool = False, embeddings: bool = True
) -> nn.Module:
    """Keep the encoder's tables and linear weights in 4 bits, in place; biases, norms and head stay float.

    Raises:
        ValueError: If the encoder has neither, or groups of this size do not fill a row.
    """
    layers = _layers(model, embeddings)
    check_groups(layers, group_size)

    def rounded(layer: Any) -> Rounded:
        return round_rows(layer.weight.detach(), BITS, group_size, symmetric)

    linears = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    tables = [layer for layer in layers.values() if not isinstance(layer, nn.Linear)]
    replace_layers(model, linears, lambda linear: PackedLinear(linear, rounded(linear)))
    replace_layers(model, tables, lambda table: PackedEmbedding(table, rounded(table)))
    noted = {"layers": len(linears), "int4_weights": weights_in([*linears, *tables])}
    note(model, "compression/quantization", noted)
    return model


def _layers(model: nn.Module, embeddings: bool) -> dict[str, Any]:
    kinds = (nn.Linear, nn.Embedding, nn.EmbeddingBag) if embeddings else (nn.Linear,)
    return encoder_layers(model, *kinds)
