import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effnlp.compression.quantization.packed import (
    BITS,
    PackedEmbedding,
    PackedLinear,
    PackedRows,
    ProductWithRows,
    check_bits,
    check_group_size,
    pack,
    round_rows,
    unpack,
)
from effnlp.model.sparse import pack_tensor

every_kind = pytest.mark.parametrize("symmetric", [True, False])
every_width = pytest.mark.parametrize("bits", BITS)


def decibels(signal, error):
    return 10 * torch.log10(signal.square().mean() / error.square().mean())


def uneven_rows(rows=40, columns=48, seed=0):
    """Rows of very different sizes, and groups of them, none of them centred."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-3, 2, rows).unsqueeze(1) * torch.logspace(0, 1, columns)
    return (torch.randn(rows, columns, generator=generator) + 0.5) * sizes


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("columns", [1, 7, 8, 33])
def test_what_is_packed_comes_back_and_takes_its_bits(bits, columns):
    numbers = torch.randint(0, 2**bits, (5, columns), dtype=torch.uint8)
    packed = pack(numbers, bits)
    assert torch.equal(unpack(packed, bits, columns), numbers)
    assert torch.equal(unpack(packed[torch.tensor([[3, 1]])], bits, columns), numbers[torch.tensor([[3, 1]])])
    assert bits * columns <= 8 * packed.shape[1] < bits * columns + 8 * bits.bit_count()


@every_kind
@every_width
def test_no_value_is_more_than_half_a_scale_away(bits, symmetric):
    values = uneven_rows()
    rounded = round_rows(values, bits, 8, symmetric)
    scales = rounded.scales.repeat_interleave(8, dim=1)
    assert ((rounded.values - values).abs() <= scales / 2 * (1 + 1e-4)).all()


@every_kind
@every_width
def test_zero_stays_zero_also_in_a_group_of_zeros_and_takes_no_bytes_when_stored(bits, symmetric):
    values = uneven_rows(columns=64)
    values[torch.rand_like(values) < 0.9] = 0
    values[7] = 0
    rounded = round_rows(values, bits, 16, symmetric)
    assert (rounded.values[values == 0] == 0).all()
    assert torch.isfinite(rounded.scales).all()
    stored = PackedRows(rounded)
    assert torch.equal(stored.rows(slice(None)), rounded.values)
    assert isinstance(pack_tensor(stored.packed), dict)
    assert (unpack(stored.packed, bits, 64)[values == 0] == 0).all()


@every_kind
@every_width
def test_what_is_on_the_grid_comes_back_exactly(bits, symmetric):
    smallest = 1 if symmetric else 0
    zero = 2 ** (bits - 1)
    numbers = torch.randint(smallest, 2**bits, (9, 32))
    numbers[:, ::8], numbers[:, 1::8] = smallest, 2**bits - 1
    values = (numbers - zero) * 0.25
    assert torch.equal(round_rows(values, bits, 8, symmetric).values, values)


def test_a_symmetric_number_is_the_nearest_of_all():
    values = uneven_rows(rows=6)
    rounded = round_rows(values, 3, 16)
    for row in range(6):
        for column in range(48):
            grid = torch.arange(-3, 4) * rounded.scales[row, column // 16]
            nearest = (grid - values[row, column]).abs().min()
            found = (rounded.values[row, column] - values[row, column]).abs()
            assert found <= nearest * (1 + 1e-4) + 1e-12


@every_kind
def test_smaller_groups_err_less_and_a_scale_a_row_less_than_one_for_all(symmetric):
    values = uneven_rows()
    flat = round_rows(values.view(1, -1), 4, None, symmetric).values.view_as(values)
    errors = [(flat - values).square().sum()]
    errors += [
        (round_rows(values, 4, size, symmetric).values - values).square().sum() for size in (None, 16, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[1] > errors[-1]


@every_kind
def test_each_bit_gains_6_decibels(symmetric):
    values = torch.rand(200, 300) * 2 - 1  # uniform: the textbook's 6.02 dB a bit
    found = [decibels(values, round_rows(values, b, None, symmetric).values - values) for b in (3, 4, 8)]
    # Of b bits in symmetric form 2^b - 1 numbers are used.
    for bits, value in zip((3, 4, 8), found, strict=True):
        assert value > 20 * torch.log10(torch.tensor(2.0**bits - (2 if symmetric else 1))) - 0.1
        assert value > 6 * bits - (2.9 if symmetric else 1.3)


def test_values_on_one_side_of_zero_are_told_apart_better_by_the_asymmetric_form():
    values = torch.rand(20, 64) + 0.1
    errors = [(round_rows(values, 4, None, s).values - values).square().sum() for s in (True, False)]
    assert errors[1] < errors[0] / 3


@every_kind
@every_width
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_the_float_layer_of_its_rounded_weights(bits, symmetric, bias):
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(3, 5, 24)
    rounded = round_rows(linear.weight.detach(), bits, 8, symmetric)
    layer = PackedLinear(linear, rounded)
    torch.testing.assert_close(layer(x), F.linear(x, rounded.values, linear.bias), rtol=0, atol=1e-6)
    assert torch.equal(layer.weight, rounded.values)
    assert {name for name, _ in layer.named_parameters()} == ({"bias"} if bias else set())


def test_gradcheck_of_the_product_in_double_precision():
    stored = PackedRows(round_rows(torch.randn(7, 6, dtype=torch.float64), 4, 3))
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ProductWithRows.apply(x, stored), [x])


def test_the_float_copy_of_the_weights_does_not_wait_for_the_backward_pass():
    linear, saved = nn.Linear(24, 40), []
    layer = PackedLinear(linear, round_rows(linear.weight.detach(), 4))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(3, 24, requires_grad=True)).sum().backward()
    assert not [t for t in saved if t.shape == (40, 24)]


@every_kind
def test_an_embedding_gives_the_rounded_rows(symmetric):
    table = nn.Embedding(20, 6, padding_idx=2)
    rounded = round_rows(table.weight.detach(), 4, 3, symmetric)
    layer, ids = PackedEmbedding(table, rounded), torch.randint(20, (4, 5))
    assert torch.equal(layer(ids), rounded.values[ids])
    assert (layer(torch.tensor([2])) == 0).all()


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_a_bag_equals_the_float_bag_of_the_rounded_table(mode):
    bag = nn.EmbeddingBag(20, 6, mode=mode, padding_idx=0)
    layer, ids = PackedEmbedding(bag, round_rows(bag.weight.detach(), 4)), torch.randint(20, (4, 9))
    ids[:, 6:] = 0
    bag.weight.data.copy_(layer.weight)
    torch.testing.assert_close(layer(ids), bag(ids), rtol=0, atol=1e-6)


def test_a_group_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(
        ValueError, match=r"group_size 7 does not divide rows of 24 weights; the next smaller .* is 6"
    ):
        round_rows(torch.randn(3, 24), 4, 7)


def test_a_row_of_fewer_weights_is_one_group():
    values = torch.randn(3, 24)
    assert torch.equal(round_rows(values, 4, 64).values, round_rows(values, 4, None).values)


@every_kind
@pytest.mark.parametrize("bits", range(2, 9))
def test_what_is_exported_reads_the_same_rows_by_arithmetic(bits, symmetric):
    stored = PackedRows(round_rows(uneven_rows(), bits, 16, symmetric))
    which = torch.tensor([[0, 3], [3, 39]])
    plain = stored.by_arithmetic()
    assert torch.equal(plain.rows(which), stored.rows(which))
    assert torch.equal(plain.rows(slice(None)), stored.rows(slice(None)))
    assert plain.packed.shape == stored.packed.shape


def test_other_widths_and_sizes_are_refused():
    with pytest.raises(ValueError, match="bits must be one of 2, 3, 4, 8, got 5"):
        check_bits(5)
    with pytest.raises(ValueError, match="group_size must be at least 1, or null for whole rows, got 0"):
        check_group_size(0)
