import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effnlp.compression.quantization.integer import (
    Int8Embedding,
    Int8Linear,
    ProductWithIntegers,
    quantize_rows,
)


def decibels(signal, error):
    return 10 * torch.log10(signal.square().mean() / error.square().mean())


def uneven_rows(rows=50, columns=40):
    """Rows of very different sizes, so that one scale for all would show."""
    torch.manual_seed(0)
    return torch.randn(rows, columns) * torch.logspace(-3, 2, rows).unsqueeze(1)


def test_no_value_is_more_than_half_a_scale_away():
    values = uneven_rows()
    integers, scales = quantize_rows(values)
    error = (integers * scales - values).abs()
    assert (error <= scales / 2 * (1 + 1e-5)).all()


def test_the_range_is_symmetric_and_each_row_uses_it_up():
    integers, _ = quantize_rows(uneven_rows())
    assert integers.dtype == torch.int8
    assert (integers.int().abs().amax(1) == 127).all()


def test_zero_stays_zero_also_in_a_row_of_zeros():
    values = uneven_rows()
    values[:, ::3] = 0
    values[7] = 0
    integers, scales = quantize_rows(values)
    assert (integers[values == 0] == 0).all()
    assert torch.isfinite(scales).all()
    assert (integers * scales)[7].abs().sum() == 0


def test_what_is_on_the_grid_comes_back_exactly():
    integers = torch.randint(-126, 127, (9, 30), dtype=torch.int8)
    integers[:, 0] = 127
    again, scales = quantize_rows(integers * 0.25)
    assert torch.equal(again, integers)
    assert torch.equal(scales, torch.full((9, 1), 0.25))


def test_a_scale_a_row_errs_less_than_one_for_all():
    values = uneven_rows()
    integers, scales = quantize_rows(values)
    flat_integers, flat_scale = quantize_rows(values.view(1, -1))
    by_row = (integers * scales - values).square().mean(1)
    for_all = ((flat_integers * flat_scale).view_as(values) - values).square().mean(1)
    assert (by_row <= for_all * (1 + 1e-4)).all()
    assert by_row.sum() < for_all.sum()


def test_the_signal_is_6_decibels_a_bit_above_the_noise():
    values = torch.rand(200, 300) * 2 - 1  # uniform: the textbook's 6.02 dB a bit
    integers, scales = quantize_rows(values)
    assert decibels(values, integers * scales - values) > 6 * 8 - 1


def test_tiny_values_get_a_scale_that_is_not_zero():
    integers, scales = quantize_rows(torch.full((2, 3), 1e-40))
    assert (scales > 0).all()
    assert torch.isfinite(integers * scales).all()


@pytest.mark.parametrize("bias", [True, False])
def test_an_integer_layer_equals_the_float_layer_of_its_rounded_weights(bias):
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(3, 5, 24)
    layer = Int8Linear(linear)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, linear.bias), rtol=0, atol=1e-6)
    assert layer.bias is linear.bias
    assert {name for name, _ in layer.named_parameters()} == ({"bias"} if bias else set())


def test_gradcheck_of_the_product_in_double_precision():
    integers = torch.randint(-127, 128, (7, 5), dtype=torch.int8)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ProductWithIntegers.apply(x, integers), [x])


def test_the_float_copy_of_the_weights_does_not_wait_for_the_backward_pass():
    layer, saved = Int8Linear(nn.Linear(24, 40)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(3, 24, requires_grad=True))
    assert not [t for t in saved if t.shape == (40, 24) and t.is_floating_point()]
    assert [t for t in saved if t.dtype == torch.int8]


def test_an_embedding_gives_the_rounded_rows():
    table = nn.Embedding(20, 6, padding_idx=2)
    layer, ids = Int8Embedding(table), torch.randint(20, (4, 5))
    assert torch.equal(layer(ids), layer.weight[ids])
    assert (layer(torch.tensor([2])) == 0).all()
    assert (layer.weight - table.weight).abs().max() <= layer.scales.max() / 2 * (1 + 1e-5)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("padding", [None, 0])
def test_a_bag_equals_the_float_bag_of_the_rounded_table(mode, padding):
    bag = nn.EmbeddingBag(20, 6, mode=mode, padding_idx=padding)
    layer, ids = Int8Embedding(bag), torch.randint(20, (4, 9))
    ids[:, 6:] = 0
    ids[3] = 0  # nothing but padding
    bag.weight.data.copy_(layer.weight)
    torch.testing.assert_close(layer(ids), bag(ids), rtol=0, atol=1e-6)
    flat, offsets = ids.flatten(), torch.tensor([0, 5, 9])
    torch.testing.assert_close(layer(flat, offsets), bag(flat, offsets), rtol=0, atol=1e-6)
    no_padding = torch.full((2, 3), 5)  # the id of padding does not occur
    torch.testing.assert_close(layer(no_padding), bag(no_padding), rtol=0, atol=1e-6)


def test_a_table_that_changes_when_read_is_refused():
    with pytest.raises(ValueError, match=r"max_norm=1\.0"):
        Int8Embedding(nn.Embedding(3, 2, max_norm=1.0))
