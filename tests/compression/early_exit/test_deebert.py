import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.early_exit.exits import EarlyExitClassifier, entropy

DEPTH = 4


@pytest.fixture
def exiting(make_classifier):
    """A finished early-exit model whose heads are sure of some texts and not of others."""

    def make(threshold=0.5, scale=3.0, seed=0):
        deebert = DeeBERT(threshold=threshold)
        model = deebert.prepare(make_classifier(depth=DEPTH, seed=seed))
        torch.manual_seed(seed)
        with torch.no_grad():
            for head in [*model.exits, model.head]:
                nn.init.normal_(head.weight, std=scale / 32**0.5)
        return deebert.finish(model).eval()

    return make


def single(batch, i):
    return {name: value[i : i + 1] for name, value in batch.items()}


def entropies(model, batch):
    """(B, depth) of every head, as a reference that lets nobody leave."""
    state, columns = model.encoder.embed(batch), []
    for index, head in enumerate([*model.exits, model.head]):
        state = model.encoder.layer(index, state)
        p = head(model.encoder.pool(state)).double().softmax(-1)
        columns.append(-(p * p.log()).sum(-1))
    return torch.stack(columns, 1)


def test_entropy_is_zero_when_sure_and_log_c_when_not():
    torch.testing.assert_close(entropy(torch.zeros(2, 5)), torch.full((2,), math.log(5)))
    assert entropy(torch.tensor([[300.0, 0.0, 0.0]])).item() == 0
    p = torch.tensor([[0.7, 0.2, 0.1]])
    torch.testing.assert_close(entropy(p.log()), -(p * p.log()).sum(-1))


def test_threshold_zero_gives_the_last_layer_and_the_logits_of_the_plain_model(
    exiting, make_batch, make_classifier
):
    batch, model = make_batch(32), exiting(threshold=0.0)
    plain = make_classifier(depth=DEPTH)
    plain.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(model(batch), plain(batch), rtol=0, atol=1e-6)
    assert (model.last_depths == DEPTH).all()


def test_threshold_infinity_gives_the_first_layer(exiting, make_batch):
    batch, model = make_batch(32), exiting(threshold=math.inf)
    state = model.encoder.layer(0, model.encoder.embed(batch))
    assert torch.equal(model(batch), model.exits[0](model.encoder.pool(state)))
    assert (model.last_depths == 1).all()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_each_text_leaves_at_the_first_head_below_the_threshold(exiting, make_batch, threshold):
    batch, model = make_batch(64), exiting(threshold)
    model(batch)
    below = entropies(model, batch) < threshold
    below[:, -1] = True
    assert torch.equal(model.last_depths, below.int().argmax(1) + 1)
    assert len(model.last_depths.unique()) >= 3  # the inputs can tell the depths apart


def test_a_batch_of_32_takes_the_exits_of_32_singles_with_the_same_logits(exiting, make_batch):
    batch, model = make_batch(32), exiting()
    together, depths = model(batch), model.last_depths
    margin = (entropies(model, batch) - model.threshold).abs().min(1).values
    clear = margin > 1e-4  # outside the numerical margin at the threshold
    assert clear.sum() > 25
    for i in clear.nonzero().squeeze(1).tolist():
        length = int(batch["attention_mask"][i].sum())
        for alone in (single(batch, i), {n: v[i : i + 1, :length] for n, v in batch.items() if v.dim() == 2}):
            torch.testing.assert_close(model(alone)[0], together[i], rtol=0, atol=1e-5)
            assert model.last_depths.item() == depths[i]


def test_the_order_of_the_batch_is_kept(exiting, make_batch):
    batch, model, order = make_batch(32), exiting(), torch.randperm(32)
    shuffled = {name: value[order] for name, value in batch.items()}
    torch.testing.assert_close(model(shuffled), model(batch)[order], rtol=0, atol=1e-5)


def test_texts_that_left_are_not_computed_any_further(exiting, make_batch, monkeypatch):
    batch, model, seen = make_batch(32), exiting(), []
    layer = model.encoder.layer
    monkeypatch.setattr(model.encoder, "layer", lambda i, s: seen.append(len(s.hidden)) or layer(i, s))
    model(batch)
    assert seen == [int((model.last_depths > i).sum()) for i in range(len(seen))]
    assert seen[0] == 32 > seen[-1]


