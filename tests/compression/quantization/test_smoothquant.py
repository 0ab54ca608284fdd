import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.inputs import input_moments
from effnlp.compression.quantization.int8_dynamic import quantize_dynamically
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.compression.quantization.smoothquant import (
    SmoothedInput,
    SmoothQuant,
    read_by,
    smooth,
    smoothing_factors,
)
from effnlp.model.classifier import count_params
from effnlp.model.surgery import encoder_layers


def test_at_one_half_inputs_and_weights_reach_equally_far():
    x, weights = torch.rand(40, 12) * torch.logspace(-1, 2, 12), [torch.randn(5, 12), torch.randn(7, 12)]
    largest = x.abs().amax(0)
    factors = smoothing_factors(largest, weights, 0.5)
    torch.testing.assert_close(largest / factors, torch.cat(weights).abs().amax(0) * factors)
    torch.testing.assert_close(smoothing_factors(largest, weights, 1.0), largest)


def test_inputs_or_weights_of_zeros_are_left_alone():
    factors = smoothing_factors(torch.tensor([0.0, 2.0, 3.0]), [torch.tensor([[1.0, 0.0, 4.0]])], 0.5)
    assert factors[:2].tolist() == [1, 1]
    assert factors[2] == pytest.approx((3 / 4) ** 0.5)


def test_norms_before_the_layers_are_found_and_nothing_is_changed(make_classifier, make_batch):
    model, before = make_classifier(), make_classifier().state_dict()
    folds = read_by(model, encoder_layers(model, nn.Linear), make_batch())
    expected = {}
    for i in range(3):
        expected[f"layers.{i}.mixer_norm"] = {
            f"layers.{i}.mixer.{name}" for name in ("query", "key", "value")
        }
        expected[f"layers.{i}.feedforward_norm"] = {f"layers.{i}.feedforward.up"}
    assert {norm: set(names) for norm, names in folds.items()} == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_that_the_residual_stream_reads_as_well_takes_nothing_up(tiny_family):
    tiny = tiny_family("bert")
    assert read_by(tiny.model, encoder_layers(tiny.model, nn.Linear), tiny.batch(["the cat sat"])) == {}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_norms_of_decoders_take_factors_up(tiny_family, name):
    tiny = tiny_family(name)
    folds = read_by(tiny.model, encoder_layers(tiny.model, nn.Linear), tiny.batch(["the cat sat"]))
    assert len(folds) == 4  # two in each of two layers


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", [None, "bert", "llama"])
def test_smoothing_changes_nothing_before_the_rounding(make_classifier, make_batch, tiny_family, name, alpha):
    tiny = tiny_family(name) if name else None
    model = tiny.model if tiny else make_classifier()
    batch = tiny.batch(["the cat sat on the mat", "a film"]) if tiny else make_batch()
    expected, before = model(batch), {n: p.clone() for n, p in model.named_parameters()}
    linears = encoder_layers(model, nn.Linear)
    done = smooth(model, input_moments(model, linears, [batch], "max"), read_by(model, linears, batch), alpha)
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)
    assert sum(done.values()) == len(linears)
    assert sum(isinstance(m, SmoothedInput) for m in model.modules()) == done["multiplied"]
    assert not all(torch.equal(p, before.get(n, p.new_zeros(0))) for n, p in model.named_parameters())


def test_outliers_of_activations_cost_less_than_with_plain_dynamic_int8(make_classifier, make_batch):
    def make():
        model = make_classifier()
        with torch.no_grad():
            for block in model.encoder.layers:
                block.mixer_norm.weight[[5, 20]] *= 50.0
                for name in ("query", "key", "value"):
                    getattr(block.mixer, name).weight[:, [5, 20]] /= 50.0
        return model

    batches, test = [make_batch(32, seed=s) for s in range(3)], make_batch(32, seed=9)
    expected = make()(test)
    smoothed = method.finish(SmoothQuant(calibration_texts=96), make(), batches)
    errors = [(m(test) - expected).square().mean() for m in (smoothed, quantize_dynamically(make()))]
    assert 4 * errors[0] < errors[1]
    assert sum(isinstance(m, DynamicInt8Linear) for m in smoothed.modules()) == 18
    assert count_params(smoothed) == count_params(make())
    noted = smoothed.applied["compression/quantization"]
    assert (noted["layers"], noted["folded_layers"], noted["multiplied_layers"]) == (18, 12, 6)


def test_without_texts_it_is_refused_and_so_is_an_alpha_outside_its_range(make_classifier):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(SmoothQuant(), make_classifier(), [])
    with pytest.raises(ValueError, match="must see calibration texts first"):
        SmoothQuant().finish(make_classifier())
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 2"):
        SmoothQuant(alpha=2)
