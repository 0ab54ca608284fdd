"""Early stopping replayed on stored curves."""

import functools
import logging

import pytest

from effnlp.reproduce.analyses import halving
from effnlp.search.early_stopping.asha import asha
from effnlp.search.simulate import Finished, Simulated


def simulated(ends, spent=10.0, seconds=100.0):
    """A search whose trials ended with these accuracies, after one whole run each."""
    finished = [
        Finished(slot, {}, (accuracy,), float(slot + 1), 10.0 * (slot + 1))
        for slot, accuracy in enumerate(ends)
    ]
    return Simulated(None, finished, len(ends), 0, 0, spent, seconds, 0.0, None, None)


@functools.cache
def small():
    """Two searches of each kind with little budget."""
    return halving.one_objective(seeds=2, first_seed=7, whole_runs=4.0)


@functools.cache
def one_search():
    """A search with promotion that fills two rungs."""
    whole = halving.problem("whole", halving.FIRST_OBJECTIVE)
    return halving.run_search(whole, halving.ASHA_PROMOTION, 3, 6.0)


def test_a_target_is_reached_by_the_first_trial_that_is_as_good():
    done = simulated([0.5, 0.7, 0.9, 0.7])
    assert halving.spent_to(done, 0.7) == 2.0
    assert halving.seconds_to(done, 0.7) == 20.0


def test_a_target_that_is_never_reached_costs_all_that_was_spent():
    done = simulated([0.5, 0.7])
    assert halving.spent_to(done, 0.8) == 10.0
    assert halving.seconds_to(done, 0.8) == 100.0


def test_the_best_counts_only_trials_that_had_ended_by_then():
    done = simulated([0.5, 0.9, 0.7])
    assert [halving.best_by(done, spent) for spent in (0.5, 1.0, 2.0, 3.0)] == [0.0, 0.5, 0.9, 0.9]


def test_random_search_reaches_its_own_end_within_its_budget():
    spent = small()["random"][halving.TO_TARGET]
    assert set(spent) == {"7", "8"}
    assert all(0 < value <= 100 for value in spent.values())


def test_a_clock_without_starts_changes_nothing_where_nothing_is_stopped():
    assert small()["random"][halving.TO_TARGET] == small()["random"][halving.TRAINING]


def test_no_search_is_better_than_the_whole_table_nor_worse_in_the_end_than_before():
    best = small()[halving.GRID][halving.FINAL_BEST]
    for row in halving.SINGLE:
        for seed, at_the_end in small()[row][halving.FINAL_BEST].items():
            assert small()[row][halving.EARLY_BEST][seed] <= at_the_end <= best[seed]


def test_a_seed_gives_the_same_whatever_other_seeds_there_are():
    alone = halving.one_objective(seeds=1, first_seed=8, whole_runs=4.0)
    assert all(
        columns[name]["8"] == values["8"]
        for row, columns in small().items()
        for name, values in alone[row].items()
    )


def test_a_clock_without_starts_keeps_the_ends_and_counts_by_the_schedule():
    point = halving.table().curves[0].point
    fractions = (1 / 9, 1 / 3, 1.0)
    whole, training = (
        list(halving.problem(clock).run(point, 0, fractions)) for clock in ("whole", "training")
    )
    assert whole[-1] == training[-1]
    assert [look.seconds / training[-1].seconds for look in training] == pytest.approx(fractions)
    assert whole[0].seconds > training[0].seconds  # this is what preparation takes
    assert [look.values for look in whole] == [look.values for look in training]


def test_that_the_table_is_used_up_is_not_said_for_each_seed(monkeypatch, caplog):
    log = logging.getLogger("effnlp.search.proposals")
    level = log.level

    def exhausted(*_, **__):
        log.warning("the space is exhausted")
        return simulated([0.5])

    monkeypatch.setattr(halving, "simulate", exhausted)
    assert halving.run_search(None, halving.RANDOM, 0, 1.0).trials == 1
    assert not caplog.records
    assert log.level == level


def test_each_rung_has_no_more_trials_than_the_one_before_it():
    sizes = halving.rung_sizes(one_search())
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == len(one_search().finished) > 0


def test_shares_that_are_promoted_follow_from_the_sizes_of_rungs():
    first, second, ended = halving.rung_sizes(one_search())
    assert halving.promoted(one_search()) == (second + ended) / (first + second)
    assert halving.beyond_share(one_search(), 3) == pytest.approx((second - first / 3) / first**0.5)


def test_a_rule_has_the_defaults_of_its_config_but_for_the_settings_of_the_search():
    made = halving.rule_of(halving.ASHA_PROMOTION, 0)
    assert (made.variant, made.levels, made.reduction_factor) == ("promotion", asha().levels, 3)
    assert halving.rule_of(halving.RANDOM, 0) is None


def test_random_weights_have_the_seed_of_the_search():
    rules = [halving.rule_of(halving.SEVERAL["scalarised"], seed).rule.positions for seed in (1, 2)]
    assert [rule.keywords["seed"] for rule in rules] == [1, 2]


def test_hypervolume_never_falls_with_the_budget():
    found = halving.several_objectives(seeds=1, whole_runs=4.0, shares=(0.25, 0.5, 1.0))
    assert set(found) == set(halving.SEVERAL)
    for columns in found.values():
        assert list(columns) == ["hypervolume at 25 %", "hypervolume at 50 %", "hypervolume at 100 %"]
        values = [of_seed["0"] for of_seed in columns.values()]
        assert values == sorted(values)
        assert 0 <= values[0] <= values[-1] <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: halving.one_objective(seeds=0), "seeds must be at least 1"),
        (lambda: halving.one_objective(seeds=1, first_seed=-1), "got 1 and -1"),
        (lambda: halving.one_objective(seeds=1, whole_runs=0.0), "whole_runs must be above 0, got 0.0"),
        (
            lambda: halving.several_objectives(seeds=1, whole_runs=-1.0),
            "whole_runs must be above 0, got -1.0",
        ),
        (lambda: halving.several_objectives(seeds=1, shares=(0.5, 1.2)), r"must be in \(0, 1\], got \[1.2\]"),
    ],
)
def test_a_number_that_makes_no_search_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
