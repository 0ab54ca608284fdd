import pytest
import torch

from effnlp.compression.quantization.packed import PackedRows, Rounded
from effnlp.compression.quantization.ternary import Ternary, TernaryRows, ternarize


def least_error(row):
    """The squared error of the best -1, 0, 1 and scale, found by trying every number of zeros."""
    ordered = row.abs().sort(descending=True).values.double()
    gained = ordered.cumsum(0).square() / torch.arange(1, len(row) + 1)  # with scale = mean of those kept
    return float(row.double().square().sum() - gained.max())


def error_of(row, threshold):
    numbers, scale = ternarize(row, threshold)
    return float((numbers * scale - row).double().square().sum())


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_the_threshold_of_0_7_means_is_near_the_least_squared_error(kind):
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        drawn = torch.rand(2000, generator=generator)
        row = torch.erfinv(drawn * 1.998 - 0.999) if kind == "normal" else drawn * 2 - 1
        least = least_error(row)
        assert least <= error_of(row, 0.7) * (1 + 1e-6)
        assert error_of(row, 0.7) < 1.02 * least
        assert error_of(row, 0.2) > 1.1 * least
        assert error_of(row, 1.4) > 1.1 * least


def test_the_scale_is_the_best_for_its_numbers():
    rows = torch.randn(4, 200)
    numbers, scales = ternarize(rows, 0.7)
    errors = [(numbers * scales * f - rows).square().sum(1) for f in (0.98, 1.0, 1.02)]
    assert (errors[1] < errors[0]).all()
    assert (errors[1] < errors[2]).all()


def test_weights_below_the_threshold_are_zero_and_the_others_keep_their_sign():
    rows = torch.randn(5, 64) * torch.logspace(-3, 3, 5).unsqueeze(1)
    numbers, scales = ternarize(rows, 0.7)
    is_small = rows.abs() <= 0.7 * rows.abs().mean(1, keepdim=True)
    assert torch.equal(numbers == 0, is_small)
    assert torch.equal(numbers[~is_small], rows.sign()[~is_small])
    for row in range(5):
        assert scales[row] == pytest.approx(float(rows[row][~is_small[row]].abs().mean()), rel=1e-5)


def test_with_a_threshold_of_zero_only_zeros_are_zero():
    rows = torch.tensor([[0.0, 1.0, -3.0], [0.0, 0.0, 0.0]])
    numbers, scales = ternarize(rows, 0.0)
    assert numbers.tolist() == [[0, 1, -1], [0, 0, 0]]
    assert torch.equal(numbers * scales, torch.tensor([[0.0, 2.0, -2.0], [0.0, 0.0, 0.0]]))


def test_numbers_of_two_bits_come_back():
    rows = torch.randn(7, 33)
    numbers, scales = ternarize(rows, 0.7)
    stored = PackedRows(Rounded((numbers + 2).to(torch.uint8), scales, None, 2))
    assert torch.equal(stored.rows(slice(None)), numbers * scales)
    assert stored.packed.shape == (7, 9)
    assert torch.equal(stored.by_arithmetic().rows(slice(None)), numbers * scales)


def test_the_gradient_of_a_float_weight_is_that_of_the_weight_in_use():
    weight = torch.randn(4, 9, requires_grad=True)
    numbers, scales = TernaryRows(0.7)(weight, slice(None))
    gradient = torch.randn(4, 9)
    (numbers * scales * gradient).sum().backward()
    torch.testing.assert_close(weight.grad, gradient)  # also where the weight in use is zero


def test_a_negative_threshold_is_refused_at_once():
    with pytest.raises(ValueError, match=r"threshold must be at least 0, got -0\.1"):
        Ternary(threshold=-0.1)
