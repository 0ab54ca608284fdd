import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnlp.watch import main, sweep_folder, sweeps_starting


@pytest.fixture
def terminal():
    """A function that runs a command on a terminal of its own, as the tests of the live view do."""
    path = Path(__file__).parent / "search/test_live.py"
    spec = importlib.util.spec_from_file_location("live_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_look_prints_where_a_sweep_stands(busy_sweep, capsys):
    busy_sweep.heard_of(600)
    assert main([str(busy_sweep.folder), "--once"]) == 0
    out, err = capsys.readouterr()
    assert "10 of 12 trials" in out
    assert "stopped, last heard of" in out
    assert "\x1b" not in out
    assert err == ""


def test_where_the_output_is_no_terminal_it_is_printed_once(busy_sweep, capsys):
    busy_sweep.specify(parent=[os.getpid(), socket.gethostname()])
    assert main([str(busy_sweep.folder)]) == 0
    out = capsys.readouterr().out
    assert "running, " in out
    assert "\x1b" not in out


def test_a_sweep_is_found_by_its_name(busy_sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "multirun").mkdir()
    busy_sweep.folder.rename(tmp_path / "multirun/quick")
    assert sweep_folder("quick", Path("multirun")) == Path("multirun/quick")
    assert sweeps_starting("qu") == ["quick"]
    assert sweeps_starting("mul") == ["multirun/"]
    assert main(["quikc", "--once"]) == 2
    assert (
        "quikc is not the folder of a sweep: it has no sweep.json; did you mean 'quick'?"
        in capsys.readouterr().err
    )


def test_a_folder_that_is_no_sweep_is_an_error_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    (tmp_path / "sweep.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "is not a sweep" in capsys.readouterr().err


def test_watching_shows_what_changes_and_ends_with_the_sweep(busy_sweep, terminal):
    busy_sweep.specify(parent=[os.getpid(), socket.gethostname()])
    done = []

    def finish(text, process):
        if "running, " in text and not done:
            done.append(1)
            busy_sweep.trial("complete", 300, 310, 0.99, 1.0, "bag_of_ngrams")
            busy_sweep.specify(outcome={}, trials_ended=time.time())

    text, code = terminal.in_terminal("-m", "effnlp.cli", "watch", str(busy_sweep.folder), each=finish)
    shown = terminal.plain(text)
    assert done
    assert code == 0
    assert "frontier: 2 of 3 complete trials" in shown
    last = shown[shown.rindex("tried  finished") :]
    assert "frontier: 1 of 4 complete trials" in last


def test_ctrl_c_ends_the_watching_and_not_the_sweep(busy_sweep, terminal):
    busy_sweep.specify(parent=[os.getpid(), socket.gethostname()])
    told = []

    def interrupt(text, process):
        if "running, " in text and not told:
            told.append(1)
            os.kill(process.pid, signal.SIGINT)

    text, code = terminal.in_terminal("-m", "effnlp.cli", "watch", str(busy_sweep.folder), each=interrupt)
    assert told
    assert code == 0
    assert "The sweep goes on" in text
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_help_starts_without_the_libraries_that_draw_and_search(capsys):
    code = "import sys; from effnlp.watch import parser; print([name in sys.modules for name in ('optuna', 'rich')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"
