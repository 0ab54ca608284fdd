import numpy as np
import pytest
import torch

from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    return [draw.integers(1, 50, size=n).tolist() for n in (3, 0, 7, 1, 12, 5)]


def padded(rows, pad, length):
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_a_batch_equals_naive_padding(rows, multiple):
    encodings = Encodings.from_lists(rows, pad_id=49)
    chosen = [4, 0, 3]
    batch = encodings.batch(chosen, pad_to_multiple=multiple)
    length = -(-12 // multiple) * multiple
    assert torch.equal(batch["input_ids"], padded([rows[i] for i in chosen], 49, length))
    assert torch.equal(batch["attention_mask"], padded([[1] * len(rows[i]) for i in chosen], 0, length))
    assert set(batch) == {"input_ids", "attention_mask"}


def test_segments_of_pairs_are_padded_with_zero(rows):
    types = [[i % 2 for i in range(len(row))] for row in rows]
    batch = Encodings.from_lists(rows, 0, types).batch([2, 5])
    assert torch.equal(batch["token_type_ids"], padded([types[2], types[5]], 0, 7))


def test_labels_follow_the_order_of_the_batch(rows):
    encodings = Encodings.from_lists(rows, 0)
    batch = encodings.batch([5, 0, 2], labels=np.array([10, 11, 12, 13, 14, 15]))
    assert batch["labels"].tolist() == [15, 10, 12]
    assert batch["labels"].dtype == torch.int64


def test_an_empty_text_is_one_pad_token_so_that_every_batch_has_a_width(rows):
    encodings = Encodings.from_lists(rows, pad_id=7)
    assert encodings.lengths.tolist() == [3, 1, 7, 1, 12, 5]
    batch = encodings.batch([1])
    assert batch["input_ids"].tolist() == [[7]]
    assert batch["attention_mask"].tolist() == [[1]]


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_saved_is_what_is_loaded(rows, pairs, tmp_path):
    types = [[1] * len(row) for row in rows] if pairs else None
    saved = Encodings.from_lists(rows, 3, types, truncated=2)
    saved.save(tmp_path / "split.npz")
    loaded = Encodings.load(tmp_path / "split.npz")
    assert (loaded.pad_id, loaded.truncated, len(loaded)) == (3, 2, len(rows))
    for one, other in ((saved.ids, loaded.ids), (saved.offsets, loaded.offsets)):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
    assert (loaded.type_ids is not None) == pairs
    if pairs:
        assert np.array_equal(saved.type_ids, loaded.type_ids)


def test_no_text_at_all_is_an_empty_split():
    assert len(Encodings.from_lists([], 0)) == 0


def test_batches_by_length_hold_every_text_once_longest_first(rows):
    examples = Examples(Encodings.from_lists(rows, 0), np.arange(len(rows)))
    batches = examples.by_length(4)
    positions = [p for batch in batches for p in batch]
    assert sorted(positions) == list(range(len(rows)))
    lengths = examples.encodings.lengths[positions]
    assert (np.diff(lengths) <= 0).all()
    assert [len(batch) for batch in batches] == [4, 2]


def test_a_batch_of_examples_has_their_labels(rows):
    examples = Examples(Encodings.from_lists(rows, 0), np.arange(len(rows)) * 10)
    assert examples.batch([3, 1], pad_to_multiple=8)["labels"].tolist() == [30, 10]
    assert len(examples) == len(rows)
