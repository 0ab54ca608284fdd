"""Runs with crossed seeds: components of variance, the best of many, and stopping the worse half early."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from effnlp.record import COMPLETED, Events, Record
from effnlp.reproduce.analyses.variance import (
    best_of,
    components,
    early_half,
    early_score,
    expected_best,
    ratio_of_components,
    retention,
)
from effnlp.reproduce.cells import Run

COMMITTED = Path(__file__).with_name("seed_variance.csv")
KEY = "val/accuracy"


@pytest.fixture
def made(tmp_path):
    """Runs of one row out of a table with the columns init, order, accuracy, early_accuracy."""

    def make(table: pd.DataFrame) -> dict[str, list[Run]]:
        runs = []
        for row in table.itertuples():
            folder = tmp_path / f"{row.init}-{row.order}"
            folder.mkdir()
            events = Events(folder)
            events.add("started")
            events.add("validation", step=30, **{KEY: row.early_accuracy})
            events.add("validation", step=100, **{KEY: row.accuracy})
            identity = {"seed_init": row.init, "seed_order": row.order}
            record = Record(COMPLETED, identity, values={KEY: row.accuracy})
            runs.append(Run("encoder", f"{row.init}-{row.order}", record, folder))
        return {"encoder": runs}

    return make


@pytest.fixture
def drawn():
    """A table of a hundred runs whose score is the sum of an effect of each seed and of chance."""

    def draw(init: float, order: float, chance: float, seed: int = 0) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        of_init, of_order = init * random.standard_normal(10), order * random.standard_normal(10)
        rows = [
            {
                "init": i,
                "order": j,
                "accuracy": 0.7 + of_init[i] + of_order[j] + chance * random.standard_normal(),
            }
            for i, j in itertools.product(range(10), range(10))
        ]
        return pd.DataFrame(rows).assign(early_accuracy=lambda table: table["accuracy"] - 0.1)

    return draw


def test_the_hundred_runs_of_before_have_the_components_of_before(made):
    runs = made(pd.read_csv(COMMITTED))
    found = components(runs, "encoder", KEY)
    assert found["initialisation"]["variance"].mean == pytest.approx(2.46254, abs=1e-5)
    assert found["initialisation"]["variance"].low == pytest.approx(1.23984, abs=1e-5)
    assert found["data order"]["variance"].mean == 0
    assert found["data order"]["variance"].high == pytest.approx(0.22963, abs=1e-5)
    assert found["interaction and chance"]["variance"].mean == pytest.approx(1.60911, abs=1e-5)
    assert found["data order"]["ratio"].mean == 0
    assert found["data order"]["ratio"].high < 0.25, "the paper's bound is beyond the interval"


def test_the_hundred_runs_of_before_have_the_best_and_the_early_half_of_before(made):
    runs = made(pd.read_csv(COMMITTED))
    best = best_of(runs, "encoder", KEY, many=20)["best of 20"]
    assert best["accuracy"] == pytest.approx(67.35959, abs=1e-5)
    assert best["deviations above the mean"] == pytest.approx(1.77925, abs=1e-5)
    half = early_half(runs, "encoder", KEY, many=20, look_at=0.3)
    assert half["better half at 30 %"]["holds the best"] == pytest.approx(92.45)


@pytest.mark.parametrize(("init", "order"), [(0.02, 0.002), (0.002, 0.02)])
def test_the_seed_that_moves_scores_more_has_the_larger_component(made, drawn, init, order):
    found = components(made(drawn(init, order, chance=0.001)), "encoder", KEY)
    larger, smaller = ("initialisation", "data order") if init > order else ("data order", "initialisation")
    assert found[larger]["variance"].low > found[smaller]["variance"].high > 0


def test_the_ratio_turns_over_where_the_two_kinds_of_seeds_change_places(drawn):
    table = drawn(0.02, 0.01, chance=0.002).pivot_table(index="init", columns="order", values="accuracy")
    one, other = ratio_of_components(table), ratio_of_components(table.T)
    assert one.mean == pytest.approx(1 / other.mean)
    assert one.low < one.mean < one.high
    assert one.low == pytest.approx(1 / other.high, rel=0.1)


def test_the_interval_of_the_ratio_holds_the_true_ratio_as_often_as_it_says(drawn):
    held = 0
    for seed in range(200):
        table = drawn(0.02, 0.01, chance=0.005, seed=seed).pivot_table(
            index="init", columns="order", values="accuracy"
        )
        found = ratio_of_components(table, draws=500)
        held += found.low <= 0.25 <= found.high
    assert 0.83 < held / 200 < 0.97


def test_a_component_of_initialisation_that_may_be_nothing_leaves_the_ratio_open(drawn, made):
    table = drawn(0.0, 0.02, chance=0.01)
    assert ratio_of_components(
        table.pivot_table(index="init", columns="order", values="accuracy")
    ).high == float("inf")
    assert components(made(table), "encoder", KEY)["data order"]["ratio"].high == float("inf")


def test_seeds_that_are_not_crossed_are_refused(made, drawn):
    runs = made(drawn(0.01, 0.01, 0.01))
    with pytest.raises(ValueError, match=r"not crossed: there is none of 9-9"):
        components({"encoder": runs["encoder"][:-1]}, "encoder", KEY)


def test_a_row_without_runs_is_refused():
    with pytest.raises(ValueError, match=r"no runs of the row 'encoder'"):
        best_of({"other": []}, "encoder", KEY, many=2)


def test_the_expected_best_agrees_with_drawing():
    values = np.random.default_rng(0).random(30)
    draws = np.random.default_rng(1).choice(values, (200_000, 5)).max(axis=1)
    assert expected_best(values, 5) == pytest.approx(draws.mean(), abs=4 * draws.std() / 200_000**0.5)
    assert expected_best(values, 1) == pytest.approx(values.mean())


def test_looking_at_the_end_always_keeps_the_best_and_looking_at_noise_keeps_it_half_of_the_time():
    random = np.random.default_rng(0)
    final = random.random(100)
    assert retention(final, final, 20, 300, random) == 1
    assert retention(final, -final, 20, 300, random) == 0
    of_noise = [retention(final, random.random(100), 20, 10, random) for _ in range(300)]
    assert np.mean(of_noise) == pytest.approx(0.5, abs=0.06)


def test_an_early_look_sees_nothing_of_what_comes_later(tmp_path):
    events = Events(tmp_path)
    for step, accuracy in ((10, 0.5), (20, 0.4), (40, 0.9), (100, 0.8)):
        events.add("validation", step=step, **{KEY: accuracy})
    run = Run("encoder", "0", Record(COMPLETED, {}), tmp_path)
    assert early_score(run, KEY, 0.3) == 0.5
    assert early_score(run, KEY, 0.4) == 0.9
    with pytest.raises(ValueError, match=r"no validation in the first 5 %"):
        early_score(run, KEY, 0.05)
