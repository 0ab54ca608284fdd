import json
import os
import socket
import subprocess
import sys
import time

import pytest
from optuna.trial import TrialState

from effnlp.search.budget import spent
from effnlp.search.status import (
    STATES,
    NoSweepError,
    Reader,
    duration,
    label_of,
    last_said,
    latest_lines,
    read_state,
    spent_at_ends,
)


@pytest.fixture
def now(busy_sweep):
    """A moment at which the sweep, on another machine, has just kept account of its time."""
    return busy_sweep.heard_of(600)


def test_every_state_of_a_trial_is_told_apart(busy_sweep, now):
    state = read_state(busy_sweep.folder, now)
    assert [trial.state for trial in state.trials] == [
        "complete", "complete", "complete", "stopped", "failed", "failed", "failed", "paused", "running", "waiting",
    ]  # fmt: skip
    assert [trial.slot for trial in state.trials] == list(range(10))
    assert sum(map(state.count, STATES)) == 10
    assert state.rejected == 1
    assert state.retried == 1


def test_a_running_trial_says_where_it_is_how_far_and_since_when(busy_sweep, now):
    running = read_state(busy_sweep.folder, now).trials[8]
    assert (running.worker, running.rung, running.step, running.steps) == (1, 1, 77, 270)
    assert running.since == busy_sweep.BEGAN + 510  # when its last attempt began
    assert running.label == "model=backbone finetuning.learning_rate=0.00123"


def test_a_stopped_and_a_paused_trial_say_why(busy_sweep, now):
    trials = read_state(busy_sweep.folder, now).trials
    for trial in (trials[3], trials[7]):
        assert trial.sentence.startswith("rung 1 of 2: position 4 of 6")
    assert trials[3].values["val/accuracy"] == 0.6


def test_the_frontier_holds_only_what_was_finished_at_full_fidelity(busy_sweep, now):
    busy_sweep.trial("stopped", 300, 310, 0.99, 1.0, rungs=2)
    busy_sweep.trial("paused", 300, accuracy=0.99, flops=1.0, rungs=2)
    frontier = read_state(busy_sweep.folder, now).frontier
    assert [trial.slot for trial in frontier] == [1, 0]


def test_an_infeasible_trial_is_marked_and_not_on_the_frontier(busy_sweep, now):
    best = busy_sweep.trial("complete", 300, 310, 0.99, 1.0, violations={"model/bytes < 1": 3.0})
    fine = busy_sweep.trial("complete", 300, 310, 0.98, 2.0, violations={"model/bytes < 1": -0.5})
    state = read_state(busy_sweep.folder, now)
    assert [trial.slot for trial in state.frontier] == [fine]
    assert state.trials[best].infeasible == ["model/bytes < 1"]


def test_failures_are_counted_by_class_with_the_first_line_of_an_example(busy_sweep, now):
    failures = read_state(busy_sweep.folder, now).failures
    assert [(f.kind, f.count, f.slot, f.message) for f in failures] == [
        ("oom", 2, 4, "out of memory at step 3"),
        ("nan", 1, 5, "loss is nan at step 40"),
    ]


def test_the_budget_is_what_the_budget_of_the_search_says(make_sweep):
    sweep = make_sweep(limits={"hours": 1.0, "flops": 1e14, "kilowatt_hours": None})
    for number in range(3):
        sweep.trial("complete", 60 * number)
    used = spent(sweep.study, sweep.folder)
    budgets = {b.name: b for b in read_state(sweep.folder, sweep.BEGAN).budgets}
    assert set(budgets) == {"trials", "hours", "flops"}
    assert budgets["trials"].spent == used.trials == 3
    assert budgets["hours"].spent == pytest.approx(used.hours) == pytest.approx(600 / 3600)
    assert budgets["flops"].spent == used.flops == 3e12
    assert budgets["flops"].share == pytest.approx(0.03)


def test_hypervolume_rises_with_each_trial_that_ended_over_the_limit_that_is_nearest(busy_sweep, now):
    state = read_state(busy_sweep.folder, now)
    assert state.curve_of == "trials"
    assert [x for x, _ in state.curve] == [1, 2, 3, 4, 5, 6, 7]
    heights = [y for _, y in state.curve]
    assert heights == sorted(heights)
    assert heights[0] < heights[1] == heights[-1]  # what came later is dominated, stopped or failed
    busy_sweep.specify(limits={"flops": 7.1e12})
    by_flops = read_state(busy_sweep.folder, now)
    assert by_flops.curve_of == "flops"
    assert by_flops.curve == [(n * 1e12, pytest.approx(height)) for n, height in state.curve]


