"""The real workers: Hydra jobs with children, launched by joblib; and what signals do to the command."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from effnlp.compose import ConfigError
from effnlp.launch import is_of_the_launcher
from effnlp.menu import conf_dir
from effnlp.record import Record
from effnlp.reproduce.launching import check_launcher

PATIENCE_SECONDS = 240

SCRIPT = """
import sys
from effnlp.cli import main
from effnlp.reproduce.experiment import Experiment, Layer
from effnlp.reproduce.plan import make_plans
from effnlp.reproduce.runs import complete

common = [
    "task=files", f"task.path={sys.argv[1]}", "model=bag_of_ngrams", "model.buckets=512", "evaluation.latency=false",
    "trainer.batch_size=8", f"trainer.epochs={sys.argv[3]}", "keep_model=false",
]
rows = {"a": ["model.width=4"], "b": ["model.width=8"], "bad": ["finetuning.learning_rate=1e30"]}
layer = Layer("small", common, rows, seeds=[(0, 0), (1, 1)])
plans = make_plans([(Experiment("tried", "model", "", "", "", [], {"small": layer}, []), "small")])
try:
    [done] = complete(plans, jobs=2, launcher=sys.argv[2])
except KeyboardInterrupt:
    sys.exit(130)
for row, runs in done.rows.items():
    for run in runs:
        sys.stdout.write(f"{row} {run.seed} {run.folder}\\n")
sys.stdout.write(f"missing {len(done.missing)} reused {done.spent.reused}\\n")
"""


def test_every_launcher_that_is_there_composes_and_any_other_is_named_with_near_ones():
    ours = [path.stem for path in sorted((conf_dir() / "hydra" / "launcher").glob("*.yaml"))]
    assert "one_machine" in ours
    packages = {"ray_cluster": "hydra_ray_launcher", "slurm": "hydra_submitit_launcher"}
    packages["slurm_here"] = packages["slurm"]
    for launcher in ["basic", "joblib", *ours]:
        package = packages.get(launcher)
        if package is None or importlib.util.find_spec(f"hydra_plugins.{package}") is not None:
            check_launcher(launcher)
    with pytest.raises(
        ConfigError, match=r"--launcher: hydra/launcher has no choice 'joblip'; did you mean 'joblib'"
    ):
        check_launcher("joblip")


def test_what_is_about_workers_that_are_gone_is_told_from_what_they_did():
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    assert is_of_the_launcher(TerminatedWorkerError("gone"))
    assert is_of_the_launcher(ConnectionResetError())
    assert not is_of_the_launcher(RuntimeError("wrong"))


@pytest.fixture
def start(texts_file, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFNLP_LOCK_DIR", str(tmp_path / "locks"))
    (tmp_path / "script.py").write_text(SCRIPT)
    started = []

    def go(launcher="one_machine", epochs=1):
        process = subprocess.Popen(
            [sys.executable, "script.py", str(texts_file), launcher, str(epochs)], cwd=tmp_path, text=True,
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
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


def finished(process):
    said, failures = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said.splitlines(), failures


def wait_until(what):
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@pytest.mark.slow
def test_two_workers_of_joblib_do_all_runs_each_once_and_leave_no_session(start, tmp_path):
    code, said, failures = finished(start())
    assert code == 0, failures
    assert said[-1] == "missing 2 reused 0"
    done = [line.split() for line in said[:-1]]
    assert [(row, seed) for row, seed, _ in done] == [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")]
    for _, _, folder in done:
        assert Record.load(Path(folder)).status == "completed"
        starts = (Path(folder) / "events.jsonl").read_text().count('"started"')
        assert starts == 1
    assert list((tmp_path / "outputs/reproduce/.sessions").iterdir()) == []
    assert failures.count("failed: nan") == 2
    assert "Launching" not in failures


@pytest.mark.slow
def test_a_command_that_is_stopped_leaves_nobody_and_the_same_one_goes_on(start, tmp_path):
    process = start(epochs=40)
    wait_until(lambda: len(list(tmp_path.glob("outputs/files/*/checkpoints/last.ckpt"))) > 1)
    family = descendants(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, _, failures = finished(process)
    assert code == 130, failures
    assert "the same command goes on" in failures
    wait_until(lambda: not any(member.is_running() and member.status() != "zombie" for member in family))
    ended = [Record.load(path.parent).status for path in tmp_path.glob("outputs/files/*/record.json")]
    assert "completed" not in ended
    code, said, failures = finished(start(epochs=40))
    assert code == 0, failures
    assert said[-1] == "missing 2 reused 0"
    resumed = [Record.load(Path(line.split()[2])).values.get("train/resumed_at", 0) for line in said[:-1]]
    assert any(step > 0 for step in resumed)
    [left] = list((tmp_path / "outputs/reproduce").iterdir())
    assert list(left.iterdir()) == []


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_begun_again_and_done(start, tmp_path):
    process = start(epochs=40)

    def child():
        for checkpoint in tmp_path.glob("outputs/files/*/checkpoints/last.ckpt"):
            log = str(checkpoint.parents[1] / "output.log")
            for member in descendants(process):
                try:
                    if os.readlink(f"/proc/{member.pid}/fd/1") == log:
                        return member
                except OSError:
                    continue
        return None

    wait_until(child).kill()
    code, said, failures = finished(process)
    assert code == 0, failures
    assert said[-1] == "missing 2 reused 0"
    assert len(said) == 5
