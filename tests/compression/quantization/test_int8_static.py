import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.quantization.int8_static import Int8Static
from effnlp.compression.quantization.integer import quantize_rows
from effnlp.compression.quantization.observers import OBSERVERS
from effnlp.compression.quantization.products import DynamicInt8Linear, StaticInt8Linear
from effnlp.evaluation.flops import count_flops
from effnlp.model.classifier import count_params


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_the_reference_in_64_bits_also_beyond_its_range(bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 20, bias=bias), torch.randn(30, 48) * 3
    layer = StaticInt8Linear(linear, scale=4 / 127)
    integers = (x.double() / layer.input_scale.double()).round().clamp(-127, 127).long()
    assert (integers.abs() == 127).any()
    weights, scales = quantize_rows(linear.weight.detach())
    expected = (integers @ weights.long().t()).double() * layer.input_scale.double() * scales.double().t()
    expected = expected if linear.bias is None else expected + linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(layer(x.view(5, 6, 48)).view(30, 20), layer(x))
    assert torch.equal(layer(torch.zeros(1, 48))[0], torch.zeros(20) if linear.bias is None else linear.bias)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_signal_stays_far_above_noise_by_every_observer(make_classifier, make_batch, observer):
    batches = [make_batch(32, seed=s) for s in range(3)]
    test, model = make_batch(32, seed=9), make_classifier()
    logits = model(test)
    model = method.finish(Int8Static(observer=observer, calibration_texts=96), model, batches)
    noise = model(test) - logits
    assert logits.square().mean() / noise.square().mean() > 10**2  # 20 dB
    assert count_params(model) == count_params(make_classifier())
    assert model.applied["compression/quantization"]["layers_without_inputs"] == 0
    assert not [m for m in model.encoder.modules() if isinstance(m, nn.Linear | DynamicInt8Linear)]


def test_minmax_cuts_nothing_off_of_what_it_saw(make_classifier, make_batch):
    batch, model, largest = make_batch(32), make_classifier(), {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: largest.update(
                {name: max(float(args[0].detach().abs().max()), largest.get(name, 0))}
            )
        )
        for name, layer in model.encoder.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        model({name: batch[name][i : i + 1, :length] for name in ("input_ids", "attention_mask")})
    for handle in handles:
        handle.remove()
    model = method.finish(Int8Static(observer="minmax", calibration_texts=32), model, [batch])
    assert len(largest) == 18
    for name, value in largest.items():
        assert float(model.encoder.get_submodule(name).input_scale) * 127 == pytest.approx(value, rel=1e-4)


def test_padding_decides_nothing(make_classifier, make_batch):
    batch, padded = make_batch(16), make_batch(16)
    padded = {name: nn.functional.pad(v, (0, 3)) if v.dim() == 2 else v for name, v in padded.items()}
    padded["input_ids"][:, -3:] = 7
    models = [method.finish(Int8Static(), make_classifier(), [b]) for b in (batch, padded)]
    assert torch.equal(models[0](batch), models[1](batch))


def test_its_flops_are_those_of_the_float_model(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    expected = count_flops(lambda: model(batch)).flops
    finished = method.finish(Int8Static(), model, [make_batch(32)])
    assert count_flops(lambda: finished(batch)).flops == expected


def test_a_layer_that_no_text_reaches_finds_its_scales_as_activations_come(make_classifier, make_batch):
    model = make_classifier()
    model.encoder.spare = nn.Linear(32, 32)
    model = method.finish(Int8Static(), model, [make_batch()])
    assert isinstance(model.encoder.spare, DynamicInt8Linear)
    assert model.applied["compression/quantization"]["layers_without_inputs"] == 1


def test_without_texts_it_is_refused(make_classifier):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(Int8Static(), make_classifier(), [])
    with pytest.raises(ValueError, match="must see calibration texts first"):
        Int8Static().finish(make_classifier())


def test_values_outside_their_range_are_refused_at_once():
    with pytest.raises(
        ValueError, match="observer must be one of minmax, percentile, entropy, mse, got 'max'"
    ):
        Int8Static(observer="max")
    with pytest.raises(ValueError, match="percentile must be above 0 and at most 100, got 0"):
        Int8Static(percentile=0)
