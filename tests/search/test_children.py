import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from effnlp.search.children import Ended, alive, call_in_child


@pytest.fixture(scope="module")
def processes():
    return multiprocessing.get_context("spawn")


def leave(code):
    """By a name of this module: a package that watches for exits may have put its own in the place of `sys.exit`."""
    sys.exit(code)


def test_the_exit_code_of_a_child_is_told(processes):
    assert call_in_child(processes, leave, (0,), lambda: True) == Ended(0)
    assert call_in_child(processes, leave, (3,), lambda: True) == Ended(3)


def test_the_signal_that_ended_a_child_is_told_as_its_negative(processes):
    ended = call_in_child(processes, signal.raise_signal, (signal.SIGKILL,), lambda: True)
    assert ended == Ended(-signal.SIGKILL)


def test_a_child_is_ended_when_the_sweep_is_gone(processes):
    asked = []

    def go_on():
        asked.extend(psutil.Process().children())
        return len(asked) == 0

    start = time.monotonic()
    assert call_in_child(processes, time.sleep, (60,), go_on) == Ended(None, "stopped")
    assert time.monotonic() - start < 20
    assert asked
    assert psutil.wait_procs([child for child in asked if "spawn_main" in _line(child)], timeout=5)[1] == []


def test_a_child_is_ended_at_its_time_limit(processes):
    start = time.monotonic()
    ended = call_in_child(processes, time.sleep, (60,), lambda: True, limit_seconds=0.5)
    assert ended == Ended(None, "timeout")
    assert time.monotonic() - start < 20


def ask_twice(connection):
    connection.send(1)
    connection.send(connection.recv() + 1)
    sys.exit(connection.recv())


def test_what_a_child_asks_is_answered_in_order(processes):
    asked = []

    def answer(question):
        asked.append(question)
        return 10 * question

    assert call_in_child(processes, ask_twice, (), lambda: True, answer) == Ended(110)
    assert asked == [1, 11]


def test_a_child_whose_question_is_refused_is_ended(processes):
    assert call_in_child(processes, ask_twice, (), lambda: True, lambda _: None) == Ended(None, "refused")


def _line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "spawn_main"


def test_a_process_is_alive_until_it_has_ended():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert alive(process.pid)
    process.kill()
    end = time.monotonic() + 10
    while alive(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(process.pid)  # ended, though nobody has waited for it yet
    process.wait()
    assert not alive(process.pid)
    assert alive(os.getpid())


END_AFTER = """
import subprocess, sys, time
from effnlp.search import children
children.GRACE_SECONDS = 0.0
children.end_after(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def test_an_idle_worker_ends_soon_after_its_sweep():
    sweep = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = subprocess.Popen(
        [sys.executable, "-c", END_AFTER, str(sweep.pid)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline().strip() == "ready"
    assert worker.poll() is None
    sweep.kill()
    sweep.wait()
    assert worker.wait(timeout=20) == 113
