"""Binary weights: each is plus or minus the scale of its row, and the float weights behind them are trained.

Source: Bai et al. (2021), BinaryBERT, https://arxiv.org/abs/2012.15701; scale: Rastegari et al. (2016),
https://arxiv.org/abs/1603.05279

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


def binarize(values: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of each weight, 1 for zero, and the scale of the row with the least squared error.

    Args:
        values: (…, C) float.

    Returns:
        Numbers (…, C) in {-1, 1}, and alpha (…, 1), the mean magnitude.
    """
    numbers = torch.where(values < 0, -1.0, 1.0).to(values.dtype)
    return numbers, values.abs().mean(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


class BinaryRows(Rounding):
    """Rows of -1 and 1, with a scale each."""

    bits = 1

    def forward(self, values: Tensor, which: Tensor | slice) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The gradient for a float weight is that for its rounded one."""
        with torch.no_grad():
            numbers, scales = binarize(values)
        return StraightThrough.apply(values, numbers, scales), scales

    def begin(self, weight: Tensor) -> None:
        """Nothing is trained."""


class Binary:
    """Linear layers and the table of words in one bit, trained through the rounding.

    Unlike the paper, the model does not start from a ternary one of half its width; every row of a linear layer has a
    scale of its own, as rows of embeddings have; activations have one a token; positions and types are kept in 8 bits,
    not in float; and there is no distillation but what ``compression/distillation`` adds.

    Args:
        activation_bits: 8, or None for float.
        begins_after: Share of the training steps before which nothing is rounded, in [0, 1]; with 1, rounding comes
            after the training.
        embeddings: Round the embedding tables, too.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self, activation_bits: int | None = 8, begins_after: float = 0.0, embeddings: bool = True
    ) -> None:
        self.embeddings = embeddings
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
            lambda _: BinaryRows(),
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
        return deploy_rounded(model, {"bits": 1})
