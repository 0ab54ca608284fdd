"""ZeRO's memory: by handing out every byte, and what dividing must and must not change."""

import itertools

import pytest

from effnlp.reproduce.analytic import zero


def handed_out(parameters, workers, stage):
    """Bytes of the first worker after handing out those of each parameter: weight, gradient, optimizer state."""
    kept = 0
    for parameter in range(parameters):
        is_own = parameter % workers == 0
        kept += 2 if stage < 3 or is_own else 0
        kept += 2 if stage < 2 or is_own else 0
        kept += 12 if stage < 1 or is_own else 0
    return kept


@pytest.mark.parametrize(("workers", "stage"), list(itertools.product([1, 2, 8], range(4))))
def test_a_worker_holds_what_it_is_handed(workers, stage):
    assert zero.state_bytes(64, workers, stage) == handed_out(64, workers, stage)


@pytest.mark.parametrize("stage", range(4))
def test_one_worker_holds_all_whatever_the_stage(stage):
    assert zero.state_bytes(10.0, 1, stage) == zero.state_bytes(10.0, 64, 0) == 160


def test_later_stages_hold_less_and_more_workers_hold_no_more():
    by_stage = [zero.state_bytes(1.0, 8, stage) for stage in range(4)]
    assert by_stage == sorted(by_stage, reverse=True)
    assert len(set(by_stage)) == 4
    for stage in range(1, 4):
        assert zero.state_bytes(1.0, 9, stage) < zero.state_bytes(1.0, 8, stage)


def test_without_end_of_workers_only_what_is_not_divided_is_left():
    left = [zero.state_bytes(1.0, 10**9, stage) for stage in range(4)]
    assert left == pytest.approx([16, 4, 2, 0], abs=1e-6)


def test_the_largest_model_just_fits():
    parameters = zero.largest_model(32e9, 64, 2)
    assert zero.state_bytes(parameters, 64, 2) == pytest.approx(32e9)


def test_only_divided_weights_cost_communication():
    assert [zero.communicated(stage) for stage in range(4)] == [2, 2, 2, 3]


@pytest.mark.parametrize(
    ("workers", "stage", "message"),
    [(0, 1, "workers must be at least 1, got 0"), (2, 4, "stage must be one of 0, 1, 2, 3, got 4")],
)
def test_what_there_cannot_be_is_an_error(workers, stage, message):
    with pytest.raises(ValueError, match=message):
        zero.state_bytes(1.0, workers, stage)
