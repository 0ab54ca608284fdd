import pytest

from effnlp.model.classifier import count_params
from effnlp.peft.adapter import AdaptedLinear
from effnlp.peft.houlsby_adapter import HoulsbyAdapter
from effnlp.peft.pfeiffer_adapter import PfeifferAdapter


@pytest.mark.parametrize("width", [1, 8, 32])
def test_the_number_of_trained_parameters_is_the_closed_form(width, make_classifier):
    depth, wide = 3, 32
    model = PfeifferAdapter(width=width).prepare(make_classifier(depth=depth, width=wide))
    own = count_params(model, trainable_only=True) - count_params(model.head)
    assert own == depth * (2 * width * wide + width + wide)


def test_there_are_half_as_many_as_after_houlsby_all_behind_the_feed_forward(make_classifier):
    model = PfeifferAdapter().prepare(make_classifier())
    places = {name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    assert places == {f"encoder.{name}" for name in model.encoder.linear_roles()["feedforward_down"]}
    theirs = HoulsbyAdapter().prepare(make_classifier())
    assert 2 * len(places) == sum(isinstance(module, AdaptedLinear) for module in theirs.modules())
