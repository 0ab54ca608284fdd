import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.early_exit.pabee import PABEE
from effnlp.compression.early_exit.quality_target import (
    QualityTarget,
    calibrate_threshold,
    depths_at,
    doubts_of,
    held_out,
    thresholds_between,
)

DEPTH = 4


@pytest.fixture
def model(make_classifier):
    """Exits that agree with the last head on most texts, and are sure of some."""
    made = DeeBERT().prepare(make_classifier(depth=DEPTH)).eval()
    with torch.no_grad():
        nn.init.normal_(made.head.weight, std=1.5)
        for exit_head in made.exits:
            exit_head.weight.copy_(made.head.weight + torch.randn_like(made.head.weight) * 0.4)
            exit_head.bias.copy_(made.head.bias)
    made.exits_in_use = True
    return made


@pytest.fixture
def batches(make_batch, model):
    """Texts whose label is mostly what the whole model says."""
    made = [make_batch(64, seed=seed) for seed in range(20)]
    for batch in made:
        model.force_depth(DEPTH)
        with torch.no_grad():
            said = model(batch).argmax(-1)
        noise = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.1
        batch["labels"] = torch.where(noise, batch["labels"], said)
    model.force_depth(None)
    return made


def test_about_a_fifth_is_held_out_and_padding_or_company_changes_nothing(make_batch):
    batch = make_batch(2000)
    rows = held_out(batch)
    assert abs(rows.float().mean() - 0.2) < 0.03
    wider = {
        name: nn.functional.pad(value, (0, 7)) if value.dim() == 2 else value for name, value in batch.items()
    }
    wider["input_ids"][:, -7:] = 5  # what fills a row does not count
    assert torch.equal(held_out(wider), rows)
    order = torch.randperm(2000)
    assert torch.equal(held_out({name: value[order] for name, value in batch.items()}), rows[order])


def test_the_depths_that_it_reckons_with_are_those_that_the_model_takes(model, batches):
    doubts, _ = doubts_of(model, batches[:4])
    for threshold in thresholds_between(doubts)[::60].tolist():
        model.threshold = threshold
        taken = []
        for batch in batches[:4]:
            rows = held_out(batch)
            with torch.no_grad():
                model({name: value[rows] for name, value in batch.items()})
            taken.append(model.last_depths)
        clear = (doubts - threshold).abs().min(1).values > 1e-5
        assert torch.equal(torch.cat(taken)[clear], depths_at(doubts, threshold)[clear])


@pytest.mark.parametrize("largest_loss", [0.0, 0.02, 0.1])
def test_what_it_chooses_loses_no_more_than_it_may_and_the_next_one_would(model, batches, largest_loss):
    found = calibrate_threshold(model, batches, largest_loss)
    kept = [{name: value[held_out(batch)] for name, value in batch.items()} for batch in batches]
    labels = torch.cat([batch["labels"] for batch in kept])

    def accuracy(threshold):
        model.threshold = threshold
        with torch.no_grad():
            return float((torch.cat([model(batch).argmax(-1) for batch in kept]) == labels).double().mean())

    whole = accuracy(0.0)
    assert found.loss <= largest_loss
    assert found.loss == pytest.approx(whole - accuracy(found.threshold), abs=1e-9)
    assert found.texts == len(labels) > 100
    tried = thresholds_between(doubts_of(model, batches)[0]).tolist()
    above = [threshold for threshold in tried if threshold > found.threshold]
    assert not above or whole - accuracy(above[0]) > largest_loss


def test_more_may_be_lost_the_earlier_texts_leave(model, batches):
    depths = [calibrate_threshold(model, batches, loss).mean_depth for loss in (0.0, 0.02, 0.1, 0.9)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[-1] == 1.0


def test_the_run_gives_the_method_its_texts_and_the_threshold_is_noted(model, batches):
    chosen = DeeBERT(threshold=0.123, largest_loss=0.02, calibration_texts=1000)
    assert method.texts_wanted([chosen]) == 1000
    finished = method.finish(chosen, model, batches)
    noted = finished.applied["compression/early_exit"]
    assert noted["threshold"] == finished.threshold != 0.123
    assert noted["calibration_loss"] <= 0.02
    seen = sum(int(held_out(batch).sum()) for batch in method.first_texts(batches, 1000))
    assert noted["calibration_texts"] == seen


def test_without_a_target_no_text_is_wanted_and_none_is_held_out(model, make_batch):
    chosen = DeeBERT(threshold=0.123)
    assert method.texts_wanted([chosen]) == 0
    assert chosen.target.learning_rows(make_batch()) is None
    assert method.finish(chosen, model).threshold == 0.123
    with pytest.raises(ValueError, match="largest_loss is null"):
        chosen.calibrate(model, [make_batch()])


def test_a_target_without_texts_is_refused(model, make_batch):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(DeeBERT(largest_loss=0.01), model)
    batch = make_batch(64)
    rows = ~held_out(batch)
    learnt_from = {name: value[rows] for name, value in batch.items()}
    with pytest.raises(ValueError, match="raise calibration_texts"):
        calibrate_threshold(model, [learnt_from], 0.01)


def test_a_patience_is_chosen_among_counts(make_classifier, batches):
    chosen = PABEE(largest_loss=0.5)
    finished = method.finish(chosen, chosen.prepare(make_classifier(depth=DEPTH)).eval(), batches)
    assert finished.applied["compression/early_exit"]["patience"] in range(1, DEPTH + 1)


def test_a_preview_chooses_by_the_last_batches_and_without_any_keeps_the_threshold(model, batches):
    chosen = DeeBERT(threshold=0.123, largest_loss=0.05)
    seen = method.preview([chosen], model, 9, 10, batches)
    assert "calibration_texts" in seen.applied["compression/early_exit"]
    assert method.preview([chosen], model, 9, 10).threshold == 0.123
    assert chosen.target.calibrated is None


def test_the_target_itself_tells_nothing_before_it_was_met():
    assert QualityTarget(None, 5).values() == {}
    assert QualityTarget(0.1, 5).threshold_or(0.7) == 0.7
