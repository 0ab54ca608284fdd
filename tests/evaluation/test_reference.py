"""Hand values of loyalty and of where answers changed; a real pair of runs; what is no reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from effnlp.evaluation.predictions import Predictions, load_predictions
from effnlp.evaluation.reference import (
    absolute_reference,
    against,
    compare_again,
    exemplars,
    probability_loyalty,
    refuse_reference,
)
from effnlp.identity import config_hash
from effnlp.launch import preflight
from effnlp.record import COMPLETED, FAILED, Record

LABELS = ("no", "yes", "maybe")


def answering(answers, truth, sure=4.0):
    """Predictions with these answers; ``sure`` is the logit of each answer, one for all or one each."""
    logits = torch.zeros(len(answers), 3)
    logits[torch.arange(len(answers)), torch.tensor(answers)] = torch.as_tensor(sure, dtype=torch.float32)
    return Predictions.of(logits, torch.tensor(truth))


TRUTH = [0, 0, 0, 0, 1, 1, 1, 2]
BEFORE = answering([0, 0, 0, 0, 1, 1, 1, 2], TRUTH, sure=[9.0, 8, 7, 6, 5, 4, 1, 2])
AFTER = answering([0, 0, 0, 1, 1, 1, 0, 0], TRUTH)


# What is found


def test_a_run_is_loyal_to_itself():
    found = against(BEFORE, BEFORE, LABELS)
    assert found.values["label_loyalty"] == found.values["probability_loyalty"] == 1.0
    shares = {key: value for key, value in found.values.items() if key.startswith("changed")}
    assert len(shares) > 5
    assert set(shares.values()) == {0.0}
    assert found.absent["changed_ratio/rarest_class"] == "no answer changed"
    assert exemplars(BEFORE, BEFORE, LABELS)["count"] == 0


def test_changed_answers_are_found_where_they_are():
    values = against(AFTER, BEFORE, LABELS).values
    assert values["changed"] == 3 / 8
    assert values["label_loyalty"] == 5 / 8
    assert [values[f"changed/class/{name}"] for name in LABELS] == [1 / 4, 1 / 3, 1.0]
    assert values["changed/rarest_class"] == 1.0
    assert values["changed_ratio/rarest_class"] == pytest.approx(8 / 3)
    assert values["changed/least_sure_quartile"] == 1.0  # the examples at 6 and 7
    assert values["changed/reference_right"] == 3 / 8
    assert "changed/reference_wrong" not in values


def test_shares_of_places_that_make_up_the_whole_add_up_to_the_overall_share():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (200,), generator=draw)
    one, other = (Predictions.of(torch.randn(200, 3, generator=draw), truth) for _ in range(2))
    values = against(one, other, LABELS).values
    counts = np.bincount(truth) / 200
    assert sum(
        values[f"changed/class/{n}"] * c for n, c in zip(LABELS, counts, strict=True)
    ) == pytest.approx(values["changed"])
    right = float((other.logits.argmax(1) == truth.numpy()).mean())
    both = values["changed/reference_right"] * right + values["changed/reference_wrong"] * (1 - right)
    assert both == pytest.approx(values["changed"])
    assert 0 < values["changed"] < 1


def test_accuracy_may_stay_while_answers_change():
    after = answering([0, 0, 1, 0, 1, 1, 1, 2], TRUTH)
    before = answering([0, 1, 0, 0, 1, 1, 1, 2], TRUTH)
    accuracies = [float((p.logits.argmax(1) == p.labels).mean()) for p in (before, after)]
    assert accuracies[0] == accuracies[1]
    assert against(after, before, LABELS).values["changed"] == 2 / 8


def test_the_least_sure_quartile_is_of_the_reference_and_by_the_true_class():
    truth = [0] * 8
    sure_and_wrong = answering([1, 0, 0, 0, 0, 0, 0, 0], truth, sure=[9.0, 1, 2, 3, 4, 5, 6, 7])
    # By its own confidence the first would be the surest; of the true class it is the least probable.
    after = answering([0, 0, 0, 0, 0, 0, 0, 0], truth)
    assert against(after, sure_and_wrong, LABELS).values["changed/least_sure_quartile"] == 0.5
    assert against(sure_and_wrong, after, LABELS).values["changed/reference_right"] == 1 / 8


def test_probability_loyalty_agrees_with_the_library_and_has_its_ends():
    draw = np.random.default_rng(0)
    p, q = draw.dirichlet([0.3] * 4, size=50), draw.dirichlet([0.3] * 4, size=50)
    assert probability_loyalty(p, q) == pytest.approx(1 - jensenshannon(p, q, base=2, axis=1), abs=1e-9)
    assert probability_loyalty([[1.0, 0.0]], [[0.0, 1.0]]) == 0.0
    assert probability_loyalty(p, p) == pytest.approx(np.ones(50))
    assert probability_loyalty(p, q) == pytest.approx(probability_loyalty(q, p))


def test_exemplars_name_position_and_classes_the_surest_first_and_no_more_than_asked():
    found = exemplars(AFTER, BEFORE, LABELS)
    assert found == {
        "count": 3, "position": [3, 7, 6], "was": ["no", "maybe", "yes"], "is": ["yes", "no", "no"],
        "true": ["no", "maybe", "yes"],
    }  # fmt: skip
    few = exemplars(AFTER, BEFORE, LABELS, most=1)
    assert (few["count"], few["position"]) == (3, [3])
    json.dumps(found)


def test_classes_without_examples_and_without_a_rarest_are_absent_with_the_reason():
    even = answering([0, 0, 1, 1], [0, 0, 1, 1])
    found = against(even, even, LABELS)
    assert found.absent["changed/class/maybe"] == "it has no example"
    assert found.absent["changed/rarest_class"] == "all classes have the same number of examples"
    tied = answering([0, 0, 1, 2], [0, 0, 1, 2])
    changed = answering([0, 0, 0, 2], [0, 0, 1, 2])
    assert against(changed, tied, LABELS).values["changed/rarest_class"] == 0.5


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (answering([0, 1], [0, 1]), "8 of 3 classes, the reference has 2 of 3"),
        (answering(TRUTH, [0] * 8), "with other labels"),
        (Predictions.of(torch.zeros(8, 2), torch.tensor(TRUTH)), "the reference has 8 of 2"),
    ],
)
def test_predictions_of_other_examples_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        against(AFTER, other, LABELS)


def test_scores_that_are_no_classes_are_refused():
    single = Predictions.of(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="one of several classes"):
        against(single, single, LABELS)


# Runs


@pytest.fixture
def pair(run_tiny, tmp_path):
    """A reference run, and one trained for less that was compared with it."""
    rate = "finetuning.learning_rate=5e-3"
    whole = run_tiny(rate, "trainer.epochs=4", folder=tmp_path / "whole")
    brief = run_tiny(
        rate, "trainer.epochs=1", f"evaluation.reference={whole.folder}", folder=tmp_path / "brief"
    )
    assert whole.status == brief.status == COMPLETED, brief.message
    return whole, brief


def test_a_run_is_compared_with_its_reference(pair):
    whole, brief = pair
    values = brief.values
    assert 0 < values["reference/val/label_loyalty"] < 1
    assert values["reference/val/changed"] == pytest.approx(1 - values["reference/val/label_loyalty"])
    mine, theirs = (load_predictions(run.folder)["val"].logits.argmax(1) for run in (brief, whole))
    assert values["reference/val/changed"] == pytest.approx(float((mine != theirs).mean()))
    note = brief.notes["reference"]
    assert note["config_hash"] == whole.identity["config_hash"]
    assert note["val"]["count"] == int((mine != theirs).sum())
    assert brief.notes["labels"] == ["bad", "good", "odd"]
    assert not any(key.startswith("reference/") for key in whole.values)


def test_a_finished_run_is_compared_with_another_reference_without_training(pair, run_tiny, monkeypatch):
    whole, brief = pair
    monkeypatch.setattr("effnlp.run._finetune", None)  # whoever trains now fails
    itself = run_tiny(
        "finetuning.learning_rate=5e-3",
        "trainer.epochs=4",
        f"evaluation.reference={whole.folder}",
        folder=whole.folder,
    )
    assert itself.status == COMPLETED
    assert itself.values["reference/val/label_loyalty"] == 1.0
    other = run_tiny(
        "finetuning.learning_rate=5e-3",
        "trainer.epochs=4",
        f"evaluation.reference={brief.folder}",
        folder=whole.folder,
    )
    assert other.values["reference/val/changed"] == brief.values["reference/val/changed"]
    kept = Record.load(whole.folder)
    assert kept.values == other.values
    assert kept.config["evaluation"]["reference"] == str(brief.folder)
    again = run_tiny(
        "finetuning.learning_rate=5e-3", "trainer.epochs=4", folder=whole.folder
    )  # nothing is asked for: what was found stays
    assert again.values == other.values


def test_new_predictions_are_compared_and_a_reference_that_is_gone_leaves_a_reason(pair):
    whole, brief = pair
    record = Record.load(brief.folder)
    before = dict(record.values)
    compare_again(record, brief.folder, LABELS)
    assert record.values["reference/val/changed/class/no"] == before["reference/val/changed/class/bad"]
    assert "reference/val/changed/class/bad" not in record.values  # what there was before goes
    assert record.values["val/accuracy"] == before["val/accuracy"]
    (whole.folder / "record.json").unlink()
    compare_again(record, brief.folder, LABELS)
    assert record.values["reference/val/changed"] == before["reference/val/changed"]


def test_a_split_that_the_reference_has_no_predictions_of_is_absent(pair, run_tiny, tmp_path):
    whole, _ = pair
    tested = run_tiny(
        "evaluation.test=true", f"evaluation.reference={whole.folder}", folder=tmp_path / "tested"
    )
    assert "reference/val/changed" in tested.values
    assert tested.absent["reference/test/changed"] == "the reference has no predictions of test"


def test_the_path_of_the_reference_is_no_part_of_what_a_run_is(pair, monkeypatch):
    whole, brief = pair
    assert brief.config["evaluation"]["reference"] == str(whole.folder)
    without = {**brief.config, "evaluation": {**brief.config["evaluation"], "reference": None}}
    assert config_hash(without) == config_hash(brief.config)
    typed = {**brief.config, "evaluation": {**brief.config["evaluation"], "reference": "whole"}}
    assert absolute_reference(typed, whole.folder.parent) == brief.config
    assert absolute_reference(without, Path("/")) == without


def test_what_is_no_reference_is_refused_before_the_training(pair, run_tiny, tmp_path, monkeypatch):
    whole, _ = pair
    monkeypatch.setattr("effnlp.run._finetune", None)
    other = run_tiny("task.train_size=100", f"evaluation.reference={whole.folder}", folder=tmp_path / "other")
    assert (other.status, other.reason) == (FAILED, "error")
    assert "on other texts or splits" in other.message
    assert whole.identity["task_fingerprint"] in other.message
    assert other.identity.get("task_fingerprint", "fingerprint") in other.message
    fingerprint = whole.identity["task_fingerprint"]

    def refused(folder):
        refuse_reference({"reference": str(folder)}, "texts", fingerprint)

    refused(whole.folder)
    refuse_reference({"reference": None}, "texts", "any")
    with pytest.raises(ValueError, match=r"nowhere is not the folder of a run: it has no record\.json"):
        refused(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="must be a completed run, this one is failed"):
        refused(other.folder)
    (whole.folder / "predictions.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="is damaged"):
        refused(whole.folder)
    (whole.folder / "predictions.npz").unlink()
    with pytest.raises(ValueError, match=r"has no predictions\.npz"):
        refused(whole.folder)


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_command_refuses_a_missing_reference_before_anything_is_read(name, pair, tmp_path):
    whole, _ = pair
    preflight(name, [f"evaluation.reference={whole.folder}"], None, multirun=False)
    with pytest.raises(ValueError, match="is not the folder of a run"):
        preflight(name, [f"evaluation.reference={tmp_path}/nowhere"], None, multirun=False)
