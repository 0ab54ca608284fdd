"""How many batches each of several tasks gets, and in which order they come."""

import itertools
import math
from collections import Counter

import pandas as pd
import pytest
import torch

from effnlp.finetuning.mixing import interleaved, mixed_batches, quotas, shares, temperature_of

SIZES = [8, 40, 3]


def test_temperature_one_is_proportional_and_infinity_equal():
    assert shares(SIZES, 1.0) == pytest.approx([size / sum(SIZES) for size in SIZES])
    assert shares(SIZES, math.inf) == pytest.approx([1 / 3] * 3)
    assert shares(SIZES, 1e9) == pytest.approx([1 / 3] * 3)


def test_a_higher_temperature_brings_the_parts_nearer_to_one_another_and_keeps_their_order():
    parts = [shares(SIZES, temperature) for temperature in (0.5, 1.0, 2.0, 4.0, 64.0)]
    assert all(sum(part) == pytest.approx(1) for part in parts)
    assert all(part[1] > part[0] > part[2] for part in parts)
    ratios = [part[1] / part[2] for part in parts]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[2] == pytest.approx(math.sqrt(40 / 3))


def test_a_very_low_temperature_does_not_leave_the_range_of_floats():
    assert shares([10_000_000, 10], 1e-3) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_none_is_named(temperature):
    with pytest.raises(ValueError, match=f"temperature must be above 0, got {temperature}"):
        shares(SIZES, temperature)


@pytest.mark.parametrize("batches", [1, 7, 51, 153, 1000])
def test_quotas_sum_to_all_batches_and_are_off_by_less_than_one(batches):
    parts = shares(SIZES, 2.0)
    counts = quotas(parts, batches)
    assert sum(counts) == batches
    assert all(abs(count - part * batches) < 1 for count, part in zip(counts, parts, strict=True))


@pytest.mark.parametrize("epochs", [1, 3, 10, 77])
def test_proportional_quotas_are_whole_epochs_of_each_task(epochs):
    assert quotas(shares(SIZES, 1.0), epochs * sum(SIZES)) == [epochs * size for size in SIZES]


def test_interleaving_keeps_the_counts_mixes_the_tasks_and_follows_from_the_generator():
    def drawn(seed):
        return interleaved([20, 30, 10], torch.Generator().manual_seed(seed))

    assert Counter(drawn(0)) == {0: 20, 1: 30, 2: 10}
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len(list(itertools.groupby(drawn(0)))) > 20  # runs of one task: 3 if they were not mixed


def in_order(table, *, steps, batch_size, generator):
    rows = itertools.cycle(range(0, len(table), batch_size))
    return [
        list(range(start, min(start + batch_size, len(table)))) for start in itertools.islice(rows, steps)
    ]


def batches_of(sizes, temperature=1.0, epochs=2, batch_size=4):
    tables = {f"task {size}": pd.DataFrame({"text": [""] * size, "label": [0] * size}) for size in sizes}
    return mixed_batches(tables, in_order, epochs, batch_size, temperature, torch.Generator().manual_seed(0))


def test_a_batch_holds_one_task_and_an_epoch_is_the_texts_of_all():
    batches = batches_of([10, 30, 5])
    assert len(batches) == 2 * (3 + 8 + 2)
    edges = [0, 10, 40, 45]
    for batch in batches:
        assert any(start <= min(batch) and max(batch) < end for start, end in itertools.pairwise(edges)), (
            batch
        )
    assert Counter(row for batch in batches for row in batch) == dict.fromkeys(range(45), 2)


def test_equal_sampling_gives_each_task_as_many_batches():
    batches = batches_of([10, 30, 4], math.inf, epochs=3)
    assert Counter((row >= 10) + (row >= 40) for row, *_ in batches) == {0: 12, 1: 12, 2: 12}


def test_a_task_that_would_get_no_batch_is_named():
    with pytest.raises(
        ValueError, match=r"of 1000 batches task task 4 gets none: give finetuning.sampling=equal"
    ):
        batches_of([4, 3996], 0.1, epochs=1)


def test_ways_of_sampling_are_temperatures():
    assert [temperature_of(way, 3.0) for way in ("proportional", "temperature", "equal")] == [
        1.0,
        3.0,
        math.inf,
    ]
