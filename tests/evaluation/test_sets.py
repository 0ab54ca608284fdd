import gzip
import hashlib
import json
import os

import pandas as pd
import pytest

from effnlp.evaluation.sets import (
    TRAINED_ON,
    check_fit,
    find_set,
    map_labels,
    read_for_task,
    read_set,
    without_training_texts,
)
from effnlp.task.task import Task

NLI = ("entailment", "neutral", "contradiction")


def make_task(labels=("negative", "positive"), train=("seen text",), pairs=None):
    table = pd.DataFrame({"text": list(train), "label": 0})
    if pairs:
        table["text_pair"] = list(pairs)
    return Task("mine", tuple(labels), dict.fromkeys(("train", "validation", "test"), table))


@pytest.fixture
def write(tmp_path):
    """Write a set of one split, ``test``, and return the data folder."""

    def write_set(name, rows, label_names, split="test"):
        folder = tmp_path / name
        folder.mkdir()
        content = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
        (folder / f"{split}.jsonl.gz").write_bytes(content)
        entry = {"file": f"{split}.jsonl.gz", "sha256": hashlib.sha256(content).hexdigest()}
        described = {"label_names": label_names, "splits": {split: entry}}
        (folder / "dataset.json").write_text(json.dumps(described))
        return str(tmp_path)

    return write_set


ROWS = [{"text": "good", "label": 1}, {"text": "Seen, text!", "label": 0}, {"text": "bad", "label": 0}]


@pytest.mark.parametrize(
    ("of", "onto", "mapping"),
    [
        (("negative", "positive"), ("POS", "neg"), {0: 1, 1: 0}),
        (NLI, ("contradiction", "neutral", "entails"), {0: 2, 1: 1, 2: 0}),
        (("not_duplicate", "duplicate"), ("not_equivalent", "equivalent"), {0: 0, 1: 1}),
        (("World", "Sports", "Business", "Sci/Tech"), ("sci-tech", "world", "sports"), {0: 1, 1: 2, 3: 0}),
        (("negative", "neutral", "positive"), ("negative", "positive"), {0: 0, 2: 1}),
    ],
)
def test_labels_are_mapped_by_name_whatever_their_order_and_spelling(of, onto, mapping):
    assert map_labels(of, onto) == mapping


@pytest.mark.parametrize("onto", [("entailment", "not_entailment"), ("World", "Sports"), ("0", "1"), ()])
def test_labels_that_do_not_map_are_refused_with_both_lists(onto):
    with pytest.raises(ValueError, match="entailment, neutral, contradiction of the set do not map") as error:
        map_labels(NLI, onto)
    assert ", ".join(onto) in str(error.value)


def test_two_labels_of_a_set_never_become_one():
    with pytest.raises(ValueError, match="do not map"):
        map_labels(("paraphrase", "duplicate", "other"), ("equivalent", "other"))


def test_numbers_mean_the_labels_in_their_order_only_if_the_user_says_so():
    assert map_labels(("negative", "positive"), ("0", "1"), by_number=True) == {0: 0, 1: 1}
    with pytest.raises(ValueError, match="do not map"):
        map_labels(("negative", "positive"), ("0", "1"))
    with pytest.raises(ValueError, match="do not map"):
        map_labels(NLI, ("0", "1"), by_number=True)


def test_a_set_is_read_with_its_rows_in_order(write):
    found = read_set(write("toy", ROWS, ["negative", "positive"]), "toy", "test")
    assert found.table["text"].tolist() == ["good", "Seen, text!", "bad"]
    assert found.table["label"].tolist() == [1, 0, 0]
    assert found.label_names == ("negative", "positive")
    assert found.left_out == {}


def test_a_damaged_file_is_refused_by_name(write, tmp_path):
    root = write("toy", ROWS, ["negative", "positive"])
    file = tmp_path / "toy" / "test.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "good", "label": 0}\n'))
    with pytest.raises(ValueError, match=r"toy/test.jsonl.gz is damaged: its SHA-256"):
        read_set(root, "toy", "test")
    file.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"toy/test.jsonl.gz is damaged: its first line"):
        find_set(root, "toy", "test")


