import copy

import pytest
import torch

from effnlp import method
from effnlp.compression.pruning.structured_gates import (
    GatedGroups,
    Gates,
    choose_gates,
    expected_sparsity,
    gated_layers,
    with_gates,
    without_gates,
)
from effnlp.compression.pruning.structured_l0 import StructuredL0, all_gates, lagrangian
from effnlp.compression.quantization.int8_weight_only import Int8WeightOnly
from effnlp.model.classifier import count_params


def with_random_gates(model, chosen, seed=0, low=-6.0):
    """The model prepared, its gates at random places."""
    model = chosen.prepare(model).eval()
    generator = torch.Generator().manual_seed(seed)
    for gates in all_gates(gated_layers(model)):
        with torch.no_grad():
            gates.alpha.uniform_(low, 6.0, generator=generator)
    return model


def prunable(model):
    return sum(layer.size for layer in gated_layers(model))


def trained(chosen, model, fit, make_batch, loss_of, **more):
    batches = [make_batch(16, seed=seed) for seed in range(4)]
    loss = method.objective([chosen], loss_of)
    fit(model, batches, 4, callbacks=chosen.callbacks(), objective=loss, **more)
    return model


@pytest.mark.parametrize(
    ("sparsity", "layers"), [(0.0, True), (0.3, True), (0.6, True), (0.9, True), (0.3, False), (0.6, False)]
)
def test_the_share_that_goes_is_the_one_asked_for_but_for_half_a_unit(sparsity, layers, make_classifier):
    for seed in range(5):
        chosen = StructuredL0(sparsity=sparsity, layers=layers)
        model = with_random_gates(make_classifier(depth=4, width=64), chosen, seed)
        found = gated_layers(model)
        unit, whole = min(found[0].sizes), sum(layer.size for layer in found)
        said = method.applied(chosen.finish(model))["compression/pruning"]
        assert abs(said["sparsity"] - sparsity) <= unit / whole
        assert said["weights"] == whole
        assert layers or said["layers_dropped"] == 0


def test_fixed_gates_are_what_is_cut(make_classifier, make_batch):
    for seed in range(5):
        chosen, batch = StructuredL0(sparsity=0.6), make_batch()
        model = with_random_gates(make_classifier(depth=4), chosen, seed, low=-12.0)
        chosen.advance(model, 9, 10)
        expected = model(batch)
        before, groups = count_params(model), gated_layers(model)
        gates = sum(g.alpha.numel() for g in all_gates(groups)) + 2
        small = chosen.finish(copy.deepcopy(model))
        torch.testing.assert_close(small(batch), expected, rtol=0, atol=1e-5)
        said = method.applied(small)["compression/pruning"]
        assert count_params(small) <= before - gates - said["weights_removed"]
        assert torch.equal(model(batch), expected)
    assert said["layers_dropped"] > 0


def test_a_cut_minilm_answers_as_with_its_gates(minilm):
    chosen, batch = StructuredL0(sparsity=0.6), minilm.batch(["a lovely film", "a dull film", "the mat"])
    model = with_random_gates(minilm.model, chosen, seed=1, low=-12.0)
    chosen.advance(model, 9, 10)
    expected = model(batch)
    small = chosen.finish(model)
    torch.testing.assert_close(small(batch), expected, rtol=0, atol=1e-5)
    said = method.applied(small)["compression/pruning"]
    # A head has 32 rows of three layers with their biases and 32 columns; a unit a row, its bias and a column.
    assert said["weights"] == 6 * (12 * (3 * 32 * 385 + 32 * 384) + 1536 * (385 + 384))
    assert abs(said["sparsity"] - 0.6) < 1e-4
    assert 0 < said["layers_dropped"] == 6 - small.encoder.depth


def test_open_gates_change_nothing_and_can_be_taken_away(make_classifier, make_batch):
    batch, expected = make_batch(), make_classifier()(make_batch())
    model = make_classifier()
    names = set(model.state_dict())
    with_gates(model, layers_may_go=True, learning_rate_factor=1.0)
    torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-6)
    without_gates(model)
    assert set(model.state_dict()) == names
    assert not any(isinstance(module, (Gates, GatedGroups)) for module in model.modules())
    assert torch.equal(model(batch), expected)


def test_a_closed_layer_gives_what_it_was_given(make_classifier, make_batch):
    model, batch = StructuredL0().prepare(make_classifier(depth=2)).eval(), make_batch()
    expected = make_classifier(depth=2)
    del expected.encoder.layers[0]
    gated_layers(model)[0].whole.fix(torch.tensor([False]))
    torch.testing.assert_close(model(batch), expected(batch), rtol=0, atol=1e-6)


def test_the_expected_sparsity_is_the_mean_over_draws(make_classifier):
    model = with_random_gates(make_classifier(), StructuredL0(), low=-3.0).train()
    layers, draws = gated_layers(model), []
    torch.manual_seed(0)
    for _ in range(500):
        left = sum(
            float(layer.whole() > 0)
            * sum(float((g() > 0).sum()) * s for g, s in zip(layer.gates, layer.sizes, strict=True))
            for layer in layers
        )
        draws.append(1 - left / prunable(model))
    assert float(expected_sparsity(layers).detach()) == pytest.approx(sum(draws) / len(draws), abs=0.03)


