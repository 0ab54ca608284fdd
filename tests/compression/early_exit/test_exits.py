"""What every method of early exit owes, found by listing the configs of the group."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import nn

from effnlp import method
from effnlp.compression.early_exit.exits import Given, loss_of_logits
from effnlp.evaluation.flops import count_flops

DEPTH = 5
CONFIGS = sorted((Path(__file__).parents[3] / "conf" / "compression" / "early_exit").glob("*.yaml"))
NAMES = [path.stem for path in CONFIGS if path.stem != "none"]
assert len(NAMES) >= 4

every_method = pytest.mark.parametrize("name", NAMES)


def make(name, **changes):
    path = next(path for path in CONFIGS if path.stem == name)
    settings = {**OmegaConf.to_container(OmegaConf.load(path)), **changes}
    return get_object(settings.pop("_target_"))(**settings)


@pytest.fixture
def exiting(make_classifier):
    """A finished model of a method whose heads are sure of some texts and not of others, at a given threshold."""

    def finished(name, threshold, seed=0):
        chosen = make(name)
        model = chosen.prepare(make_classifier(depth=DEPTH, seed=seed))
        torch.manual_seed(seed)
        with torch.no_grad():
            for head in [*model.exits, model.head]:
                nn.init.normal_(head.weight, std=3 / 32**0.5)
            for parameter in model.rule.parameters():
                parameter.normal_(std=1 / 32**0.5)
        model = chosen.finish(model).eval()
        model.threshold = threshold
        return model

    return finished


@torch.no_grad()
def doubts(model, batch):
    """(B, DEPTH - 1) as a reference that lets nobody leave and knows no batches: text by text."""
    rows = []
    for i in range(len(batch["input_ids"])):
        alone = {name: value[i : i + 1] for name, value in batch.items()}
        state, memory, row = model.encoder.embed(alone), None, []
        for index, head in enumerate(model.exits):
            state = model.encoder.layer(index, state)
            pooled = model.encoder.pool(state)
            doubt, memory = model.rule(pooled, head(pooled), memory)
            row.append(doubt[0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def some_threshold(model, batch, share=0.4):
    """One between two doubts of the texts, so that about ``share`` of the exits would let them leave."""
    values = doubts(model, batch).flatten().unique()
    place = min(int(share * len(values)), len(values) - 2)
    return float(values[place] + values[place + 1]) / 2


@every_method
def test_each_text_leaves_at_the_first_exit_whose_doubt_is_below_the_threshold(exiting, make_batch, name):
    batch, model = make_batch(48), exiting(name, 0.0)
    model.threshold = some_threshold(model, batch)
    model(batch)
    below = torch.cat([doubts(model, batch) < model.threshold, torch.ones(48, 1, dtype=torch.bool)], 1)
    assert torch.equal(model.last_depths, below.int().argmax(1) + 1)
    assert len(model.last_depths.unique()) >= 3  # the inputs can tell the depths apart


@every_method
def test_a_batch_of_32_takes_the_exits_of_32_singles_with_the_same_logits(exiting, make_batch, name):
    batch, model = make_batch(32), exiting(name, 0.0)
    model.threshold = some_threshold(model, batch)
    together, depths = model(batch), model.last_depths
    margin = (doubts(model, batch) - model.threshold).abs().min(1).values
    clear = margin > 1e-4  # outside the numerical margin at the threshold
    assert clear.sum() > 25
    for i in clear.nonzero().squeeze(1).tolist():
        length = int(batch["attention_mask"][i].sum())
        alone = {n: v[i : i + 1, :length] for n, v in batch.items() if v.dim() == 2}
        torch.testing.assert_close(model(alone)[0], together[i], rtol=0, atol=1e-5)
        assert model.last_depths.item() == depths[i]
    assert len(depths.unique()) >= 3


@every_method
def test_depth_and_flops_fall_monotonically_with_the_threshold(exiting, make_batch, name):
    batch, model = make_batch(32), exiting(name, 0.0)
    values = doubts(model, batch)
    depths, flops = [], []
    for threshold in [
        float(values.min()) - 1e-3,
        *values.flatten().quantile(torch.linspace(0.1, 0.9, 5)).tolist(),
        math.inf,
    ]:
        model.threshold = threshold
        with torch.no_grad():
            flops.append(count_flops(lambda: model(batch)).flops)
        depths.append(model.last_depths)
    assert all((a >= b).all() for a, b in pairwise(depths))
    assert all(a >= b for a, b in pairwise(flops))
    assert (depths[0] == DEPTH).all()
    assert (depths[-1] == 1).all()
    assert flops[-1] < 0.3 * flops[0]


@every_method
def test_the_histogram_counts_every_text_once(exiting, make_batch, name):
    model = exiting(name, 0.0)
    model.threshold, seen = some_threshold(model, make_batch(16)), []
    for seed in range(3):
        model(make_batch(16, seed=seed))
        seen.append(model.last_depths)
    assert torch.equal(model.exit_counts, torch.bincount(torch.cat(seen) - 1, minlength=DEPTH))


@every_method
def test_a_forced_depth_overrules_the_rule(exiting, make_batch, name):
    model, batch = exiting(name, math.inf), make_batch(8)
    model.force_depth(3)
    model(batch)
    assert (model.last_depths == 3).all()


@every_method
def test_a_single_layer_is_refused(make_classifier, name):
    with pytest.raises(ValueError, match="early exit needs at least 2 layers, got 1"):
        make(name).prepare(make_classifier(depth=1))


@every_method
def test_finishing_what_was_not_prepared_is_refused(make_classifier, name):
    with pytest.raises(ValueError, match="no exits to use: the model is a Classifier"):
        make(name).finish(make_classifier())


@every_method
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate_factor": 0}, "learning_rate_factor must be above 0, got 0"),
        ({"largest_loss": 1.5}, r"largest_loss must be in \[0, 1\), or null, got 1.5"),
        ({"largest_loss": 0.01, "calibration_texts": 0}, "calibration_texts must be at least 1, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make(name, **settings)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"deebert"}))  # that one is resumed in its own tests
def test_a_resumed_training_ends_as_the_uninterrupted_one(fit, make_classifier, make_batch, loss_of, name):
    def trained(**options):
        chosen = make(name)
        model = method.prepare([chosen], make_classifier(depth=2))
        batches = [make_batch(8, seed=seed) for seed in range(3)]  # an odd number: the epochs differ in turn
        seen = fit(
            model, batches, 2, method.callbacks([chosen]), method.objective([chosen], loss_of), **options
        )
        return seen, model.state_dict()

    losses, whole = trained()
    before, start = trained(epochs=1)
    after, in_two = trained(resume=True)
    assert before + after == losses
    assert all(torch.equal(value, in_two[key]) for key, value in whole.items())
    assert any(not torch.equal(value, start[key]) for key, value in whole.items() if key.startswith("exits."))


@every_method
def test_it_works_on_a_pretrained_model(minilm, name):
    batch = minilm.batch(["a good film", "dull and much, much too long", "not for me"])
    before = minilm.model(batch)
    chosen = make(name)
    model = chosen.finish(chosen.prepare(minilm.model))
    model.threshold = -math.inf
    torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-5)
    model.threshold = math.inf
    model(batch)
    assert model.last_depths.tolist() == [1, 1, 1]


def test_an_objective_sees_the_chosen_rows_alone_and_none_costs_nothing(make_batch, loss_of):
    batch, logits = make_batch(6), torch.randn(6, 3, requires_grad=True)
    rows = torch.tensor([True, False, True, False, False, True])
    expected = nn.functional.cross_entropy(logits[rows], batch["labels"][rows])
    torch.testing.assert_close(loss_of_logits(loss_of, logits, batch, rows), expected)
    nothing = loss_of_logits(loss_of, logits, batch, ~torch.ones(6, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0
    assert (logits.grad == 0).all()


def test_an_objective_that_looks_at_parts_of_the_model_finds_them(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()

    def objective(given, batch):
        return given(batch).sum() + sum(m.weight.sum() for m in given.modules() if isinstance(m, nn.Linear))

    logits = torch.randn(8, 3)
    expected = logits.sum() + sum(m.weight.sum() for m in model.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(objective(Given(logits, model), batch), expected)
