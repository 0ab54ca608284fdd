"""The loop of a pre-training, and the texts that it reads."""

import itertools
import json

import pandas as pd
import pytest
import torch

from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe
from effnlp.pretraining.corpus import read_corpus
from effnlp.pretraining.train import Schedule, batches, descent, held_out, pieces
from effnlp.task.folder import sha256
from effnlp.task.task import Task


@pytest.fixture
def tokenizer():
    return SubwordTokenizer(train_byte_bpe(["a short text of some words"] * 2, 300), 16, PAD_ID)


@pytest.fixture
def task():
    table = pd.DataFrame({"text": [f"text {i}" for i in range(30)], "label": [0, 1] * 15})
    other = table.assign(text="held back")
    return Task("mine", ("a", "b"), {"train": table, "validation": other, "test": other})


def never(kind, key, make):
    raise AssertionError(f"nothing of {kind} is to be fetched")


def test_no_piece_holds_tokens_of_two_documents_and_none_is_lost(tokenizer):
    texts = ["a short text of some words " * 7, "another", "", "some words"]
    found = pieces(tokenizer, texts, 10)
    begin = tokenizer.encode([""]).ids.tolist()
    rows = [found.ids[a:b].tolist() for a, b in itertools.pairwise(found.offsets)]
    assert all(row[: len(begin)] == begin and len(begin) < len(row) <= 10 for row in rows)
    rest = [row[len(begin) :] for row in rows]
    for text in texts:
        document = tokenizer.backend.encode(text, add_special_tokens=False)
        ids = [*document.ids, *(i for part in document.overflowing for i in part.ids)]
        taken = []
        while len(taken) < len(ids):
            taken += rest.pop(0)
        assert taken == ids  # whole documents, one after another: no piece goes over an end
    assert rest == []


def test_all_pieces_come_once_before_any_comes_twice():
    drawn = list(batches(10, 4, 5, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in drawn] == [4] * 5
    flat = list(itertools.chain(*drawn))
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert [len(b) for b in batches(3, 4, 2, torch.Generator())] == [3, 3]


@pytest.mark.parametrize("documents", [20, 50, 51, 1000])
def test_some_documents_are_never_trained_on_and_most_are(documents):
    out = held_out(documents)
    assert len(out) == documents
    assert 1 <= sum(out) <= documents / 20


def test_a_piece_longer_than_the_model_reads_is_refused():
    schedule = Schedule(1, 1, 64, descent(1e-3, 0.0, 0.1))
    assert schedule.length(64) == 64
    with pytest.raises(ValueError, match=r"pretraining\.max_length must be in 4 … 32, .* got 64"):
        schedule.length(32)


def test_the_own_task_gives_its_training_texts_alone(task):
    corpus = read_corpus(["task"], None, task, never)
    assert list(corpus.texts) == task.splits["train"]["text"].tolist()


def test_a_folder_of_data_is_read_by_name_and_its_content_is_told_apart(task, tmp_path):
    fingerprints = set()
    for word in ("one", "other"):
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": f"{word} {i}"}) for i in range(25)))
        described = {"splits": {"train": {"file": "train.jsonl", "sha256": sha256(folder / "train.jsonl")}}}
        (folder / "dataset.json").write_text(json.dumps(described))
        corpus = read_corpus(["set", "task"], str(tmp_path), task, never)
        assert corpus.texts[0] == f"{word} 0"
        assert len(corpus.texts) == 25 + 30
        fingerprints.add(corpus.fingerprints["set"])
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "at least one source"),
        (["task", "task"], "names a source twice: task, task"),
        (
            ["wikipedia_small"],
            "names the folder 'wikipedia_small', and no folder of data is known: set EFFNLP_DATA",
        ),
    ],
)
def test_sources_that_cannot_be_read_are_refused_in_words(task, names, said):
    with pytest.raises(ValueError, match=said):
        read_corpus(names, None, task, never)


def test_a_folder_that_is_not_there_is_named_with_those_that_are(task, tmp_path):
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki" / "dataset.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no data set 'wikki'.*it has wiki"):
        read_corpus(["wikki"], str(tmp_path), task, never)


def test_a_handful_of_texts_is_no_corpus(task):
    few = {"train": task.splits["train"].head(5)}
    with pytest.raises(ValueError, match="has 5 documents; it needs at least 20"):
        read_corpus(["task"], None, Task("few", task.labels, few), never)
