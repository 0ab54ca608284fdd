from types import SimpleNamespace

import numpy as np
import pytest

from effnlp.data.calibration import BATCH_SIZE, calibration_batches
from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples


@pytest.fixture
def data():
    """Text i is i + 1 alone; its label is i modulo 3."""

    def of(count):
        encodings = Encodings.from_lists([[i + 1] for i in range(count)], pad_id=0)
        return SimpleNamespace(examples={"train": Examples(encodings, np.arange(count) % 3)})

    return of


def ids(batches):
    return [int(number) for batch in batches for number in batch["input_ids"][:, 0]]


@pytest.mark.parametrize("count", [1, BATCH_SIZE, BATCH_SIZE + 1, 90])
def test_as_many_texts_as_wanted_are_drawn_each_at_most_once(data, count):
    batches = calibration_batches(data(100), count, seed=0)
    drawn = ids(batches)
    assert len(drawn) == len(set(drawn)) == count
    assert all(len(batch["labels"]) <= BATCH_SIZE for batch in batches)


def test_fewer_texts_than_wanted_are_all_taken(data):
    assert sorted(ids(calibration_batches(data(5), 40, seed=0))) == [1, 2, 3, 4, 5]


def test_labels_stay_with_their_texts(data):
    for batch in calibration_batches(data(50), 40, seed=3):
        assert ((batch["input_ids"][:, 0] - 1) % 3 == batch["labels"]).all()


def test_the_seed_decides_which_texts_are_drawn(data):
    same, again, other = (ids(calibration_batches(data(100), 20, seed)) for seed in (1, 1, 2))
    assert same == again != other


def test_nothing_is_drawn_where_nothing_is_wanted_and_no_texts_are_an_error(data):
    assert calibration_batches(data(0), 0, seed=0) == []
    with pytest.raises(ValueError, match="40 are wanted, and the training split is empty"):
        calibration_batches(data(0), 40, seed=0)
