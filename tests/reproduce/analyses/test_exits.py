"""What is said of leaving early, against models whose texts really leave."""

import math

import numpy as np
import pytest
import torch

from effnlp.compression.early_exit.exits import EarlyExitClassifier
from effnlp.compression.early_exit.pabee import ByAgreement
from effnlp.record import Record
from effnlp.reproduce.analyses import exits
from effnlp.reproduce.analyses.exits import Passed, pass_through, seconds_at, sure_and_right
from effnlp.reproduce.cells import Run


@pytest.fixture
def model(make_classifier):
    """Exits of random weights that are more or less sure of a text."""
    made = EarlyExitClassifier(make_classifier(depth=4), threshold=0.0).eval()
    with torch.no_grad():
        for head in made.exits:
            head.weight.mul_(8)
    made.exits_in_use = True
    return made


@pytest.fixture
def batches(make_batch):
    return [make_batch(12, seed=1), make_batch(20, seed=2), make_batch(9, seed=3)]


@pytest.mark.parametrize("rule", [None, ByAgreement()], ids=["by entropy", "by agreement"])
def test_what_is_told_of_a_threshold_is_what_a_model_does_with_it(model, batches, rule):
    if rule is not None:
        model.rule = rule
    passed = pass_through(model, batches)
    told = []
    for threshold in exits.thresholds_between(passed.doubts).tolist():
        model.threshold = threshold
        model.reset_exit_counts()
        with torch.no_grad():
            right = torch.cat([model(batch).argmax(-1) == batch["labels"] for batch in batches])
        saving, accuracy = passed.at(threshold)
        assert saving == pytest.approx(exits.expected_saving(model.exit_counts.tolist()))
        assert accuracy == pytest.approx(float(right.double().mean()))
        told.append(saving)
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == pytest.approx(3 / 4)
    assert [saved for saved, _ in passed.curve()] == told
    assert passed.curve()[0][1] == pytest.approx(passed.whole)


def test_doubt_that_goes_with_being_wrong_is_in_the_opposite_order_of_accuracy():
    doubts = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    chance = torch.rand(400, generator=torch.Generator().manual_seed(1))
    correct = torch.ones(400, 4, dtype=torch.bool)
    correct[:, 1] = chance > doubts[:, 1]  # the middle exit
    assert sure_and_right(Passed(doubts, correct)) < -0.9
    correct[:, 1] = chance < doubts[:, 1]
    assert sure_and_right(Passed(doubts, correct)) > 0.9


def test_doubts_of_few_values_have_no_bins():
    doubts = torch.randint(0, 3, (400, 3)).float()
    assert sure_and_right(Passed(doubts, torch.ones(400, 4, dtype=torch.bool))) is None


def test_timing_tells_each_threshold_and_leaves_the_model_as_it_was(model, batches):
    model.threshold = 0.25
    seconds = seconds_at(model, batches, [0.0, math.inf], turns=2)
    assert len(seconds) == 2
    assert all(0 < value < math.inf for value in seconds)
    assert model.threshold == 0.25


def test_a_row_with_exits_is_told_by_its_own_texts_and_against_the_flops_of_all_layers(run_tiny, tmp_path):
    overrides = ["model=backbone", "model.max_length=16", "trainer.epochs=3", "finetuning.learning_rate=3e-3"]
    whole = run_tiny(*overrides, "keep_model=false", folder=tmp_path / "whole")
    early = run_tiny(
        *overrides, "compression/early_exit=pabee", "compression.early_exit.patience=0", folder=tmp_path / "early"
    )  # fmt: skip
    runs = {
        "whole": [Run("whole", "0", whole, whole.folder)],
        "early": [Run("early", "0", early, early.folder)],
    }
    found = {
        column: values["0"] for column, values in exits.traded(runs, ["early"], "whole")["early"].items()
    }
    assert found["expected saving"] == pytest.approx(50)  # all leave after the first of two layers
    assert 25 < found["FLOPs saved"] < 55
    assert found["last head"] - found["lost"] == pytest.approx(100 * early.values["val/accuracy"])
    assert found["at 50 %"] == pytest.approx(100 * early.values["val/accuracy"])
    assert "at 75 %" not in found  # two layers cannot save so much
    assert 0 <= found["saving at a point"] <= 50
    timed = exits.timed(runs, ["early"], texts=4, turns=1)["early"]
    assert set(timed) == {"linear in time", "time saved"}
    assert 0 <= timed["linear in time"]["0"] <= 1
    assert np.isfinite(timed["time saved"]["0"])
    with pytest.raises(ValueError, match="no run with the seed 0, which early has"):
        exits.traded({**runs, "whole": []}, ["early"], "whole")


def test_a_row_without_exits_is_named(run_tiny):
    record = run_tiny("keep_model=true")
    record.values["infer/fixed_batch/flops"] = 1.0
    of = [Run("plain", "0", record, record.folder)]
    with pytest.raises(ValueError, match="the model of plain has no exits"):
        exits.traded({"plain": of}, ["plain"], "plain")
    with pytest.raises(ValueError, match=r"has no deployed\.pt"):
        exits.timed({"gone": [Run("gone", "0", Record("completed", {}), record.folder / "no")]}, ["gone"])
