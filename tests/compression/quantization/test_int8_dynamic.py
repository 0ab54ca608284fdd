import io

import pytest
import torch
from torch import nn

from effnlp.compression.quantization.int8_dynamic import Int8Dynamic, quantize_dynamically
from effnlp.compression.quantization.integer import quantize_rows
from effnlp.compression.quantization.products import ROWS_AT_ONCE, DynamicInt8Linear
from effnlp.model.classifier import count_params
from effnlp.model.surgery import encoder_layers


def stored_bytes(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


@pytest.mark.parametrize("largest", [127, 63])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
def test_a_layer_equals_the_slow_reference(rows, bias, largest):
    torch.manual_seed(rows)
    linear, x = nn.Linear(48, 20, bias=bias), torch.randn(rows, 48) * torch.rand(rows, 1) * 10
    layer = DynamicInt8Linear(linear, largest)
    integers, scales = quantize_rows(x, largest)
    assert integers.max() == largest or integers.min() == -largest
    weights, weight_scales = quantize_rows(linear.weight.detach())
    total = integers.long() @ weights.long().t()
    expected = total.double() * scales.double() * weight_scales.double().t()
    expected = expected if linear.bias is None else expected + linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-6, atol=1e-6)


def test_the_result_for_a_row_does_not_depend_on_the_other_rows_by_a_single_bit():
    layer = DynamicInt8Linear(nn.Linear(48, 20))
    x = torch.randn(40, 48)
    x[1:] *= 1000  # with one scale for all, row 0 would vanish
    assert torch.equal(layer(x)[:1], layer(x[:1]))
    assert torch.equal(layer(x.view(4, 10, 48)).view(40, 20), layer(x))


def test_a_text_gets_the_same_logits_alone_and_in_a_batch_with_padding(make_classifier, make_batch):
    model, batch = quantize_dynamically(make_classifier()), make_batch(16)
    together = model(batch)
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {name: batch[name][i : i + 1, :length] for name in ("input_ids", "attention_mask")}
        # Sums in another order move an activation by 1e-7; where that turns a rounding, by a scale.
        assert (model(alone) - together[i]).abs().max() < 5e-3


def test_signal_stays_far_above_noise(make_classifier, make_batch):
    batch, logits = make_batch(32), make_classifier()(make_batch(32))
    noises = {
        bits: quantize_dynamically(make_classifier(), activation_bits=bits)(batch) - logits for bits in (8, 7)
    }
    powers = {bits: float(noise.detach().square().mean()) for bits, noise in noises.items()}
    assert logits.square().mean() / powers[8] > 10**3  # 30 dB
    assert 1 < powers[7] / powers[8] < 4  # one bit less: 6 dB more noise, and that of weights is as before


def test_other_bits_are_refused_before_anything_is_changed(make_classifier):
    model = make_classifier()
    for bits in (6, 9):
        with pytest.raises(ValueError, match=f"activation_bits must be 7 or 8, got {bits}"):
            Int8Dynamic(activation_bits=bits)
        with pytest.raises(ValueError, match=f"activation_bits must be 7 or 8, got {bits}"):
            quantize_dynamically(model, activation_bits=bits)
    assert len(encoder_layers(model, nn.Linear)) == 18


@pytest.mark.parametrize("embeddings", [True, False])
def test_it_is_smaller_on_disk_by_the_closed_form_and_no_weight_is_lost(make_classifier, embeddings):
    before, model = make_classifier(width=128), make_classifier(width=128)
    quantize_dynamically(model, embeddings, backend="reference")
    assert count_params(model) == count_params(before)
    rounded = [m for m in before.encoder.modules() if isinstance(m, nn.Linear)]
    rounded += [m for m in before.encoder.modules() if isinstance(m, nn.Embedding) and embeddings]
    saved = sum(3 * m.weight.numel() - 4 * m.weight.shape[0] for m in rounded)
    difference = stored_bytes(before) - stored_bytes(model)
    assert abs(difference - saved) < 400 * len(before.state_dict())  # names and padding of the file
    assert difference > 0.9 * saved > 0
    noted = model.applied["compression/quantization"]
    weights = sum(m.weight.numel() for m in rounded)
    assert noted == {"layers": 18, "int8_weights": weights, "layers_by_reference": 18}


def test_the_head_and_the_norms_stay_float_and_unchanged(make_classifier):
    before, model = make_classifier(), quantize_dynamically(make_classifier())
    assert isinstance(model.head, nn.Linear)
    assert torch.equal(model.head.weight, before.head.weight)
    assert torch.equal(model.encoder.norm.weight, before.encoder.norm.weight)


def test_a_saved_and_loaded_model_gives_the_same_logits(make_classifier, make_batch, tmp_path):
    batch, model = make_batch(), quantize_dynamically(make_classifier())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = quantize_dynamically(make_classifier(seed=9))
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(fresh(batch), model(batch))


def test_a_pretrained_model_keeps_its_decisions_and_a_quarter_of_its_bytes(minilm):
    batch = minilm.batch(["a warm and funny film", "dull, and much too long", "so-so", "I left early"])
    with torch.inference_mode():
        before, size = minilm.model(batch), stored_bytes(minilm.model)
        pooled = minilm.model.encoder(batch)
        model = quantize_dynamically(minilm.model)
        after, pooled_after = model(batch), model.encoder(batch)
    assert torch.equal(after.argmax(-1), before.argmax(-1))
    assert torch.cosine_similarity(pooled, pooled_after).min() > 0.99
    assert stored_bytes(model) < 0.27 * size


def test_a_model_without_a_linear_layer_is_refused_before_anything_is_changed(make_classifier):
    model = make_classifier()
    model.encoder = nn.Sequential(nn.Embedding(5, 4))
    with pytest.raises(ValueError, match="has no Linear layer"):
        quantize_dynamically(model)
    assert isinstance(model.encoder[0], nn.Embedding)