def test_an_unknown_set_or_split_names_what_is_near_and_no_folder_says_how_to_name_one(write):
    root = write("reviews", ROWS, ["negative", "positive"])
    with pytest.raises(
        FileNotFoundError, match=r"no data set 'review' .*\(did you mean 'reviews'\?\); it has reviews"
    ):
        read_set(root, "review", "test")
    with pytest.raises(ValueError, match=r"no split 'tset' \(did you mean 'test'\?\)"):
        read_set(root, "reviews", "tset")
    with pytest.raises(ValueError, match="set EFFNLP_DATA"):
        read_set(None, "reviews", "test")


@pytest.mark.parametrize(("split", "names"), [("a_one", ("x", "y")), ("b", ("u", "v")), ("c", None)])
def test_labels_may_be_named_by_split_or_by_its_pattern(write, split, names):
    root = write("toy", ROWS, {"a_*": ["x", "y"], "b": ["u", "v"]}, split=split)
    assert find_set(root, "toy", split).label_names == names


def test_a_set_for_a_task_has_the_tasks_labels(write):
    source = find_set(write("toy", ROWS, ["negative", "positive"]), "toy", "test")
    assert read_for_task(source, make_task(("pos", "neg"))).table["label"].tolist() == [0, 1, 1]


def test_rows_of_other_classes_are_left_out_and_counted_unless_they_are_most(write):
    rows = [{"text": str(label), "label": label, "label_changed": 0} for label in (0, 1, 2, 0, 2)]
    source = find_set(write("toy", rows, ["negative", "neutral", "positive"]), "toy", "test")
    fitted = read_for_task(source, make_task())
    assert fitted.table["text"].tolist() == ["0", "2", "0", "2"]
    assert fitted.table["label"].tolist() == [0, 1, 0, 1]
    assert fitted.table["label"].dtype == fitted.table["label_changed"].dtype == "int64"
    assert fitted.left_out == {"of a class the task lacks": 1}
    rows = [{"text": str(label), "label": label} for label in (0, 1, 1, 1, 2)]
    source = find_set(write("most", rows, ["negative", "neutral", "positive"]), "most", "test")
    with pytest.raises(ValueError, match=r"3 of the 5 rows of most .* negative, neutral, positive"):
        read_for_task(source, make_task())


def test_pairs_do_not_fit_single_texts(write):
    rows = [{"text": "a", "text_pair": "b", "label": 0}]
    source = find_set(write("toy", rows, list(NLI)), "toy", "test")
    with pytest.raises(ValueError, match="toy has pairs of texts, mine has single texts"):
        check_fit(source, make_task(NLI))
    assert check_fit(source, make_task(NLI, pairs=["b"])) == {0: 0, 1: 1, 2: 2}


def test_texts_of_the_training_split_are_left_out_however_they_are_spaced_and_cased(write):
    found = read_set(write("toy", ROWS, ["negative", "positive"]), "toy", "test")
    kept = without_training_texts(found, make_task())
    assert kept.table["text"].tolist() == ["good", "bad"]
    assert kept.left_out == {TRAINED_ON: 1}
    assert without_training_texts(found, make_task(train=["other"])) is found


def test_a_pair_is_known_only_if_both_texts_are(write):
    rows = [{"text": "a", "text_pair": pair, "label": 0} for pair in ("b", "c")]
    found = read_set(write("toy", rows, list(NLI)), "toy", "test")
    kept = without_training_texts(found, make_task(NLI, train=["A"], pairs=["C."]))
    assert kept.table["text_pair"].tolist() == ["b"]


def test_an_edit_goes_with_its_original(write):
    rows = [{"text": text, "label": 0, "pair": pair} for text, pair in (("seen text", 1), ("x", 1), ("y", 2))]
    found = read_set(write("toy", rows, ["negative", "positive"]), "toy", "test")
    kept = without_training_texts(found, make_task(), together="pair")
    assert kept.table["text"].tolist() == ["y"]
    assert kept.left_out == {TRAINED_ON: 2}


def test_texts_without_letters_are_told_apart(write):
    rows = [{"text": text, "label": 0} for text in ("!", "?")]
    found = read_set(write("toy", rows, ["negative", "positive"]), "toy", "test")
    assert without_training_texts(found, make_task(train=["?"])).table["text"].tolist() == ["!"]


@pytest.mark.needs_data("cad_sentiment")
def test_a_set_of_the_data_folder_has_the_rows_it_promises():
    found = read_set(os.environ["EFFNLP_DATA"], "cad_sentiment", "test")
    assert len(found.table) == found.description["splits"]["test"]["rows"]
    assert set(found.table["version"]) == {"original", "revised"}
