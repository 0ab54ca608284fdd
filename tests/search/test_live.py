import contextlib
import io
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from effnlp.search.live import BARS, clock, frame, live_view, show_live, span, sparkline
from effnlp.search.status import read_state


@pytest.fixture
def now(busy_sweep):
    return busy_sweep.heard_of(600)


def drawn(state, now, width=100, height=60, lines=()):
    console = Console(file=io.StringIO(), width=width)
    console.print(frame(state, now, width, height, lines))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 33, 40, 59, 60, 80, 99, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(busy_sweep, now, width):
    busy_sweep.specify(limits={"hours": 1.0, "kilowatt_hours": 0.5, "flops": 1e15, "labels": 900})
    text = drawn(read_state(busy_sweep.folder, now), now, width, lines=["x" * 300, "10:00:00  a line"])
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) > 15


@pytest.mark.parametrize("height", [3, 5, 8, 10, 14, 20, 40])
def test_no_picture_is_higher_than_the_terminal(busy_sweep, now, height):
    for number in range(20):
        busy_sweep.trial("complete", 10, 20, 0.95 + number / 1000, 1e9 + number)
    busy_sweep.specify(workers=30)
    state = read_state(busy_sweep.folder, now)
    assert len(state.frontier) > 15
    assert len(drawn(state, now, 100, height, ["line"] * 9).splitlines()) <= max(height, 4)


def test_the_picture_tells_workers_frontier_budget_failures_and_the_end(busy_sweep, now):
    text = drawn(read_state(busy_sweep.folder, now), now, 120, 60, ["10:00:00  the last line"])
    for said in (
        "tried  running, 10 min so far; trials through in about",
        "1 running · 1 waiting · 1 paused · 1 stopped · 3 complete · 3 failed · 1 retried · 1 rejected proposals",
        "10 of 12 trials",
        "frontier: 2 of 3 complete trials",
        "1.00 GFLOP",
        "10:00:00  the last line",
    ):
        assert said in text
    assert re.search(r"0 +– +idle", text)
    assert re.search(r"1 +008 +90 s +1 +77/270 +model=backbone", text)
    assert re.search(r"2 +oom +004 +out of memory at step 3\n", re.sub(" +\n", "\n", text))
    assert text.index("001") < text.index("000 ")  # the best in the first objective comes first


def test_before_there_is_data_the_end_is_a_question_mark(make_sweep):
    sweep = make_sweep()
    now = sweep.heard_of(1)
    text = drawn(read_state(sweep.folder, now), now)
    assert "estimated end: ?" in text
    assert "no trial yet" in text
    assert "frontier" not in text


def test_a_sweep_that_does_not_run_says_since_when_and_shows_no_workers(busy_sweep, now):
    stopped = drawn(read_state(busy_sweep.folder, now + 1000), now + 1000)
    assert f"stopped, last heard of {clock(now, now + 1000)}; the same command resumes it" in stopped
    busy_sweep.specify(outcome={}, trials_ended=now)
    finished = drawn(read_state(busy_sweep.folder, now), now)
    assert f"finished {clock(now, now)}" in finished
    assert "idle" not in stopped + finished


def test_more_than_there_is_room_for_is_counted(make_sweep):
    sweep = make_sweep(workers=20)
    for number in range(15):
        sweep.trial("complete", 0, 10, 0.5 + number / 100, 1e6 + number)
    now = sweep.heard_of(20)
    text = drawn(read_state(sweep.folder, now), now)
    assert "and 13 workers more" in text
    assert "and 8 more" in text
    assert text.count("model=backbone") == 7


def test_markup_in_texts_of_trials_is_text(busy_sweep, now):
    busy_sweep.trial("failed", 1, 2, reason="error: no [bold]such[/] thing")
    assert "no [bold]such[/] thing" in drawn(read_state(busy_sweep.folder, now), now, 160)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)  # fmt: skip
def test_a_stretch_of_time_has_at_most_two_units(seconds, text):
    assert span(seconds) == text


def test_a_moment_of_another_day_has_its_date():
    assert len(clock(1e9, 1e9)) == 5
    assert "Sep" in clock(1e9, 1e9 + 1e6)


