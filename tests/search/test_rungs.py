"""What a run and the search agree on: which rungs there are, and when."""

import pytest

from effnlp.search.early_stopping.halving import levels
from effnlp.search.rungs import Rungs, Verdict


def rungs(*levels_, of=9, known=0):
    return Rungs(levels_, of, known, lambda _: Verdict("continue"))


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 10, 100, 282])
def test_each_rung_before_the_end_is_due_once_in_order_at_the_first_step_that_has_the_share(steps):
    ladder = rungs(*levels(1, 27, 3), of=27)
    reported = 0
    for step in range(steps + 1):
        for index in ladder.due(step, steps, after=reported):
            assert index == reported
            share = ladder.levels[index] / 27
            assert (step - 1) / steps < share <= step / steps
            reported += 1
    assert reported == sum(level * steps <= 27 * (steps - 1) for level in ladder.levels)


def test_levels_on_the_same_step_are_due_together_and_those_on_the_last_one_never():
    ladder = rungs(1, 2, 4, 8)
    assert ladder.steps(3) == [1, 1, 2, 3]
    assert [ladder.due(step, 3, after=0) for step in range(4)] == [[], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert ladder.due(1, 1, after=0) == []


def test_a_rung_that_was_passed_unreported_is_due_still():
    assert rungs(1, 3).due(60, 90, after=0) == [0, 1]
    assert rungs(1, 3).due(60, 90, after=1) == [1]


@pytest.mark.parametrize("wrong", [(0, 3), (3, 1), (3, 3), (1, 9), (1, 10)])
def test_levels_must_rise_below_the_end(wrong):
    with pytest.raises(ValueError, match=r"levels must rise and lie in 1 … 8, got \["):
        rungs(*wrong)


@pytest.mark.parametrize("known", [-1, 3])
def test_no_more_rungs_are_known_than_there_are(known):
    with pytest.raises(ValueError, match=f"known must be in 0 … 2, got {known}"):
        rungs(1, 3, known=known)


def test_a_verdict_is_one_of_three_words():
    with pytest.raises(ValueError, match="must be one of continue, stop, pause, got 'promote'"):
        Verdict("promote")
