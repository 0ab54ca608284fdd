"""Hashes, made splits, subsets and checks."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from effnlp.task.splits import build_task, hash_fraction, hold_out, subset, text_hash
from effnlp.task.task import SPLITS, Task

ALL = {"train": None, "validation": None, "test": None}


def raw(table):
    return table.set_axis(range(1, len(table) + 1), axis=0)


def task_of(tables, sizes=None, labels=None, name="toy"):
    recipe = {split: f"file {split}.csv" for split in tables}
    return build_task(name, {s: raw(t) for s, t in tables.items()}, recipe, sizes or ALL, labels)


def test_hashes_are_those_of_every_machine_and_differ_by_purpose():
    # Fixed numbers: were they to change, every recorded split would.
    assert text_hash("a text", "split") == 3978570115451344057
    assert text_hash("a text", "split") != text_hash("a text", "subset")
    fractions = np.array([hash_fraction(f"text {i}", "split") for i in range(5000)])
    assert 0 <= fractions.min() < fractions.max() < 1
    assert np.histogram(fractions, bins=10, range=(0, 1))[0] == pytest.approx([500] * 10, abs=100)


def test_made_splits_partition_the_rows_and_hold_about_a_tenth_each(make_rows):
    rows = raw(make_rows(2000))
    tables, recipe = hold_out({"train": rows}, {"train": "file a.csv"})
    assert sorted(row for table in tables.values() for row in table.index) == list(rows.index)
    assert len(tables["validation"]) == pytest.approx(200, abs=45)
    assert len(tables["test"]) == pytest.approx(200, abs=45)
    assert all("file a.csv" in recipe[split] for split in SPLITS)
    assert "fixed hash in [0.1, 0.2)" in recipe["validation"]
    assert "without the rows of validation" in recipe["train"]


def test_a_given_split_is_left_alone_and_the_other_is_made_as_it_would_be_alone(make_rows):
    rows, given = raw(make_rows(500)), raw(make_rows(20, seed=1))
    both, _ = hold_out({"train": rows}, {"train": "t"})
    one, recipe = hold_out({"train": rows, "validation": given}, {"train": "t", "validation": "v"})
    assert one["validation"] is given
    assert recipe["validation"] == "v"
    pd.testing.assert_frame_equal(one["test"], both["test"])
    assert sorted([*one["train"].index, *one["test"].index]) == list(rows.index)


def test_no_text_is_in_two_made_splits_however_often_it_occurs(make_rows):
    rows = pd.concat([make_rows(300)] * 4)
    task = task_of({"train": rows.sample(frac=1, random_state=0)})
    texts = [set(task.splits[split]["text"]) for split in SPLITS]
    assert all(texts)
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]  # noqa: PT018
    assert sum(len(task.splits[split]) for split in SPLITS) == 1200


def test_the_rows_of_one_first_text_of_pairs_are_on_one_side(make_rows):
    rows = make_rows(300)
    pairs = pd.concat([rows.assign(text_pair=f"hypothesis {i}") for i in range(3)])
    task = task_of({"train": pairs})
    assert task.is_pair
    for split in SPLITS:
        assert (task.splits[split]["text"].value_counts() == 3).all()


def test_subsets_are_nested_exact_in_order_and_independent_of_the_order_of_the_rows(make_rows):
    rows = make_rows(300)
    sizes = [1, 10, 100, 299, 300]
    taken = [subset(rows, size) for size in sizes]
    assert [len(table) for table in taken] == sizes
    for smaller, larger in pairwise(taken):
        assert set(smaller.index) < set(larger.index)
    assert all(table.index.is_monotonic_increasing for table in taken)
    shuffled = subset(rows.sample(frac=1, random_state=0), 100)
    assert set(shuffled["text"]) == set(taken[2]["text"])
    assert set(subset(rows.assign(label="x"), 100)["text"]) == set(taken[2]["text"])
    assert list(taken[2].index) != list(range(100))


def test_sizes_apply_to_each_split_and_are_part_of_the_recipe(make_rows):
    tables = {"train": make_rows(100), "validation": make_rows(30, seed=1), "test": make_rows(40, seed=2)}
    whole = task_of(tables)
    part = task_of(tables, {"train": 50, "validation": 10, "test": 40})
    assert [len(part.splits[split]) for split in SPLITS] == [50, 10, 40]
    assert part.recipe["train"] == "file train.csv; of these 100 the 50 of smallest fixed hash"
    assert part.fingerprint != whole.fingerprint
    assert set(part.splits["train"]["text"]) < set(whole.splits["train"]["text"])


@pytest.mark.parametrize("size", [101, 0, -3])
def test_a_size_that_cannot_be_is_refused(make_rows, size):
    tables = {"train": make_rows(100), "validation": make_rows(30, seed=1), "test": make_rows(40, seed=2)}
    message = f"train_size is {size}, but train has only 100 rows" if size > 0 else f"at least 1, got {size}"
    with pytest.raises(ValueError, match=message):
        task_of(tables, {"train": size})


def test_tables_have_the_columns_types_and_index_that_tasks_promise(make_rows, tmp_path):
    task = task_of({"train": make_rows(300)})
    for table in task.splits.values():
        assert table.columns.tolist() == ["text", "label"]
        assert table["label"].dtype == "int64"
        assert table.index.tolist() == list(range(len(table)))
    task.save(tmp_path)
    assert Task.load(tmp_path).fingerprint == task.fingerprint


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a"], ("a", "b")),
        ([10, 9, 2], ("2", "9", "10")),
        ([1.0, 0.0], ("0", "1")),
        ([True, False], ("False", "True")),
        (["01", "1"], ("01", "1")),
        ([-1, 1], ("-1", "1")),
        ([0.5, 1.0], ("0.5", "1")),
    ],
)
def test_labels_of_any_type_become_sorted_strings(make_rows, values, names):
    task = task_of({"train": make_rows(300, labels=tuple(values))})
    assert task.labels == names


def test_an_order_of_labels_that_the_source_has_is_kept_without_the_unused(make_rows):
    task = task_of({"train": make_rows(300)}, labels=["unused", "good", "bad"])
    assert task.labels == ("good", "bad")
    texts = make_rows(300).set_index("text")["label"]
    first = task.splits["train"].iloc[0]
    assert task.labels[first["label"]] == texts[first["text"]]


def test_a_whole_number_is_one_label_as_int_and_as_float(make_rows):
    tables = {
        "train": make_rows(50, labels=(0, 1)),
        "validation": make_rows(20, labels=(0.0, 1.0), seed=1),
        "test": make_rows(20, labels=("0", "1"), seed=2),
    }
    assert task_of(tables).labels == ("0", "1")


def test_a_label_unseen_in_training_is_named_with_its_rows(make_rows):
    odd = make_rows(20, seed=1)
    odd.loc[[4, 7], "label"] = "ugly"
    with pytest.raises(
        ValueError, match=r"unseen in training: 'ugly' in rows 5, 8; the labels of train are 'bad'"
    ):
        task_of({"train": make_rows(50), "validation": odd, "test": make_rows(20, seed=2)})


def test_a_label_that_the_hash_takes_out_of_training_is_explained(make_rows):
    rows = make_rows(200)
    is_out = rows["text"].map(lambda text: hash_fraction(text, "split") < 0.1)
    rows.loc[is_out.idxmax(), "label"] = "rare"
    with pytest.raises(
        ValueError, match=r"test has a label unseen in training: 'rare' in row \d+; the fixed"
    ):
        task_of({"train": rows})


@pytest.mark.parametrize("wrong", [None, float("nan"), 7, "", "  \n", "\ud800", ["a"]])
@pytest.mark.parametrize("column", ["text", "text_pair"])
def test_a_text_that_is_not_text_is_named_with_its_row(make_rows, wrong, column):
    rows = make_rows(50).assign(text_pair="a partner").astype(object)
    rows.at[11, column] = wrong
    with pytest.raises(TypeError, match=rf"{column} of train is not text in 1 of 50 rows: row 12 \("):
        task_of({"train": rows})


def test_only_the_first_wrong_rows_are_listed(make_rows):
    with pytest.raises(TypeError, match=r"in 50 of 50 rows: row 1 \(3\), .*row 5 \(3\), …"):
        task_of({"train": make_rows(50).assign(text=3)})


@pytest.mark.parametrize("wrong", [None, float("nan"), ""])
def test_a_missing_label_is_named_with_its_row(make_rows, wrong):
    rows = make_rows(50).astype(object)
    rows.at[11, "label"] = wrong
    with pytest.raises(ValueError, match=r"label of train is missing in 1 of 50 rows: row 12"):
        task_of({"train": rows})


def test_a_label_that_is_a_list_is_refused(make_rows):
    rows = make_rows(50).astype(object)
    rows.at[11, "label"] = ["a", "b"]
    with pytest.raises(TypeError, match=r"label of train must be one value a row, got row 12"):
        task_of({"train": rows})


@pytest.mark.parametrize("empty", SPLITS)
def test_an_empty_split_is_refused(make_rows, empty):
    tables = {split: make_rows(30, seed=seed) for seed, split in enumerate(SPLITS)}
    tables[empty] = tables[empty].head(0)
    with pytest.raises(ValueError, match=f"{empty} is empty: file {empty}.csv has no rows"):
        task_of(tables)


def test_too_few_texts_for_a_made_split_are_refused():
    rows = pd.DataFrame({"text": ["same text"] * 9 + ["other"], "label": [0, 1] * 5})
    with pytest.raises(ValueError, match="puts none of the 10 training texts into"):
        task_of({"train": rows})


def test_a_single_class_is_refused(make_rows):
    with pytest.raises(ValueError, match="train has a single class, 'only', in"):
        task_of({"train": make_rows(100, labels=("only",))})


def test_a_subset_of_a_single_class_is_refused_with_the_size_as_a_likely_cause(make_rows):
    tables = {split: make_rows(30, seed=seed) for seed, split in enumerate(SPLITS)}
    with pytest.raises(ValueError, match=r"train has a single class.*train_size large enough"):
        task_of(tables, {"train": 1})


def test_one_name_from_two_sources_with_different_splits_is_two_tasks(make_rows):
    rows = make_rows(300)
    made = task_of({"train": rows})
    again = task_of({"train": rows})
    given = task_of({split: made.splits[split].assign(label=lambda t: t["label"].map(made.labels.__getitem__))
                     for split in SPLITS})  # fmt: skip
    assert made.fingerprint == again.fingerprint
    assert made.name == given.name
    for split in SPLITS:
        pd.testing.assert_frame_equal(made.splits[split], given.splits[split])
    assert made.fingerprint != given.fingerprint  # the rows are equal, the recipe is not
