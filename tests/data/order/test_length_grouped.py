"""Length-grouped batches: each row once an epoch, little padding, and as random as its window allows."""

import pandas as pd
import pytest
import torch

from effnlp.data.order.length_grouped import length_grouped
from effnlp.data.order.shuffle import shuffle


def texts(lengths):
    return pd.DataFrame({"text": [" ".join(["word"] * n) for n in lengths], "label": [0] * len(lengths)})


def random_lengths(count, seed=0):
    return torch.randint(1, 60, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def padded(batches, lengths):
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


@pytest.mark.parametrize(("count", "window"), [(64, 4), (67, 4), (5, 32), (100, 1)])
def test_every_row_comes_once_in_each_epoch(count, window):
    epoch_steps = -(-count // 8)
    batches = length_grouped(
        texts(random_lengths(count)),
        steps=3 * epoch_steps,
        batch_size=8,
        generator=generator(),
        window=window,
    )
    for start in range(0, len(batches), epoch_steps):
        epoch = batches[start : start + epoch_steps]
        assert sorted(i for batch in epoch for i in batch) == list(range(count))


def test_it_pads_much_less_than_plain_shuffling():
    lengths = random_lengths(640)
    table = texts(lengths)
    grouped = length_grouped(table, steps=80, batch_size=8, generator=generator(), window=16)
    plain = shuffle(table, steps=80, batch_size=8, generator=generator())
    tokens = sum(lengths)
    assert padded(grouped, lengths) - tokens < 0.25 * (padded(plain, lengths) - tokens)


def test_batches_come_in_an_order_that_does_not_follow_length():
    lengths = random_lengths(640)
    batches = length_grouped(texts(lengths), steps=80, batch_size=8, generator=generator(), window=80)
    longest = torch.tensor([float(max(lengths[i] for i in batch)) for batch in batches])
    steps = torch.arange(80.0)
    assert torch.corrcoef(torch.stack([longest, steps]))[0, 1].abs() < 0.3


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    table = texts(random_lengths(100))
    make = lambda seed: length_grouped(table, steps=26, batch_size=8, generator=generator(seed))  # noqa: E731
    assert make(1) == make(1)
    assert make(1) != make(2)


def test_epochs_differ():
    batches = length_grouped(
        texts(random_lengths(64)), steps=16, batch_size=8, generator=generator(), window=2
    )
    assert batches[:8] != batches[8:]


def test_of_pairs_both_texts_count():
    lengths = random_lengths(320)
    table = texts([1] * 320).assign(text_pair=texts(lengths)["text"])
    grouped = length_grouped(table, steps=40, batch_size=8, generator=generator(), window=40)
    plain = shuffle(table, steps=40, batch_size=8, generator=generator())
    assert padded(grouped, lengths) < 0.8 * padded(plain, lengths)


def test_a_training_may_end_inside_an_epoch():
    assert len(length_grouped(texts([3] * 20), steps=7, batch_size=4, generator=generator())) == 7


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"window": 0}])
def test_numbers_below_one_are_refused(wrong):
    arguments = {"steps": 5, "batch_size": 2, "window": 3, **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1, got 0"):
        length_grouped(texts([1, 2]), generator=generator(), **arguments)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no text to order"):
        length_grouped(texts([]), steps=1, batch_size=2, generator=generator())
