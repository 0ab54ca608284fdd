"""The competence-based curriculum."""

import math
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.data.order.competence import competence, competence_at, cumulative, raw_difficulty


def some_table(rows=400, seed=0):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices("abcdefghij", range(1, 11), k=rng.randint(1, 60))) for _ in range(rows)]
    return pd.DataFrame({"text": texts, "label": 0})


def batches_of(table, seed=0, **settings):
    settings = {"steps": 100, "batch_size": 8} | settings
    return competence(table, generator=torch.Generator().manual_seed(seed), **settings)


@pytest.mark.parametrize("initial", [0.01, 0.3, 1.0])
def test_competence_starts_at_c0_ends_at_one_and_its_square_grows_evenly(initial):
    values = [competence_at(step, 50, initial) for step in range(60)]
    assert values[0] == pytest.approx(initial)
    assert values[50:] == [1.0] * 10
    steps = np.diff(np.square(values[:51]))
    assert steps == pytest.approx([(1 - initial**2) / 50] * 50)


@pytest.mark.parametrize("difficulty", ["length", "rarity"])
@pytest.mark.parametrize(("initial", "duration"), [(0.01, 0.5), (0.2, 1.0)])
def test_only_texts_of_difficulty_up_to_the_competence_are_drawn(difficulty, initial, duration):
    table = some_table()
    hardness = cumulative(raw_difficulty(table, difficulty))
    batches = batches_of(table, difficulty=difficulty, initial=initial, duration=duration)
    assert len(batches) == 100
    for step, batch in enumerate(batches):
        assert hardness[batch].max() <= competence_at(step, round(duration * 100), initial)
    assert max(hardness[batch].max() for batch in batches[:5]) < 0.5
    assert max(hardness[batch].max() for batch in batches[-20:]) > 0.9


def test_from_the_end_of_the_duration_on_every_text_is_drawn_with_equal_chance():
    table = some_table(rows=20)
    batches = batches_of(table, steps=4000, duration=0.25)
    counts = Counter(row for batch in batches[1000:] for row in batch)
    expected = 3000 * 8 / 20
    assert len(counts) == 20
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_a_batch_is_never_empty_has_distinct_rows_and_is_full_once_enough_texts_are_admitted():
    table = some_table(rows=100)
    hardness = cumulative(raw_difficulty(table, "rarity"))
    batches = batches_of(table, difficulty="rarity", initial=0.001)
    for step, batch in enumerate(batches):
        admitted = int((hardness <= competence_at(step, 50, 0.001)).sum())
        assert len(set(batch)) == len(batch) == min(8, admitted) >= 1
    assert len(batches[0]) < 8


def test_texts_of_one_difficulty_are_all_admitted_from_the_start():
    table = pd.DataFrame({"text": ["one two three"] * 10, "label": 0})
    drawn = {row for batch in batches_of(table, initial=0.001) for row in batch}
    assert drawn == set(range(10))


def test_cumulative_difficulty_is_the_fraction_of_values_below():
    values = np.array([5.0, 1.0, 3.0, 3.0, 9.0, 1.0])
    reference = [sum(other < value for other in values) / len(values) for value in values]
    assert cumulative(values).tolist() == reference
    assert cumulative(values).max() < 1


def test_length_counts_words_and_rarity_adds_up_their_surprise():
    table = pd.DataFrame({"text": ["a a b", "a", "c  b"], "label": 0})
    assert raw_difficulty(table, "length").tolist() == [3, 1, 2]
    a, b, c = (-math.log(n / 6) for n in (3, 2, 1))
    assert raw_difficulty(table, "rarity") == pytest.approx([a + a + b, a, c + b])


def test_both_texts_of_a_pair_count():
    table = pd.DataFrame({"text": ["a", "a b"], "text_pair": ["b c d", "c"], "label": 0})
    assert raw_difficulty(table, "length").tolist() == [4, 3]


def test_the_same_words_in_another_order_are_equally_rare():
    words = [random.Random(0).choice("abcdefghijkl") * 2 for _ in range(40)]
    shuffled = random.Random(1).sample(words, len(words))
    table = pd.DataFrame({"text": [" ".join(words), " ".join(shuffled), "aa bb cc"], "label": 0})
    first, second, _ = raw_difficulty(table, "rarity")
    assert first == second


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    table = some_table()
    assert batches_of(table) == batches_of(table)
    assert batches_of(table) != batches_of(table, seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial": 0.0}, r"initial must be in \(0, 1\], got 0.0"),
        ({"duration": 1.5}, r"duration must be in \(0, 1\], got 1.5"),
        ({"difficulty": "lenght"}, "difficulty must be one of length, rarity, got 'lenght'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        batches_of(some_table(), **settings)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="the table has no rows"):
        batches_of(some_table().head(0))
