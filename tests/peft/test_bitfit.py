import pytest
import torch

from effnlp.model.classifier import count_params
from effnlp.peft.bitfit import BitFit


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_exactly_the_biases_of_the_encoder_and_the_head_are_trainable(make_classifier):
    model = BitFit().prepare(make_classifier())
    names = {name for name, _ in model.named_parameters()}
    biases = {name for name in names if name.endswith(".bias")}
    assert trainable(model) == biases | {"head.weight"}
    assert biases < names  # and some weights are indeed frozen


def test_the_number_of_trained_parameters_is_the_closed_form(make_classifier):
    depth, width, inner, classes = 3, 32, 64, 3
    model = BitFit().prepare(make_classifier(depth=depth, width=width))
    a_layer = 4 * width + inner + width + 2 * width  # attention, feed-forward, two norms
    assert count_params(model, trainable_only=True) == depth * a_layer + width + (width + 1) * classes


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    before = model(batch)
    assert torch.equal(BitFit().prepare(model)(batch), before)


def test_steps_change_every_bias_that_matters_and_no_byte_of_a_weight(
    make_classifier, make_batch, take_steps
):
    model = BitFit().prepare(make_classifier())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    # A bias on the keys shifts all attention scores of a query alike: softmax does not see it.
    blind = {name for name in changed | trainable(model) if name.endswith("mixer.key.bias")}
    assert changed - blind == trainable(model) - blind


def test_the_rate_of_the_biases_replaces_the_one_of_the_model(make_classifier):
    model = make_classifier()
    for parameter in model.encoder.parameters():
        parameter.learning_rate_factor = 0.1
    model = BitFit(learning_rate_factor=2.0).prepare(model)
    rates = {p.learning_rate_factor for n, p in model.encoder.named_parameters() if n.endswith("bias")}
    assert rates == {2.0}


def test_an_encoder_without_a_bias_is_refused(make_classifier):
    model = make_classifier()
    model.encoder = torch.nn.Embedding(5, 4)
    with pytest.raises(ValueError, match="Embedding has no bias"):
        BitFit().prepare(model)


def test_a_rate_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="learning_rate_factor must be above 0, got 0"):
        BitFit(learning_rate_factor=0)
