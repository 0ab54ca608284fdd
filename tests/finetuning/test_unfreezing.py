import itertools

import pytest
import torch

from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.evaluation.flops import count_flops
from effnlp.finetuning.unfreezing import Unfreezing, lowest_depth
from effnlp.model.layers import depths
from effnlp.peft.lora import LoRA


@pytest.mark.parametrize("steps", [7, 40, 1000])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_it_goes_from_the_head_to_the_embeddings_in_even_stretches(steps, share):
    layers = 3
    lowest = [lowest_depth(step, steps, share, layers) for step in range(steps)]
    assert lowest[0] == layers + 1
    assert all(before >= after for before, after in itertools.pairwise(lowest))
    assert all((depth == 0) == (step >= share * steps) for step, depth in enumerate(lowest) if depth != 1)
    stretches = [lowest.count(depth) for depth in range(1, layers + 2)]
    assert max(stretches) - min(stretches) <= 1


def test_with_no_share_all_is_free_from_the_beginning():
    assert {lowest_depth(step, 10, 0.0, 4) for step in range(10)} == {0}


@pytest.fixture
def trained_names():
    def names(model):
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    return names


def test_in_each_step_exactly_what_lies_high_enough_learns(make_classifier, trained_names):
    model = make_classifier(depth=3)
    depth_of, unfreezing = depths(model), Unfreezing(0.5)
    every = trained_names(model)
    seen = []
    for step in range(20):
        unfreezing.freeze(model, step, 20)
        lowest = lowest_depth(step, 20, 0.5, layers=3)
        assert trained_names(model) == {name for name, depth in depth_of.items() if depth >= lowest}
        seen.append(len(trained_names(model)))
        unfreezing.free()
        assert trained_names(model) == every
    assert seen[0] == 4  # the final norm and the head
    assert len(set(seen)) == 5


def test_of_a_prepared_model_only_what_the_method_trains_is_freed(make_classifier, trained_names):
    model = LoRA().prepare(make_classifier(depth=3))
    own = trained_names(model)
    unfreezing = Unfreezing(0.5)
    for step in range(20):
        unfreezing.freeze(model, step, 20)
        lowest = lowest_depth(step, 20, 0.5, layers=3)
        assert trained_names(model) == {name for name in own if depths(model)[name] >= lowest}
        unfreezing.free()
    assert trained_names(model) == own


def test_what_is_frozen_gets_no_gradient_and_does_not_change(make_classifier, make_batch, fit):
    model, batches = make_classifier(depth=3), [make_batch(seed=seed) for seed in range(4)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, batches, all_epochs=5, epochs=1, callbacks=[Unfreezing(0.99)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    learnt = {name for name, depth in depths(model).items() if depth >= lowest_depth(3, 20, 0.99, 3)}
    assert changed == learnt
    assert len(learnt) < len(before)
    assert all(p.grad is None for name, p in model.named_parameters() if name not in learnt)


def test_a_resumed_training_ends_as_the_uninterrupted_one(make_classifier, make_batch, fit):
    batches = [make_batch(seed=seed) for seed in range(4)]
    whole, resumed = make_classifier(), make_classifier()
    fit(whole, batches, all_epochs=4, callbacks=[Unfreezing(0.8)])
    fit(resumed, batches, all_epochs=4, epochs=2, callbacks=[Unfreezing(0.8)])
    again = make_classifier(seed=3)
    fit(again, batches, all_epochs=4, resume=True, callbacks=[Unfreezing(0.8)])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_step_costs_less_the_fewer_layers_learn(make_classifier, make_batch, loss_of):
    model, batch, unfreezing = make_classifier(depth=3).train(), make_batch(), Unfreezing(0.8)

    def cost(step):
        unfreezing.freeze(model, step, 10)
        flops = count_flops(lambda: loss_of(model, batch).backward()).flops
        unfreezing.free()
        model.zero_grad()
        return flops

    costs = [cost(step) for step in (0, 2, 4, 6)]
    assert all(a < b for a, b in itertools.pairwise(costs))
    # A layer more costs the same each time, but for the lowest, below which no gradient flows.
    assert costs[2] - costs[1] == costs[3] - costs[2]


def test_phases_of_a_method_stay_its_own(make_classifier, make_batch, fit, trained_names, loss_of):
    method = DeeBERT(first_phase=0.5)
    model = method.prepare(make_classifier(depth=3))
    batches = [make_batch(seed=seed) for seed in range(5)]
    state = {}

    class Look(Unfreezing):
        def on_train_batch_end(self, trainer, pl_module, *_):
            state[trainer.global_step - 1] = trained_names(pl_module.model)
            super().on_train_batch_end()

    fit(model, batches, 4, callbacks=[*method.callbacks(), Look(0.8)], objective=method.objective(loss_of))
    exits = {name for name, _ in model.named_parameters() if name.startswith("exits.")}
    for step in range(20):
        lowest = lowest_depth(step, 20, 0.8, layers=3)
        first = {name for name, depth in depths(model).items() if depth >= lowest} - exits
        assert state[step] == (first if step < 10 else exits)


@pytest.mark.slow
def test_a_run_counts_less_work_and_the_same_sizes(run_tiny, tmp_path):
    keys = ["model=backbone", "trainer.epochs=1"]
    whole = run_tiny(*keys, folder=tmp_path / "whole")
    gradual = run_tiny(*keys, "finetuning.gradual_unfreezing=0.9", folder=tmp_path / "gradual")
    flops = "cost/finetuning/own/flops"
    assert gradual.values[flops] < 0.95 * whole.values[flops]
    for key in ("model/trainable_params", "train/steps"):
        assert gradual.values[key] == whole.values[key]