@pytest.mark.parametrize("quantity", ["trials", "hours", "kilowatt_hours", "flops", "labels"])
def test_what_was_spent_only_rises_and_no_pause_of_the_sweep_counts(busy_sweep, now, quantity):
    trials = read_state(busy_sweep.folder, now).trials
    starts = [(busy_sweep.BEGAN, busy_sweep.BEGAN + 50), (busy_sweep.BEGAN + 160, busy_sweep.BEGAN + 600)]
    amounts = spent_at_ends(trials, quantity, starts)
    assert len(amounts) == 7
    assert amounts == sorted(amounts)
    if quantity == "hours":  # ends at 100, 150, 180 … of which 50 … 160 does not count
        assert [round(3600 * hours) for hours in amounts] == [50, 50, 70, 80, 90, 110, 120]


def test_the_end_is_estimated_from_the_trials_so_far_and_unknown_before(make_sweep):
    sweep = make_sweep(trials=6, workers=2)
    sweep.trial("running", 0, worker=0)
    now = sweep.heard_of(100)
    assert read_state(sweep.folder, now).ends_at is None
    for number in range(3):
        sweep.trial("complete", 100 * number, 100 * number + 100)
    now = sweep.heard_of(360)
    # One runs for far more than the mean of 100 s: 10 s more; two are to be started, one by each worker.
    assert read_state(sweep.folder, now).ends_at == pytest.approx(now + 110)
    sweep.specify(limits={"hours": 620 / 3600})
    now = sweep.heard_of(600)
    assert read_state(sweep.folder, now).ends_at == pytest.approx(now + 20)


def test_a_trial_that_rested_or_was_lost_is_taken_at_its_own_time(make_sweep):
    sweep = make_sweep()
    sweep.trial("complete", 0, 500)
    paused = {
        "verdict": "pause",
        "position": 0,
        "of": 1,
        "quota": 1,
        "saw": "0",
        "beaten_by": None,
        "sentence": "",
    }
    sweep.trial("complete", 0, 500, rungs=1, **{"decision:0": paused})
    sweep.trial("complete", 0, 500, attempts=[{"how": "stopped", "why": "", "worker": 0, "at": 0.0}])
    assert [duration(trial) for trial in read_state(sweep.folder, sweep.BEGAN).trials] == [500, 60, 60]


def test_a_sweep_on_this_machine_runs_while_its_process_does(busy_sweep):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    busy_sweep.specify(parent=[child.pid, socket.gethostname()])
    assert read_state(busy_sweep.folder, time.time()).status == "running"
    long_ago = (
        time.time() - 10_000
    )  # this process had its number before the specification was written: another's
    os.utime(busy_sweep.folder / "sweep.json", (long_ago, long_ago))
    assert read_state(busy_sweep.folder, time.time()).status == "stopped"
    busy_sweep.specify(parent=[child.pid, socket.gethostname()])
    child.communicate(b"\n")
    stopped = read_state(busy_sweep.folder, time.time())
    assert (stopped.status, stopped.phase, stopped.ends_at) == ("stopped", "over", None)
    assert stopped.count("running") == 0
    assert stopped.count("waiting") == 2


def test_a_sweep_elsewhere_runs_while_it_keeps_account_of_its_time(busy_sweep, now):
    assert read_state(busy_sweep.folder, now + 5).status == "running"
    late = read_state(busy_sweep.folder, now + 500)
    assert (late.status, late.at) == ("stopped", now)


def test_a_sweep_with_an_outcome_is_finished(busy_sweep, now):
    busy_sweep.specify(outcome={"trials": {}}, trials_ended=now - 7)
    state = read_state(busy_sweep.folder, now)
    assert (state.status, state.at) == ("finished", now - 7)


def test_once_the_budget_is_spent_and_all_have_ended_the_frontier_is_looked_at(make_sweep):
    sweep = make_sweep(trials=2)
    sweep.trial("complete")
    sweep.trial("running")
    assert read_state(sweep.folder, sweep.heard_of(600)).phase == "trials"
    sweep.study.tell(1, [0.7, 1e9])
    state = read_state(sweep.folder, sweep.heard_of(600))
    assert (state.phase, state.measured) == ("frontier", 0)
    path = sweep.folder / "trials/000/record.json"
    content = json.loads(path.read_text())
    content["values"]["test/accuracy"] = 0.7
    path.write_text(json.dumps(content))
    assert read_state(sweep.folder, sweep.heard_of(600)).measured == 1


