"""Static int8: integer weights and activations, the scale of each layer's activations found on calibration texts.

Source: Zafrir et al. (2019), https://arxiv.org/abs/1910.06188; ranges: Wu et al. (2020),
https://arxiv.org/abs/2004.09602
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from effnlp.compression.quantization.backends import check_backend, use_backend
from effnlp.compression.quantization.integer import LARGEST, quantize_tables
from effnlp.compression.quantization.moment import check_texts
from effnlp.compression.quantization.observers import check_observer, input_histograms, range_by
from effnlp.compression.quantization.packed import weights_in
from effnlp.compression.quantization.products import DynamicInt8Linear, StaticInt8Linear
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers", "embeddings")}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}


class Int8Static:
    """One scale for all activations that a layer is given, one for each output of its weights; the head stays float.

    Unlike the paper, nothing is trained with the rounding, and the scale of activations is not a running mean.

    Args:
        observer: How far a scale reaches: ``minmax``, to the largest magnitude that was seen; ``percentile``;
            ``entropy``, where the distribution changes least; ``mse``, where the squared error is smallest.
        percentile: That of the magnitudes, above 0, at most 100; for that observer alone.
        calibration_texts: How many training texts are read.
        embeddings: Keep the embedding tables in int8.
        backend: Who multiplies: one of :data:`effnlp.compression.quantization.backends.NAMES`, or ``auto``, the
            first of :data:`effnlp.compression.quantization.backends.AUTO` that is there; the numbers are the same.

    Raises:
        ValueError: If a value is outside its range, or this machine lacks the back-end.
    """

    def __init__(
        self,
        observer: str = "mse",
        percentile: float = 99.99,
        calibration_texts: int = 128,
        embeddings: bool = True,
        backend: str = "auto",
    ) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
        self.observer, self.percentile = check_observer(observer), percentile
        self.calibration_texts, self.embeddings = check_texts(calibration_texts), embeddings
        self.backend = check_backend(backend)
        self._ranges: dict[str, float] | None = None

    def calibrate(self, model: nn.Module, batches: list[Batch]) -> None:
        """Find how far the scale of every layer reaches."""
        histograms = input_histograms(model, encoder_layers(model, nn.Linear), batches)
        self._ranges = {
            name: range_by(self.observer, histogram, self.percentile)
            for name, histogram in histograms.items()
        }

    def finish(self, model: nn.Module) -> nn.Module:
        """Turn every linear layer of the encoder into an integer one, in place.

        One that no text reached, or only zeros did, finds its scales as activations come.

        Raises:
            ValueError: If it has seen no texts, or the encoder has no linear layer.
            RuntimeError: If the integer products of this machine are wrong.
        """
        if self._ranges is None:
            raise ValueError(
                "int8_static needs the ranges of activations: it must see calibration texts first"
            )
        linears = encoder_layers(model, nn.Linear)
        scales = {name: value / LARGEST for name, value in self._ranges.items()}
        scales = {name: value for name, value in scales.items() if value > torch.finfo(torch.float32).tiny}
        tables = quantize_tables(model) if self.embeddings else 0
        weights = weights_in(linears.values()) + tables
        for name, linear in linears.items():
            replace_layers(model, [linear], partial(_integer_layer, scale=scales.get(name)))
        dynamic = sum(name not in scales for name in linears)
        noted: dict[str, float] = {
            "layers": len(linears),
            "int8_weights": weights,
            "layers_without_inputs": dynamic,
        }
        noted |= use_backend(model, self.backend)
        note(model, "compression/quantization", noted)
        self._ranges = None
        return model


def _integer_layer(linear: Any, scale: float | None) -> nn.Module:
    return DynamicInt8Linear(linear) if scale is None else StaticInt8Linear(linear, scale)
