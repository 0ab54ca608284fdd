"""Shuffled epochs."""

import pandas as pd
import pytest
import torch

from effnlp.data.order.shuffle import shuffle


def table_of(rows):
    return pd.DataFrame({"text": ["x"] * rows, "label": 0})


def batches_of(rows, steps, batch_size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return shuffle(table_of(rows), steps=steps, batch_size=batch_size, generator=generator)


@pytest.mark.parametrize(("rows", "batch_size"), [(10, 3), (9, 3), (5, 8), (1, 1)])
def test_every_epoch_has_every_row_once_and_only_its_last_batch_is_smaller(rows, batch_size):
    an_epoch = -(-rows // batch_size)
    batches = batches_of(rows, steps=3 * an_epoch, batch_size=batch_size)
    for epoch in range(3):
        own = batches[epoch * an_epoch : (epoch + 1) * an_epoch]
        assert sorted(row for batch in own for row in batch) == list(range(rows))
        assert all(len(batch) == min(batch_size, rows) for batch in own[:-1])


def test_epochs_differ_and_so_do_seeds_but_the_same_seed_repeats():
    batches = batches_of(100, steps=20, batch_size=10)
    assert batches[:10] != batches[10:]
    assert batches == batches_of(100, steps=20, batch_size=10)
    assert batches != batches_of(100, steps=20, batch_size=10, seed=1)


@pytest.mark.parametrize("steps", [0, 1, 7, 25])
def test_there_are_exactly_as_many_batches_as_steps_and_a_shorter_training_is_a_prefix(steps):
    batches = batches_of(20, steps=steps, batch_size=6)
    assert len(batches) == steps
    assert batches == batches_of(20, steps=30, batch_size=6)[:steps]


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="the table has no rows"):
        batches_of(0, steps=1, batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        batches_of(3, steps=1, batch_size=0)