def test_reading_again_sees_what_is_new_and_reads_no_record_twice(busy_sweep, now, monkeypatch):
    reader = Reader(busy_sweep.folder)
    before = reader.read(now)
    read = []
    monkeypatch.setattr(
        "effnlp.search.status._slim", lambda content: read.append(1) or {"values": {}, "cost": {}}
    )
    assert reader.read(now) == before
    assert read == []
    new = busy_sweep.trial("complete", 300, 400, 0.95, 1e4)
    after = reader.read(now)
    assert [trial.slot for trial in after.frontier] == [new]
    assert read == [1]


def test_looking_changes_nothing_in_the_folder(busy_sweep, now):
    def contents():
        return {path: path.read_bytes() for path in busy_sweep.folder.rglob("*") if path.is_file()}

    before = contents()
    read_state(busy_sweep.folder, now)
    assert contents() == before


def test_a_sweep_whose_study_is_not_there_yet_has_no_trials(tmp_path, busy_sweep, now):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/sweep.json").write_bytes((busy_sweep.folder / "sweep.json").read_bytes())
    state = read_state(tmp_path / "new", now)
    assert (state.trials, state.frontier, state.curve) == ([], [], [])
    assert not (tmp_path / "new/study.journal").exists()
    (tmp_path / "new/study.journal").touch()  # made, and nothing in it yet
    assert read_state(tmp_path / "new", now).trials == []


def test_a_study_that_was_extended_is_read_under_its_new_name(busy_sweep, now):
    reader = Reader(busy_sweep.folder)
    assert len(reader.read(now).trials) == 10
    import optuna

    other = optuna.create_study(
        storage=busy_sweep.study._storage, study_name="tried@2", directions=["minimize"] * 2
    )
    other.add_trial(
        optuna.trial.create_trial(values=[1, 2], user_attrs={"slot": 0}, state=TrialState.COMPLETE)
    )
    busy_sweep.specify(study="tried@2")
    assert len(reader.read(now).trials) == 1


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"name": "x"}'])
def test_a_folder_without_a_sweep_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(NoSweepError, match=r"sweep\.json"):
        read_state(tmp_path, 0.0)


def test_torn_events_and_damaged_records_are_passed_over(busy_sweep, now):
    place = busy_sweep.folder / "trials/008/events.jsonl"
    place.write_text(
        '{"event": "started", "time": 5}\n[1]\nnonsense\n{"event": "train", "step": 9}\n{"event": "tr'
    )
    assert last_said(place) == {"started": 5, "step": 9}
    (busy_sweep.folder / "trials/000/record.json").write_text("{")
    assert read_state(busy_sweep.folder, now).trials[0].values["val/accuracy"] == 0.8  # the study has it


def test_of_long_events_the_end_is_read(tmp_path):
    path = tmp_path / "events.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps({"event": "train", "step": step}) + "\n" for step in range(5000))
    assert last_said(path) == {"step": 4999}


def test_a_label_says_only_what_varies_and_is_chosen():
    overrides = ["task=files", "peft=none", "compression/pruning=magnitude", "x.y=0.0001234567", "a=b=c"]
    varied = ["peft", "compression/pruning", "x.y", "a", "not.there"]
    assert label_of(overrides, varied) == "pruning=magnitude x.y=0.000123 a=b=c"
    assert label_of([], varied) == "nothing that varies"


def test_the_latest_lines_of_all_workers_come_in_the_order_of_their_times(tmp_path):
    for worker, lines in {
        "0": "2026-01-02 10:00:05,000 INFO a: second\nand more of it\n2026-01-02 10:00:09,000 INFO a: fourth: x\n",
        "1": "2026-01-02 10:00:01,000 INFO a: first\n2026-01-02 10:00:07,000 WARNING b: third\n",
    }.items():
        (tmp_path / "workers" / worker).mkdir(parents=True)
        (tmp_path / "workers" / worker / "effnlp.log").write_text(lines)
    assert latest_lines(tmp_path, 9) == [
        "10:00:01  first", "10:00:05  second", "10:00:05  and more of it", "10:00:07  third", "10:00:09  fourth: x",
    ]  # fmt: skip
    assert latest_lines(tmp_path, 1) == ["10:00:09  fourth: x"]
    assert latest_lines(tmp_path, 0) == []
