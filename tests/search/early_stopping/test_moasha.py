import itertools

import numpy as np
import pytest

from effnlp.search.early_stopping.asha import positions as positions_of_one_objective
from effnlp.search.early_stopping.moasha import moasha, positions, preceding
from effnlp.search.pareto import dominates, dominators

CASES = list(itertools.product([1, 2, 3, 4], range(4)))


@pytest.fixture(params=CASES, ids=lambda case: f"m{case[0]}-{case[1]}")
def values(request):
    """Records in no order, with ties in single objectives and with copies."""
    objectives, seed = request.param
    return np.random.default_rng(seed).integers(0, 6, size=(35, objectives)).astype(float)


def spread_by_definition(front):
    """Distinct points of a front, each next one the farthest from those before; exact up to 1e-9."""
    left = sorted(front)
    spans = [max(column) - min(column) or 1 for column in zip(*left, strict=True)]

    def distance(a, b):
        return round(sum(((x - y) / span) ** 2 for x, y, span in zip(a, b, spans, strict=True)), 9)

    order = [left.pop(0)]
    while left:
        order.append(max(left, key=lambda point: min(distance(point, chosen) for chosen in order)))
        left.remove(order[-1])
    return order


def positions_by_definition(values):
    points = [tuple(row) for row in values.tolist()]
    left, order = set(points), []
    while left:
        front = {p for p in left if not any(dominates(np.array(q), np.array(p)) for q in left)}
        order += spread_by_definition(front)
        left -= front
    return [sum(points.count(earlier) for earlier in order[: order.index(point)]) for point in points]


def test_positions_are_those_of_the_definition_on_unsorted_records(values):
    expected = positions_by_definition(values)
    assert expected != sorted(expected)
    assert positions(values, np.arange(35)).tolist() == expected


def test_the_records_before_one_are_found_without_ordering_the_other_fronts(values):
    everyone = positions(values, np.arange(35))
    for item in range(35):
        before = preceding(values, np.arange(35), item)
        assert before.sum() == everyone[item]
        assert np.array_equal(before, everyone < everyone[item])


def test_below_a_limit_positions_are_exact_and_the_others_are_beyond_it(values):
    exact = positions(values, np.arange(35))
    for limit in (0, 1, 5, 12, 35):
        found = positions(values, np.arange(35), limit)
        assert np.array_equal(found[exact < limit], exact[exact < limit])
        assert np.all(found[exact >= limit] >= limit)


def test_the_rank_of_a_record_is_its_position_and_not_the_index_that_sorts():
    chain = np.array([3.0, 1.0, 2.0, 0.0, 4.0])[:, None].repeat(2, axis=1)
    assert positions(chain, np.arange(5)).tolist() == [3, 1, 2, 0, 4]
    cycle = np.array([2.0, 0.0, 1.0])[:, None].repeat(2, axis=1)  # here argsort gives [1, 2, 0]
    assert positions(cycle, np.arange(3)).tolist() == [2, 0, 1]


def test_no_record_is_before_one_that_dominates_it(values):
    found = positions(values, np.arange(35))
    for item in range(35):
        assert np.all(found[dominators(values, values[item])] < found[item])


def test_what_is_dominated_by_all_but_the_quota_always_stops(values):
    stopped = 0
    for size, factor in itertools.product([3, 7, 20, 35], [2, 3, 4]):
        halving = moasha(reduction_factor=factor)
        for item in range(size):
            if dominators(values[:size], values[item]).sum() >= size - size // factor:
                stopped += 1
                assert not halving.decide(values[:size], item, None, np.arange(size)).goes_on
    assert stopped > 0


def test_a_tie_in_a_discrete_cost_still_dominates():
    """Accuracy, and one of two costs: the better of two at one cost comes first, wherever it arrives."""
    values = np.array([[-0.8, 10.0], [-0.9, 10.0], [-0.7, 5.0], [-0.6, 5.0]])
    assert positions(values, np.arange(4)).tolist() == [2, 0, 1, 3]


def test_one_objective_is_ordinary_asha():
    for seed in range(5):
        values = np.random.default_rng(seed).integers(0, 20, size=(40, 1)).astype(float)
        expected = positions_of_one_objective(values, np.arange(40))
        assert np.array_equal(positions(values, np.arange(40)), expected)


def test_a_front_is_spread_from_its_best_in_the_first_objective():
    """Of five that do not dominate each other two of six go on: the extremes, not the two nearest to the best."""
    front = np.array([[4.0, 2.0], [5.0, 1.0], [2.0, 4.0], [3.0, 3.0], [1.0, 5.0], [9.0, 9.0]])
    halving = moasha()
    assert halving.going_on(front, None, np.arange(6)) == [4, 1]
    assert halving.decide(front, 2, None, np.arange(6)).beaten_by == 4  # no one dominates it
    assert halving.decide(front, 5, None, np.arange(6)).beaten_by == 4  # all others do


def test_identical_records_share_the_best_position_and_go_on_together():
    values = np.array([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    halving = moasha()
    assert halving.positions(values, None, np.arange(3)).tolist() == [0, 2, 0]
    assert halving.going_on(values, None, np.array([9, 8, 7])) == [2, 0]
