import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.quantization.integer import quantize_rows
from effnlp.compression.quantization.llm_int8 import DecomposedLinear, LLMInt8
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.evaluation.flops import count_flops
from effnlp.model.classifier import count_params


def with_outliers(rows=64, inputs=128):
    """Inputs of which four are twenty times as large as the others, and which those are."""
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
    outliers = torch.zeros(inputs, dtype=torch.bool)
    outliers[[3, 40, 77, 101]] = True
    x[:, outliers] *= 20
    return x, outliers


def absmax(x, linear):
    """One scale for all activations and one for all weights, in 8 bits."""
    (left, a), (right, b) = (quantize_rows(v.detach().reshape(1, -1)) for v in (x, linear.weight))
    product = left.view_as(x).double() @ right.view_as(linear.weight).double().t() * (a * b).item()
    return product + linear.bias.double()


def test_with_planted_outliers_the_error_of_absmax_falls_at_least_five_times():
    torch.manual_seed(0)
    linear, (x, outliers) = nn.Linear(128, 64), with_outliers()
    exact = linear(x).double()
    error = (DecomposedLinear(linear, outliers)(x) - exact).square().mean().sqrt()
    assert 5 * error < (absmax(x, linear) - exact).square().mean().sqrt()
    assert 5 * error < (DynamicInt8Linear(linear)(x) - exact).square().mean().sqrt()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [0, 3, 24])
def test_a_layer_equals_the_reference_in_64_bits(count, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 20, bias=bias), torch.randn(2, 5, 24)
    outliers = torch.zeros(24, dtype=torch.bool)
    outliers[torch.randperm(24)[:count]] = True
    layer, rows, weight = DecomposedLinear(linear, outliers), x.view(10, 24), linear.weight.detach()
    expected = rows[:, outliers].double() @ weight[:, outliers].double().t()
    if count < 24:
        (left, a), (right, b) = quantize_rows(rows[:, ~outliers]), quantize_rows(weight[:, ~outliers])
        expected = expected + (left.long() @ right.long().t()).double() * a.double() * b.double().t()
    expected = expected if linear.bias is None else expected + linear.bias.detach().double()
    torch.testing.assert_close(layer(x).view(10, 20).double(), expected, rtol=1e-6, atol=1e-5)
    assert layer.integers.numel() + layer.floats.numel() == weight.numel()


def test_without_outliers_it_is_dynamic_int8_and_with_nothing_else_the_float_layer():
    linear, x = nn.Linear(24, 20), torch.randn(7, 24)
    none, every = torch.zeros(24, dtype=torch.bool), torch.ones(24, dtype=torch.bool)
    torch.testing.assert_close(
        DecomposedLinear(linear, none)(x), DynamicInt8Linear(linear)(x), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(DecomposedLinear(linear, every)(x), linear(x))


@pytest.fixture
def with_wide_norm(make_classifier):
    """A classifier whose first norm gives two outputs thirty times the others."""

    def make():
        model = make_classifier()
        with torch.no_grad():
            model.encoder.layers[0].mixer_norm.weight[[5, 20]] = 30.0
        return model

    return make


def test_inputs_that_reach_the_threshold_stay_float_and_cost_the_same_work(with_wide_norm, make_batch):
    model, batch = with_wide_norm(), make_batch(32)
    logits, flops = model(batch), count_flops(lambda: model(batch)).flops
    plain = method.finish(LLMInt8(threshold=1e6), with_wide_norm(), [batch])
    model = method.finish(LLMInt8(threshold=8.0), model, [batch])
    for name in ("query", "key", "value"):
        assert model.encoder.get_submodule(f"layers.0.mixer.{name}").outliers.tolist() == [5, 20]
    noted = model.applied["compression/quantization"]
    layers = [m for m in model.modules() if isinstance(m, DecomposedLinear)]
    assert noted["float_weights"] == sum(layer.floats.numel() for layer in layers) >= 3 * 2 * 32
    assert plain.applied["compression/quantization"]["float_weights"] == 0
    errors = [(m(batch) - logits).square().mean() for m in (model, plain)]
    assert errors[0] < errors[1]
    assert count_params(model) == count_params(with_wide_norm())
    assert count_flops(lambda: model(batch)).flops == flops


def test_without_texts_it_is_refused_and_so_is_no_threshold(make_classifier):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(LLMInt8(), make_classifier(), [])
    with pytest.raises(ValueError, match="must see calibration texts first"):
        LLMInt8().finish(make_classifier())
    with pytest.raises(ValueError, match="threshold must be above 0, got 0"):
        LLMInt8(threshold=0)