def test_the_sparkline_rises_to_its_highest_and_is_blank_ahead_of_what_was_spent():
    curve = [(2.0, 0.1), (4.0, 0.5), (5.0, 0.9)]
    line = sparkline(curve, 10.0, 10)
    assert line == f" {BARS[0]}{BARS[0]}{BARS[4]}{BARS[7]}{BARS[7]}    "
    assert sparkline(curve, 1.0, 10).rstrip()[-1] == BARS[7]  # beyond its limit it still fits
    assert sparkline([], 10, 10) == sparkline(curve, 10, 4) == ""
    assert set(sparkline([(1.0, 0.5)], 1.0, 8)) == {BARS[7], " "}


def test_what_cannot_be_read_is_said_and_the_view_goes_on(tmp_path):
    console, stop = Console(file=io.StringIO(), width=120, force_terminal=True), threading.Event()
    viewer = threading.Thread(target=show_live, args=(tmp_path, stop, console))
    viewer.start()
    wait_until(lambda: "cannot be shown just now" in console.file.getvalue())
    assert viewer.is_alive()
    stop.set()
    viewer.join(5)
    assert not viewer.is_alive()


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# In a terminal

PARENT = """
import subprocess, sys, os
from pathlib import Path
from effnlp.search.live import live_view
folder, child = Path(sys.argv[1]), sys.argv[2]
print("before", flush=True)
with live_view(folder):
    print("a line of the parent", file=sys.stderr)
    subprocess.run([sys.executable, "-c", child], check=True)
print("after", flush=True)
print("is a terminal:", os.isatty(1), os.isatty(2), flush=True)
"""

CHILD = """
import sys, time, os
print("out of the child", flush=True)
print("10%\\r50%\\r100% of the child", file=sys.stderr, flush=True)
os.write(2, b"no text \\xff\\xfe and [brackets]\\n")
time.sleep(2.5)
print("the child ends", file=sys.stderr, end="", flush=True)
"""


def in_terminal(*words, columns=100, rows=40, each=lambda text, process: None):
    """What a command writes on a terminal of its own, and its exit code."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )  # fmt: skip
    os.close(theirs)
    text, end = b"", time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    content = os.read(ours, 65536)
                except OSError:  # all who had the terminal are gone
                    break
                if not content:
                    break
                text += content
            each(text.decode(errors="replace"), process)
        return text.decode(errors="replace"), process.wait(10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def plain(text):
    """What was written, without colours; wherever the cursor was moved, a line begins."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", text)).replace("\r", "")


def test_lines_of_the_sweep_and_its_children_stand_above_the_view(busy_sweep):
    busy_sweep.specify(parent=[os.getpid(), socket.gethostname()])
    text, code = in_terminal("-c", PARENT, str(busy_sweep.folder), CHILD)
    shown = plain(text)
    assert code == 0
    for line in (
        "before",
        "a line of the parent",
        "out of the child",
        "100% of the child",
        "the child ends",
        "after",
    ):
        assert re.search(rf"^{line}$", shown, re.MULTILINE), line
    assert "no text ��" in shown
    assert "[brackets]" in shown
    assert "50%" not in shown
    assert "frontier: 2 of 3 complete trials" in shown
    assert "is a terminal: True True" in shown
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert "frontier" not in shown[shown.index("\nafter\n") :]


def test_without_a_terminal_there_is_no_view_and_no_escape_code(busy_sweep):
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(busy_sweep.folder), CHILD.replace("2.5", "0")],
        capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": os.getcwd(), "TERM": "xterm"},
    )  # fmt: skip
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.stdout.decode().splitlines()[:2] == ["before", "out of the child"]
    assert done.stderr.startswith(b"a line of the parent\n10%\r50%\r100% of the child\nno text \xff\xfe and")


def test_a_terminal_that_cannot_or_a_user_who_does_not_want_gets_none(busy_sweep, monkeypatch):
    monkeypatch.setattr("effnlp.search.live.os.isatty", lambda fd: True)
    monkeypatch.setenv("TERM", "dumb")
    before = threading.active_count()
    with live_view(busy_sweep.folder):
        assert threading.active_count() == before
    monkeypatch.setenv("TERM", "xterm")
    with live_view(busy_sweep.folder, wanted=False):
        assert threading.active_count() == before


def test_ctrl_c_leaves_the_terminal_as_it_was(busy_sweep):
    told = []

    def interrupt(text, process):
        if "frontier" in text and not told:
            told.append(1)
            os.kill(process.pid, signal.SIGINT)

    parent = PARENT.replace("subprocess.run", "import time; time.sleep(60); subprocess.run")
    text, code = in_terminal("-c", parent, str(busy_sweep.folder), CHILD, each=interrupt)
    assert told
    assert code != 0
    assert "KeyboardInterrupt" in plain(text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
