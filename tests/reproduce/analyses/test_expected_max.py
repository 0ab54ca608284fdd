"""The best of n trials."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from effnlp.reproduce.analyses import expected_max as module


def runs_of(accuracies, family="encoder"):
    """A row a trial, as the engine gives them."""
    return {
        f"{family} {number:02d}": [
            SimpleNamespace(record=SimpleNamespace(values={module.ACCURACY: accuracy}))
        ]
        for number, accuracy in enumerate(accuracies)
    }


def by_enumeration(values, n):
    """The mean of the best over all ways to draw n values with replacement."""
    return np.mean([max(drawn) for drawn in itertools.product(values, repeat=n)])


def test_searches_agree_with_all_ways_to_draw():
    first, second = [0.3, 0.9, 0.5], [0.8, 0.2, 0.4]
    found = module.searches(runs_of([*first, *second]), {"encoder": "encoder"}, trials=3)
    assert list(found) == ["best of 1", "best of 2", "best of 3"]
    for n in (1, 2, 3):
        expected = [100 * by_enumeration(values, n) for values in (first, second)]
        assert list(found[module.row(n)]["encoder"].values()) == pytest.approx(expected)


def test_the_order_of_trials_within_a_search_does_not_matter():
    one = module.searches(runs_of([0.3, 0.9, 0.8, 0.2]), {"encoder": "encoder"}, trials=2)
    other = module.searches(runs_of([0.9, 0.3, 0.2, 0.8]), {"encoder": "encoder"}, trials=2)
    assert one == other


def test_families_are_told_apart_by_the_beginnings_of_their_rows():
    runs = {**runs_of([0.1, 0.2], "n-grams"), **runs_of([0.8, 0.9], "encoder")}
    found = module.searches(runs, {"linear": "n-grams", "neural": "encoder"}, trials=2)
    assert found["best of 1"] == {"linear": {"0": pytest.approx(15)}, "neural": {"0": pytest.approx(85)}}


@pytest.mark.parametrize(
    ("accuracies", "beginning"), [([0.1, 0.2, 0.3], "encoder"), ([0.1, 0.2], "an encoder")]
)
def test_trials_that_make_no_whole_number_of_searches_are_refused(accuracies, beginning):
    with pytest.raises(
        ValueError, match=f"rows that begin with '{beginning}' must be a multiple of 2 trials"
    ):
        module.searches(runs_of(accuracies), {"encoder": beginning}, trials=2)


def test_a_trial_with_two_seeds_is_refused():
    runs = runs_of([0.1, 0.2])
    runs["encoder 01"] = runs["encoder 01"] * 2
    with pytest.raises(
        ValueError, match="row encoder 01 is a trial, which is one run, got 2; choose seeds: 1"
    ):
        module.searches(runs, {"encoder": "encoder"}, trials=2)


def test_the_estimate_is_the_mean_for_one_trial_and_near_the_best_for_all():
    values = module.accuracies("backbone")
    found = module.estimator("backbone", [1, len(values)], draws=100, seed=0)
    assert found["best of 1"]["estimate"] == pytest.approx(values.mean()) == found["best of 1"]["limit"]
    last = found[module.row(len(values))]
    assert last["limit"] == values.max() > last["estimate"] > np.quantile(values, 0.95)


def test_a_gain_is_what_the_next_row_has_more():
    found = module.estimator("backbone", [1, 2, 3], draws=100, seed=0)
    estimates = [columns["estimate"] for columns in found.values()]
    gains = [columns["gain of one more"] for columns in found.values()]
    assert gains[:2] == pytest.approx(np.diff(estimates))


def test_a_wrong_estimator_would_be_seen_by_drawing(monkeypatch):
    right = module.estimator("backbone", [2, 5, 20], draws=20_000, seed=1)
    monkeypatch.setattr(
        module, "expected_max", lambda values, counts: np.quantile(values, counts / (counts + 1))
    )
    wrong = module.estimator("backbone", [2, 5, 20], draws=20_000, seed=1)
    assert all(abs(columns["deviation"]) < 4 for columns in right.values())
    assert all(abs(columns["deviation"]) > 4 for columns in wrong.values())


def test_stored_families_are_the_estimates_of_each():
    found = module.stored_families({"one": "backbone", "other": "bag_of_ngrams"}, [1, 4])
    for column, family in (("one", "backbone"), ("other", "bag_of_ngrams")):
        estimates = module.estimator(family, [1, 4], draws=10, seed=0)
        assert [found[row][column] for row in found] == [estimates[row]["estimate"] for row in found]


@pytest.mark.parametrize("budgets", [[], [0, 1], [2, 2], [3, 1]])
def test_budgets_must_rise_from_one_on(budgets):
    with pytest.raises(ValueError, match="budgets must be rising numbers of trials from 1 on"):
        module.estimator("backbone", budgets, draws=10, seed=0)


def test_a_family_that_is_not_in_the_table_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="no model 'lstm'; it has backbone, bag_of_ngrams"):
        module.accuracies("lstm")


def test_a_single_draw_has_no_standard_error():
    with pytest.raises(ValueError, match="draws must be at least 2"):
        module.estimator("backbone", [1], draws=1, seed=0)
