import numpy as np

from effnlp.search.early_stopping.asha import asha


def test_the_best_of_the_first_objective_go_on_whatever_the_others_are():
    for seed in range(10):
        random = np.random.default_rng(seed)
        values = np.stack([random.permutation(20).astype(float), random.random(20)], axis=1)
        halving = asha(reduction_factor=4)
        expected = np.argsort(values[:, 0])[:5].tolist()
        assert halving.going_on(values, None, np.arange(20)) == expected
        assert halving.positions(values, None, np.arange(20)).tolist() == values[:, 0].tolist()


def test_equal_first_objectives_share_their_position_though_one_dominates_the_other():
    values = np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 9.0]])
    halving = asha()
    assert halving.positions(values, None, np.arange(3)).tolist() == [1, 1, 0]
    assert halving.decide(values, 0, None, np.arange(3)).beaten_by == 2


def test_one_arriving_after_another_is_judged_by_those_that_are_there():
    """The rule of Li et al.: within the best floor(n / eta) of the rung as it is now, the first one always."""
    first = np.array([5.0, 4.0, 6.0, 3.0, 7.0, 5.5, 2.0, 8.0, 2.5])
    halving = asha()
    went_on = []
    for n in range(1, 10):
        decision = halving.decide(first[:n, None], n - 1, None, np.arange(n))
        expected = sorted(first[:n].tolist()).index(first[n - 1]) < max(1, n // 3)
        assert decision.goes_on == expected
        went_on.append(decision.goes_on)
    assert went_on == [True, True, False, True, False, False, True, False, True]
