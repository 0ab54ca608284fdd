"""Mixed bits: each table and linear layer in the bits that its share in the answers is worth, within a budget.

Source: Dong et al. (2020), https://arxiv.org/abs/1911.03852

Legend: R rows, C columns, G groups of a row, b bits, W weights, Q(W) what they are rounded to.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.compression.quantization.allocation import assign
from effnlp.compression.quantization.layer_times import nanoseconds
from effnlp.compression.quantization.moment import check_texts
from effnlp.compression.quantization.packed import (
    PackedEmbedding,
    PackedLinear,
    Rounded,
    check_bits,
    check_group_size,
    check_groups,
    columns_of_group,
    fields_of,
    round_rows,
)
from effnlp.compression.quantization.sensitivity import hessian_traces, loss_increases
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.language import LanguageModel
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"finish": ("embeddings",)}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}

KINDS = (nn.Linear, nn.Embedding, nn.EmbeddingBag)
SENSITIVITIES = ("hessian", "loss")


def packed_bytes(weight: Tensor, bits: int, group_size: int | None, symmetric: bool) -> int:
    """Bytes of ``weight`` (R, C) in ``bits``: the numbers, a scale a group and, unless symmetric, its zero."""
    rows, columns = weight.shape
    groups = columns // columns_of_group(columns, group_size)
    numbers = sum(-(-columns // (8 // width)) for _, width in fields_of(bits))
    return rows * (numbers + groups * (weight.element_size() + (0 if symmetric else 1)))


def float_bytes(layers: Mapping[str, Any]) -> int:
    """Bytes of the layers' weights as they are."""
    return sum(layer.weight.numel() * layer.weight.element_size() for layer in layers.values())


