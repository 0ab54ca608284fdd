"""Quantization-aware training: the model learns with the rounding that it will be deployed with.

Source: Jacob et al. (2018), https://arxiv.org/abs/1712.05877; of BERT: Zafrir et al. (2019),
https://arxiv.org/abs/1910.06188; learned scales, LSQ: Esser et al. (2020), https://arxiv.org/abs/1902.08153

Legend: R rows of C weights, one scale a row; b bits; L = 2^(b-1) - 1, the largest number (Q_P in the paper).
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.quantization.integer import LARGEST
from effnlp.compression.quantization.moment import check_texts
from effnlp.compression.quantization.observers import by_mse, input_histograms
from effnlp.compression.quantization.straight_through import (
    BeginRounding,
    MinMax,
    Rounding,
    RowInputs,
    check_activation_bits,
    check_begins_after,
    deploy_rounded,
    round_in_training,
)
from effnlp.data.encodings import Batch
from effnlp.model.surgery import encoder_layers

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers", "embeddings", "trainable_weights"),
    "during": ("trainable_weights",),
}
REMOVES = {"prepare": ("float_linear_layers",), "finish": ("trainable_weights",)}

SCALES = ("minmax", "learned")
FEWEST_BITS, MOST_BITS = 2, 8

TRIED = 20
"""Ranges among which a learned scale starts: evenly spaced up to the largest magnitude of its row."""


class LearnedRounding(torch.autograd.Function):
    """round(clip(values / scales, -L, L)), with the gradient of clip(values / scales, -L, L) (eq. 3 and 5).

    What is computed of it is numbers × scales, whose gradient for the scale is round(v / s) - v / s inside of the range
    and ±L outside, and whose gradient for the value is 1 inside and 0 outside.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scales: Tensor, largest: int) -> Tensor:
        """``values`` (…, C) and ``scales``, which broadcast, to numbers (…, C)."""
        ratios = values / scales
        inside = ratios.abs() <= largest
        ctx.save_for_backward(ratios, scales, inside)
        return ratios.clamp(-largest, largest).round_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """``gradient`` (…, C)."""
        ratios, scales, inside = ctx.saved_tensors
        of_values = gradient * inside / scales
        return of_values, (-of_values * ratios).sum_to_size(scales.shape), None


def best_scales(values: Tensor, bits: int) -> Tensor:
    """The scale of each row, (R, 1), with the least squared error among :data:`TRIED` ranges.

    Args:
        values: (R, C) float.
    """
    largest = (1 << (bits - 1)) - 1
    reach = values.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny * largest)  # (R, 1)
    best, least = reach / largest, torch.full_like(reach, math.inf)
    for index in range(TRIED, 0, -1):
        scales = reach * (index / TRIED) / largest
        rounded = (values / scales).round_().clamp_(-largest, largest).mul_(scales)
        errors = rounded.sub_(values).square_().sum(-1, keepdim=True)  # (R, 1)
        best, least = torch.where(errors < least, scales, best), errors.minimum(least)
    return best


class LearnedScale(nn.Module):
    """Positive scales that are trained.

    Unlike the paper, it is the logarithm that is trained: the steps of Adam have the size of the learning rate, which
    would be many times a scale of 8 bits and hardly anything to one of 2.

    Args:
        scales: Where they start, any shape.
        entries: How many numbers each scale is for: its gradient is divided by the root of ``entries`` × L.
        learning_rate_factor: Multiplies the base rate.
    """

    def __init__(self, scales: Tensor, entries: int, largest: int, learning_rate_factor: float) -> None:
        super().__init__()
        logarithms: Any = nn.Parameter(scales.log())
        logarithms.learning_rate_factor = learning_rate_factor
        logarithms.weight_decay_factor = 0.0
        self.logarithms = logarithms
        self.gradient_scale = 1 / math.sqrt(entries * largest)

    def forward(self) -> Tensor:
        """The scales, with a gradient that is ``gradient_scale`` times their own."""
        damped = self.logarithms * self.gradient_scale
        return (damped + (self.logarithms - damped).detach()).exp()

    def start_at(self, scales: Tensor) -> None:
        """Start anew."""
        with torch.no_grad():
            self.logarithms.copy_(scales.log())


