import io
import itertools
from pathlib import Path

import pytest
from rich.console import Console

from effnlp.compose import Composed
from effnlp.record import Record
from effnlp.reproduce.plan import PlannedRun
from effnlp.reproduce.progress import (
    Expected,
    Watcher,
    expect,
    forecast_in_words,
    left_joules,
    left_seconds,
    longest_first,
    schedule_seconds,
    watched,
)
from effnlp.reproduce.session import Ending, Job, begin

TASK = {"_target_": "effnlp.task.files.files", "path": "a.csv", "train_size": None}


def run_of(name, model="bag_of_ngrams", epochs=3):
    config = {"task": TASK, "trainer": {"epochs": epochs}, "seed": {"init": 0, "order": 0}, "name": name}
    return PlannedRun((), Composed(config, {"model": model}, ""), Path("/runs", name), "e", f"e: {name}")


def record_of(seconds, model="bag_of_ngrams", epochs=3, joules=None):
    values = {"cost/total/own/seconds": seconds}
    if joules is not None:
        values["cost/total/own/energy_joules"] = joules
    config = {"task": TASK, "trainer": {"epochs": epochs}}
    return Record("completed", {}, {"model": model}, config, values)


def test_a_run_is_expected_to_cost_what_those_most_like_it_did_and_nothing_is_made_up():
    known, other = run_of("known"), run_of("other", model="backbone")
    records = [record_of(10, joules=5), record_of(20, joules=7), record_of(500, epochs=30, joules=90)]
    found = expect([known, other], records)
    assert found == {known.folder: Expected(seconds=15, joules=6, records=2)}


def slowest_of(seconds, workers):
    """Give each in turn to the worker that is through first; by trying all of them."""
    free = [0.0] * workers
    for each in seconds:
        first = min(range(workers), key=lambda i: free[i])
        free[first] += each
    return max(free)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_the_schedule_is_that_of_workers_that_take_the_next_run_when_they_are_free(workers):
    for seconds in itertools.permutations([7.0, 5.0, 3.0, 1.0, 1.5], 4):
        found = schedule_seconds(seconds, workers)
        assert found == slowest_of(seconds, workers)
        assert max(seconds) <= found <= sum(seconds)
    assert schedule_seconds([], workers) == 0


def test_the_longest_run_is_begun_first_and_one_of_which_nothing_is_known_before_it():
    runs = [run_of(name) for name in "abc"]
    expected = {runs[0].folder: Expected(1, None, 1), runs[2].folder: Expected(9, None, 1)}
    assert longest_first(runs, expected) == [runs[1], runs[2], runs[0]]


def test_a_forecast_says_by_what_it_is_made_and_of_what_nothing_is_known():
    runs = [run_of(name) for name in "abc"]
    every = {run.folder: Expected(60, 2000, 3) for run in runs}
    time, energy, based = forecast_in_words(runs, every, workers=3)
    assert time == "time      about 60.0 s with 3 workers"
    assert energy == "energy    about 6.00 kJ"
    assert based == "based on  3 earlier records most like each run"
    del every[runs[0].folder]
    time, energy, based = forecast_in_words(runs, every, workers=1)
    assert "at least 2.00 min with 1 worker" in time
    assert "at least 4.00 kJ" in energy
    assert based.endswith("; nothing is known of 1 run")
    [unknown] = forecast_in_words(runs, {}, workers=1)
    assert "unknown" in unknown


def test_what_is_left_is_corrected_by_what_runs_took():
    folders = [Path(name) for name in "abcd"]
    expected = {folder: Expected(10, None, 1) for folder in folders}
    assert left_seconds(folders, expected, {}, workers=1) == 40
    assert left_seconds(folders, expected, {0: 30.0}, workers=1) == 90
    assert left_seconds(folders, expected, {0: 30.0}, workers=3) == 30
    assert left_seconds(folders, {}, {0: 30.0}, workers=1) == 90
    assert left_seconds(folders, {}, {}, workers=1) is None
    assert left_seconds(folders, {}, dict.fromkeys(range(4), 1.0), workers=1) == 0


def test_the_energy_that_is_left_is_corrected_by_what_runs_used_and_unknown_if_one_of_them_is():
    folders = [Path(name) for name in "abcd"]
    expected = {folder: Expected(10, 100.0, 1) for folder in folders}
    assert left_joules(folders, expected, {}) == 400
    assert left_joules(folders, expected, {1: 300.0}) == 900
    assert left_joules(folders, expected, {1: None}) == 300
    assert left_joules(folders, {}, {0: 30.0, 1: None}) == 60
    assert left_joules(folders, {}, {0: None}) is None
    del expected[folders[0]]
    assert left_joules(folders, expected, {}) is None
    assert left_joules(folders, expected, {1: 300.0}) == 300 + 2 * 300
    assert left_joules(folders, {}, dict.fromkeys(range(4), 1.0)) == 0


@pytest.fixture
def session(tmp_path):
    jobs = [Job(f"run {n}", [], str(tmp_path / str(n)), {}, {}) for n in range(3)]
    for n in range(3):
        (tmp_path / str(n)).mkdir()
        Record("completed", {}, values={"val/accuracy": 0.5 + n / 10}).save(tmp_path / str(n))
    return begin(tmp_path / "sessions", jobs, workers=1, threads=1)


def test_each_run_that_ended_is_told_once_with_its_figure_or_why_it_failed(session):
    watcher = Watcher(session, {}, None)
    assert watcher.look() == []
    session.end_run(Ending(1, 4.0))
    assert watcher.look() == ["1/3  run 1  val/accuracy 0.6  4.00 s  about 8.00 s left"]
    session.end_run(Ending(2, 2.0, "nan", "the loss\nis nan"))
    assert watcher.look() == ["2/3  run 2  failed: nan: the loss is nan  2.00 s  about 3.00 s left"]
    session.end_run(Ending(0, 6.0))
    assert watcher.look() == ["3/3  run 0  val/accuracy 0.5  6.00 s"]
    assert watcher.look() == []


def test_time_and_energy_that_are_left_are_said_with_each_run(session):
    of_each = {Path(job.folder): Expected(10.0, 500.0, 1) for job in session.jobs}
    watcher = Watcher(session, of_each, None)
    assert watcher.left() == ["about 30.0 s and 1.50 kJ left"]
    record = Record.load(Path(session.jobs[1].folder))
    record.values["cost/total/own/energy_joules"] = 1000.0
    record.save(Path(session.jobs[1].folder))
    session.end_run(Ending(1, 20.0))
    assert watcher.look() == ["1/3  run 1  val/accuracy 0.6  20.0 s  about 40.0 s and 2.00 kJ left"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_ending_is_missed_between_the_last_look_and_the_end(session, is_terminal):
    heard = io.StringIO()
    console = Console(file=heard, force_terminal=is_terminal, width=120)
    with watched(Watcher(session, {}, console)):
        for number in range(3):
            session.end_run(Ending(number, 1.0))
    for number in range(3):
        assert heard.getvalue().count(f"run {number}  val/accuracy") == 1
    assert ("\x1b[" in heard.getvalue()) == is_terminal


def test_a_command_that_waits_says_that_it_is_there(session):
    (session.folder / "heartbeat").unlink()
    with watched(Watcher(session, {}, Console(file=io.StringIO()))):
        pass
    assert (session.folder / "heartbeat").exists()