def test_sparsity_descends_the_lagrangian_and_the_multipliers_climb_it():
    sparsity, multipliers = (
        torch.tensor(0.2, requires_grad=True),
        torch.tensor([0.5, 2.0], requires_grad=True),
    )
    value = lagrangian(sparsity, 0.6, multipliers)
    assert float(value) == pytest.approx(0.5 * -0.4 + 2.0 * 0.16)
    value.backward()
    assert float(sparsity.grad) == pytest.approx(0.5 + 2 * 2.0 * -0.4)
    # A step against these gradients makes the multipliers' part larger.
    assert multipliers.grad.tolist() == pytest.approx([0.4, -0.16])


def test_training_comes_near_the_target_before_the_gates_are_fixed(
    make_classifier, make_batch, take_steps, loss_of
):
    torch.manual_seed(0)
    chosen, batch = StructuredL0(sparsity=0.6, learning_rate_factor=1.0), make_batch(16)
    model = chosen.prepare(make_classifier())
    loss = chosen.objective(loss_of)
    chosen.aim(100, 100)
    assert float(expected_sparsity(gated_layers(model)).detach()) < 0.1
    take_steps(model, batch, steps=150, rate=0.1, objective=loss)
    assert float(expected_sparsity(gated_layers(model)).detach()) == pytest.approx(0.6, abs=0.15)


def test_the_target_rises_to_the_sparsity():
    chosen = StructuredL0(sparsity=0.5, warmup=0.4)
    targets = []
    for step in range(10):
        chosen.aim(step, 10)
        targets.append(chosen.target)
    assert targets == pytest.approx([0, 0.125, 0.25, 0.375, *[0.5] * 6])


def test_what_stays_open_is_what_has_the_highest_alpha(make_classifier):
    model = with_random_gates(make_classifier(), StructuredL0(layers=False))
    layers = gated_layers(model)
    stays, masks = choose_gates(layers, 0.5)
    assert stays == [True] * 3
    kept, gone = [], []
    for layer, of_parts in zip(layers, masks, strict=True):
        for gates, mask, part in zip(layer.gates, of_parts, layer.parts, strict=True):
            assert mask.any()
            if part.holder is None:
                kept += gates.alpha[mask].tolist()
                gone += gates.alpha[~mask].tolist()
    # A unit may stay below others for the sake of the exact share; no more than a few do.
    assert sum(alpha < max(gone) for alpha in kept) <= 2


def test_a_training_that_is_taken_up_again_ends_as_one_that_was_not_stopped(
    make_classifier, make_batch, fit, loss_of
):
    def start():
        chosen = StructuredL0(fixed_after=0.7)
        return chosen, chosen.prepare(make_classifier())

    # Gates are drawn: what is fixed already is not, so that a training which is stopped after that can be compared.
    chosen, whole = start()
    torch.manual_seed(0)
    trained(chosen, whole, fit, make_batch, loss_of)
    chosen, half = start()
    torch.manual_seed(0)
    trained(chosen, half, fit, make_batch, loss_of, epochs=3)
    chosen, rest = start()
    trained(chosen, rest, fit, make_batch, loss_of, resume=True)
    assert all(gates.is_fixed for gates in all_gates(gated_layers(rest)))
    assert {name: value.tolist() for name, value in rest.state_dict().items()} == {
        name: value.tolist() for name, value in whole.state_dict().items()
    }


def test_fixed_gates_stay_and_are_trained_no_more(make_classifier, make_batch, take_steps, loss_of):
    chosen, batch = StructuredL0(), make_batch(16)
    model = chosen.prepare(make_classifier())
    chosen.advance(model, 5, 10)
    assert not any(gates.is_fixed for gates in all_gates(gated_layers(model)))
    chosen.advance(model, 6, 10)
    alphas = torch.cat([gates.alpha for gates in all_gates(gated_layers(model))])
    assert alphas.isinf().all()
    take_steps(model, batch, steps=2, objective=chosen.objective(loss_of))
    assert torch.equal(torch.cat([gates.alpha for gates in all_gates(gated_layers(model))]), alphas)
    assert torch.equal(chosen.objective(loss_of)(model.train(), batch), loss_of(model, batch))


def test_what_is_left_can_be_rounded_to_integers(make_classifier, make_batch):
    chosen = StructuredL0(sparsity=0.9)
    model = chosen.finish(with_random_gates(make_classifier(), chosen))
    assert Int8WeightOnly().finish(model)(make_batch()).isfinite().all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"warmup": 1.5}, r"warmup must be in \[0, 1\], got 1.5"),
        ({"fixed_after": 0.0}, r"fixed_after must be in \(0, 1\], got 0.0"),
        ({"learning_rate_factor": 0.0}, "learning_rate_factor must be above 0, got 0.0"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        StructuredL0(**values)


def test_what_cannot_be_done_is_refused_before_the_training(make_classifier, tiny_family):
    model = make_classifier()
    with pytest.raises(ValueError, match=r"one layer, with one head and one unit must stay; at most 0\.9138"):
        StructuredL0(sparsity=0.95).prepare(model)
    assert not any(isinstance(module, Gates) for module in model.modules())
    with pytest.raises(ValueError, match="a head and a unit of each layer must stay"):
        StructuredL0(sparsity=0.8, layers=False).prepare(make_classifier())
    with pytest.raises(ValueError, match="heads of models of type 'mpnet' cannot be removed"):
        StructuredL0().prepare(tiny_family("mpnet").model)
    with pytest.raises(ValueError, match="nothing to prune: Classifier has no gates"):
        StructuredL0().finish(make_classifier())