def test_depth_falls_monotonically_with_the_threshold(exiting, make_batch):
    batch, model, depths = make_batch(64), exiting(), []
    for threshold in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, math.inf):
        model.threshold = threshold
        model(batch)
        depths.append(model.last_depths)
    assert all((a >= b).all() for a, b in pairwise(depths))
    assert depths[0].float().mean() == DEPTH
    assert depths[-1].float().mean() == 1


@pytest.mark.parametrize("depth", range(1, DEPTH + 1))
def test_a_forced_depth_overrules_the_entropy(exiting, make_batch, depth):
    batch, model = make_batch(8), exiting(threshold=0.5)
    model.force_depth(depth)
    logits = model(batch)
    assert (model.last_depths == depth).all()
    state = model.encoder.embed(batch)
    for index in range(depth):
        state = model.encoder.layer(index, state)
    head = [*model.exits, model.head][depth - 1]
    torch.testing.assert_close(logits, head(model.encoder.pool(state)), rtol=0, atol=1e-6)
    model.force_depth(None)
    model(batch)
    assert len(model.last_depths.unique()) > 1


def test_the_histogram_counts_every_text_once(exiting, make_batch):
    model, depths = exiting(), []
    for seed in range(3):
        model(make_batch(16, seed=seed))
        depths.append(model.last_depths)
    assert torch.equal(model.exit_counts, torch.bincount(torch.cat(depths) - 1, minlength=DEPTH))
    assert model.exit_counts.sum() == 48
    model.reset_exit_counts()
    assert model.exit_counts.sum() == 0


def test_it_counts_inside_and_outside_of_inference_mode(exiting, make_batch):
    model = exiting()
    with torch.inference_mode():
        model.reset_exit_counts()
        model(make_batch(4))
    model(make_batch(4))
    assert model.exit_counts.sum() == 8


def test_before_training_the_logits_are_those_of_the_plain_model(make_classifier, make_batch):
    batch = make_batch()
    model = DeeBERT().prepare(make_classifier(depth=DEPTH)).eval()
    assert torch.equal(model(batch), make_classifier(depth=DEPTH)(batch))
    assert EarlyExitClassifier.data_dependent_compute


def changed_in_phase(make_classifier, batch, step, loss_of):
    deebert = DeeBERT(first_phase=0.5)
    model = deebert.prepare(make_classifier(depth=DEPTH, dropout=0.1))
    deebert.advance(model.train(), step, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    deebert.objective(loss_of)(model, batch).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trainable
    return changed, set(before)


def test_the_first_phase_moves_the_model_and_not_the_exits(make_classifier, make_batch, loss_of):
    changed, names = changed_in_phase(make_classifier, make_batch(), 4, loss_of)
    assert changed == {name for name in names if not name.startswith("exits.")}


def test_the_second_phase_moves_the_exits_and_no_byte_of_the_model(make_classifier, make_batch, loss_of):
    changed, names = changed_in_phase(make_classifier, make_batch(), 5, loss_of)
    assert changed == {name for name in names if name.startswith("exits.")}


def test_the_loss_of_the_second_phase_is_the_sum_over_the_exits(make_classifier, make_batch, loss_of):
    deebert, batch = DeeBERT(), make_batch()
    model = deebert.prepare(make_classifier(depth=DEPTH))
    deebert.advance(model, 9, 10)
    expected = sum(
        nn.functional.cross_entropy(logits, batch["labels"]) for logits in model.exit_logits(batch)
    )
    torch.testing.assert_close(deebert.objective(loss_of)(model.train(), batch), expected)


def trained(fit, make_classifier, make_batch, loss_of, **options):
    deebert = DeeBERT(first_phase=0.55)
    model = deebert.prepare(make_classifier(depth=3, seed=0))
    batches = [make_batch(16, seed=seed) for seed in range(10)]
    seen = fit(model, batches, 2, deebert.callbacks(), deebert.objective(loss_of), **options)
    return seen, model


def test_a_resumed_training_ends_as_the_uninterrupted_one(fit, make_classifier, make_batch, loss_of):
    losses, whole = trained(fit, make_classifier, make_batch, loss_of)
    before, _ = trained(fit, make_classifier, make_batch, loss_of, epochs=1)
    after, in_two = trained(fit, make_classifier, make_batch, loss_of, resume=True)
    assert before + after == losses
    again = in_two.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.state_dict().items())


