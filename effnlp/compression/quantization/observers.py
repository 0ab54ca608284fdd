"""How far the scale of a layer's activations should reach, by a histogram of their magnitudes.

Sources: percentiles, entropy: Migacz (2017), "8-bit inference with TensorRT", reviewed by Wu et al. (2020),
https://arxiv.org/abs/2004.09602; squared error: Banner et al. (2019), https://arxiv.org/abs/1810.05723

Legend: N tokens of all texts, I width in of a layer, B bins.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments, see_inputs
from effnlp.compression.quantization.integer import LARGEST
from effnlp.data.encodings import Batch

BINS = 2048
FEWEST_BINS, STEP = 128, 8
"""Of the ranges that ``entropy`` tries: the narrowest, and by how many bins the next is wider."""

TRIED = 200
"""Ranges that ``mse`` tries, evenly spaced up to the largest magnitude."""


@dataclass(frozen=True)
class Histogram:
    """How many magnitudes lie in each of B even bins.

    Attributes:
        counts: Float64 (B,).
        largest: Upper end of the last bin.
    """

    counts: Tensor
    largest: float


def input_histograms(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Batch]
) -> dict[str, Histogram]:
    """The magnitudes of what each layer is given; a layer that no text reaches is not in it. Texts are run twice."""
    batches = list(batches)
    maxima = input_moments(model, layers, batches, "max")
    largest = {name: float(value.max()) for name, value in maxima.items()}
    counts = {name: torch.zeros(BINS, dtype=torch.float64) for name in largest}

    def add(name: str, x: Tensor) -> None:
        if largest[name] > 0:
            counts[name] += torch.histc(x.abs().float(), BINS, 0, largest[name]).double().cpu()

    see_inputs(model, layers, batches, add)
    return {name: Histogram(counts[name], largest[name]) for name in largest}


def by_minmax(histogram: Histogram) -> float:
    """Up to the largest magnitude: nothing is cut off."""
    return histogram.largest


def by_percentile(histogram: Histogram, percentile: float = 99.99) -> float:
    """Up to the end of the bin in which the percentile lies."""
    share = histogram.counts.cumsum(0) / histogram.counts.sum()
    index = int(torch.searchsorted(share, torch.tensor(percentile / 100, dtype=share.dtype)))
    return histogram.largest * (min(index, BINS - 1) + 1) / BINS


def by_mse(histogram: Histogram) -> float:
    """Where the mean square of what rounding and cutting change is smallest, bins standing for their middles."""
    middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS * histogram.largest  # (B,)
    ends = torch.arange(1, TRIED + 1, dtype=torch.float64).unsqueeze(1) / TRIED * histogram.largest
    scales = ends / LARGEST  # (TRIED, 1)
    rounded = (middles / scales).round().clamp_max(LARGEST) * scales  # (TRIED, B)
    errors = ((rounded - middles).square() * histogram.counts).sum(1)
    return float(ends[int(errors.argmin())])


def by_entropy(histogram: Histogram) -> float:
    """Where the distribution of what is kept, in as many levels as there are, diverges least from the original one.

    The divergence is that of Kullback and Leibler. What is cut off counts as the end of the range; a level's mass is
    spread over those of its bins that were not empty.
    """
    counts = histogram.counts
    ends = range(FEWEST_BINS, BINS + 1, STEP)
    divergences = [divergence(counts, end) for end in ends]
    best = min(range(len(divergences)), key=divergences.__getitem__)
    return histogram.largest * ends[best] / BINS


def divergence(counts: Tensor, end: int) -> float:
    """KL(P || Q) of the first ``end`` bins, Q in 128 levels."""
    kept = counts[:end]
    original = kept.clone()
    original[-1] += counts[end:].sum()
    level = torch.arange(end) * (LARGEST + 1) // end  # (end,)
    mass = torch.zeros(LARGEST + 1, dtype=counts.dtype).index_add_(0, level, kept)
    filled = torch.zeros(LARGEST + 1, dtype=counts.dtype).index_add_(0, level, (kept > 0).to(counts.dtype))
    spread = torch.where(kept > 0, (mass / filled.clamp_min(1))[level], 0.0)
    p = original / original.sum()
    q = (spread / spread.sum().clamp_min(1)).clamp_min(1e-9)  # a bin that Q lacks costs much, not all
    return float((p * (p.clamp_min(1e-300) / q).log()).sum())


OBSERVERS = ("minmax", "percentile", "entropy", "mse")


def check_observer(observer: str) -> str:
    """``observer``, if it is one of :data:`OBSERVERS`."""
    if observer not in OBSERVERS:
        raise ValueError(f"observer must be one of {', '.join(OBSERVERS)}, got {observer!r}")
    return observer


def range_by(observer: str, histogram: Histogram, percentile: float) -> float:
    """How far the scale reaches by one of :data:`OBSERVERS`; 0 where all activations are zero."""
    if histogram.largest == 0:
        return 0.0
    if observer == "percentile":
        return by_percentile(histogram, percentile)
    return {"minmax": by_minmax, "entropy": by_entropy, "mse": by_mse}[observer](histogram)
