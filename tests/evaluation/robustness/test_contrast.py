import os

import pytest

from effnlp.evaluation.robustness.contrast import contrast, refuse


def group(number, original, edit, label):
    kinds = {"label": label, "version": "original"}, {"label": 1 - label, "version": "revised"}
    return [
        {"text": text, "pair_id": number, **kind} for text, kind in zip((original, edit), kinds, strict=True)
    ]


@pytest.fixture
def root(write_set):
    """Four originals, of which a model of the word "good" answers three right; of their edits it misses two."""
    rows = group(0, "a good film", "a good waste", 1) + group(1, "dull", "not dull", 0)
    rows += group(2, "dreary", "dreary but good", 0) + group(3, "not good", "fine, good", 0)
    return write_set("cad_sentiment", {"test": rows})


def by_good(text):
    return (0.1, 0.9) if "good" in text else (0.9, 0.1)


def test_accuracy_is_on_edits_the_drop_from_originals_and_consistency_by_group(root, make_subject):
    subject = make_subject(by_good)
    found = contrast(subject, root)
    assert found.values == {
        "cad_sentiment/accuracy": 0.5,
        "cad_sentiment/original_accuracy": 0.75,
        "cad_sentiment/drop": 0.25,
        "cad_sentiment/consistency": 0.25,
    }
    noted = subject.notes["robustness/contrast"]["cad_sentiment"]
    low, high = noted.pop("accuracy_interval")
    assert 0 < low < 0.5 < high < 1
    assert noted == {"examples": 4, "originals": 4, "left_out": {}}


def test_the_order_of_the_tasks_labels_changes_nothing(root, make_subject):
    turned = make_subject(lambda text: by_good(text)[::-1], labels=("POSITIVE", "NEGATIVE"))
    assert contrast(turned, root) == contrast(make_subject(by_good), root)


def test_an_edit_whose_original_was_trained_on_is_left_out_with_it(root, make_subject):
    subject = make_subject(by_good, train=[("A good film.", 1), ("Not dull!", 1)])
    assert contrast(subject, root).values["cad_sentiment/accuracy"] == 1.0
    noted = subject.notes["robustness/contrast"]["cad_sentiment"]
    assert (noted["examples"], noted["originals"]) == (2, 2)
    assert noted["left_out"] == {"in the task's training split": 4}


def test_a_set_of_nothing_but_training_texts_is_absent_with_its_reason(root, make_subject):
    texts = ["a good film", "dull", "dreary", "not good"]
    found = contrast(make_subject(by_good, train=[(text, 0) for text in texts]), root)
    assert found.values == {}
    assert set(found.absent) >= {"cad_sentiment/accuracy", "cad_sentiment/drop"}
    assert all("training split" in reason for reason in found.absent.values())


def test_originals_that_two_sets_share_are_asked_once(root, write_set, make_subject):
    write_set("imdb_contrast", {"test": group(0, "a good film", "a good bore", 1)})
    subject = make_subject(by_good)
    assert "imdb_contrast/accuracy" in contrast(subject, root).values
    assert len(subject.asked) == 9


def test_a_task_that_no_set_fits_is_refused_with_those_that_would(root, make_subject):
    subject = make_subject(lambda _: (0.5, 0.5), labels=("World", "Sports"))
    message = r"single texts with the labels World, Sports; .* labels negative, positive \(cad_sentiment\)"
    with pytest.raises(ValueError, match=message):
        refuse(subject.task, root)
    with pytest.raises(ValueError, match=message):
        contrast(subject, root)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["cad_sentimnt"], r"no set 'cad_sentimnt' \(did you mean 'cad_sentiment'"),
        ([], "needs a list of different sets"),
        (["cad_sentiment"] * 2, "needs a list of different sets"),
    ],
)
def test_sets_that_cannot_be_meant_are_refused(root, make_subject, sets, message):
    with pytest.raises(ValueError, match=message):
        refuse(make_subject(by_good).task, root, sets)


def test_a_missing_folder_or_set_is_refused_before_any_training(root, make_subject):
    task = make_subject(by_good).task
    with pytest.raises(ValueError, match="set EFFNLP_DATA"):
        refuse(task, None)
    with pytest.raises(FileNotFoundError, match="no data set 'imdb_contrast'"):
        refuse(task, root, ["imdb_contrast"])


def test_a_task_whose_labels_are_numbers_may_name_the_set(root, make_subject):
    numbered = make_subject(by_good, labels=("0", "1"))
    with pytest.raises(ValueError, match="has no set for the task"):
        contrast(numbered, root)
    assert contrast(numbered, root, ["cad_sentiment"]) == contrast(make_subject(by_good), root)


@pytest.mark.needs_data("cad_sentiment", "imdb_contrast", "cad_nli")
def test_real_sets_are_measured_for_the_task_they_fit(make_subject, by_words):
    found = contrast(make_subject(by_words), os.environ["EFFNLP_DATA"]).values
    for name in ("cad_sentiment", "imdb_contrast"):
        assert 0.5 < found[f"{name}/original_accuracy"] < 0.8
        assert found[f"{name}/drop"] == found[f"{name}/original_accuracy"] - found[f"{name}/accuracy"]
        assert found[f"{name}/consistency"] < found[f"{name}/accuracy"]
    always = make_subject(
        lambda *_: (0.8, 0.1, 0.1), labels=("entailment", "neutral", "contradiction"), train=[("a", "b", 0)]
    )
    found = contrast(always, os.environ["EFFNLP_DATA"]).values
    assert set(found) == {
        f"cad_nli/{key}" for key in ("accuracy", "original_accuracy", "drop", "consistency")
    }
    assert found["cad_nli/consistency"] == 0.0
