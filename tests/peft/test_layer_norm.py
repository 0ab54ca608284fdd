import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from effnlp.model.classifier import count_params
from effnlp.peft.freezing import is_norm
from effnlp.peft.layer_norm import LayerNormTuning


def test_the_number_of_trained_parameters_is_the_closed_form(make_classifier):
    depth, width, classes = 3, 32, 3
    model = LayerNormTuning().prepare(make_classifier(depth=depth, width=width))
    norms = 2 * depth + 1  # two a layer, one at the end
    assert count_params(model, trainable_only=True) == norms * 2 * width + (width + 1) * classes


def test_steps_change_gains_and_biases_of_norms_and_no_byte_of_the_rest(
    make_classifier, make_batch, take_steps
):
    model = LayerNormTuning().prepare(make_classifier())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("norm" in name or name.startswith("head.") for name in trainable)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trainable


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    before = model(batch)
    assert torch.equal(LayerNormTuning().prepare(model)(batch), before)


def test_a_norm_without_a_bias_is_one_and_a_norm_without_a_gain_is_none():
    assert is_norm(nn.RMSNorm(4))
    assert is_norm(T5LayerNorm(4))
    assert is_norm(LlamaRMSNorm(4))
    assert not is_norm(nn.LayerNorm(4, elementwise_affine=False))
    assert not is_norm(nn.Linear(4, 4))


def test_the_rate_of_the_norms_replaces_the_one_of_the_model(make_classifier):
    model = make_classifier()
    for parameter in model.encoder.parameters():
        parameter.learning_rate_factor = 0.1
    model = LayerNormTuning(learning_rate_factor=3.0).prepare(model)
    rates = {p.learning_rate_factor for p in model.encoder.parameters() if p.requires_grad}
    assert rates == {3.0}


def test_an_encoder_without_a_norm_and_a_rate_that_is_not_positive_are_refused(make_classifier):
    model = make_classifier()
    model.encoder = nn.Embedding(5, 4)
    with pytest.raises(ValueError, match="Embedding has no norm"):
        LayerNormTuning().prepare(model)
    with pytest.raises(ValueError, match="learning_rate_factor must be above 0, got -1"):
        LayerNormTuning(learning_rate_factor=-1)
