import pytest
from torch import nn

from effnlp.model.classifier import count_params
from effnlp.peft.adapter import AdaptedLinear
from effnlp.peft.houlsby_adapter import HoulsbyAdapter


@pytest.mark.parametrize("width", [1, 8, 32])
def test_the_number_of_trained_parameters_is_the_closed_form(width, make_classifier):
    depth, wide = 3, 32
    model = HoulsbyAdapter(width=width, train_norms=False).prepare(make_classifier(depth=depth, width=wide))
    own = count_params(model, trainable_only=True) - count_params(model.head)
    assert own == 2 * depth * (2 * width * wide + width + wide)


def test_norms_add_their_gains_and_biases_and_train_at_the_full_rate(make_classifier):
    depth, width = 3, 32
    counts = {}
    for train_norms in (False, True):
        model = make_classifier(depth=depth, width=width)
        for parameter in model.encoder.parameters():
            parameter.learning_rate_factor = 0.1
        model = HoulsbyAdapter(train_norms=train_norms).prepare(model)
        counts[train_norms] = count_params(model, trainable_only=True)
        rates = {getattr(p, "learning_rate_factor", 1.0) for p in model.parameters() if p.requires_grad}
        assert rates == {1.0}
    assert counts[True] - counts[False] == 2 * width * (2 * depth + 1)


def test_one_stands_after_the_attention_and_one_after_the_feed_forward_of_each_layer(make_classifier):
    model = HoulsbyAdapter().prepare(make_classifier(depth=2))
    places = [name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)]
    roles = model.encoder.linear_roles()
    expected = [f"encoder.{name}" for name in [*roles["attention_output"], *roles["feedforward_down"]]]
    assert sorted(places) == sorted(expected)
    assert len(places) == 4


def test_norms_of_a_model_without_one_cannot_be_trained(make_classifier):
    model = make_classifier()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            model.set_submodule(name, nn.Identity())
    with pytest.raises(ValueError, match="train_norms: BackboneEncoder has no norm"):
        HoulsbyAdapter().prepare(model)
    assert count_params(HoulsbyAdapter(train_norms=False).prepare(model), trainable_only=True) > 0
