"""The real command ``effnlp run``: what kills and signals do to it, and what it says and returns."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from effnlp.model.storage import Deployed
from effnlp.record import Record

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 120


@pytest.fixture
def start(texts_file, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFNLP_LOCK_DIR", str(tmp_path / "locks"))
    started = []

    def go(folder, *overrides):
        fixed = [
            "task=files", f"task.path={texts_file}", "model=bag_of_ngrams", "trainer.epochs=40",
            "trainer.batch_size=8", "evaluation.latency=false", f"hydra.run.dir={tmp_path / folder}",
        ]  # fmt: skip
        keys = {override.partition("=")[0] for override in overrides}
        typed = [*(o for o in fixed if o.partition("=")[0] not in keys), *overrides]
        command = [sys.executable, "-m", "effnlp.cli", "run", *typed]
        process = subprocess.Popen(
            command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()


def finished(process):
    said, failures = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said + failures


def results(folder):
    values = Record.load(folder).values
    return {k: v for k, v in values.items() if not k.startswith(("cost/", "train/resumed_at"))}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_as_the_one_that_was_not(number, start, tmp_path):
    assert finished(start("whole"))[0] == 0
    process = start("run")
    end = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, number)
    code, said = finished(process)
    assert "Traceback" not in said
    if number == signal.SIGKILL:
        assert not (tmp_path / "run" / "record.json").exists()
    else:
        assert code == 130
        assert "the same command resumes it" in said
        assert Record.load(tmp_path / "run").reason == "interrupted"
    code, said = finished(start("run"))
    assert code == 0, said
    assert Record.load(tmp_path / "run").values["train/resumed_at"] > 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    one, other = (
        Deployed.load(tmp_path / folder / "deployed.pt").model.state_dict() for folder in ("run", "whole")
    )
    assert all(torch.equal(one[name], other[name]) for name in other)
    code, said = finished(start("run"))
    assert (code, "already complete" in said) == (0, True)


def test_a_failed_run_says_why_in_a_line_and_returns_one(start, tmp_path):
    code, said = finished(start("run", "finetuning.learning_rate=1e30"))
    assert code == 1
    assert "failed (nan): " in said
    assert "Traceback" not in said
    assert Record.load(tmp_path / "run").values["cost/finetuning/own/seconds"] > 0


def test_two_of_the_same_run_at_once_are_refused_in_a_line(start, tmp_path):
    first = start("run", "trainer.epochs=2000")
    end = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    code, said = finished(start("run", "trainer.epochs=2000"))
    assert code == 1
    assert "another process is doing this very run" in said
    assert "Traceback" not in said
    assert first.poll() is None
