import copy

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.pruning.l0 import (
    HIGH,
    L0,
    LOW,
    OPEN_ALPHA,
    TEMPERATURE,
    GatedLinear,
    expected_open,
    gated_layers,
)
from effnlp.model.surgery import encoder_layers


def linears(model):
    return encoder_layers(model, nn.Linear)


def zeros_of(model):
    return [int((layer.weight == 0).sum()) for layer in linears(model).values()]


def sizes_of(model):
    return [layer.weight.numel() for layer in linears(model).values()]


def train(fit, model, make_batch, chosen, loss_of, **options):
    """20 steps in two epochs."""
    batches = [make_batch(seed=seed) for seed in range(10)]
    return fit(model, batches, 2, chosen.callbacks(), chosen.objective(loss_of), **options)


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch = make_batch()
    assert torch.equal(L0().prepare(make_classifier())(batch), make_classifier()(batch))


def test_the_expected_share_of_open_gates_is_that_of_draws_and_of_the_closed_form_of_the_paper():
    torch.manual_seed(0)
    layer = GatedLinear(nn.Linear(100, 80), 1.0).train()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.alpha.normal_(std=2)
    drawn = torch.stack([(layer.gated() != 0).float().mean() for _ in range(200)])
    found = expected_open({"layer": layer})
    by_paper = torch.sigmoid(layer.alpha - 2 / 3 * torch.log(torch.tensor(0.1 / 1.1))).mean()
    assert (LOW, HIGH, TEMPERATURE) == (-0.1, 1.1, 2 / 3)
    torch.testing.assert_close(found, by_paper)
    assert abs(float(drawn.mean() - found.detach())) < 4 * float(drawn.std()) / 200**0.5


def test_the_penalty_is_on_the_expected_share_until_few_enough_are_open(make_classifier, make_batch, loss_of):
    chosen, batch = L0(sparsity=0.6, penalty=3.0), make_batch()
    model = chosen.prepare(make_classifier()).train()
    loss, layers = chosen.objective(loss_of), gated_layers(model)

    def added():
        both = []
        for objective in (loss, loss_of):
            torch.manual_seed(7)
            both.append(float(objective(model, batch).detach()))
        return both[0] - both[1]

    assert added() == pytest.approx(3.0 * float(expected_open(layers).detach()), rel=1e-4)
    loss(model, batch).backward()
    assert all((layer.alpha.grad != 0).all() for layer in layers.values())
    with torch.no_grad():
        for layer in layers.values():
            layer.alpha.fill_(-3.0)
    assert expected_open(layers) < 0.4
    assert added() == 0
    with torch.no_grad():
        for layer in layers.values():
            layer.alpha.fill_(OPEN_ALPHA)
    model.eval()
    assert added() == 0


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_the_final_sparsity_is_exact_and_zeros_stay_while_the_rest_is_trained_on(
    fit, make_classifier, make_batch, loss_of, sparsity, scope
):
    chosen = L0(sparsity, scope=scope, fixed_after=0.5)
    model = chosen.prepare(make_classifier())
    train(fit, model, make_batch, chosen, loss_of, epochs=1)
    fixed = copy.deepcopy(model.state_dict())
    train(fit, model, make_batch, chosen, loss_of, resume=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, fixed[name]) == name.endswith("alpha")
    batch = make_batch(seed=77)
    logits, gates = model(batch), {name: layer.alpha > 0 for name, layer in gated_layers(model).items()}
    finished = chosen.finish(model)
    assert torch.equal(finished(batch), logits)
    assert set(finished.state_dict()) == set(make_classifier().state_dict())
    for name, gate in gates.items():
        assert torch.equal(finished.get_submodule(name).weight != 0, gate)
    if scope == "layer":
        assert zeros_of(finished) == [round(sparsity * size) for size in sizes_of(finished)]
    else:
        assert sum(zeros_of(finished)) == round(sparsity * sum(sizes_of(finished)))


def test_a_gate_that_training_has_closed_goes_before_a_larger_weight_under_an_open_one(make_classifier):
    chosen = L0(0.5, scope="layer")
    model = chosen.prepare(make_classifier())
    torch.manual_seed(0)
    closed = {}
    with torch.no_grad():
        for name, layer in gated_layers(model).items():
            closed[name] = torch.rand_like(layer.alpha) < 0.4
            layer.alpha.masked_fill_(closed[name], -5.0)
    finished = chosen.finish(model)
    for name, gate in closed.items():
        assert (finished.get_submodule(name).weight[gate] == 0).all()


def test_the_penalty_closes_gates(fit, make_classifier, make_batch, loss_of):
    def still_open(penalty):
        chosen = L0(0.9, penalty=penalty, fixed_after=1.0)
        model = chosen.prepare(make_classifier())
        train(fit, model, make_batch, chosen, loss_of, epochs=1)
        return float(expected_open(gated_layers(model)).detach())

    assert still_open(1e4) < still_open(0.0) - 0.1


@pytest.mark.parametrize("fixed_after", [0.3, 0.8])
def test_a_resumed_training_ends_as_the_uninterrupted_one(
    fit, make_classifier, make_batch, loss_of, fixed_after
):
    class Seeded(L0):
        """With the noise of a step by its number, as in a run."""

        def objective(self, base):
            loss = super().objective(base)

            def seeded(model, batch):
                torch.manual_seed(int(batch["input_ids"].sum()))
                return loss(model, batch)

            return seeded

    def trained(**options):
        chosen = Seeded(0.5, fixed_after=fixed_after)
        model = chosen.prepare(make_classifier())
        return train(fit, model, make_batch, chosen, loss_of, **options), model.state_dict()

    losses, whole = trained()
    before, _ = trained(epochs=1)
    after, in_two = trained(resume=True)
    assert before + after == losses
    assert all(torch.equal(value, in_two[name]) for name, value in whole.items())


def test_gates_are_not_decayed_and_learn_faster_and_the_run_is_told_when_they_are_fixed(make_classifier):
    chosen = L0(fixed_after=0.6, learning_rate_factor=7.0)
    layer = next(iter(gated_layers(chosen.prepare(make_classifier())).values()))
    assert layer.alpha.weight_decay_factor == 0.0
    assert layer.alpha.learning_rate_factor == 7.0
    assert method.settled_after([chosen]) == 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"scope": "row"}, "scope must be one of"),
        ({"penalty": -1.0}, "penalty must be at least 0, got -1.0"),
        ({"fixed_after": 0.0}, r"fixed_after must be in \(0, 1\], got 0.0"),
        ({"learning_rate_factor": 0.0}, "learning_rate_factor must be above 0, got 0.0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        L0(**settings)


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="has no gated layer"):
        L0().finish(make_classifier())


def test_a_sparsity_that_leaves_nothing_of_a_layer_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match="would leave nothing of layers"):
        L0(0.9999).prepare(make_classifier())
