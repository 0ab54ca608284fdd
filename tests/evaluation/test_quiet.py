"""The quiet lock between real processes."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnlp.evaluation.presence import Presence
from effnlp.evaluation.quiet import QuietLock

ROOT = Path(__file__).resolve().parents[2]

PREAMBLE = """
import json, os, sys, time
from contextlib import contextmanager
from pathlib import Path
from effnlp.evaluation.quiet import QuietLock

folder = Path(sys.argv[1])
waits = []

@contextmanager
def note():
    begin = time.monotonic()
    yield
    waits.append((begin, time.monotonic()))

lock = QuietLock(folder, sys.argv[2], around_wait=note)

def say(*words):
    print(json.dumps(words), flush=True)
"""

WORKER = """
with lock.working():
    say("working")
    steps, waited = [], 0.0
    while not (folder / "stop").exists():
        waited += lock.yield_point()
        begin = time.monotonic()
        time.sleep(0.005)
        steps.append((begin, time.monotonic()))
say(steps, waits, waited)
"""

MEASURER = """
with lock.working():
    say("working")
    with lock.quiet(30) as quiet:
        begin = time.monotonic()
        time.sleep(0.3)
        end = time.monotonic()
    assert lock.is_working
say([begin, end], quiet.is_alone, quiet.waited_seconds)
"""

HOLDER = """
with lock.working():
    say("working")
    sys.stdin.read()
"""

FORKER = """
with lock.working():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    say(pid)
    sys.stdin.read()
