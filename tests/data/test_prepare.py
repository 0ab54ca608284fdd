import shutil

import numpy as np
import pandas as pd
import pytest

from effnlp.compose import compose, hydra_context
from effnlp.data.prepare import load_task, prepare_data


class Cache:
    """What a run hands in, without a meter; remembers what was asked for and what was made."""

    def __init__(self, root):
        self.root, self.asked, self.made = root, [], []

    def __call__(self, kind, key, make):
        folder = self.root / kind / key
        self.asked.append(kind)
        if not folder.exists():
            beside = folder.with_name("making")
            beside.mkdir(parents=True)
            try:
                make(beside)
                beside.rename(folder)
                self.made.append(kind)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        return folder


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "entries")


@pytest.fixture
def prepare(cache, texts_file):
    from hydra.utils import instantiate

    def go(*overrides):
        chosen = [] if any(o.startswith("model=") for o in overrides) else ["model=bag_of_ngrams"]
        with hydra_context():
            config = compose(["task=files", f"task.path={texts_file}", *chosen, *overrides]).config
        task = load_task(config["task"], cache)
        model = instantiate(config["model"], _convert_="all")
        return prepare_data(task, config["data"]["filter"], config["model"], model, cache)

    return go


def add_rows(path, *rows):
    with path.open("a") as file:
        file.writelines(f"{text},{label}\n" for text, label in rows)


def test_examples_are_the_texts_of_their_split_with_their_labels(prepare):
    prepared = prepare()
    for split, table in (("train", prepared.train), ("validation", prepared.task.splits["validation"])):
        examples = prepared.examples[split]
        assert len(examples) == len(table)
        assert np.array_equal(examples.labels, table["label"])
        alone = prepared.tokenizer.encode([table["text"].iloc[3]])
        found = examples.batch([3])["input_ids"][0]
        assert found.tolist() == alone.batch([0])["input_ids"][0].tolist()


def test_a_second_run_makes_nothing_and_gets_the_same(prepare, cache):
    first = prepare()
    assert cache.made == ["task", "filtered", "encoded"]
    second = prepare()
    assert cache.made == ["task", "filtered", "encoded"]
    pd.testing.assert_frame_equal(first.train, second.train)
    for split in first.examples:
        assert np.array_equal(first.examples[split].encodings.ids, second.examples[split].encodings.ids)


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        (["model.width=4"], []),
        (["peft=none", "seed.init=3"], []),
        (["model.buckets=999"], ["encoded"]),
        (["model=backbone"], ["encoded"]),
        (["data/filter=[exact_dedup]"], ["filtered"]),
        (["task.train_size=100"], ["task", "filtered", "encoded"]),
    ],
)
def test_only_what_a_setting_can_change_is_made_again(changed, made, prepare, cache):
    prepare()
    cache.made.clear()
    prepare(*changed)
    assert cache.made == made


def test_other_rows_in_the_file_are_other_data(prepare, cache, texts_file):
    before = prepare().task.fingerprint
    cache.made.clear()
    add_rows(texts_file, ("a text that is new here", "good"))
    assert prepare().task.fingerprint != before
    assert cache.made[0] == "task"


def test_filters_act_on_training_texts_alone_and_say_what_they_removed(prepare, texts_file):
    add_rows(texts_file, *[("the very same words again and again", "good")] * 30)
    plain, filtered = prepare(), prepare("data/filter=[exact_dedup]")
    removed = len(plain.train) - len(filtered.train)
    assert removed > 0
    assert filtered.removed == {"exact_dedup": removed}
    assert filtered.values()["data/filter/exact_dedup/removed"] == removed
    assert sum(filtered.reasons["exact_dedup"].values()) == removed
    for split in ("validation", "test"):
        assert len(plain.examples[split]) == len(filtered.examples[split])


def test_a_stack_of_filters_is_each_after_the_other(prepare, texts_file):
    add_rows(texts_file, *[("the very same words again and again", "good")] * 30)
    stacked = prepare("data/filter=[exact_dedup,minhash_dedup]")
    assert list(stacked.removed) == ["exact_dedup", "minhash_dedup"]
    assert len(stacked.train) == len(prepare().train) - sum(stacked.removed.values())


def test_values_count_what_is_trained_on(prepare):
    prepared = prepare()
    values, train = prepared.values(), prepared.examples["train"].encodings
    assert values["data/tokens"] == len(train.ids)
    assert values["data/examples"] == values["data/labels"] == len(prepared.train)
    sizes = [values[f"data/{name}"] for name in ("examples", "validation_examples", "test_examples")]
    assert sum(sizes) == sum(len(table) for table in prepared.task.splits.values())


@pytest.mark.parametrize(
    ("keeps", "said"),
    [
        (lambda labels: labels != 1, r"data/filter=exact_dedup no training text is left of class 'good'"),
        (lambda labels: labels < 0, r"data/filter=exact_dedup removed every training text"),
    ],
)
def test_a_filter_that_leaves_nothing_to_learn_from_is_named(keeps, said, prepare, monkeypatch):
    from effnlp.data.filter import exact_dedup
    from effnlp.data.table import Filtered

    def remove(table, **_):
        kept = keeps(table["label"])
        return Filtered(table[kept], pd.Series("gone", index=table.index[~kept]))

    monkeypatch.setattr(exact_dedup, "exact_dedup", remove)
    with pytest.raises(ValueError, match=said):
        prepare("data/filter=[exact_dedup]")
