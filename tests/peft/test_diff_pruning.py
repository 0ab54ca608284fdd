import copy
import math

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compose import compose, hydra_context
from effnlp.evaluation.flops import count_flops
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir
from effnlp.model.classifier import Classifier
from effnlp.model.delta import delta_bytes, trainable_names
from effnlp.model.sparse import pack, unpack
from effnlp.peft.diff_pruning import DiffPruning, SparseChange, changes_of
from effnlp.peft.lora import LoRA


def trained(model, seed=0):
    """The model as if it had been trained: changes and gates of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for change in changes_of(model):
            change.change.normal_(std=0.05, generator=generator)
            for alpha in change.gates():
                alpha.uniform_(-1, 3, generator=generator)
    return model


def entries_of(model):
    return sum(parameter.numel() for parameter in model.encoder.parameters())


def test_every_parameter_of_the_encoder_has_a_change_and_only_those_gates_and_head_are_trained(
    make_classifier,
):
    plain = make_classifier()
    model = DiffPruning().prepare(make_classifier())
    changes = changes_of(model)
    assert [c.change.shape for c in changes] == [p.shape for p in plain.encoder.parameters()]
    own = {id(p) for change in changes for p in change.parameters()} | {
        id(p) for p in model.head.parameters()
    }
    assert {id(p) for p in model.parameters() if p.requires_grad} == own
    unstructured = DiffPruning(structured=False).prepare(make_classifier())
    assert sum(len(c.gates()) for c in changes) == 2 * len(changes_of(unstructured))


def test_with_closed_gates_the_model_is_its_base(make_classifier, make_batch):
    batch, expected = make_batch(), make_classifier()(make_batch())
    model = trained(DiffPruning().prepare(make_classifier()))
    assert (model(batch) - expected).abs().max() > 1e-3
    with torch.no_grad():
        for change in changes_of(model):
            change.alpha.fill_(-9.0)
    assert torch.equal(model(batch), expected)
    with torch.no_grad():
        for change in changes_of(model):
            change.alpha.fill_(9.0)
            change.group_alpha.fill_(-9.0)
    assert torch.equal(model(batch), expected)


@pytest.mark.parametrize("structured", [False, True])
def test_the_expected_count_of_a_parameter_is_that_of_drawn_gates(structured):
    torch.manual_seed(0)
    change = SparseChange(nn.Parameter(torch.zeros(6, 5)), 1.0, structured)
    with torch.no_grad():
        change.change.fill_(1.0)
        for alpha in change.gates():
            alpha.uniform_(-2, 1)
    counts = torch.tensor([float(change.difference(is_drawn=True).count_nonzero()) for _ in range(4000)])
    tolerance = 4 * counts.std() / math.sqrt(len(counts))
    assert abs(counts.mean() - change.expected_kept()) < tolerance
    assert counts.std() > 1


@pytest.mark.parametrize("kept", [0.005, 0.1, 1.0])
def test_exactly_the_share_that_is_asked_for_is_kept_and_it_changes_most(kept, make_classifier):
    chosen = DiffPruning(kept=kept)
    model = trained(chosen.prepare(make_classifier()))
    before = torch.cat([c.difference(is_drawn=False).detach().flatten() for c in changes_of(model)])
    chosen.advance(model, 5, 10)
    changes = changes_of(model)
    keep = torch.cat([(change.alpha > 0).flatten() for change in changes])
    after = torch.cat([change.difference(is_drawn=False).detach().flatten() for change in changes])
    assert keep.sum() == round(kept * entries_of(make_classifier()))
    assert torch.equal(after, before.where(keep, 0.0))
    if kept < 1:
        assert before[keep].abs().min() >= before[~keep].abs().max()


def test_the_gates_are_fixed_at_the_moment_that_was_asked_for_and_once(make_classifier):
    chosen = DiffPruning(fixed_after=0.5)
    model = trained(chosen.prepare(make_classifier()))
    chosen.advance(model, 4, 10)
    assert not any(change.is_fixed for change in changes_of(model))
    chosen.advance(model, 5, 10)
    assert all(change.is_fixed for change in changes_of(model))
    masks = [change.alpha.clone() for change in changes_of(model)]
    trained_on = [change.change.data.mul_(torch.rand_like(change.change)) for change in changes_of(model)]
    assert trained_on
    chosen.advance(model, 6, 10)
    assert all(torch.equal(c.alpha, mask) for c, mask in zip(changes_of(model), masks, strict=True))
    assert chosen.settled_after == 0.5


def test_once_fixed_what_is_dropped_stays_zero_and_what_is_kept_learns(
    make_classifier, make_batch, take_steps
):
    chosen = DiffPruning(kept=0.1)
    model = trained(chosen.prepare(make_classifier()))
    chosen.advance(model, 5, 10)
    before = [change.difference(is_drawn=False).detach().clone() for change in changes_of(model)]
    gates = [change.alpha.clone() for change in changes_of(model)]
    losses = take_steps(model, make_batch(16), steps=5)
    moved = 0
    for change, old, gate in zip(changes_of(model), before, gates, strict=True):
        new = change.difference(is_drawn=False)
        assert torch.equal(change.alpha, gate)
        assert (new[gate < 0] == 0).all()
        moved += int((new != old)[gate > 0].sum())
    assert moved > 0.5 * 0.1 * entries_of(make_classifier())
    assert losses[-1] < losses[0]


def test_the_penalty_is_its_weight_times_the_expected_share_until_the_gates_are_fixed(
    make_classifier, make_batch, loss_of
):
    chosen, batch = DiffPruning(penalty=3.0), make_batch()
    model = trained(chosen.prepare(make_classifier())).train()
    objective = chosen.objective(loss_of)
    share = sum(change.expected_kept() for change in changes_of(model)) / entries_of(make_classifier())
    torch.manual_seed(0)
    penalised = objective(model, batch)
    torch.manual_seed(0)
    torch.testing.assert_close(penalised, loss_of(model, batch) + 3.0 * share)
    assert 0.1 < share < 1
    chosen.advance(model, 5, 10)
    assert torch.equal(objective(model, batch), loss_of(model, batch))


def test_the_sparse_change_rebuilds_the_model_bit_for_bit(make_classifier, make_batch):
    chosen, batch = DiffPruning(kept=0.005), make_batch()
    model = trained(chosen.prepare(make_classifier()))
    at_first = trainable_names(model)
    chosen.advance(model, 5, 10)
    expected = model(batch)
    chosen.settle(model)
    assert torch.equal(model(batch), expected)
    once = {name: value.clone() for name, value in model.state_dict().items()}
    chosen.settle(model)
    assert once.keys() == model.state_dict().keys()
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())
    kept = round(0.005 * entries_of(make_classifier()))
    head = sum(p.numel() * 4 for p in model.head.parameters())
    assert delta_bytes(model, at_first) == {"model/delta_bytes": kept * (4 + 4) + head}
    delta = pack({name: value for name, value in once.items() if name in trainable_names(model)})
    fresh = chosen.settle(chosen.prepare(make_classifier()))
    assert not torch.equal(fresh(batch), expected)
    fresh.load_state_dict(unpack(delta), strict=False)
    assert torch.equal(fresh(batch), expected)
    finished = chosen.finish(fresh)
    assert torch.equal(finished(batch), expected)
    assert method.applied(finished)["peft"]["changed"] == kept


def test_finished_it_is_made_of_plain_layers_again_and_differs_from_the_base_where_it_was_kept(
    make_classifier,
):
    base = make_classifier()
    chosen = DiffPruning(kept=0.01)
    model = chosen.finish(trained(chosen.prepare(make_classifier())))
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in base.named_modules()]
    assert list(model.state_dict()) == list(base.state_dict())
    changed = sum(
        int((a != b).sum())
        for a, b in zip(model.encoder.parameters(), base.encoder.parameters(), strict=True)
    )
    kept = round(0.01 * entries_of(base))
    assert 0.99 * kept <= changed <= kept  # a change below the last digit of its weight is lost in the sum


def test_finishing_a_copy_leaves_the_original_able_to_finish(make_classifier, make_batch):
    chosen, batch = DiffPruning(), make_batch()
    model = trained(chosen.prepare(make_classifier()))
    before = model(batch)
    copied = chosen.finish(copy.deepcopy(model))
    assert torch.equal(model(batch), before)
    assert torch.equal(chosen.finish(model)(batch), copied(batch))


def test_a_shared_parameter_has_one_change_and_gets_it_once(make_batch, make_classifier):
    class Tied(nn.Module):
        width = 4

        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(self.one(x))

    torch.manual_seed(0)
    model, x = Classifier(Tied(), 2).eval(), torch.randn(3, 4)
    chosen = DiffPruning(kept=1.0)
    model = trained(chosen.prepare(model))
    assert len(changes_of(model)) == 3
    expected = model(x)
    chosen.finish(model)
    assert torch.equal(model(x), expected)
    assert model.encoder.one.weight is model.encoder.other.weight


def test_a_resumed_training_ends_as_the_uninterrupted_one(make_classifier, make_batch, fit):
    batches = [make_batch(seed=seed) for seed in range(4)]

    def prepared(seed=0):
        # As the run's own loop does, since every open gate is drawn anew at each step.
        chosen = DiffPruning(kept=0.1, fixed_after=0.25)
        return chosen, chosen.prepare(make_classifier(seed=seed))

    def train(chosen, model, loss_of, **how):
        objective = chosen.objective(loss_of)

        def seeded(model, batch):
            torch.manual_seed(int(batch["input_ids"].sum()))
            return objective(model, batch)

        fit(model, batches, all_epochs=3, callbacks=chosen.callbacks(), objective=seeded, **how)

    def loss_of(model, batch):
        return nn.functional.cross_entropy(model(batch), batch["labels"])

    chosen, whole = prepared()
    train(chosen, whole, loss_of)
    chosen, part = prepared()
    train(chosen, part, loss_of, epochs=2)
    chosen, again = prepared(seed=4)
    train(chosen, again, loss_of, resume=True)
    assert all(change.is_fixed for change in changes_of(again))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert {p.requires_grad for c in changes_of(again) for p in c.gates()} == {False}


def test_its_training_steps_are_counted(make_classifier, make_batch, loss_of):
    chosen, batch = DiffPruning(), make_batch()
    model, plain = chosen.prepare(make_classifier()).train(), make_classifier().train()
    counted = count_flops(lambda: chosen.objective(loss_of)(model, batch).backward())
    assert counted.reason is None
    assert counted.flops == count_flops(lambda: loss_of(plain, batch).backward()).flops


def agrees_with_its_finished_form(chosen, model, batch):
    before = model(batch)
    model = chosen.prepare(model)
    assert torch.equal(model(batch), before)
    trained(model)
    chosen.advance(model, 1, 1)
    expected = model(batch)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(chosen.finish(model)(batch), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "t5"])
def test_it_works_on_families_of_pretrained_models(name, tiny_family):
    family = tiny_family(name)
    batch = family.batch(["a good film", "dull and much, much too long"])
    agrees_with_its_finished_form(DiffPruning(kept=0.05), family.model, batch)


@pytest.mark.slow
def test_it_works_on_a_pretrained_model(minilm):
    batch = minilm.batch(["a good film", "dull and much, much too long"], [1, 0])
    agrees_with_its_finished_form(DiffPruning(), minilm.model, batch)


def test_a_change_learns_at_the_rate_of_its_weight_and_the_gates_faster_and_without_decay(make_classifier):
    model = make_classifier()
    for parameter in model.encoder.parameters():
        parameter.learning_rate_factor = 0.1
    DiffPruning(gate_learning_rate_factor=50.0).prepare(model)
    assert {change.change.learning_rate_factor for change in changes_of(model)} == {0.1}
    gates = [alpha for change in changes_of(model) for alpha in change.gates()]
    assert {(g.learning_rate_factor, g.weight_decay_factor) for g in gates} == {(50.0, 0.0)}


@pytest.mark.parametrize(
    "others",
    [
        {"compression/quantization": "int8_weight_only"},
        {"compression/pruning": "movement"},
        {"compression/early_exit": "deebert"},
    ],
)
def test_it_is_refused_where_weights_cannot_be_trained_in_one_phase(others):
    overrides = [f"{group}={name}" for group, name in others.items()]
    if "int8_weight_only" in overrides[0]:
        overrides.append("compression.quantization.moment=prepare")
    with hydra_context():
        composed = compose(["task=files", "model=backbone", "peft=diff_pruning", *overrides])
        alone = compose(["task=files", "model=backbone", "peft=diff_pruning"])
    check(alone.config, alone.chosen, [conf_dir()])
    with pytest.raises(IllegalCombinationError, match=r"trainable weights|uninterrupted training"):
        check(composed.config, composed.chosen, [conf_dir()])


@pytest.mark.parametrize("parts", ["lora,diff_pruning", "diff_pruning,lora", "diff_pruning,head_only"])
def test_it_is_combined_with_no_method_that_leaves_weights_frozen(parts):
    with hydra_context():
        composed = compose(["task=files", "model=backbone", "peft=combined", f"peft/parts=[{parts}]"])
    with pytest.raises(IllegalCombinationError, match="trainable weights"):
        check(composed.config, composed.chosen, [conf_dir()])


def test_after_another_method_it_is_refused(make_classifier):
    with pytest.raises(ValueError, match=r"changes every weight, and tokens\.weight is frozen"):
        DiffPruning().prepare(LoRA().prepare(make_classifier()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept": 0.0}, r"kept must be in \(0, 1\], got 0.0"),
        ({"kept": 1.1}, r"kept must be in \(0, 1\], got 1.1"),
        ({"fixed_after": 0.0}, r"fixed_after must be in \(0, 1\], got 0.0"),
        ({"penalty": -1.0}, "penalty must be at least 0, got -1.0"),
        ({"gate_learning_rate_factor": 0}, "gate_learning_rate_factor must be above 0, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffPruning(**settings)


def test_less_than_one_entry_is_refused(make_classifier):
    with pytest.raises(ValueError, match=r"kept must be at least 1 of \d+ entries, got 1e-09"):
        DiffPruning(kept=1e-9).prepare(make_classifier())


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="has no change of diff pruning"):
        DiffPruning().finish(make_classifier())
