"""What is tried, stopped, paused, promoted and lost, with a study in memory and no process."""

import random
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from effnlp.search.attributes import (
    ATTEMPTS,
    DECISION,
    DROPPED,
    OWNER,
    PAUSED,
    REASON,
    RUNG,
    SLOT,
    decode_slots,
    encode_slots,
    slots,
)
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.ledger import WAIT, Job, Ledger, Owner, Rules, replay, rung_objectives
from effnlp.search.rungs import Rung

OBJECTIVES = {"val/accuracy": "maximize", "model/bytes": "minimize"}
HALVING = moasha(reduction_factor=3, min_resource=1, max_resource=9, passes_every=None)
PROMOTION = replace(HALVING, variant="promotion")


def propose(study, taken):
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    return trial, [f"x={x}"], f"hash-{x}"


def owner(worker=0, session="s"):
    return Owner(session, worker, f"{session}-{worker}")


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        directions=list(OBJECTIVES.values()), sampler=optuna.samplers.RandomSampler(seed=0)
    )


@pytest.fixture
def ledger(study):
    def make(halving=HALVING, worker=0, session="s", trials=100, **more):
        return Ledger(study, OBJECTIVES, halving, propose, trials, owner(worker, session), **more)

    return make


def show(index, accuracy, size, step=1):
    return Rung(
        index,
        3**index,
        step,
        9,
        {"val/accuracy": accuracy, "model/bytes": size},
        {"cost/total/own/flops": 1.0},
    )


def attributes(study, job):
    return slots(study)[job.slot].user_attrs


def test_slots_are_given_once_and_no_more_than_the_budget_has(ledger):
    workers = [ledger(worker=i, trials=5) for i in range(3)]
    jobs = [workers[i % 3].take(0.0) for i in range(8)]
    assert [job.slot for job in jobs[:5]] == [0, 1, 2, 3, 4]
    assert jobs[5:] == [None] * 3


def test_a_closed_budget_starts_nothing_new_but_ends_what_was_started(ledger, study):
    first = ledger(session="before")
    job = first.take(0.0)
    second = ledger(session="after")
    taken_up = second.take(1.0, is_open=False)
    assert (taken_up.slot, taken_up.how) == (job.slot, "resumed")
    assert second.take(2.0, is_open=False) is None
    assert attributes(study, job)[ATTEMPTS][0]["how"] == "stopped"


def test_one_that_dominates_goes_on_and_one_that_is_dominated_is_stopped_with_a_sentence(ledger, study):
    one = ledger()
    jobs = [one.take(0.0) for _ in range(3)]
    assert one.report(jobs[0], show(0, 0.8, 10), 1.0).word == "continue"  # the first of a rung always goes on
    assert one.report(jobs[1], show(0, 0.9, 5), 2.0).word == "continue"
    verdict = one.report(jobs[2], show(0, 0.7, 20), 3.0)
    assert verdict.word == "stop"
    assert verdict.sentence == (
        "rung 1 of 2: position 3 of 3, 1 goes on; "
        "trial 001 came before it with val/accuracy 0.9 against 0.7 and model/bytes 5 against 20"
    )
    trial = slots(study)[2]
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs[REASON] == verdict.sentence
    assert decode_slots(trial.user_attrs[f"{DECISION}0"]["saw"]) == [0, 1, 2]


def test_what_was_decided_is_not_decided_again(ledger):
    one = ledger()
    first, second = one.take(0.0), one.take(0.0)
    assert one.report(first, show(0, 0.5, 10), 1.0).word == "continue"
    assert one.report(second, show(0, 0.9, 1), 1.0).word == "continue"
    assert one.report(first, show(0, 0.5, 10), 2.0).word == "continue"


def test_a_failed_trial_does_not_compete(ledger):
    one = ledger()
    best, other = one.take(0.0), one.take(0.0)
    one.report(best, show(0, 0.9, 1), 1.0)
    one.fail(best, "nan", "the loss is nan", {}, 2.0)
    assert one.report(other, show(0, 0.5, 9), 3.0).word == "continue"


