import pytest
import torch
from torch import nn

from effnlp.compression.quantization.int4_weight_only import Int4WeightOnly, quantize_to_four_bits
from effnlp.compression.quantization.int8_weight_only import quantize_weights
from effnlp.compression.quantization.packed import PackedEmbedding, PackedLinear, round_rows
from effnlp.evaluation.flops import count_flops
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.classifier import count_params
from effnlp.model.storage import stored_bytes
from effnlp.model.surgery import encoder_layers
from effnlp.peft.lora import LoRA


@pytest.mark.parametrize("symmetric", [True, False])
def test_logits_equal_those_of_the_float_model_with_rounded_weights(make_classifier, make_batch, symmetric):
    batch, reference = make_batch(), make_classifier()
    with torch.no_grad():
        for module in encoder_layers(reference, nn.Linear, nn.Embedding).values():
            module.weight.copy_(round_rows(module.weight, 4, 16, symmetric).values)
    logits = quantize_to_four_bits(make_classifier(), 16, symmetric)(batch)
    torch.testing.assert_close(logits, reference(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [16, 32, None])
def test_weights_take_half_of_the_bytes_of_int8_and_scales_come_on_top(
    make_classifier, group_size, symmetric
):
    model, in_int8 = (
        quantize_to_four_bits(make_classifier(), group_size, symmetric),
        quantize_weights(make_classifier()),
    )
    layers = list(encoder_layers(make_classifier(), nn.Linear, nn.Embedding).values())
    weights = sum(layer.weight.numel() for layer in layers)
    groups = sum(layer.weight.numel() // min(group_size or 10**6, layer.weight.shape[1]) for layer in layers)
    rows = sum(layer.weight.shape[0] for layer in layers)
    others = stored_bytes(in_int8) - weights - 4 * rows
    assert stored_bytes(model) == others + weights // 2 + groups * (4 if symmetric else 5)
    assert count_params(model) == count_params(make_classifier())
    assert model.applied["compression/quantization"] == {"layers": 18, "int4_weights": weights}


def test_its_flops_are_those_of_the_float_model(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    expected = count_flops(lambda: model(batch)).flops
    assert count_flops(lambda: quantize_to_four_bits(model, 16)(batch)).flops == expected


@pytest.mark.parametrize("moment", ["prepare", "finish"])
def test_it_acts_at_its_moment_only(make_classifier, moment):
    method, model = Int4WeightOnly(moment=moment), make_classifier()
    other = "finish" if moment == "prepare" else "prepare"
    assert getattr(method, other)(model) is model
    assert not [m for m in model.modules() if isinstance(m, PackedLinear)]
    getattr(method, moment)(model)
    layers = [m for m in model.modules() if isinstance(m, PackedLinear)]
    tables = [m for m in model.modules() if isinstance(m, PackedEmbedding)]
    assert (len(layers), len(tables)) == (18, 2)
    assert not [m for m in model.encoder.modules() if isinstance(m, nn.Linear | nn.Embedding)]


def test_tables_stay_float_where_that_is_asked_for(make_classifier):
    model = quantize_to_four_bits(make_classifier(), 16, embeddings=False)
    assert torch.equal(model.encoder.tokens.weight, make_classifier().encoder.tokens.weight)
    assert isinstance(model.encoder.layers[0].feedforward.up, PackedLinear)


def test_lora_learns_on_a_frozen_base_in_four_bits(make_classifier, make_batch, take_steps):
    base, lora = Int4WeightOnly(moment="prepare"), LoRA(rank=2)
    model = lora.prepare(base.prepare(make_classifier()))
    frozen = {name: value.clone() for name, value in model.state_dict().items() if ".stored." in name}
    losses = take_steps(model, make_batch(32), steps=20)
    assert losses[-1] < 0.9 * losses[0]
    assert frozen
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
    assert isinstance(lora.finish(model).encoder.layers[0].mixer.query.base, PackedLinear)


def test_a_model_without_linear_layers_is_quantized_by_its_table(make_classifier):
    model = make_classifier()
    model.encoder = nn.Sequential(nn.EmbeddingBag(50, 8))
    assert isinstance(quantize_to_four_bits(model, 64).encoder[0], PackedEmbedding)
    assert model.applied["compression/quantization"] == {"layers": 0, "int4_weights": 400}
    with pytest.raises(ValueError, match="has no Linear layer"):
        quantize_to_four_bits(make_table_only(make_classifier), 64, embeddings=False)


def make_table_only(make_classifier):
    model = make_classifier()
    model.encoder = nn.Sequential(nn.EmbeddingBag(50, 8))
    return model


def test_a_group_size_that_does_not_divide_is_refused_by_name_before_anything_is_changed(make_classifier):
    model = make_classifier()
    with pytest.raises(ValueError, match=r"tokens: group_size 24 does not divide rows of 32 weights"):
        quantize_to_four_bits(model, 24)
    assert not [m for m in model.modules() if isinstance(m, PackedLinear | PackedEmbedding)]


def test_such_a_group_size_is_refused_before_the_training_though_rounding_comes_after_it(make_classifier):
    method = Int4WeightOnly(group_size=24)
    with pytest.raises(ValueError, match=r"tokens: group_size 24 does not divide rows of 32 weights"):
        method.check(make_classifier())
    with pytest.raises(ValueError, match="has no Linear layer"):
        Int4WeightOnly(embeddings=False).check(make_table_only(make_classifier))


def test_the_default_groups_fill_the_rows_of_our_models():
    assert BagOfNgrams().width <= Int4WeightOnly().group_size
    assert all(
        width % Int4WeightOnly().group_size == 0 for width in (128, 256, 384, 512, 768, 1024, 1536, 3072)
    )


def test_values_outside_their_range_are_refused_at_once():
    with pytest.raises(ValueError, match="moment must be one of prepare, finish, got 'during'"):
        Int4WeightOnly(moment="during")
    with pytest.raises(ValueError, match="group_size must be at least 1"):
        Int4WeightOnly(group_size=-2)


@pytest.mark.parametrize(("symmetric", "scale_bytes", "likeness"), [(True, 4, 0.8), (False, 5, 0.88)])
def test_a_pretrained_model_points_the_same_way_at_an_eighth_of_its_bytes_and_scales(
    minilm, symmetric, scale_bytes, likeness
):
    batch = minilm.batch(["a warm and funny film", "dull, and much too long", "so-so", "I left early"])
    with torch.inference_mode():
        pooled, size = minilm.model.encoder(batch), stored_bytes(minilm.model)
        model = quantize_to_four_bits(minilm.model, 64, symmetric)
        assert torch.cosine_similarity(pooled, model.encoder(batch)).min() > likeness
    assert stored_bytes(model) < ((0.5 + scale_bytes / 64) / 4 + 0.002) * size


@pytest.mark.parametrize("name", ["albert", "deberta-v2", "gpt2", "t5"])
def test_families_are_quantized_by_the_same_code(tiny_family, name):
    tiny = tiny_family(name)
    batch = tiny.batch(["the cat sat on the mat", "a film"])
    expected = tiny.model(batch)
    model = quantize_to_four_bits(tiny.model, 8)
    assert (model(batch) - expected).abs().max() < 0.5 * expected.abs().max()
    assert not [m for m in model.encoder.modules() if isinstance(m, nn.Linear)]