class Mixed:
    """The sum over layers of what each is expected to lose is the least that the budget allows, found exactly.

    Unlike in the paper, what a layer loses is a distance between answers, not a loss on labels, and its Hessian is that
    of Gauss and Newton, which is the Hessian of this distance. All tables are among the layers. Activations are floats.

    Args:
        bits: Widths to choose from: some of 2, 3, 4 and 8.
        bytes_fraction: The budget: bytes of the rounded weights with their scales, as a fraction of what they are as
            floats; in (0, 1]. None: there is a budget of time.
        latency_fraction: The budget in its place: what the layers take for a text, each measured alone on this machine,
            as a fraction of what they take as floats; above 0, and above 1 where unpacking costs more than it saves.
        sensitivity: ``hessian``: half the mean of the diagonal of a layer's Hessian times |W - Q(W)|²; ``loss``: how
            far answers really move with this layer alone rounded, which takes a pass for each layer and width.
        probes: Random vectors for each batch of texts, for the trace.
        group_size: Neighbours along the input that share a scale; a row of fewer is one group, and so is every row
            where it is None.
        symmetric: 2^b - 1 numbers around zero; else 2^b from the smallest weight to the largest.
        calibration_texts: How many training texts are read.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        bits: Sequence[int] = (2, 3, 4, 8),
        bytes_fraction: float | None = 0.15,
        latency_fraction: float | None = None,
        sensitivity: str = "hessian",
        probes: int = 4,
        group_size: int | None = 64,
        symmetric: bool = False,
        calibration_texts: int = 128,
    ) -> None:
        self.bits = sorted({check_bits(width) for width in bits})
        if not self.bits:
            raise ValueError("bits must name at least one width")
        if (bytes_fraction is None) == (latency_fraction is None):
            raise ValueError(
                f"one of bytes_fraction and latency_fraction must be a budget and the other null, "
                f"got {bytes_fraction} and {latency_fraction}"
            )
        if latency_fraction is not None and not latency_fraction > 0:
            raise ValueError(f"latency_fraction must be above 0, got {latency_fraction}")
        if bytes_fraction is not None and not 0 < bytes_fraction <= 1:
            raise ValueError(f"bytes_fraction must be in (0, 1], got {bytes_fraction}")
        if sensitivity not in SENSITIVITIES:
            raise ValueError(f"sensitivity must be one of {', '.join(SENSITIVITIES)}, got {sensitivity!r}")
        if probes < 1:
            raise ValueError(f"probes must be at least 1, got {probes}")
        self.bytes_fraction, self.latency_fraction = bytes_fraction, latency_fraction
        self.sensitivity, self.probes = sensitivity, probes
        self.group_size, self.symmetric = check_group_size(group_size), symmetric
        self.calibration_texts = check_texts(calibration_texts)
        self._errors: dict[str, list[float]] | None = None
        self._times: tuple[list[int], list[list[int]]] | None = None

    def check(self, model: nn.Module) -> None:
        """Refuse groups that do not fill a row, and a budget that no choice of bits meets, before the training."""
        if isinstance(model, LanguageModel):
            raise ValueError("mixed measures how answers move, and a language model gives none: take gptq")
        self._budget(encoder_layers(model, *KINDS))

    def calibrate(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Find what each layer would lose in each width."""
        layers = encoder_layers(model, *KINDS)
        check_groups(layers, self.group_size)
        if self.sensitivity == "loss":
            changed = [partial(self._values, bits=bits) for bits in self.bits]
            self._errors = loss_increases(model, layers, batches, changed)
            return
        traces = hessian_traces(model, layers, batches, self.probes, torch.Generator().manual_seed(0))
        self._errors = {
            name: [traces[name] * self._rounding_error(layer, bits) / 2 for bits in self.bits]
            for name, layer in layers.items()
        }

    def finish(self, model: nn.Module) -> nn.Module:
        """Choose the widths and round to the nearest, in place; biases, norms and head stay float.

        Raises:
            ValueError: If it has seen no texts, groups do not fill a row, or no choice meets the budget.
        """
        if self._errors is None:
            raise ValueError("mixed chooses by what layers would lose: it must see calibration texts first")
        layers: dict[str, Any] = encoder_layers(model, *KINDS)
        budget, costs = self._budget(layers)
        errors = [self._errors[name] for name in layers]
        options = assign(costs, errors, budget)
        widths = dict(zip(layers, (self.bits[option] for option in options), strict=True))
        noted = self._summary(layers, widths, budget, costs, errors)
        for name, layer in layers.items():
            replace_layers(model, [layer], partial(self._packed, bits=widths[name]))
        note(model, "compression/quantization", noted)
        self._errors = self._times = None
        return model

    def _packed(self, layer: Any, bits: int) -> nn.Module:
        made = PackedLinear if isinstance(layer, nn.Linear) else PackedEmbedding
        return made(layer, rounded=self._rounded(layer.weight.detach(), bits))

    def _rounded(self, weight: Tensor, bits: int) -> Rounded:
        return round_rows(weight, bits, self.group_size, self.symmetric)

    def _values(self, weight: Tensor, bits: int) -> Tensor:
        return self._rounded(weight, bits).values

    def _rounding_error(self, layer: Any, bits: int) -> float:
        """The mean of (W - Q(W))² of a layer: with the whole trace as good as the paper's mean trace with the sum."""
        weight = layer.weight.detach()
        lost = weight - self._values(weight, bits)
        return float(lost.double().square().mean())

    def _budget(self, layers: Mapping[str, Any]) -> tuple[int, list[list[int]]]:
        """The budget in bytes or nanoseconds, and what each layer takes in each width.

        Raises:
            ValueError: If groups do not fill a row, or the budget is too small; names the smallest possible.
        """
        check_groups(layers, self.group_size)
        whole, costs = self._bytes(layers) if self.latency_fraction is None else self._nanoseconds(layers)
        fraction: Any = self.bytes_fraction or self.latency_fraction
        budget, smallest = math.floor(fraction * whole), sum(map(min, costs))
        if smallest > budget:
            name, unit = (
                ("bytes_fraction", "bytes") if self.bytes_fraction else ("latency_fraction", "nanoseconds")
            )
            possible = math.ceil(smallest / whole * 1e4) / 1e4
            raise ValueError(
                f"no choice of bits meets {name}={fraction:g}: with a scale for each group, the cheapest widths take "
                f"{smallest} of {whole} {unit}; the smallest possible is {possible:g}"
            )
        return budget, costs

    def _bytes(self, layers: Mapping[str, Any]) -> tuple[int, list[list[int]]]:
        """All layers as floats, and each in each width."""
        costs = [
            [packed_bytes(layer.weight, bits, self.group_size, self.symmetric) for bits in self.bits]
            for layer in layers.values()
        ]
        return float_bytes(layers), costs

    def _nanoseconds(self, layers: Mapping[str, Any]) -> tuple[int, list[list[int]]]:
        """All layers as floats, and each in each width, as measured once: later calls decide by the same figures."""
        if self._times is None:
            self._times = nanoseconds(layers, [partial(self._packed, bits=bits) for bits in self.bits])
        as_floats, costs = self._times
        return sum(as_floats), costs

    def _summary(
        self,
        layers: Mapping[str, Any],
        widths: Mapping[str, int],
        budget: int,
        costs: Sequence[Sequence[int]],
        errors: Sequence[Sequence[float]],
    ) -> dict[str, float]:
        """What is noted: the whole assignment, too. Costs are in the unit of the budget."""
        places = [self.bits.index(width) for width in widths.values()]
        lost = sum(row[place] for row, place in zip(errors, places, strict=True))
        weights = [layer.weight.numel() for layer in layers.values()]
        noted: dict[str, float] = {
            "layers": len(layers),
            "packed_weights": sum(weights),
            **self._spent(layers, places, costs, budget),
            "average_bits": sum(w * n for w, n in zip(widths.values(), weights, strict=True)) / sum(weights),
            "expected_loss": lost,
        }
        for place in reversed(range(len(self.bits))):  # the widest that all layers could have
            if sum(row[place] for row in costs) <= budget:
                noted["uniform_bits"] = self.bits[place]
                noted["expected_loss_of_uniform"] = sum(row[place] for row in errors)
                break
        return noted | {f"bits/{name}": width for name, width in widths.items()}

    def _spent(
        self, layers: Mapping[str, Any], places: Sequence[int], costs: Sequence[Sequence[int]], budget: int
    ) -> dict[str, float]:
        """The bytes of the choice, and the budget; of a budget of time, what the layers take, too."""
        spent = sum(row[place] for row, place in zip(costs, places, strict=True))
        if self.latency_fraction is None:
            return {"bytes": spent, "budget_bytes": budget}
        _, each = self._bytes(layers)
        taken = sum(row[place] for row, place in zip(each, places, strict=True))
        return {"bytes": taken, "layer_seconds": spent / 1e9, "budget_seconds": budget / 1e9}
