import pytest
import torch
from torch import nn

from effnlp.compression.pruning.magnitude import Magnitude, prune_by_magnitude


def weights_of(model):
    return [m.weight for m in model.encoder.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_the_fraction_of_zeros_is_exact(make_classifier, sparsity, scope):
    model = prune_by_magnitude(make_classifier(), sparsity, scope)
    zeros = [int((weight == 0).sum()) for weight in weights_of(model)]
    sizes = [weight.numel() for weight in weights_of(model)]
    if scope == "layer":
        assert zeros == [round(sparsity * size) for size in sizes]
    else:
        assert sum(zeros) == round(sparsity * sum(sizes))
    assert model.applied["compression/pruning"] == {
        "layers": 18, "weights": sum(sizes), "zeros": sum(zeros), "sparsity": sum(zeros) / sum(sizes),
    }  # fmt: skip


def test_layers_end_with_different_fractions_when_the_smallest_of_all_go(make_classifier):
    model = make_classifier()
    with torch.no_grad():
        weights_of(model)[0].mul_(100)
    prune_by_magnitude(model, 0.5, "global")
    fractions = [float((weight == 0).float().mean()) for weight in weights_of(model)]
    assert fractions[0] < 0.05
    assert max(fractions) > 0.5


def test_what_is_left_is_unchanged_and_only_linear_weights_of_the_encoder_are_pruned(make_classifier):
    before = make_classifier().state_dict()
    model = prune_by_magnitude(make_classifier(), 0.5)
    pruned = {f"encoder.{n}.weight" for n, m in model.encoder.named_modules() if isinstance(m, nn.Linear)}
    for name, value in model.state_dict().items():
        if name in pruned:
            kept = value != 0
            assert torch.equal(value[kept], before[name][kept])
        else:
            assert torch.equal(value, before[name])


def test_twice_equals_once(make_classifier):
    once = prune_by_magnitude(make_classifier(), 0.6)
    states = {name: value.clone() for name, value in once.state_dict().items()}
    twice = prune_by_magnitude(once, 0.6)
    assert all(torch.equal(value, states[name]) for name, value in twice.state_dict().items())


def test_sparsity_zero_changes_nothing_and_says_so(make_classifier, make_batch):
    batch = make_batch()
    model = prune_by_magnitude(make_classifier(), 0.0)
    assert torch.equal(model(batch), make_classifier()(batch))
    assert model.applied["compression/pruning"]["zeros"] == 0


def test_a_model_without_a_linear_layer_is_refused(make_classifier):
    model = make_classifier()
    model.encoder = nn.Embedding(5, 4)
    with pytest.raises(ValueError, match="Embedding has no Linear layer"):
        prune_by_magnitude(model, 0.5)


@pytest.mark.parametrize(("sparsity", "scope", "said"), [(1.0, "layer", "sparsity"), (0.5, "row", "scope")])
def test_the_choice_refuses_bad_values_before_there_is_a_model(sparsity, scope, said):
    with pytest.raises(ValueError, match=said):
        Magnitude(sparsity, scope)


def test_the_choice_finishes_as_the_function_does(make_classifier):
    by_choice = Magnitude(0.5).finish(make_classifier()).state_dict()
    by_function = prune_by_magnitude(make_classifier(), 0.5).state_dict()
    assert all(torch.equal(by_choice[name], by_function[name]) for name in by_function)