"""

QUIET_HOLDER = """
with lock.quiet(30):
    say("quiet")
    sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process with one of the programs; all end with the test."""
    processes = []

    def run(program, name="other"):
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + program, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def hear(process):
    line = process.stdout.readline()
    assert line, "the process ended without a word"
    return json.loads(line)


def test_quiet_waits_for_workers_and_is_alone_while_it_measures(start, tmp_path):
    workers = [start(WORKER) for _ in range(2)]
    for worker in workers:
        assert hear(worker) == ["working"]
    measurer = start(MEASURER)
    assert hear(measurer) == ["working"]
    (begin, end), is_alone, waited = hear(measurer)
    time.sleep(0.1)
    (tmp_path / "stop").touch()
    assert is_alone
    assert 0 <= waited < 30
    for worker in workers:
        steps, waits, waited_seconds = hear(worker)
        assert not [step for step in steps if step[0] < end and step[1] > begin]
        assert [step for step in steps if step[1] <= begin]
        assert [step for step in steps if step[0] >= end]
        assert waited_seconds == pytest.approx(sum(b - a for a, b in waits), abs=0.05)
        assert waited_seconds >= 0.29


def test_two_that_want_quiet_get_it_in_turn(start):
    measurers = [start(MEASURER) for _ in range(3)]
    spans = []
    for measurer in measurers:
        assert hear(measurer) == ["working"]
    for measurer in measurers:
        span, is_alone, _ = hear(measurer)
        assert is_alone
        spans.append(span)
    spans.sort()
    for before, after in itertools.pairwise(spans):
        assert before[1] <= after[0]


@pytest.mark.parametrize("program", [HOLDER, QUIET_HOLDER])
def test_a_killed_holder_blocks_nobody(start, tmp_path, program):
    holder = start(program)
    hear(holder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = QuietLock(tmp_path)
    with lock.working(), lock.quiet(timeout_seconds=5) as quiet:
        assert quiet.is_alone
    assert lock._workers.others() == []


def test_a_child_that_outlives_a_killed_worker_does_not_keep_its_lock(start, tmp_path):
    worker = start(FORKER)
    (child,) = hear(worker)
    try:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        with QuietLock(tmp_path).quiet(timeout_seconds=5) as quiet:
            assert quiet.is_alone
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_timeout_names_who_works_on(start, tmp_path):
    holder = start(HOLDER, "trial 7")
    hear(holder)
    lock = QuietLock(tmp_path)
    with lock.working():
        with (
            pytest.raises(TimeoutError, match=rf"0\.2 s for quiet.*process {holder.pid} \(trial 7\)"),
            lock.quiet(timeout_seconds=0.2),
        ):
            pass
        assert lock.is_working
        assert lock.yield_point() == 0


def test_the_timeout_names_who_measures(start, tmp_path):
    holder = start(QUIET_HOLDER, "trial 8")
    hear(holder)
    with (
        pytest.raises(TimeoutError, match=rf"its turn.*process {holder.pid} \(trial 8\)"),
        QuietLock(tmp_path).quiet(timeout_seconds=0.2),
    ):
        pass


def test_who_starts_to_work_waits_for_the_one_that_measures(start, tmp_path):
    holder = start(QUIET_HOLDER)
    hear(holder)
    worker = start(WORKER)
    time.sleep(0.3)
    holder.stdin.close()
    assert hear(worker) == ["working"]
    (tmp_path / "stop").touch()
    _, waits, _ = hear(worker)
    assert len(waits) == 1


def test_a_yield_point_takes_microseconds_when_nobody_waits(tmp_path):
    lock = QuietLock(tmp_path)
    with lock.working():
        times = []
        for _ in range(2000):
            begin = time.perf_counter()
            assert lock.yield_point() == 0
            times.append(time.perf_counter() - begin)
    assert sorted(times)[len(times) // 2] < 100e-6


def test_who_does_not_work_has_nothing_to_yield(tmp_path):
    lock = QuietLock(tmp_path)
    assert lock.yield_point() == 0
    lock.stop_working()
    assert not lock.is_working
    with lock.quiet(timeout_seconds=1) as quiet:
        assert quiet.is_alone
        with pytest.raises(RuntimeError, match="cannot start to work"):
            lock.start_working()
        with pytest.raises(RuntimeError, match="not to be nested"), lock.quiet():
            pass


def test_an_error_while_measuring_ends_the_quiet(tmp_path):
    lock = QuietLock(tmp_path)

    def fail():
        with lock.quiet(timeout_seconds=1):
            raise ZeroDivisionError("while it is quiet")

    with lock.working():
        with pytest.raises(ZeroDivisionError, match="while it is quiet"):
            fail()
        assert lock.is_working
    with QuietLock(tmp_path).quiet(timeout_seconds=1) as quiet:
        assert quiet.is_alone


def test_without_locks_the_result_says_that_it_was_not_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("effnlp.evaluation.quiet.HAS_LOCKS", False)
    lock = QuietLock(tmp_path)
    assert "no file locks" in caplog.text
    with lock.working(), lock.quiet() as quiet:
        assert not quiet.is_alone
        assert lock.yield_point() == 0


def test_a_folder_that_cannot_be_used_costs_the_quiet_and_not_the_run(tmp_path, caplog):
    (tmp_path / "file").touch()
    lock = QuietLock(tmp_path / "file")
    assert "beside other runs" in caplog.text
    with lock.working(), lock.quiet() as quiet:
        assert not quiet.is_alone


def test_a_forked_child_neither_works_nor_lets_its_parents_lock_go(tmp_path):
    lock = QuietLock(tmp_path)
    with lock.working():
        pid = os.fork()
        if pid == 0:
            lock.stop_working()
            os._exit(int(lock.is_working or lock.yield_point() != 0))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert lock.is_working
        assert Presence(tmp_path / "working").count() == 1
        with pytest.raises(TimeoutError, match="held by"), QuietLock(tmp_path).quiet(timeout_seconds=0.05):
            pass


def test_a_process_counts_once_however_often_it_enters(tmp_path):
    first, second = Presence(tmp_path), Presence(tmp_path)
    assert first.count() == 0
    for presence in (first, second, first):
        presence.enter()
    assert first.count() == second.count() == 1
    first.leave()
    first.leave()
    assert second.count() == 1
    second.leave()
    assert second.count() == 0
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_dead_process_is_dropped_even_if_its_id_lives_again(tmp_path):
    (tmp_path / "1.json").write_text('{"pid": 1, "description": "long dead"}')  # process 1 lives
    presence = Presence(tmp_path)
    presence.enter()
    assert presence.count() == 1
    assert presence.others() == []
    assert not (tmp_path / "1.json").exists()
    presence.leave()
