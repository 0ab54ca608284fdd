"""The synthetic problems have the properties that they are named by."""

import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from effnlp.search.problems import (
    CHANCE_ERROR,
    ERROR,
    FLOPS,
    SPREAD_OF_LENGTHS,
    SYNTHETIC,
    dense_frontier,
    draw,
    mean_seconds,
    power_law,
    true_values,
    whole,
)

FRACTIONS = (1 / 9, 1 / 3, 1.0)
NAMES = sorted(SYNTHETIC)
assert NAMES


def some_points(problem, count=1000, seed=1):
    source = random.Random(seed)
    return [draw(problem.space, source) for _ in range(count)]


def errors(problem, points, fraction):
    return np.array([next(problem.run(point, 0, (fraction,))).values[ERROR] for point in points])


def beyond_the_frontier(problem, points):
    """By how much the error of each point is above that of the frontier at its cost."""
    frontier, values = dense_frontier(problem), true_values(problem, points)
    return np.array(
        [error - frontier[frontier[:, 1] <= flops, 0].min(initial=1.0) for error, flops in values]
    )


def by_size(points):
    """FLOPs before compression decide how large a model is: the smallest and the largest fifth."""
    sizes = [
        {"linear": 1, "recurrent": 10, "attention": 20}[p["model"]]
        * int(p["width"]) ** 1.5
        * int(p.get("depth", 1))
        for p in points
    ]
    low, high = np.quantile(sizes, [0.2, 0.8])
    return np.array(sizes) <= low, np.array(sizes) >= high


@pytest.mark.parametrize(("name", "least", "most"), [("hard", 0.01, 0.06), ("easy", 0.75, 1.0)])
def test_the_share_of_points_near_the_frontier_is_what_the_problem_says(name, least, most):
    problem = SYNTHETIC[name]()
    near = beyond_the_frontier(problem, some_points(problem)) <= 0.03
    assert least <= near.mean() <= most


def test_small_models_are_ahead_at_first_and_behind_at_the_end_where_curves_cross():
    problem = SYNTHETIC["crossing"]()
    points = some_points(problem)
    small, large = by_size(points)
    ahead = {
        f: errors(problem, points, f)[small].mean() < errors(problem, points, f)[large].mean()
        for f in FRACTIONS
    }
    assert ahead == {1 / 9: True, 1 / 3: False, 1.0: False}


@pytest.mark.parametrize("name", ["hard", "easy"])
def test_elsewhere_the_order_at_the_first_rung_is_nearly_that_of_the_end(name):
    problem = SYNTHETIC[name]()
    points = some_points(problem)
    good = true_values(problem, points)[:, 0] < 0.4
    first, last = (errors(problem, points, f)[good] for f in (1 / 9, 1.0))
    assert spearmanr(first, last).statistic > 0.85


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_run_takes_ten_times_as_long_as_the_shortest(name):
    problem = SYNTHETIC[name]()
    seconds = [whole(problem, point).seconds for point in some_points(problem, 3000)]
    assert 0.9 * SPREAD_OF_LENGTHS < max(seconds) / min(seconds) <= SPREAD_OF_LENGTHS
    assert np.mean(seconds) == pytest.approx(mean_seconds(problem), rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_known_from_the_start_and_time_goes_with_the_schedule(name):
    problem = SYNTHETIC[name]()
    for point in some_points(problem, 50):
        looks = list(problem.run(point, 3, FRACTIONS))
        assert len({look.values[FLOPS] for look in looks}) == 1
        seconds = [look.seconds / look.fraction for look in looks]
        assert seconds == pytest.approx([seconds[0]] * len(looks))


@pytest.mark.parametrize("name", NAMES)
def test_one_point_with_one_seed_is_one_run_and_other_seeds_differ_by_noise_alone(name):
    problem = SYNTHETIC[name]()
    point = some_points(problem, 1)[0]
    again = [whole(problem, dict(reversed(point.items())), seed=1).values for _ in range(2)]
    assert again[0] == again[1]
    seen = np.array([whole(problem, point, seed).values[ERROR] for seed in range(400)])
    assert len(set(seen)) > 1
    assert seen.mean() == pytest.approx(problem.truth(point)[ERROR], abs=4 * seen.std() / 20)


@pytest.mark.parametrize("name", NAMES)
def test_no_drawn_point_dominates_the_dense_frontier_by_much(name):
    problem = SYNTHETIC[name]()
    frontier = dense_frontier(problem)
    worsened = true_values(problem, some_points(problem, 2000, seed=7)) * [1.0, 1.05] + [0.005, 0.0]
    assert not any(np.all(worsened <= member, axis=1).any() for member in frontier)
    assert not any(
        np.all(np.delete(frontier, i, axis=0) <= frontier[i], axis=1).any() for i in range(len(frontier))
    )


def test_a_variation_keeps_what_its_choices_still_bring_and_lies_in_the_space():
    problem = SYNTHETIC["hard"]()
    source = random.Random(0)
    base = draw(problem.space, source)
    varied = [draw(problem.space, source, near=base) for _ in range(300)]
    for point in varied:
        assert problem.space.parameters(point)
        assert ("depth" in point) == (point["model"] == "attention")
    same = np.mean([point["dropout"] == base["dropout"] for point in varied])
    assert 0.6 < same < 0.8


def test_a_power_law_falls_from_its_start_to_its_end():
    fractions = np.linspace(0, 1, 30)
    found = [power_law(f, CHANCE_ERROR, 0.1, rate=0.7, pace=12.0) for f in fractions]
    assert found[0] == pytest.approx(CHANCE_ERROR)
    assert found[-1] == pytest.approx(0.1)
    assert np.all(np.diff(found) < 0)
    assert np.all(np.diff(found, 2) > 0)
