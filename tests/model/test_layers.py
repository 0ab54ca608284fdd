import pytest
import torch
from torch import nn

from effnlp.model.bag_of_ngrams import NgramEncoder
from effnlp.model.classifier import Classifier
from effnlp.model.layers import depths, layers_of
from effnlp.peft.lora import LoRA


def test_depth_grows_from_the_embeddings_through_the_layers_to_the_head(make_classifier):
    model = make_classifier(depth=3)
    found = depths(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, depth in found.items():
        if name.startswith("encoder.layers."):
            assert depth == int(name.split(".")[2]) + 1
        elif name.startswith(("encoder.tokens", "encoder.positions")):
            assert depth == 0
        else:
            assert name.startswith(("encoder.norm", "head"))
            assert depth == 4


def test_what_a_method_puts_into_a_layer_has_the_depth_of_that_layer(make_classifier):
    found = depths(LoRA().prepare(make_classifier()))
    changes = {name: depth for name, depth in found.items() if name.endswith((".a", ".b"))}
    assert len(changes) == 3 * 2 * 2
    assert all(depth == int(name.split(".")[2]) + 1 for name, depth in changes.items())


def test_what_layers_share_has_the_depth_of_the_highest(make_classifier):
    model = make_classifier(depth=3)
    model.encoder.layers[2].mixer_norm = model.encoder.layers[0].mixer_norm
    assert depths(model)["encoder.layers.0.mixer_norm.weight"] == 3


def test_the_layers_of_a_pretrained_model_are_known(minilm):
    model = minilm.model
    found = depths(model)
    assert len(layers_of(model.encoder)) == 6
    assert found["encoder.model.embeddings.word_embeddings.weight"] == 0
    assert found["encoder.model.embeddings.LayerNorm.bias"] == 0
    assert found["encoder.model.encoder.layer.5.output.dense.weight"] == 6
    assert found["head.weight"] == 7


def test_a_model_without_layers_is_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="NgramEncoder has no layers that are known"):
        depths(Classifier(NgramEncoder(5, 4), 2))


def test_a_model_of_an_unknown_family_is_named(minilm):
    minilm.model.encoder.model_type = "mystery"
    with pytest.raises(ValueError, match="of type 'mystery' has no layers"):
        layers_of(minilm.model.encoder)


def test_an_empty_list_of_layers_is_none():
    encoder = nn.Module()
    encoder.layers = nn.ModuleList()
    with pytest.raises(ValueError, match="has no layers"):
        layers_of(encoder)
