import pytest
import torch
from torch import nn

from effnlp.compression.quantization.int8_weight_only import Int8WeightOnly, quantize_weights
from effnlp.compression.quantization.integer import Int8Embedding, Int8Linear, quantize_rows
from effnlp.model.classifier import count_params


def test_logits_equal_those_of_the_float_model_with_rounded_weights(make_classifier, make_batch):
    batch, reference = make_batch(), make_classifier()
    with torch.no_grad():
        for module in reference.encoder.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                integers, scales = quantize_rows(module.weight)
                module.weight.copy_(integers * scales)
    logits = quantize_weights(make_classifier())(batch)
    torch.testing.assert_close(logits, reference(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("moment", ["prepare", "finish"])
def test_it_acts_at_its_moment_only(make_classifier, moment):
    method, model = Int8WeightOnly(moment=moment), make_classifier()
    other = "finish" if moment == "prepare" else "prepare"
    assert getattr(method, other)(model) is model
    assert not [m for m in model.modules() if isinstance(m, Int8Linear)]
    getattr(method, moment)(model)
    layers = [m for m in model.modules() if isinstance(m, Int8Linear)]
    tables = [m for m in model.modules() if isinstance(m, Int8Embedding)]
    assert (len(layers), len(tables)) == (18, 2)
    assert not [m for m in model.encoder.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    assert count_params(model) == count_params(make_classifier())


def test_it_takes_about_a_quarter_of_the_bytes(make_classifier):
    def tensor_bytes(model):
        return sum(t.numel() * t.element_size() for t in model.state_dict().values())

    assert tensor_bytes(quantize_weights(make_classifier(width=256))) < 0.27 * tensor_bytes(
        make_classifier(width=256)
    )


def test_batch_invariance_within_1e_5(make_classifier, make_batch):
    model, batch = quantize_weights(make_classifier()), make_batch(16)
    together = model(batch)
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {name: batch[name][i : i + 1, :length] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(model(alone)[0], together[i], rtol=0, atol=1e-5)


def test_a_model_without_linear_layers_is_quantized_by_its_table(make_classifier):
    model = make_classifier()
    model.encoder = nn.Sequential(nn.EmbeddingBag(50, 8))
    assert isinstance(quantize_weights(model).encoder[0], Int8Embedding)
    assert model.applied["compression/quantization"] == {"layers": 0, "int8_weights": 400}


def test_a_shared_layer_stays_shared(make_classifier):
    model = make_classifier(depth=2)
    model.encoder.layers[1] = model.encoder.layers[0]
    quantize_weights(model)
    assert model.encoder.layers[1].feedforward.up is model.encoder.layers[0].feedforward.up


def test_a_saved_and_loaded_model_gives_the_same_logits(make_classifier, make_batch, tmp_path):
    batch, model = make_batch(), quantize_weights(make_classifier())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = quantize_weights(make_classifier(seed=9))
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(fresh(batch), model(batch))


def test_an_unknown_moment_is_refused_at_once():
    with pytest.raises(ValueError, match="moment must be one of prepare, finish, got 'during'"):
        Int8WeightOnly(moment="during")
