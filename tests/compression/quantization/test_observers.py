import math

import pytest
import torch

from effnlp.compression.quantization.observers import (
    BINS,
    FEWEST_BINS,
    OBSERVERS,
    STEP,
    Histogram,
    by_entropy,
    by_minmax,
    by_mse,
    by_percentile,
    divergence,
    input_histograms,
    range_by,
)


def histogram_of(values):
    largest = float(values.abs().max())
    return Histogram(torch.histc(values.abs(), BINS, 0, largest).double(), largest)


@pytest.fixture(scope="module")
def with_outlier():
    """100,000 normal values and one a hundred times as large as most."""
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    values[7] = 100.0
    return values


def rounding_error(values, end):
    scale = end / 127
    return ((values / scale).round().clamp(-127, 127) * scale - values).square().mean()


def test_no_range_goes_beyond_what_was_seen_and_minmax_goes_that_far(with_outlier):
    histogram = histogram_of(with_outlier)
    assert by_minmax(histogram) == 100
    assert all(0 < range_by(observer, histogram, 99.99) <= 100 for observer in OBSERVERS)


def test_all_but_minmax_give_an_outlier_up_where_that_pays(with_outlier):
    histogram = histogram_of(with_outlier[:].clone())
    assert by_percentile(histogram, 99.9) < 6
    assert by_entropy(histogram) < 20


def test_mse_is_the_best_of_all_ranges_that_can_be_tried(with_outlier):
    values = with_outlier.clone()
    values[7] = 8.0
    found = rounding_error(values, by_mse(histogram_of(values)))
    tried = [rounding_error(values, end) for end in torch.linspace(0.1, 8.0, 80)]
    assert found <= min(tried) * 1.02
    assert found < rounding_error(values, 8.0)


@pytest.mark.parametrize("percentile", [50, 99, 100])
def test_a_percentile_is_that_of_the_values_to_a_bin(percentile):
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    expected = torch.quantile(values, percentile / 100)
    assert abs(by_percentile(histogram_of(values), percentile) - expected) <= 2 * values.max() / BINS


def test_the_divergence_equals_a_slow_reference():
    counts = torch.randint(0, 9, (BINS,), generator=torch.Generator().manual_seed(0)).double()
    for end in (128, 136, 1000, 2048):
        p = counts[:end].tolist()
        p[-1] += float(counts[end:].sum())
        q = [0.0] * end
        for level in range(128):
            bins = [i for i in range(end) if i * 128 // end == level]
            filled = [i for i in bins if counts[i] > 0]
            for i in filled:
                q[i] = sum(float(counts[j]) for j in bins) / len(filled)
        total_p, total_q = sum(p), sum(q)
        expected = sum(
            a / total_p * math.log(a / total_p / max(b / total_q, 1e-9))
            for a, b in zip(p, q, strict=True)
            if a > 0
        )
        assert divergence(counts, end) == pytest.approx(expected, rel=1e-9)


def test_entropy_takes_the_range_of_the_smallest_divergence(with_outlier):
    histogram = histogram_of(with_outlier)
    ends = range(FEWEST_BINS, BINS + 1, STEP)
    best = min(ends, key=lambda end: divergence(histogram.counts, end))
    assert by_entropy(histogram) == pytest.approx(best / BINS * 100)


def test_histograms_hold_every_activation_once(make_classifier, make_batch):
    model, batches = make_classifier(), [make_batch(8, seed=s) for s in range(2)]
    layers = {"up": model.encoder.layers[0].feedforward.up}
    found = input_histograms(model, layers, batches)["up"]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert found.counts.sum() == tokens * 32


def test_a_layer_of_zeros_has_no_range():
    assert range_by("mse", Histogram(torch.zeros(BINS).double(), 0.0), 99.99) == 0
