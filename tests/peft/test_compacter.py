import copy

import pytest
import torch
from torch import nn

from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.model.classifier import count_params
from effnlp.model.delta import Taker, entries_of
from effnlp.model.storage import stored_bytes
from effnlp.peft.compacter import Compacter, KroneckerLinear
from effnlp.peft.houlsby_adapter import HoulsbyAdapter

N = 3


def a_layer(in_features, out_features, seed=0):
    torch.manual_seed(seed)
    layer = KroneckerLinear(in_features, out_features, nn.Parameter(torch.randn(N, N, N)))
    nn.init.normal_(layer.bias)
    return layer


def slow_factors(model):
    return {id(module.slow) for module in model.modules() if isinstance(module, KroneckerLinear)}


@pytest.mark.parametrize(("in_features", "out_features"), [(12, 6), (6, 12), (9, 9)])
def test_a_layer_agrees_with_the_sum_of_kronecker_products_of_the_paper(in_features, out_features):
    layer, x = a_layer(in_features, out_features), torch.randn(4, 5, in_features)
    weight = sum(torch.kron(layer.slow[i], torch.outer(layer.s[i], layer.t[i])) for i in range(N))
    torch.testing.assert_close(layer.weight(), weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(layer(x), x @ weight + layer.bias, rtol=0, atol=1e-5)
    assert not torch.allclose(weight, weight.mean(), atol=0.1)


@pytest.mark.parametrize(("in_features", "out_features"), [(12, 6), (6, 12)])
def test_gradients_are_those_of_the_sum(in_features, out_features):
    """In float64, so that rounding cannot hide a wrong factor."""
    layer = a_layer(in_features, out_features).double()
    other = copy.deepcopy(layer)
    x = torch.randn(7, in_features, dtype=torch.float64)
    (layer(x) ** 2).sum().backward()
    ((x @ other.weight() + other.bias) ** 2).sum().backward()
    for ours, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        assert ours.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("products", "width"), [(2, 4), (4, 16), (1, 3)])
def test_the_number_of_trained_parameters_is_the_closed_form(products, width, make_classifier):
    """n³ for all of them, and of each 2 (D + m) in the factors and D + m in the biases."""
    depth, wide = 3, 32
    chosen = Compacter(products=products, width=width, train_norms=False)
    model = chosen.prepare(make_classifier(depth=depth, width=wide))
    own = count_params(model, trainable_only=True) - count_params(model.head)
    assert own == products**3 + 2 * depth * 3 * (wide + width)


def test_all_layers_share_one_slow_factor_also_in_a_copy(make_classifier):
    model = Compacter().prepare(make_classifier())
    assert len(slow_factors(model)) == 1
    copied = copy.deepcopy(model)
    assert len(slow_factors(copied)) == 1
    assert slow_factors(copied) != slow_factors(model)


def test_the_shared_factor_is_stored_once(make_classifier):
    base = stored_bytes(make_classifier())
    model = Compacter(train_norms=False).prepare(make_classifier())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, KroneckerLinear):
                nn.init.normal_(module.t)  # zeros would be stored packed
                nn.init.normal_(module.bias)
    own = count_params(model, trainable_only=True) - count_params(model.head)
    assert stored_bytes(model) - base == 4 * own


def test_training_the_shared_factor_is_not_taken_for_a_change_of_the_base(
    make_classifier, make_batch, take_steps
):
    """It has many names in the state dict, of which only one is among those that are trained."""
    taker, model = Taker(is_wanted=True), Compacter().prepare(make_classifier())
    taker.prepared(model)
    take_steps(model, make_batch(), steps=2)
    taker.trained(model)
    assert taker.is_wanted
    assert sum(name.endswith(".slow") for name in entries_of(model, taker.trainable)) == 1
    with torch.no_grad():
        model.encoder.layers[0].feedforward.up.weight.add_(1)
    taker.trained(model)
    assert not taker.is_wanted


def test_a_text_costs_fewer_operations_than_with_dense_adapters_of_that_width(make_classifier):
    encodings = Encodings.from_lists([list(range(1, 12))], pad_id=0)
    costs = {
        name: example_flops(chosen.prepare(make_classifier(width=128)).eval(), encodings, 1)[0]
        for name, chosen in {"ours": Compacter(width=32), "dense": HoulsbyAdapter(width=32)}.items()
    }
    assert costs["ours"] < costs["dense"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"products": 0}, "products must be at least 1, got 0"),
        ({"products": 5, "width": 16}, "products must divide width, got 5 for 16"),
    ],
)
def test_products_that_do_not_divide_the_bottleneck_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Compacter(**settings)


def test_products_that_do_not_divide_the_width_of_the_model_are_refused(make_classifier):
    with pytest.raises(ValueError, match="must divide both widths of an adapter, got 5 for 32 and 15"):
        Compacter(products=5, width=15).prepare(make_classifier())


def test_a_bottleneck_wider_than_the_model_is_refused(make_classifier):
    with pytest.raises(ValueError, match=r"width must be at most 32 .* got 36"):
        Compacter(width=36).prepare(make_classifier())
