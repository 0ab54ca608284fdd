import random
from itertools import pairwise

import numpy as np
import pytest

from effnlp.search.pareto import hypervolume
from effnlp.search.progress import (
    MARGIN,
    covered,
    hypervolume_curve,
    in_unit_box,
    merged,
    remaining_seconds,
    steps_of,
)

OBJECTIVES = {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"}


def drawn(n, seed=0, m=2):
    dice = np.random.default_rng(seed)
    accuracy, flops = dice.uniform(0.5, 0.9, n), 10 ** dice.uniform(4, 9, n)
    return np.stack([accuracy, flops, dice.uniform(1, 2, n)][:m], axis=1)


def test_the_best_of_each_objective_is_0_and_the_worst_is_1():
    values = drawn(50)
    scaled = in_unit_box(values, OBJECTIVES)
    assert scaled.min(axis=0) == pytest.approx([0, 0])
    assert scaled.max(axis=0) == pytest.approx([1, 1])
    assert scaled[:, 0].argmin() == values[:, 0].argmax()
    assert scaled[:, 1].argmin() == values[:, 1].argmin()


def test_what_spans_decades_is_scaled_by_its_logarithm_and_what_does_not_is_not():
    values = np.array([[0.5, 1e4], [0.7, 1e6], [0.9, 1e8]])
    assert in_unit_box(values, OBJECTIVES)[1] == pytest.approx([0.5, 0.5])
    near = np.array([[0.5, 1.0], [0.7, 2.0], [0.9, 4.0]])
    assert in_unit_box(near, OBJECTIVES)[1] == pytest.approx([0.5, 1 / 3])


def test_a_constant_objective_takes_part_in_no_difference():
    values = np.array([[0.5, 3.0], [0.9, 3.0]])
    assert in_unit_box(values, OBJECTIVES)[:, 1].tolist() == [0.0, 0.0]


def test_the_curve_ends_at_the_hypervolume_of_all_points_and_only_rises():
    values = drawn(60)
    curve = hypervolume_curve(values, OBJECTIVES)
    assert len(curve) == 60
    assert curve == sorted(curve)
    corner = np.full(2, 1 + MARGIN)
    for n in (1, 7, 60):
        assert curve[n - 1] == pytest.approx(
            hypervolume(in_unit_box(values, OBJECTIVES)[:n], corner) / corner.prod()
        )


def test_the_curve_does_not_change_where_a_dominated_point_comes_and_its_end_not_with_the_order():
    values = drawn(30, seed=1)
    order = np.random.default_rng(2).permutation(30)
    assert hypervolume_curve(values, OBJECTIVES)[-1] == pytest.approx(
        hypervolume_curve(values[order], OBJECTIVES)[-1]
    )
    dominated = np.array([[0.6, 1e6], [0.55, 2e6]])
    first, second = hypervolume_curve(np.vstack([dominated, drawn(5)]), OBJECTIVES)[:2]
    assert first == second > 0


def test_of_more_than_three_objectives_the_first_three_count():
    four = {"a": "minimize", "b": "minimize", "c": "minimize", "d": "minimize"}
    values = np.random.default_rng(0).uniform(1, 2, (20, 4))
    three = dict(list(four.items())[:3])
    assert hypervolume_curve(values, four) == hypervolume_curve(values[:, :3], three)


def test_what_is_worse_than_the_reference_adds_nothing():
    values = np.array([[0.55, 1e5], [0.8, 1e6], [0.9, 1e7]])
    curve = hypervolume_curve(values, OBJECTIVES, {"val/accuracy": 0.6})
    assert curve[0] == 0 < curve[1] < curve[2]


def test_without_a_point_there_is_no_curve():
    assert hypervolume_curve(np.empty((0, 2)), OBJECTIVES) == []


def test_overlapping_times_count_once():
    dice = random.Random(0)
    times = [(start, start + dice.randint(1, 9)) for start in dice.choices(range(60), k=15)]
    union = merged(times)
    assert covered(union, 1e9) == len({second for start, end in times for second in range(start, end)})
    assert covered(union, 30) == len({s for start, end in times for s in range(start, min(end, 30))})
    assert all(a[1] < b[0] for a, b in pairwise(union))


def test_what_remains_is_shared_by_the_workers():
    assert remaining_seconds([10, 30], [], 4, 2) == 40
    assert remaining_seconds([10, 30], [], 5, 2) == 60
    assert remaining_seconds([20], [5, 15], 0, 2) == 15
    assert remaining_seconds([20], [500], 0, 1) == 2  # longer than any before: soon over
    assert remaining_seconds([20], [], 0, 2) == 0


def test_before_a_trial_has_ended_nothing_can_be_said():
    assert remaining_seconds([], [5.0], 10, 2) is None


def test_a_step_function_keeps_its_changes_and_its_end():
    points = [(1.0, 0.2), (2.0, 0.2), (3.0, 0.5), (4.0, 0.5), (5.0, 0.5)]
    assert steps_of(points) == [(1.0, 0.2), (3.0, 0.5), (5.0, 0.5)]
    assert steps_of(points[:1]) == points[:1]
    assert steps_of([]) == []
