"""Ternary weights: each is -1, 0 or 1 times the scale of its row, and the float weights behind them are trained.

Source: Zhang et al. (2020), TernaryBERT, https://arxiv.org/abs/2009.12812; threshold: Li and Liu (2016),
https://arxiv.org/abs/1605.04711

Legend: R rows of C weights w, alpha the scale of a row.
"""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.quantization.straight_through import (
    BeginRounding,
    Rounding,
    RowInputs,
    StraightThrough,
    check_activation_bits,
    check_begins_after,
    deploy_rounded,
    round_in_training,
)

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers", "embeddings", "trainable_weights"),
    "during": ("trainable_weights",),
}
REMOVES = {"prepare": ("float_linear_layers",), "finish": ("trainable_weights",)}


def ternarize(values: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The sign of each weight above the threshold of its row, 0 for the others, and the scale of the row.

    Args:
        values: (…, C) float.
        threshold: In means of the magnitudes of the row: 0.7 is near the least squared error of normally or evenly
            distributed weights.

    Returns:
        Numbers (…, C) in {-1, 0, 1}, and alpha (…, 1): the mean magnitude of the weights that are not 0, which is the
        best scale for these numbers.
    """
    magnitudes = values.abs()
    kept = magnitudes > threshold * magnitudes.mean(-1, keepdim=True)  # (…, C)
    scales = (magnitudes * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1)
    return values.sign() * kept, scales.clamp_min(torch.finfo(values.dtype).tiny)


class TernaryRows(Rounding):
    """Rows of -1, 0 and 1, with a scale each.

    Args:
        threshold: See :func:`ternarize`.
    """

    bits = 2

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, values: Tensor, which: Tensor | slice) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The gradient for a float weight is that for its rounded one."""
        with torch.no_grad():
            numbers, scales = ternarize(values, self.threshold)
        return StraightThrough.apply(values, numbers, scales), scales

    def begin(self, weight: Tensor) -> None:
        """Nothing is trained."""


class Ternary:
    """Linear layers and the table of words in two bits, trained through the rounding.

    Unlike the paper, every row of a linear layer has a scale of its own, as rows of embeddings have; activations have
    one a token; positions and types are kept in 8 bits, not in float; and there is no distillation but what
    ``compression/distillation`` adds.

    Args:
        threshold: Weights of a smaller magnitude than this many means of their row are 0; at least 0.
        activation_bits: 8, or None for float.
        begins_after: Share of the training steps before which nothing is rounded, in [0, 1]; with 1, rounding comes
            after the training.
        embeddings: Round the embedding tables, too.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        activation_bits: int | None = 8,
        begins_after: float = 0.0,
        embeddings: bool = True,
    ) -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        self.threshold, self.embeddings = threshold, embeddings
        self.activation_bits = check_activation_bits(activation_bits)
        self.begins_after = check_begins_after(begins_after)

    @property
    def settled_after(self) -> float:
        """From here on the model rounds as the deployed one does."""
        return self.begins_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let every linear layer and table of the encoder round, in place."""
        return round_in_training(
            model,
            lambda _: TernaryRows(self.threshold),
            lambda _: None if self.activation_bits is None else RowInputs(),
            self.embeddings,
        )

    def callbacks(self) -> list[pl.Callback]:
        """What begins the rounding, where it is not there from the start."""
        return [BeginRounding(self.begins_after)] if self.begins_after > 0 else []

    def finish(self, model: nn.Module) -> nn.Module:
        """Put packed layers in the place of those that were trained, in place.

        Raises:
            ValueError: If the model was not prepared.
        """
        return deploy_rounded(model, {"bits": 2})