def test_the_second_phase_lowers_the_loss_of_the_exits(fit, make_classifier, make_batch, loss_of):
    losses, model = trained(fit, make_classifier, make_batch, loss_of)
    of_exits = [loss for step, loss in losses if step >= 11]
    assert len(of_exits) == 9
    assert of_exits[-1] < of_exits[0]
    assert model.exits_in_use


def test_the_run_is_told_that_only_the_end_counts():
    assert method.settled_after([DeeBERT()]) == 1.0


def test_finishing_a_copy_leaves_the_model_in_its_phase(make_classifier, make_batch):
    model = DeeBERT().prepare(make_classifier(depth=DEPTH))
    finished = DeeBERT().finish(copy.deepcopy(model))
    assert finished.exits_in_use
    assert not model.exits_in_use


def test_a_saved_and_loaded_model_gives_the_same_logits(exiting, make_batch, tmp_path):
    batch, model = make_batch(32), exiting()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = exiting(seed=7)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(fresh(batch), model(batch))


def test_it_works_on_a_pretrained_model(minilm):
    batch = minilm.batch(["a good film", "dull and much, much too long", "not for me"])
    before = minilm.model(batch)
    model = DeeBERT(threshold=0.0).prepare(minilm.model)
    torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-6)
    torch.testing.assert_close(DeeBERT().finish(model)(batch), before, rtol=0, atol=1e-5)
    model.force_depth(2)
    model(batch)
    assert model.last_depths.tolist() == [2, 2, 2]


def test_an_encoder_that_cannot_be_run_layer_by_layer_is_refused(make_classifier):
    model = make_classifier()
    model.encoder = nn.Embedding(5, 4)
    with pytest.raises(ValueError, match="run layer by layer, got Embedding"):
        DeeBERT().prepare(model)


def test_a_single_layer_is_refused(make_classifier):
    with pytest.raises(ValueError, match="at least 2 layers, got 1"):
        DeeBERT().prepare(make_classifier(depth=1))


@pytest.mark.parametrize("depth", [0, DEPTH + 1])
def test_a_depth_that_does_not_exist_is_refused(exiting, depth):
    with pytest.raises(ValueError, match=f"depth must be in 1 … 4, got {depth}"):
        exiting().force_depth(depth)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ({"threshold": float("nan")}, "threshold must be at least 0, got nan"),
        ({"first_phase": 1.0}, r"first_phase must be in \(0, 1\), got 1.0"),
        ({"learning_rate_factor": 0}, "learning_rate_factor must be above 0, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        DeeBERT(**settings)


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="the model is a Classifier"):
        DeeBERT().finish(make_classifier())


def test_a_preview_before_the_second_phase_leaves_about_as_early_as_the_trained_model_does(
    make_classifier, make_batch, loss_of, fit
):
    deebert = DeeBERT(threshold=0.6, first_phase=0.5)
    model = deebert.prepare(make_classifier(depth=3))
    batches = [make_batch(32, seed=seed) for seed in range(16)]
    test = make_batch(200, seed=99)
    loss = method.objective([deebert], loss_of)
    fit(model, batches, 4, deebert.callbacks(), loss, epochs=2)
    untrained, seen = copy.deepcopy(model), method.preview([deebert], model, 32, 64, batches)
    fit(model, batches, 4, deebert.callbacks(), loss, resume=True)

    def mean_depth(of):
        of(test)
        return float(of.last_depths.float().mean())

    trained, looked = mean_depth(deebert.finish(model)), mean_depth(seen)
    assert mean_depth(deebert.finish(untrained)) > 2.9
    assert trained < 2.5
    assert abs(looked - trained) < 0.5


def test_a_preview_trains_the_exits_alone_and_without_batches_nothing(make_classifier, make_batch):
    deebert = DeeBERT()
    model = deebert.prepare(make_classifier(depth=3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    nothing = method.preview([deebert], model, 3, 10)
    assert all(torch.equal(value, before[name]) for name, value in nothing.state_dict().items())
    seen = method.preview([deebert], model, 3, 10, [make_batch()])
    changed = {name for name, value in seen.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("exits.")}
    assert seen.exits_in_use
    assert not model.exits_in_use
