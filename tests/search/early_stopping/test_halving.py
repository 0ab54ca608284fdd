"""Levels, quotas, and what every rule of early stopping owes: the rules are those of the configs."""

import itertools
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from effnlp.menu import conf_dir
from effnlp.search.early_stopping.halving import SuccessiveHalving, levels, quota, step_of
from effnlp.search.pareto import dominates, dominators

CONFIGS = sorted((conf_dir() / "search" / "early_stopping").glob("*.yaml"))


def halving_of(path):
    search = {"seed": 5, "early_stopping": OmegaConf.load(path)}
    return instantiate(OmegaConf.create({"search": search}).search.early_stopping)


RULES = {path.stem: halving_of(path) for path in CONFIGS if path.stem not in ("none", "observe")}
assert {"moasha", "asha", "scalarised"} <= set(RULES)

CASES = list(itertools.product(RULES, [1, 2, 3], range(4)))


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-m{case[1]}-{case[2]}")
def rung(request):
    """Settings, and 30 records with ties, copies, records outside of the limits, and numbers out of order."""
    rule, objectives, seed = request.param
    random = np.random.default_rng(seed)
    values = random.integers(0, 6, size=(30, objectives)).astype(float)
    values[25:] = values[:5]
    return RULES[rule], values, random.random(30) < 0.8, random.permutation(100)[:30]


def test_levels_are_powers_of_the_reduction_factor_below_the_end():
    assert levels(1, 243, 3) == (1, 3, 9, 27, 81)
    assert levels(1, 1000, 10) == (1, 10, 100)  # the floored logarithm has one less
    assert levels(1, 9, 3) == (1, 3)
    assert levels(1, 10, 3) == (1, 3, 9)
    assert levels(2, 9, 4) == (2, 8)
    assert levels(8, 9, 3) == (8,)


def test_every_level_is_the_last_times_the_reduction_factor_and_the_next_would_be_the_end():
    for least, factor in itertools.product([1, 2, 5], [2, 3, 4, 10]):
        for most in range(least + 1, 300, 7):
            found = levels(least, most, factor)
            assert found[0] == least
            assert all(high == factor * low for low, high in itertools.pairwise(found))
            assert found[-1] < most <= factor * found[-1]


def test_a_level_is_reached_at_its_share_of_the_steps_rounded_up_exactly():
    for steps in (1, 2, 7, 100, 3**40 + 1):  # the last is beyond what a float can count
        for level in (1, 3, 9, 26, 27):
            assert step_of(level, 27, steps) == ceil(Fraction(level * steps, 27))
        assert step_of(27, 27, steps) == steps
        assert 1 <= step_of(1, 27, steps) <= step_of(9, 27, steps) <= steps


