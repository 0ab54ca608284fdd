import numpy as np
import pytest

from effnlp.search.early_stopping.scalarised import scalarised, weights


def test_weights_are_of_the_seed_and_the_number_and_nothing_else():
    np.random.seed(1)  # the global state must not matter
    first = weights(3, 7, 2)
    np.random.seed(2)
    assert np.array_equal(weights(3, 7, 2), first)
    others = [weights(3, 8, 2), weights(4, 7, 2), weights(7, 3, 2)]
    assert all(not np.array_equal(other, first) for other in others)


def test_weights_are_uniform_on_the_simplex():
    for objectives in (2, 3):
        drawn = np.array([weights(0, number, objectives) for number in range(2000)])
        assert np.all(drawn >= 0)
        assert drawn.sum(axis=1) == pytest.approx(1)
        # Of a uniform point of the simplex a weight is above x with probability (1 - x)^(m - 1).
        for above in (0.25, 0.5, 0.75):
            expected = (1 - above) ** (objectives - 1)
            assert np.abs((drawn > above).mean(axis=0) - expected).max() < 0.04


def test_a_record_is_where_the_weighted_sum_of_scaled_objectives_puts_it():
    random = np.random.default_rng(0)
    values, numbers = random.random((30, 3)) * [1.0, 1e6, 1e-6], random.permutation(30)
    low, high = values.min(axis=0), values.max(axis=0)
    halving = scalarised(seed=4)
    expected = []
    for item in range(30):
        own = weights(4, int(numbers[item]), 3)
        sums = [float(sum(own * (row - low) / (high - low))) for row in values]
        expected.append(sum(other < sums[item] for other in sums))
    assert halving.positions(values, None, numbers).tolist() == expected
    assert len(set(expected)) > 10


def test_trials_differ_in_what_they_weigh():
    """On a line between two ends some trials go on by the one objective and some by the other."""
    line = np.stack([np.arange(9.0), 8 - np.arange(9.0)], axis=1)
    halving = scalarised(seed=0)

    def goes_on(item, number):
        numbers = np.arange(100, 109)
        numbers[item] = number
        return halving.decide(line, item, None, numbers).goes_on

    for end in (0, 8):
        outcomes = {goes_on(end, number) for number in range(20)}
        assert outcomes == {True, False}


def test_a_record_is_after_one_that_dominates_it_also_where_their_sums_round_to_the_same():
    values = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0 - 2**-53]])
    halving, tied = scalarised(seed=0), 0
    for number in range(40):
        own = weights(0, number, 2)
        tied += own.sum() == own[0] + own[1] * (1.0 - 2**-53)
        assert halving.positions(values, None, np.full(3, number)).tolist() == [0, 2, 1]
        assert halving.decide(values, 1, None, np.full(3, number)).beaten_by == 0
    assert tied > 0


def test_an_objective_that_is_the_same_for_all_counts_nothing():
    values = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    assert scalarised(seed=0).positions(values, None, np.arange(3)).tolist() == [2, 0, 1]


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        scalarised(seed=-1)