class LearnedRows(Rounding):
    """Evenly spaced numbers, the scale of each row trained.

    Unlike the paper, scales start where the squared error is least: what the paper starts with is much too wide at 8
    bits, and few steps are left to mend it.

    Args:
        weight: (R, C), to start from.
    """

    def __init__(self, weight: Tensor, bits: int, learning_rate_factor: float) -> None:
        super().__init__()
        self.bits, self.largest = bits, (1 << (bits - 1)) - 1
        self.scales = LearnedScale(
            best_scales(weight, bits), weight.shape[1], self.largest, learning_rate_factor
        )

    def forward(self, values: Tensor, which: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(…, C) to numbers (…, C) and scales (…, 1)."""
        scales = self.scales()[which]
        return LearnedRounding.apply(values, scales, self.largest), scales

    def begin(self, weight: Tensor) -> None:
        """Start where the squared error of these weights is least."""
        self.scales.start_at(best_scales(weight, self.bits))


class LearnedInputs(nn.Module):
    """Activations in int8, with one trained scale for all of them.

    Args:
        reach: The largest activation that is not cut off, to start with; above 0.
        width: I.
    """

    def __init__(self, reach: float, width: int, learning_rate_factor: float) -> None:
        super().__init__()
        self.scales = LearnedScale(torch.tensor(reach / LARGEST), width, LARGEST, learning_rate_factor)

    @property
    def scale(self) -> Tensor:
        """The scale itself, ()."""
        return self.scales().detach()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(…, I) to numbers (…, I) and the scale ()."""
        scale = self.scales()
        return LearnedRounding.apply(x.float(), scale, LARGEST), scale


class QAT:
    """Linear layers and tables in few bits, trained through their rounding; what is deployed is what was trained.

    Weights are symmetric with one scale a row, activations int8. With ``minmax`` scales reach to the largest magnitude,
    of activations for each token by itself; with ``learned`` they are trained, one for the activations of a layer.
    Biases, norms and the head stay float. Tables of other things than words are kept in 8 bits.

    Args:
        bits: Of weights, from 2 to 8.
        activation_bits: 8, or None for float.
        scales: ``minmax`` or ``learned``.
        begins_after: Share of the training steps before which nothing is rounded, in [0, 1]; with 1, rounding comes
            after the training.
        learning_rate_factor: Multiplies the base rate for the logarithms of learned scales.
        calibration_texts: On how many training texts the ranges of activations are found with which learned scales
            start.
        embeddings: Round the embedding tables, too.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        bits: int = 4,
        activation_bits: int | None = 8,
        scales: str = "learned",
        begins_after: float = 0.0,
        learning_rate_factor: float = 2.0,
        calibration_texts: int = 128,
        embeddings: bool = True,
    ) -> None:
        if isinstance(bits, bool) or bits not in range(FEWEST_BITS, MOST_BITS + 1):
            raise ValueError(f"bits must be from {FEWEST_BITS} to {MOST_BITS}, got {bits!r}")
        if scales not in SCALES:
            raise ValueError(f"scales must be one of {', '.join(SCALES)}, got {scales!r}")
        if not learning_rate_factor > 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.bits, self.scales, self.embeddings = bits, scales, embeddings
        self.activation_bits = check_activation_bits(activation_bits)
        self.begins_after = check_begins_after(begins_after)
        self.learning_rate_factor = learning_rate_factor
        needs_texts = scales == "learned" and activation_bits is not None
        self.calibration_texts = check_texts(calibration_texts) if needs_texts else 0
        self.calibrates_at = "prepare" if needs_texts else "never"
        self._reaches: dict[str, float] | None = None

    @property
    def settled_after(self) -> float:
        """From here on the model rounds as the deployed one does."""
        return self.begins_after

    def calibrate(self, model: nn.Module, batches: list[Batch]) -> None:
        """Find how far the scales of activations reach at the start: where the squared error is least."""
        histograms = input_histograms(model, encoder_layers(model, nn.Linear), batches)
        self._reaches = {name: by_mse(h) for name, h in histograms.items() if h.largest > 0}

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let every linear layer and table of the encoder round, in place.

        Raises:
            ValueError: If activations have learned scales and it has seen no texts, or the encoder has no linear layer.
        """
        if self.calibration_texts and self._reaches is None:
            raise ValueError("qat starts learned scales of activations on texts: it must see some first")
        model = round_in_training(model, self._rounding, self._inputs(model), self.embeddings)
        self._reaches = None
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What begins the rounding, where it is not there from the start."""
        return [BeginRounding(self.begins_after)] if self.begins_after > 0 else []

    def finish(self, model: nn.Module) -> nn.Module:
        """Put packed layers in the place of those that were trained, in place.

        Raises:
            ValueError: If the model was not prepared.
        """
        return deploy_rounded(model, {"bits": self.bits})

    def _rounding(self, weight: Tensor) -> Rounding:
        if self.scales == "minmax":
            return MinMax(self.bits)
        return LearnedRows(weight, self.bits, self.learning_rate_factor)

    def _inputs(self, model: nn.Module) -> Any:
        reaches, factor = self._reaches or {}, self.learning_rate_factor
        widths = {name: layer.in_features for name, layer in encoder_layers(model, nn.Linear).items()}

        def make(name: str) -> nn.Module | None:
            if self.activation_bits is None:
                return None
            # A layer that no text reached, or zeros only, finds its scales as activations come.
            return LearnedInputs(reaches[name], widths[name], factor) if name in reaches else RowInputs()

        return make