def test_the_quota_is_the_share_rounded_down_and_one_at_least():
    assert [quota(n, 3) for n in (1, 2, 3, 5, 6, 9, 10)] == [1, 1, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("variant", "freezing", "variant must be one of stopping, promotion, got 'freezing'"),
        ("reduction_factor", 1, "reduction_factor must be a whole number of at least 2, got 1"),
        ("reduction_factor", 2.5, "reduction_factor must be a whole number of at least 2, got 2.5"),
        ("min_resource", 0, "min_resource must be a whole number of at least 1, got 0"),
        ("min_resource", True, "min_resource must be a whole number of at least 1, got True"),
        ("max_resource", "9", "max_resource must be a whole number of at least 2, got '9'"),
        ("min_resource", 9, "min_resource must be below max_resource, got 9 and 9"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(setting, value, message):
    with pytest.raises(ValueError, match=message):
        replace(RULES["moasha"], **{setting: value})


@pytest.mark.parametrize("name", RULES)
def test_the_config_gives_the_settings_and_the_rungs(name):
    halving = RULES[name]
    assert isinstance(halving, SuccessiveHalving)
    assert halving == replace(halving, variant="stopping", reduction_factor=3, min_resource=1, max_resource=9)
    assert halving.levels == (1, 3)


def test_a_decision_says_the_position_of_its_record_in_the_order_of_all(rung):
    halving, values, inside, numbers = rung
    positions = halving.positions(values, inside, numbers)
    assert len(set(positions.tolist())) > 3
    decisions = [halving.decide(values, item, inside, numbers) for item in range(30)]
    assert [decision.position for decision in decisions] == positions.tolist()
    assert {(decision.of, decision.quota) for decision in decisions} == {(30, 10)}
    within = inside & (positions < 10)
    assert [decision.goes_on for decision in decisions] == within.tolist()
    going_on = halving.going_on(values, inside, numbers)
    assert sorted(going_on) == np.flatnonzero(within).tolist()
    assert going_on == sorted(going_on, key=lambda index: (positions[index], numbers[index]))


def test_a_position_is_the_number_of_records_before_it(rung):
    """So identical records share the best of their positions and the next one's is after them all."""
    halving, values, inside, _ = rung
    # Of one trial's point of view, so that random weights are one order as well.
    positions = halving.positions(values, inside, np.zeros(30, dtype=int))
    assert [int((positions < position).sum()) for position in positions] == positions.tolist()
    same = np.all(values[:, None] == values[None], axis=2) & (inside[:, None] == inside[None])
    assert same.sum() > 30
    assert np.all(positions[:, None].repeat(30, axis=1)[same] == positions[None].repeat(30, axis=0)[same])


def test_records_outside_of_the_limits_are_after_all_inside_and_never_go_on(rung):
    halving, values, inside, numbers = rung
    positions = halving.positions(values, inside, np.zeros(30, dtype=int))
    assert 0 < inside.sum() < 30
    assert positions[~inside].min() >= inside.sum() > positions[inside].max()
    assert not any(halving.decide(values, item, inside, numbers).goes_on for item in np.flatnonzero(~inside))
    alone = halving.positions(values[inside], None, numbers[inside])
    assert np.array_equal(halving.positions(values, inside, numbers)[inside], alone)


def test_where_no_record_is_inside_none_goes_on():
    for halving in RULES.values():
        outside = np.zeros(2, dtype=bool)
        decision = halving.decide(np.array([[1.0, 2.0], [2.0, 3.0]]), 0, outside, np.arange(2))
        assert (decision.goes_on, decision.position, decision.beaten_by) == (False, 0, None)
        assert halving.going_on(np.array([[1.0, 2.0], [2.0, 3.0]]), outside, np.arange(2)) == []


def test_the_order_does_not_depend_on_the_order_of_arrival(rung):
    halving, values, inside, numbers = rung
    shuffled = np.random.default_rng(11).permutation(30)
    there = halving.positions(values[shuffled], inside[shuffled], numbers[shuffled])
    assert np.array_equal(there, halving.positions(values, inside, numbers)[shuffled])
    for place, item in enumerate(shuffled[:10]):
        here = halving.decide(values, int(item), inside, numbers)
        there = halving.decide(values[shuffled], place, inside[shuffled], numbers[shuffled])
        assert replace(there, beaten_by=None) == replace(here, beaten_by=None)
        assert (there.beaten_by is None) == (here.beaten_by is None)
        if there.beaten_by is not None:
            assert shuffled[there.beaten_by] == here.beaten_by


def test_the_order_does_not_depend_on_the_scale_of_an_objective(rung):
    halving, values, inside, numbers = rung
    expected = halving.positions(values, inside, numbers)
    for factor in (0.1, 7.0, 1e9):
        factors = factor * np.arange(1, values.shape[1] + 1)
        assert np.array_equal(halving.positions(values * factors, inside, numbers), expected)


def test_a_copy_of_a_dominated_record_does_not_change_the_order_of_the_others(rung):
    halving, values, inside, _ = rung
    values, numbers = values[inside], np.zeros(inside.sum() + 1, dtype=int)
    dominated = [i for i, point in enumerate(values) if dominators(values, point).any()]
    assert dominated
    before = halving.positions(values, None, numbers[:-1])
    for item in dominated:
        after = halving.positions(np.vstack([values, values[item]]), None, numbers)[:-1]
        assert np.array_equal(np.sign(after[:, None] - after), np.sign(before[:, None] - before))


def test_a_point_that_dominates_all_others_always_goes_on(rung):
    halving, values, _, numbers = rung
    for size in (1, 2, 3, 10, 30):
        best = np.vstack([values[: size - 1], values.min(axis=0) - 1])
        decision = halving.decide(best, size - 1, None, numbers[:size])
        assert decision.goes_on
        assert (decision.position, decision.beaten_by) == (0, None)


def test_as_many_distinct_records_as_the_reduction_factor_in_a_chain_leave_one():
    for halving, factor in itertools.product(RULES.values(), [2, 3, 4, 7]):
        halving = replace(halving, reduction_factor=factor)
        chain = np.arange(float(factor))[:, None].repeat(2, axis=1)
        for shuffled in itertools.islice(itertools.permutations(range(factor)), 30):
            order = list(shuffled)
            goes_on = [
                halving.decide(chain[order], item, None, np.arange(factor)).goes_on for item in range(factor)
            ]
            assert [rank == 0 for rank in order] == goes_on


def test_what_beat_a_record_is_before_it_and_dominates_it_where_one_before_it_does(rung):
    halving, values, inside, numbers = rung
    by_domination = 0
    for item in range(30):
        decision = halving.decide(values, item, inside, numbers)
        if decision.position == 0:
            assert decision.beaten_by is None
            continue
        peers = np.flatnonzero(inside == inside[item])
        preceding = set(np.flatnonzero(inside).tolist()) if not inside[item] else set()
        local = halving.rule.preceding(values[peers], numbers[peers], int(np.flatnonzero(peers == item)[0]))
        preceding |= set(peers[local].tolist())
        assert len(preceding) == decision.position
        assert decision.beaten_by in preceding
        dominating = {other for other in preceding if dominates(values[other], values[item])}
        by_domination += bool(dominating)
        best = min(dominating or preceding, key=lambda other: (*values[other], numbers[other]))
        assert decision.beaten_by == best
    assert by_domination > 0


def test_when_all_are_there_a_rung_is_that_of_synchronous_halving():
    """27 trials in a chain of quality, which each rung shows them exactly: 9, 3 and 1 are left."""
    for halving in RULES.values():
        halving = replace(halving, max_resource=27)
        quality = np.random.default_rng(0).permutation(27)
        left = np.arange(27)
        sizes = []
        for level in halving.levels:
            values = np.stack([quality[left] / level, quality[left] * 10.0], axis=1)
            left = left[halving.going_on(values, None, left)]
            sizes.append(len(left))
            assert sorted(quality[left].tolist()) == list(range(len(left)))
        assert sizes == [9, 3, 1]


@pytest.mark.parametrize("name", RULES)
def test_a_record_that_is_said_to_be_lost_is_never_promoted_however_the_rung_fills(name):
    halving, random = RULES[name], np.random.default_rng(3)
    lost = promoted = 0
    for _ in range(150):
        size, more, objectives = random.integers(2, 12), int(random.integers(0, 20)), random.integers(1, 4)
        values = random.integers(0, 5, size=(size, objectives)).astype(float)
        inside = random.random(size) < 0.9
        may = [halving.may_still_go_on(values, item, size + more, inside) for item in range(size)]
        lost += may.count(False)
        # What helps most is a record after all others; what disturbs an order, one anywhere.
        added = random.integers(0, 9, size=(more, objectives)) + random.choice([0.0, 9.0])
        all_values = np.vstack([values, added])
        all_inside = np.append(inside, random.random(more) < 0.9)
        numbers = random.permutation(size + more)
        for now in range(size, size + more + 1):
            going_on = set(halving.going_on(all_values[:now], all_inside[:now], numbers[:now]))
            promoted += len(going_on & set(range(size)))
            assert all(may[item] for item in going_on & set(range(size)))
    assert lost > 100
    assert promoted > 100


def test_a_full_rung_has_lost_what_as_many_records_dominate_as_may_go_on():
    chain = np.arange(9.0)[:, None].repeat(2, axis=1)
    for halving in RULES.values():
        assert [halving.may_still_go_on(chain, item, 9) for item in range(9)] == [True] * 3 + [False] * 6
        assert [halving.may_still_go_on(chain, item, 15) for item in range(9)] == [True] * 5 + [False] * 4
        assert not halving.may_still_go_on(chain, 0, 1000, np.zeros(9, dtype=bool))


def test_values_that_are_no_records_of_a_rung_are_refused():
    halving, numbers = RULES["moasha"], np.arange(2)
    with pytest.raises(ValueError, match="must be finite: others are failed trials"):
        halving.decide(np.array([[0.0, np.nan], [0.0, 1.0]]), 1, None, numbers)
    with pytest.raises(ValueError, match="must be finite"):
        halving.positions(np.array([[0.0, np.inf], [0.0, 1.0]]), None, numbers)
    with pytest.raises(ValueError, match=r"shape \(records, objectives\), got \(2,\)"):
        halving.decide(np.zeros(2), 0, None, numbers)
    with pytest.raises(ValueError, match=r"numbers of shape \(3,\) does not fit 2 records"):
        halving.decide(np.zeros((2, 2)), 0, None, np.arange(3))
    with pytest.raises(ValueError, match=r"inside of shape \(1,\) does not fit 2 records"):
        halving.may_still_go_on(np.zeros((2, 2)), 0, 2, np.ones(1, dtype=bool))
