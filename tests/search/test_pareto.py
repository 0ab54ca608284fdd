import itertools
from fractions import Fraction

import numpy as np
import pytest

from effnlp.search.pareto import (
    distinct,
    dominates,
    dominators,
    farthest_first,
    front_numbers,
    hypervolume,
    on_frontier,
    oriented,
)


def on_frontier_by_definition(points):
    return [not any(dominates(other, point) for other in points) for point in points]


def front_numbers_by_peeling(points):
    """Take away the frontier again and again."""
    numbers, left = np.empty(len(points), dtype=int), np.arange(len(points))
    for front in range(len(points)):
        best = np.array(on_frontier_by_definition(points[left]), dtype=bool)
        numbers[left[best]] = front
        left = left[~best]
    return numbers.tolist()


def farthest_first_by_definition(points):
    """The distinct points in order, with exact distances between whole numbers."""
    left = sorted({tuple(int(x) for x in point) for point in points})
    columns = list(zip(*left, strict=True))
    spans = [max(column) - min(column) or 1 for column in columns]

    def squared(a, b):
        return sum(Fraction(x - y, span) ** 2 for x, y, span in zip(a, b, spans, strict=True))

    order = [left.pop(0)]
    while left:  # max takes the first of equals, and they are sorted
        best = max(left, key=lambda point: min(squared(point, chosen) for chosen in order))
        order.append(best)
        left.remove(best)
    return order


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


def test_fronts_are_what_is_left_as_frontier_when_those_before_are_taken_away(points):
    assert front_numbers(points).tolist() == front_numbers_by_peeling(points)


def test_fronts_of_numbers_without_ties_are_those_of_the_definition():
    for objectives, seed in itertools.product([1, 2, 3, 4], range(3)):
        points = np.random.default_rng(seed).normal(size=(60, objectives))
        assert front_numbers(points).tolist() == front_numbers_by_peeling(points)


def test_the_first_front_is_the_frontier_also_of_many_points():
    for objectives in (2, 3):
        points = np.random.default_rng(0).random((3000, objectives))
        assert np.array_equal(front_numbers(points) == 0, on_frontier(points))


def test_fronts_depend_neither_on_order_nor_scale_nor_on_copies(points):
    numbers = front_numbers(points)
    order = np.random.default_rng(7).permutation(len(points))
    assert np.array_equal(front_numbers(points[order]), numbers[order])
    assert np.array_equal(front_numbers(points * (np.arange(points.shape[1]) + 0.7)), numbers)
    assert np.array_equal(front_numbers(np.concatenate([points, points]))[: len(points)], numbers)


def test_a_chain_has_as_many_fronts_as_points_and_an_antichain_one():
    chain = np.arange(50.0)[:, None].repeat(3, axis=1)
    shuffled = np.random.default_rng(0).permutation(50)
    assert front_numbers(chain[shuffled]).tolist() == shuffled.tolist()
    falling = np.stack([np.arange(50.0), -np.arange(50.0)], axis=1)
    assert not front_numbers(falling[shuffled]).any()


def test_fronts_of_nothing_are_none_of_infinity_some_and_of_nan_refused():
    assert front_numbers(np.empty((0, 2))).shape == (0,)
    assert front_numbers(np.array([[np.inf, 0.0], [1.0, 1.0], [np.inf, 1.0]])).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="NaN cannot be ranked"):
        front_numbers(np.array([[0.0, np.nan]]))


def test_zero_has_no_sign_in_an_order():
    assert front_numbers(np.array([[0.0, 0.0], [-0.0, 0.0], [0.0, -0.0]])).tolist() == [0, 0, 0]


def test_dominators_are_the_points_that_dominate(points):
    for point in points[:10]:
        assert dominators(points, point).tolist() == [dominates(other, point) for other in points]


def test_distinct_rows_are_sorted_and_give_the_values_back(points):
    rows, places = distinct(points)
    assert [tuple(row) for row in rows] == sorted({tuple(point) for point in points})
    assert np.array_equal(rows[places], points)


def test_the_farthest_first_order_is_that_of_exact_distances(points):
    rows, _ = distinct(points)
    order = [tuple(point) for point in rows[farthest_first(rows)]]
    assert order == farthest_first_by_definition(points)


def test_the_farthest_first_order_of_a_long_front_is_that_of_plain_distances():
    for objectives in (2, 3):
        points = -np.abs(np.random.default_rng(objectives).normal(size=(300, objectives)))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0)
        order = farthest_first(points)
        assert sorted(order.tolist()) == list(range(300))
        nearest = np.linalg.norm(scaled - scaled[order[0]], axis=1)
        for index in order[1:]:
            assert nearest[index] == pytest.approx(nearest.max(), abs=1e-7)
            nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[index], axis=1))


def test_farthest_first_starts_with_the_best_in_the_first_objective_and_goes_to_the_other_end():
    front = np.array([[3.0, 3.0], [5.0, 1.0], [2.9, 4.0], [1.0, 5.0]])
    assert front[farthest_first(front)][:3].tolist() == [[1.0, 5.0], [5.0, 1.0], [3.0, 3.0]]


def test_farthest_first_depends_neither_on_order_nor_on_scale(points):
    rows, _ = distinct(points)
    order = farthest_first(rows)
    shuffled = np.random.default_rng(3).permutation(len(rows))
    assert np.array_equal(rows[shuffled][farthest_first(rows[shuffled])], rows[order])
    for factor in (0.1, 7.0, 1e9):
        assert np.array_equal(farthest_first(rows * factor * (np.arange(rows.shape[1]) + 1)), order)


def test_farthest_first_stops_at_the_point_it_is_asked_about(points):
    rows, _ = distinct(points)
    whole = farthest_first(rows).tolist()
    for index in range(len(rows)):
        assert farthest_first(rows, until=index).tolist() == whole[: whole.index(index) + 1]


def test_identical_points_come_last_in_a_spread_and_a_constant_objective_counts_nothing():
    points = np.array([[2.0, 7.0], [0.0, 7.0], [2.0, 7.0], [1.0, 7.0]])
    assert farthest_first(points).tolist() == [1, 0, 3, 2]
    assert farthest_first(np.ones((3, 2))).tolist() == [0, 1, 2]
    assert farthest_first(np.empty((0, 2))).tolist() == []


def test_there_is_no_spread_with_a_point_at_infinity():
    with pytest.raises(ValueError, match="need finite values"):
        farthest_first(np.array([[0.0, np.inf], [1.0, 0.0]]))
