import torch

from effnlp.compression.quantization.binary import BinaryRows, binarize
from effnlp.compression.quantization.packed import PackedRows, Rounded


def test_the_mean_magnitude_is_the_best_scale_of_a_grid():
    rows = torch.randn(6, 500) * torch.logspace(-2, 2, 6).unsqueeze(1)
    numbers, scales = binarize(rows)
    factors = torch.linspace(0, 3, 301)  # 1 is among them
    errors = torch.stack([(numbers * scales * f - rows).double().square().sum(1) for f in factors])
    assert (factors[errors.argmin(0)] == 1).all()
    torch.testing.assert_close(scales.squeeze(1), rows.abs().mean(1))


def test_no_other_signs_would_be_nearer():
    rows = torch.randn(1, 8)
    numbers, scales = binarize(rows)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 8)  # all 256
    errors = (signs * scales - rows).square().sum(1)
    assert torch.equal(signs[errors.argmin()], numbers[0])


def test_zero_counts_as_positive_and_a_row_of_zeros_stays_nearly_one():
    numbers, scales = binarize(torch.tensor([[0.0, -1.0], [0.0, 0.0]]))
    assert numbers.tolist() == [[1, -1], [1, 1]]
    assert ((numbers * scales)[1].abs() < 1e-30).all()


def test_numbers_of_one_bit_come_back():
    rows = torch.randn(7, 33)
    numbers, scales = binarize(rows)
    stored = PackedRows(Rounded(((numbers + 1) / 2).to(torch.uint8), scales, None, 1))
    assert torch.equal(stored.rows(slice(None)), numbers * scales)
    assert stored.packed.shape == (7, 5)
    assert torch.equal(stored.by_arithmetic().rows(slice(None)), numbers * scales)


def test_the_gradient_of_a_float_weight_is_that_of_the_weight_in_use():
    weight = torch.randn(4, 9, requires_grad=True)
    numbers, scales = BinaryRows()(weight, slice(None))
    gradient = torch.randn(4, 9)
    (numbers * scales * gradient).sum().backward()
    torch.testing.assert_close(weight.grad, gradient)
