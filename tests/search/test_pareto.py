import itertools

import numpy as np
import pytest

from effnlp.search.pareto import dominates, hypervolume, on_frontier, oriented


def on_frontier_by_definition(points):
    return [not any(dominates(other, point) for other in points) for point in points]


def hypervolume_by_cells(points, reference):
    """Cut space at every coordinate and add up the cells whose lower corner some point dominates."""
    axes = [np.unique(np.append(points[:, axis], reference[axis])) for axis in range(len(reference))]
    axes = [axis[axis <= limit] for axis, limit in zip(axes, reference, strict=True)]
    total = 0.0
    for corner in itertools.product(*[range(len(axis) - 1) for axis in axes]):
        low = np.array([axis[i] for axis, i in zip(axes, corner, strict=True)])
        high = np.array([axis[i + 1] for axis, i in zip(axes, corner, strict=True)])
        if np.any(np.all(points <= low, axis=1)):
            total += float(np.prod(high - low))
    return total


# Few distinct values, so that ties in one objective, and identical points, do occur.
@pytest.fixture(
    params=list(itertools.product([1, 2, 3, 4], range(5))), ids=lambda pair: f"m{pair[0]}-{pair[1]}"
)
def points(request):
    objectives, seed = request.param
    return np.random.default_rng(seed).integers(0, 6, size=(40, objectives)).astype(float)


def test_the_frontier_is_what_the_definition_says(points):
    assert on_frontier(points).tolist() == on_frontier_by_definition(points)


def test_the_frontier_does_not_depend_on_the_order_of_the_points(points):
    order = np.random.default_rng(99).permutation(len(points))
    assert np.array_equal(on_frontier(points[order]), on_frontier(points)[order])


def test_the_frontier_of_the_frontier_is_the_frontier(points):
    frontier = points[on_frontier(points)]
    assert len(frontier) > 0
    assert on_frontier(frontier).all()


def test_every_point_off_the_frontier_is_dominated_by_one_on_it(points):
    mask = on_frontier(points)
    assert all(any(dominates(best, point) for best in points[mask]) for point in points[~mask])


def test_scaling_an_objective_and_duplicating_points_change_nothing(points):
    factors = np.arange(1, points.shape[1] + 1) * 7.0
    assert np.array_equal(on_frontier(points * factors), on_frontier(points))
    twice = on_frontier(np.concatenate([points, points]))
    assert np.array_equal(twice[: len(points)], on_frontier(points))
    assert np.array_equal(twice[len(points) :], on_frontier(points))


def test_no_point_dominates_itself_and_a_tie_in_one_objective_still_dominates():
    assert not dominates(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert dominates(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert not dominates(np.array([0.0, 3.0]), np.array([1.0, 2.0]))


def test_an_empty_set_has_an_empty_frontier_and_no_volume():
    assert on_frontier(np.empty((0, 2))).shape == (0,)
    assert hypervolume(np.empty((0, 2)), np.ones(2)) == 0.0


def test_infinity_is_a_place_in_the_order_and_nan_is_not():
    assert on_frontier(np.array([[np.inf, 0.0], [1.0, 1.0], [np.inf, 1.0]])).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="NaN cannot be ranked"):
        on_frontier(np.array([[0.0, np.nan], [1.0, 1.0]]))


def test_ten_thousand_points_are_ranked_without_comparing_each_with_each():
    random = np.random.default_rng(0).random((10_000, 2))
    mask = on_frontier(random)
    best_so_far = np.inf
    for index in np.lexsort((random[:, 1], random[:, 0])):
        assert mask[index] == (random[index, 1] < best_so_far)
        best_so_far = min(best_so_far, random[index, 1])


def test_orienting_turns_the_frontier_of_the_best_into_that_of_the_least():
    values = np.array([[0.9, 10.0], [0.8, 5.0], [0.7, 7.0]])  # accuracy, cost
    costs = oriented(values, ["maximize", "minimize"])
    assert on_frontier(costs).tolist() == [True, True, False]
    assert np.array_equal(oriented(costs, ["maximize", "minimize"]), values)


def test_directions_that_are_unknown_or_too_few_are_refused():
    with pytest.raises(ValueError, match="'minimize' or 'maximize', got 'down'"):
        oriented(np.ones((2, 1)), ["down"])
    with pytest.raises(ValueError, match=r"shape \(2, 3\) do not fit 2 directions"):
        oriented(np.ones((2, 3)), ["minimize", "maximize"])


def test_the_hypervolume_is_the_volume_of_the_dominated_cells(points):
    points = points[:10]
    reference = np.full(points.shape[1], 5.0)
    assert hypervolume(points, reference) == pytest.approx(hypervolume_by_cells(points, reference))


def test_dominated_points_and_points_beyond_the_reference_add_no_volume(points):
    points = points[:12]
    reference = np.full(points.shape[1], 5.0)
    volume = hypervolume(points, reference)
    assert hypervolume(points[on_frontier(points)], reference) == pytest.approx(volume)
    assert hypervolume(np.concatenate([points, points + 5.0]), reference) == pytest.approx(volume)


def test_a_point_that_dominates_all_raises_the_volume_to_its_own_box(points):
    best = points.min(axis=0) - 1.0
    reference = np.full(points.shape[1], 6.0)
    assert hypervolume(np.concatenate([points[:10], best[None]]), reference) == pytest.approx(
        np.prod(reference - best)
    )
