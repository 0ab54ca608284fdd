import pytest
import torch
from torch import nn

from effnlp.compression.quantization.packed import round_rows
from effnlp.compression.quantization.packed_products import PackedIntegerLinear
from effnlp.compression.quantization.products import DynamicInt8Linear, StaticInt8Linear


@pytest.mark.parametrize("input_scale", [None, 0.02])
def test_with_8_bits_it_is_the_int8_layer(input_scale):
    linear, x = nn.Linear(48, 20), torch.randn(600, 48)
    scale = None if input_scale is None else torch.tensor(input_scale)
    layer = PackedIntegerLinear(linear, round_rows(linear.weight.detach(), 8), scale)
    known = DynamicInt8Linear(linear) if input_scale is None else StaticInt8Linear(linear, input_scale)
    torch.testing.assert_close(layer(x), known(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("input_scale", [None, 0.02])
@pytest.mark.parametrize("bits", [2, 3, 7])
def test_what_is_exported_gives_the_same(bits, input_scale):
    linear, x = nn.Linear(33, 20), torch.randn(4, 100, 33)
    scale = None if input_scale is None else torch.tensor(input_scale)
    layer = PackedIntegerLinear(linear, round_rows(linear.weight.detach(), bits), scale)
    assert torch.equal(layer.for_export()(x), layer(x))
    assert torch.equal(layer.weight, round_rows(linear.weight.detach(), bits).values)


def test_weights_that_integer_products_cannot_have_are_refused():
    linear = nn.Linear(32, 8)
    with pytest.raises(ValueError, match="one scale an output, got 4 scales"):
        PackedIntegerLinear(linear, round_rows(linear.weight.detach(), 4, 8))
    with pytest.raises(
        ValueError, match="symmetric weights with one scale an output, got 1 scales and zeros"
    ):
        PackedIntegerLinear(linear, round_rows(linear.weight.detach(), 4, None, False))
