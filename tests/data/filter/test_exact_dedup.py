"""Exact deduplication."""

import random

import pandas as pd
import pytest

from effnlp.data.filter.exact_dedup import exact_dedup


def some_table(seed=0, rows=300):
    rng = random.Random(seed)
    texts = [
        rng.choice(["Alpha", "beta", "gamma  x", "delta", "alpha", "ALPHA "]) + str(i % 7)
        for i in range(rows)
    ]
    return pd.DataFrame({"text": texts, "label": [rng.randrange(3) for _ in texts]}, index=range(5, 5 + rows))


@pytest.mark.parametrize("loose", [False, True])
def test_one_row_of_each_text_stays_and_every_other_row_has_a_reason_that_names_it(loose):
    table = some_table()
    key = table["text"].map((lambda t: " ".join(t.casefold().split())) if loose else str)
    out = exact_dedup(table, ignore_case_and_space=loose)
    assert out.removed > 0
    assert len(out.table) == key.nunique()
    assert sorted([*out.table.index, *out.reasons.index]) == table.index.tolist()
    for row, reason in out.reasons.items():
        stays = int(reason.split(" row ")[1])
        assert stays in out.table.index
        assert key[stays] == key[row]
        assert reason.startswith("other label, same text as row") == (
            table["label"][stays] != table["label"][row]
        )
    pd.testing.assert_frame_equal(out.table, table.loc[out.table.index])


@pytest.mark.parametrize("loose", [False, True])
def test_twice_is_once_and_the_order_of_the_rows_does_not_matter(loose):
    table = some_table()
    once = exact_dedup(table, ignore_case_and_space=loose)
    assert exact_dedup(once.table, ignore_case_and_space=loose).removed == 0
    for seed in range(3):
        other = exact_dedup(table.sample(frac=1, random_state=seed), ignore_case_and_space=loose).table
        assert sorted(map(tuple, other.values)) == sorted(map(tuple, once.table.values))


def test_the_label_of_most_copies_stays_and_the_smaller_one_of_a_tie():
    table = pd.DataFrame({"text": ["a", "a", "a", "b", "b"], "label": [0, 1, 1, 2, 1]})
    assert dict(zip(*exact_dedup(table).table[["text", "label"]].T.values, strict=True)) == {"a": 1, "b": 1}


def test_pairs_are_the_same_where_both_texts_are():
    table = pd.DataFrame(
        {"text": ["a b", "a", "a b", "A B"], "text_pair": ["c", "b c", "c", "c"], "label": [0, 0, 0, 0]}
    )
    assert exact_dedup(table).table.index.tolist() == [0, 1, 3]
    assert len(exact_dedup(table, ignore_case_and_space=True).table) == 2


def test_distinct_texts_all_stay():
    table = pd.DataFrame({"text": [f"text {i}" for i in range(50)], "label": 0})
    out = exact_dedup(table)
    assert out.removed == 0
    pd.testing.assert_frame_equal(out.table, table)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="nothing to filter"):
        exact_dedup(some_table().head(0))
