"""The real command ``effnlp sweep`` with its workers and children, and what signals do to them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from effnlp.record import Record

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 120


@pytest.fixture
def command(texts_file, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFNLP_LOCK_DIR", str(tmp_path / "locks"))
    fixed = [
        "task=files", f"task.path={texts_file}", "model=bag_of_ngrams", "trainer.epochs=60", "search.name=s",
        "trainer.batch_size=8", "model.width=4,8,16", "search.trials=3", "search.workers=2",
        "evaluation.scenarios.single_stream.requests=20", "evaluation.scenarios.fixed_batch.requests=2",
    ]  # fmt: skip
    return [sys.executable, "-m", "effnlp.cli", "sweep", *fixed]


@pytest.fixture
def start(command, tmp_path):
    """Start the sweep in a session of its own, as a terminal does; all that it left is ended after the test."""
    started = []

    def go(*more):
        process = subprocess.Popen(
            [*command, *more], cwd=tmp_path, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield go
    for process in started:
        family = descendants(process)
        if process.poll() is None:
            process.kill()
        for member in family:
            member.kill()


def descendants(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_until(what, seconds=PATIENCE_SECONDS):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def in_training(folder):
    return sorted(folder.glob("trials/*/checkpoints/last.ckpt"))


def trial_process(process, folder):
    """The child that runs the trial in ``folder``: the one that writes its log."""
    for member in descendants(process):
        try:
            if any(file.path == str(folder / "output.log") for file in member.open_files()):
                return member
        except psutil.Error:
            continue
    return None


def records(folder):
    return {
        path.parent.name: Record.load(path.parent) for path in sorted(folder.glob("trials/*/record.json"))
    }


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_a_stopped_sweep_leaves_no_process_and_the_same_command_ends_it(number, to_all, start, tmp_path):
    folder = tmp_path / "multirun" / "s"
    process = start()
    wait_until(lambda: in_training(folder))
    family = descendants(process)
    assert len(family) >= 4  # two workers, each with the server of its children, and trials
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "the same command resumes" in said
        assert "Traceback" not in said
    again = start()
    _, said = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0, said
    found = records(folder)
    assert sorted(found) == ["000", "001", "002"]
    assert {record.status for record in found.values()} == {"completed"}
    assert len({record.identity["config_hash"] for record in found.values()}) == 3
    assert any(record.values["train/resumed_at"] > 0 for record in found.values())


def test_the_death_of_one_trial_is_its_own(start, tmp_path):
    folder = tmp_path / "multirun" / "s"
    process = start()
    wait_until(lambda: (folder / "trials" / "000" / "checkpoints" / "last.ckpt").exists())
    trial_process(process, folder / "trials" / "000").kill()
    said, failures = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, failures
    found = records(folder)
    assert (found["000"].status, found["000"].reason) == ("failed", "killed")
    assert [found[name].status for name in ("001", "002")] == ["completed"] * 2
    assert "1 of 3 trials failed" in failures
    assert "Traceback" not in said + failures
    assert "report.html" in said


def test_a_second_start_beside_a_running_sweep_is_refused(start, tmp_path):
    first = start()
    wait_until(lambda: in_training(tmp_path / "multirun" / "s"))
    second = start()
    _, said = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 2
    assert "this sweep runs already" in said
    assert "Traceback" not in said
    assert first.poll() is None
