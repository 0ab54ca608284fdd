from itertools import pairwise

import pytest

from effnlp.compression.pruning.schedule import Schedule, after_round, cubic


@pytest.mark.parametrize("kind", ["gradual", "iterative"])
@pytest.mark.parametrize(("warmup", "cooldown"), [(0.1, 0.3), (0.0, 0.0), (0.0, 0.9)])
def test_it_starts_at_zero_ends_at_the_sparsity_and_never_falls(kind, warmup, cooldown):
    schedule = Schedule(kind, warmup, cooldown)
    levels = [schedule.sparsity_at(step, 100, 0.8) for step in range(101)]
    start, end = round(100 * warmup), round(100 * (1 - cooldown))
    assert levels[: start + 1] == [0.0] * (start + 1)
    assert levels[end:] == [0.8] * (101 - end)
    assert all(0 <= low <= high <= 0.8 for low, high in pairwise(levels))


def test_the_gradual_one_follows_the_cubic_law():
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n Δt))³, with s_i = 0 (eq. 1)."""
    schedule = Schedule("gradual", warmup=0.2, cooldown=0.3)
    for step in range(20, 71):
        expected = 0.9 - 0.9 * (1 - (step - 20) / 50) ** 3
        assert schedule.sparsity_at(step, 100, 0.9) == pytest.approx(expected)
    assert (cubic(0.0), cubic(1.0)) == (0, 1)


def test_each_round_drops_the_same_fraction_of_what_is_left_and_the_last_leaves_what_was_asked_for():
    left = [1 - after_round(done, 4, 0.9) for done in range(5)]
    assert left[0] == 1
    assert 1 - left[-1] == pytest.approx(0.9)
    assert [after / before for before, after in pairwise(left)] == pytest.approx([0.1**0.25] * 4)


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_iterative_pruning_acts_once_a_round_and_levels_change_only_then(rounds):
    schedule = Schedule("iterative", warmup=0.1, cooldown=0.2, rounds=rounds)
    due = [step for step in range(1, 201) if schedule.is_due(step, 200)]
    assert len(due) == rounds
    assert due[-1] == 160
    for step in range(1, 201):
        changed = schedule.sparsity_at(step, 200, 0.8) != schedule.sparsity_at(step - 1, 200, 0.8)
        assert changed == (step in due)


@pytest.mark.parametrize("steps", [7, 30, 101])
@pytest.mark.parametrize("kind", ["gradual", "iterative"])
def test_the_final_level_is_due_at_the_first_step_of_the_settled_share(kind, steps):
    schedule = Schedule(kind, warmup=0.1, cooldown=0.35, update_every=4)
    settled = next(step for step in range(steps + 1) if step / steps >= schedule.settled_after)
    assert schedule.is_due(settled, steps)
    assert schedule.sparsity_at(settled, steps, 0.5) == 0.5


def test_one_shot_leaves_the_training_alone():
    schedule = Schedule("one_shot")
    assert not any(schedule.is_due(step, 50) for step in range(51))
    assert {schedule.sparsity_at(step, 50, 0.5) for step in range(51)} == {0.0}
    assert schedule.settled_after == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cubic"}, "schedule must be one of one_shot, iterative, gradual, got 'cubic'"),
        ({"warmup": 0.6, "cooldown": 0.4}, "leave steps between them, got 0.6 and 0.4"),
        ({"warmup": float("nan")}, "leave steps between them, got nan"),
        ({"update_every": 0}, "update_every must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**settings)


def test_a_sparsity_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 1.0"):
        Schedule("gradual").sparsity_at(1, 2, 1.0)