def test_what_comes_from_an_owner_that_was_given_up_is_not_kept(ledger, study):
    slow = ledger(worker=0)
    quick = ledger(worker=1, is_lost=lambda owner: "yes")
    job = slow.take(0.0)
    again = quick.take(1.0)
    assert (again.slot, again.how) == (job.slot, "resumed")
    assert slow.report(job, show(0, 0.9, 1), 2.0) is None
    assert not slow.complete(job, [0.9, 1.0], {}, {})
    assert slow.fail(job, "nan", "late", {}, 3.0) == "abandon"
    slow.release(job)
    assert attributes(study, job)[OWNER]["token"] == quick.owner.token
    assert RUNG + "0" not in attributes(study, job)
    assert quick.complete(again, [0.9, 1.0], {}, {})


def test_a_lost_trial_is_taken_up_so_often_and_no_more_and_its_history_says_so(ledger, study):
    job = ledger(worker=0, trials=1).take(0.0)
    for worker in (1, 2):
        taken = ledger(worker=worker, trials=1, retries=2, is_lost=lambda owner: "yes").take(1.0)
        assert taken.slot == job.slot
    assert ledger(worker=3, trials=1, retries=2, is_lost=lambda owner: "yes").take(2.0) is None
    trial = slots(study)[0]
    assert trial.state == TrialState.FAIL
    assert [entry["how"] for entry in trial.user_attrs[ATTEMPTS]] == ["lost", "lost"]
    assert trial.user_attrs[REASON] == "killed: worker 2 was lost, 3 times in all"


def test_a_worker_that_is_silent_is_waited_for(ledger):
    ledger(worker=0, trials=1).take(0.0)
    assert ledger(worker=1, trials=1, is_lost=lambda owner: "silent").take(1.0) is WAIT
    assert ledger(worker=1, trials=1, is_lost=lambda owner: "no").take(1.0) is None


def test_a_killed_trial_is_tried_again_and_one_that_diverged_is_not(ledger, study):
    one = ledger(retries=1)
    killed, diverged = one.take(0.0), one.take(0.0)
    assert one.fail(killed, "killed", "signal 9", {}, 1.0) == "again"
    assert one.fail(diverged, "nan", "the loss is nan", {}, 1.0) == "failed"
    again = one.take(2.0)
    assert (again.slot, again.how) == (killed.slot, "resumed")
    assert one.fail(again, "killed", "signal 9", {}, 3.0) == "failed"
    assert len(slots(study)) == 2


def test_starting_the_sweep_again_is_no_retry(ledger):
    for session in "abcdef":
        assert ledger(session=session, trials=1, retries=0).take(0.0).slot == 0


def test_a_decision_that_a_kill_prevented_is_made_when_the_trial_is_taken_up(ledger, study):
    one = ledger(session="before")
    good, bad = one.take(0.0), one.take(0.0)
    one.report(good, show(0, 0.9, 1), 1.0)
    shown = {
        "values": {"val/accuracy": 0.5, "model/bytes": 9.0},
        "cost": {},
        "level": 1,
        "step": 1,
        "steps": 9,
        "at": 1.0,
    }
    study._storage.set_trial_user_attr(bad.trial._trial_id, f"{RUNG}0", shown)
    later = ledger(session="after", trials=2)
    taken = later.take(2.0)
    assert (taken.slot, taken.known_rungs) == (good.slot, 1)
    assert later.take(2.0) is None
    assert slots(study)[bad.slot].state == TrialState.PRUNED


