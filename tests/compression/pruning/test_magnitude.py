from itertools import pairwise
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from effnlp import method
from effnlp.compression.pruning.magnitude import Magnitude, prune_by_magnitude
from effnlp.peft.lora import LoRA


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


def train(fit, model, make_batch, magnitude, **options):
    """20 steps in two epochs."""
    return fit(model, [make_batch(seed=seed) for seed in range(10)], 2, magnitude.callbacks(), **options)


class Watch(pl.Callback):
    """Notes the zeros after each step; it comes after the callbacks of the method."""

    def __init__(self):
        self.zeros, self.patterns = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        pattern = torch.cat([(weight == 0).flatten() for weight in weights_of(pl_module.model)])
        self.zeros.append(int(pattern.sum()))
        self.patterns.append(pattern)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("schedule", ["iterative", "gradual"])
def test_zeros_follow_the_schedule_and_stay_against_momentum_and_weight_decay(
    fit, make_classifier, make_batch, schedule, scope
):
    magnitude, watch = Magnitude(0.8, scope, schedule, cooldown=0.4, update_every=3), Watch()
    model = magnitude.prepare(make_classifier())
    batches = [make_batch(seed=seed) for seed in range(10)]
    fit(model, batches, 2, [*magnitude.callbacks(), watch])
    sizes = [weight.numel() for weight in weights_of(model)]

    def expected(step):
        if not any(magnitude.schedule.is_due(at, 20) for at in range(1, step + 1)):
            return 0
        last = max(at for at in range(1, step + 1) if magnitude.schedule.is_due(at, 20))
        share = magnitude.schedule.sparsity_at(last, 20, 0.8)
        return round(share * sum(sizes)) if scope == "global" else sum(round(share * size) for size in sizes)

    assert watch.zeros == [expected(step) for step in range(1, 21)]
    assert len(set(watch.zeros)) >= 4
    for before, after in pairwise(watch.patterns):
        assert (after | ~before).all()  # what is zero stays zero
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    finished = magnitude.finish(model)
    assert all(torch.equal(value, trained[name]) for name, value in finished.state_dict().items())


def test_weights_that_were_not_dropped_learn_to_do_without_the_others(make_classifier, make_batch, fit):
    def loss(**settings):
        magnitude = Magnitude(0.9, **settings)
        model, batches = (
            magnitude.prepare(make_classifier()),
            [make_batch(32, seed=seed) for seed in range(4)],
        )
        fit(model, batches * 10, 1, magnitude.callbacks())
        model = magnitude.finish(model)
        losses = [torch.nn.functional.cross_entropy(model(b), b["labels"]) for b in batches]
        return float(torch.stack(losses).mean().detach())

    after_training = loss()
    assert loss(schedule="gradual") < after_training
    assert loss(schedule="iterative", rounds=1, cooldown=0.6) < after_training


@pytest.mark.parametrize("schedule", ["iterative", "gradual"])
def test_a_resumed_training_ends_as_the_uninterrupted_one(fit, make_classifier, make_batch, schedule):
    def trained(**options):
        magnitude = Magnitude(0.7, schedule=schedule, update_every=3)
        model = magnitude.prepare(make_classifier())
        return train(fit, model, make_batch, magnitude, **options), model.state_dict()

    losses, whole = trained()
    # The first epoch ends at step 10, when nothing is due: the zeros come back from the checkpoint.
    before, _ = trained(epochs=1)
    after, in_two = trained(resume=True)
    assert before + after == losses
    assert all(torch.equal(value, in_two[name]) for name, value in whole.items())
    assert any((value == 0).any() for value in whole.values())


def test_gradients_of_held_zeros_do_not_count_where_gradients_are_clipped(
    make_classifier, make_batch, loss_of
):
    magnitude = Magnitude(0.5, schedule="gradual")
    model = magnitude.prepare(make_classifier()).train()
    magnitude.advance(model, 100, 100)
    [held] = magnitude.callbacks()
    loss_of(model, make_batch()).backward()
    held.on_after_backward(None, SimpleNamespace(model=model))
    for weight in weights_of(model):
        assert (weight.grad[weight == 0] == 0).all()
        assert (weight.grad[weight != 0] != 0).any()


def test_one_shot_has_no_part_in_the_training_and_settles_at_once():
    assert Magnitude(0.5).callbacks() == []
    assert method.settled_after([Magnitude(0.5)]) == 0
    assert method.settled_after([Magnitude(0.5, schedule="gradual", cooldown=0.3)]) == pytest.approx(0.7)


def test_weights_that_another_method_freezes_are_pruned_after_the_training_only(make_classifier):
    model = method.prepare([LoRA(), Magnitude(0.5)], make_classifier())
    assert not weights_of(model)[0].requires_grad
    with pytest.raises(
        ValueError, match=r"schedule=gradual trains what is left .*weight is frozen by another"
    ):
        method.prepare([LoRA(), Magnitude(0.5, schedule="gradual")], make_classifier())


def test_a_sparsity_that_leaves_nothing_of_a_layer_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match="would leave nothing of layers"):
        Magnitude(0.9999).prepare(make_classifier())