def test_an_entry_of_few_slots_is_short():
    assert encode_slots([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert decode_slots("0-2,5,7-8") == [0, 1, 2, 5, 7, 8]
    assert decode_slots(encode_slots([])) == []


def test_latency_energy_and_seconds_do_not_stop_and_a_fourth_objective_neither():
    ways = {"infer/single_stream/latency_seconds_p50": "minimize", "cost/total/own/energy_joules": "minimize"}
    assert rung_objectives({**OBJECTIVES, **ways}) == OBJECTIVES
    more = {f"model/{name}": "minimize" for name in ("params", "delta_bytes")}
    assert list(rung_objectives({**OBJECTIVES, **more})) == [*OBJECTIVES, "model/params"]


def test_without_early_stopping_nothing_is_written_but_the_record(ledger, study):
    one = ledger(halving=None)
    job = one.take(0.0)
    assert one.report(job, show(0, 0.1, 99), 1.0).word == "continue"
    assert f"{DECISION}0" not in attributes(study, job)


def test_what_is_beyond_the_reference_never_goes_on(ledger):
    one = ledger(inside=lambda values: values["val/accuracy"] >= 0.6)
    cheap, good = one.take(0.0), one.take(0.0)
    verdict = one.report(cheap, show(0, 0.5, 1), 1.0)
    assert verdict.word == "stop"
    assert "reference" in verdict.sentence
    assert one.report(good, show(0, 0.7, 50), 1.0).word == "continue"


@pytest.mark.parametrize("halving", [HALVING, PROMOTION], ids=["stopping", "promotion"])
def test_every_third_trial_passes_the_first_rung_and_no_other_and_counts_there(ledger, study, halving):
    one = ledger(halving=replace(halving, passes_every=3))
    jobs = [one.take(0.0) for _ in range(7)]
    words = [one.report(job, show(0, 0.9 - 0.1 * job.slot, 10 + job.slot), 1.0).word for job in jobs]
    other = "stop" if halving is HALVING else "pause"
    assert words == ["continue", other, other, "continue", other, other, "continue"]
    assert slots(study)[6].user_attrs[f"{DECISION}0"]["of"] == 7
    assert "as every third trial it passes" in slots(study)[6].user_attrs[f"{DECISION}0"]["sentence"]
    assert one.report(jobs[0], show(1, 0.9, 10), 2.0).word == "continue"
    assert one.report(jobs[3], show(1, 0.6, 13), 2.0).word == other
    assert replay(study, lambda _: Rules(OBJECTIVES, one.halving)) == []
    assert replay(study, lambda _: Rules(OBJECTIVES, halving)) != []


# The promotion variant


def run_all(ledgers, curve, seed=0, check=None):
    """Take and end jobs in a random order until there are none; the order in which slots were run."""
    chance = random.Random(seed)
    running: dict[int, tuple[Ledger, Job, int]] = {}
    order, idle = [], 0
    while True:
        free = [one for one in ledgers if id(one) not in running]
        if free and (not running or chance.random() < 0.6):
            one = chance.choice(free)
            job = one.take(float(len(order)))
            if isinstance(job, Job):
                running[id(one)] = (one, job, job.known_rungs)
                order.append(job.slot)
            elif not running:
                assert job is None
                return order
            else:
                idle += 1
                assert idle < 100_000
            continue
        key = chance.choice(list(running))
        one, job, rung = running[key]
        if rung == len(one.halving.levels):
            assert one.complete(job, curve(job.slot, rung), {}, {})
            del running[key]
        else:
            verdict = one.report(job, show(rung, *curve(job.slot, rung)), float(len(order)))
            running[key] = (one, job, rung + 1)
            if verdict.word != "continue":
                del running[key]
        if check:
            check()


def curve_of(seed):
    values = np.random.default_rng(seed).random((500, 2))
    return lambda slot, rung: [float(values[slot, 0]), float(values[slot, 1])]


@pytest.mark.parametrize("halving", [HALVING, PROMOTION], ids=["stopping", "promotion"])
@pytest.mark.parametrize("seed", range(5))
def test_every_decision_comes_out_again_from_the_log(ledger, study, halving, seed):
    ledgers = [ledger(halving=halving, worker=i, trials=40) for i in range(4)]
    run_all(ledgers, curve_of(seed), seed)
    assert len(slots(study)) == 40
    assert replay(study, lambda _: Rules(OBJECTIVES, halving)) == []
    some = next(t for t in slots(study).values() if t.user_attrs.get(f"{DECISION}0", {}).get("of", 0) > 3)
    entry = some.user_attrs[f"{DECISION}0"]
    forged = {**entry, "position": entry["position"] + 1}
    copy = optuna.create_study(directions=list(OBJECTIVES.values()))
    for trial in study.get_trials():
        if trial.number == some.number:
            trial.user_attrs[f"{DECISION}0"] = forged
        copy.add_trial(trial)
    assert len(replay(copy, lambda _: Rules(OBJECTIVES, halving))) == 1


@pytest.mark.parametrize("seed", range(5))
def test_promoted_are_only_the_best_of_a_rung_and_none_is_left_that_could_be(ledger, study, seed):
    ledgers = [ledger(halving=PROMOTION, worker=i, trials=30) for i in range(3)]
    run_all(ledgers, curve_of(seed), seed)
    taken = slots(study)
    paused = [slot for slot, t in taken.items() if t.user_attrs.get(PAUSED) is not None]
    assert paused
    assert all(taken[slot].state == TrialState.RUNNING for slot in paused)
    for rung in range(2):
        field = ledgers[0]._field(taken, rung)
        going = set(field.going_on(PROMOTION))
        assert not going & {slot for slot in paused if taken[slot].user_attrs[PAUSED] == rung}
    at_end = [t for t in taken.values() if t.state == TrialState.COMPLETE]
    assert 1 <= len(at_end) < len(taken) / 2


def test_a_paused_trial_may_be_promoted_later_and_goes_on_behind_its_rungs(ledger, study):
    one = ledger(halving=PROMOTION, trials=4)
    jobs = [one.take(0.0) for _ in range(3)]
    assert one.report(jobs[0], show(0, 0.9, 9), 1.0).word == "continue"
    assert one.report(jobs[1], show(0, 0.8, 8), 1.0).word == "pause"
    assert one.report(jobs[2], show(0, 0.7, 20), 1.0).word == "pause"
    worker = ledger(halving=PROMOTION, worker=1, trials=6)
    new = [worker.take(2.0) for _ in range(3)]
    assert [job.how for job in new] == ["new"] * 3
    for job, accuracy in zip(new, (0.1, 0.2, 0.3), strict=True):
        worker.report(job, show(0, accuracy, 30), 3.0)
    promoted = ledger(halving=PROMOTION, worker=2, trials=6).take(4.0)
    assert (promoted.slot, promoted.how, promoted.known_rungs) == (jobs[1].slot, "promoted", 1)
    assert study.get_trials()[0].user_attrs.get(PAUSED) is None


def test_checkpoints_of_trials_without_a_future_are_given_up_and_the_cap_holds(ledger, study):
    ledgers = [ledger(halving=PROMOTION, worker=i, trials=40, checkpoints_at_most=3) for i in range(2)]

    def check():
        ledgers[0].without_future()
        taken = slots(study).values()
        kept = [t for t in taken if t.user_attrs.get(PAUSED) is not None and not t.user_attrs.get(DROPPED)]
        assert len(kept) <= 3

    run_all(ledgers, curve_of(3), 3, check)
    dropped = [t for t in slots(study).values() if t.user_attrs.get(DROPPED)]
    assert dropped
    assert all("promotion:1" not in t.user_attrs for t in dropped if t.user_attrs[PAUSED] == 1)


def test_at_the_end_no_checkpoint_is_kept_that_nothing_can_promote(ledger, study):
    ledgers = [ledger(halving=PROMOTION, worker=i, trials=20) for i in range(2)]
    run_all(ledgers, curve_of(1), 1)
    ledgers[0].without_future()
    order = {t.user_attrs[SLOT] for t in slots(study).values() if t.user_attrs.get(PAUSED) is not None}
    assert order
    for slot in order:
        trial = slots(study)[slot]
        field = ledgers[0]._field(slots(study), trial.user_attrs[PAUSED])
        hopeless = field.without_future(PROMOTION, [slot], len(field.slots))
        assert not hopeless or trial.user_attrs.get(DROPPED)
