"""Whole sweeps that are killed at every single event, one after another, and gone on with.

The parent, the worker and the trial are one forked process here and trials are stand-ins that take no time, so
that hundreds of kills take seconds; with real processes see test_processes.py.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from effnlp.record import COMPLETED, Record, write_atomically
from effnlp.search.attributes import ATTEMPTS, PAUSED, slots
from effnlp.search.state import Sweep, open_study, trial_folder, verify

TRIALS = 5
CURVES = {"2": 0.9, "4": 0.5, "8": 0.8, "16": 0.7, "32": 0.4}


class Events:
    """Counts what happens and kills the process at one event."""

    def __init__(self, fatal):
        self.fatal, self.count = fatal, 0

    def happens(self, half=None):
        """Something happens: by ``half`` if it is the fatal one and can be half done."""
        self.count += 1
        if self.count == self.fatal:
            if half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)


def stand_in(events, log):
    """What a trial does, in no time: checkpoint, look, report at each rung; then the record."""
    from effnlp.search.children import Ended

    def call(processes, function, arguments, go_on, answer=None, limit_seconds=None):
        if function.__name__ != "run_trial":
            return Ended(0)
        try:
            return trial(arguments, answer)
        except OSError as error:  # as a run does: it has failed, and says so if there is room to say it
            with contextlib.suppress(OSError):
                Record("failed", {}, reason="disk", message=str(error)).save(arguments[1])
            return Ended(1)

    def trial(arguments, answer):
        overrides, folder, _, _, levels, _ = arguments
        width = dict(o.split("=", 1) for o in overrides)["model.width"]
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "checkpoints" / "step"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        if (folder / "record.json").exists() and Record.load(folder).status == COMPLETED:
            return Ended(0)  # as a run does: what is complete is not done again
        with log.open("a") as file:
            file.write(f"{folder.name} {done}\n")
        events.happens()
        for index, level in enumerate(levels.levels if levels else ()):
            if index < levels.known:
                assert done >= level
                continue
            checkpoint.parent.mkdir(exist_ok=True)
            (checkpoint.parent / "weights").write_bytes(bytes(30_000))
            write_atomically(checkpoint, str(max(level, done)))
            events.happens()
            verdict = answer(shown(index, level, width))
            events.happens()
            if verdict is None:
                return Ended(None, "refused")
            if verdict.word != "continue":
                return Ended(0)
        values = {**shown(2, 9, width).values, "cost/total/own/flops": 9.0}
        Record(COMPLETED, {"config_hash": width, "overrides": list(overrides)}, values=values).save(folder)
        events.happens()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return Ended(0)

    return call


def shown(index, level, width):
    from effnlp.search.rungs import Rung

    accuracy = CURVES[width] * level / 9
    return Rung(
        index, level, level, 9, {"val/accuracy": accuracy, "model/bytes": float(width)},
        {"cost/total/own/flops": float(level)},
    )  # fmt: skip


def overrides_of(variant):
    return [
        "model=bag_of_ngrams", "model.width=2,4,8,16,32", f"search.trials={TRIALS}", "search.workers=1",
        "search.objectives=[val/accuracy:max,model/bytes:min]", "search.live=false",
        f"search.early_stopping.variant={variant}", "search/sampler=random",
    ]  # fmt: skip


def forked(function):
    """Call a function in a fork of this process; its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Start the sweep in a fork; killed at event number ``fatal``, unless that is 0. Its exit code."""
    import torch  # noqa: F401  once here, not in every fork
    from hydra import compose
    from omegaconf import open_dict

    from effnlp.compose import hydra_context
    from effnlp.launch import is_sweep_override
    from effnlp.search import journal, sweeper, worker
    from effnlp.search import state as state_module

    def composed(variant):
        plain = [o for o in overrides_of(variant) if not is_sweep_override(o)]
        return compose("sweep", overrides=plain, return_hydra_config=True)

    with hydra_context():
        configs = {variant: composed(variant) for variant in ("stopping", "promotion")}

    def go(fatal, variant, folder):
        config = configs[variant]
        with open_dict(config):
            config.hydra.sweep.dir = str(folder)

        def body():
            events = Events(fatal)
            append = journal.JournalFile.append_logs

            def torn(self, logs):
                def half():
                    line = json.dumps(logs[0])
                    with open(folder / "study.journal", "ab") as file:
                        file.write(line[: len(line) // 2].encode())

                events.happens(half)
                append(self, logs)
                events.happens()

            journal.JournalFile.append_logs = torn
            write = state_module.write_atomically

            def whole(path, text):
                events.happens()
                write(path, text)
                events.happens()

            state_module.write_atomically = whole
            worker.call_in_child = stand_in(events, tmp_path / "runs.log")
            worker.context = lambda: None
            worker.legality_judge = lambda *_: lambda overrides: (None, str(overrides))
            worker.Composer = lambda _: lambda overrides: None
            sweeper._summarise = lambda *_: None
            sweeper.check_space = lambda *_: (1, Counter())

            def launch(jobs, first):
                for job in jobs:
                    settings = dict(o.removeprefix("search.").split("=") for o in job[-2:])
                    worker.work({"worker": int(settings["worker"]), "phase": settings["phase"]}, folder)
                return []

            assert sweeper.sweep(config, overrides_of(variant), None, launch) == 0
            (tmp_path / "events").write_text(str(events.count))

        return forked(body)

    return go


def check_all_is_well(folder: Path) -> None:
    sweep = Sweep.load(folder)
    study = open_study(folder, sweep)
    taken = slots(study)
    assert sorted(taken) == list(range(TRIALS))
    assert len({t.user_attrs["hash"] for t in taken.values()}) == TRIALS
    assert verify(study, sweep) == []
    for slot, trial in taken.items():
        is_paused = trial.state == TrialState.RUNNING and trial.user_attrs.get(PAUSED) is not None
        assert is_paused or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state == TrialState.COMPLETE:
            assert Record.load(trial_folder(folder, slot)).status == COMPLETED
        if trial.state == TrialState.PRUNED:
            assert Record.load(trial_folder(folder, slot)).status == "stopped"
    best = next(slot for slot, t in taken.items() if "model.width=2" in t.user_attrs["overrides"])
    assert taken[best].state == TrialState.COMPLETE  # it dominates all


EVERY = pytest.param(1, marks=pytest.mark.slow, id="every")
SOME = pytest.param(13, id="some")


@pytest.mark.parametrize("step", [SOME, EVERY])
@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_killed_at_any_event_it_goes_on_where_it_was(start, tmp_path, variant, step):
    log = tmp_path / "runs.log"
    assert start(0, variant, tmp_path / "whole") == 0
    events = int((tmp_path / "events").read_text())
    assert events > 60
    for fatal in range(step, events + 1, step):
        folder = tmp_path / f"killed-{fatal}"
        log.unlink(missing_ok=True)
        assert start(fatal, variant, folder) == -signal.SIGKILL
        assert start(0, variant, folder) == 0
        check_all_is_well(folder)
        started = Counter(line.split()[0] for line in log.read_text().splitlines())
        assert sum(started.values()) <= TRIALS + 1 + (variant == "promotion") * TRIALS


def test_killed_again_and_again_it_ends_all_the_same(start, tmp_path):
    folder = tmp_path / "s"
    for fatal in range(9, 900, 9):
        if start(fatal, "promotion", folder) == 0:
            break
    else:
        pytest.fail("it never came to its end")
    check_all_is_well(folder)
    attempts = [
        e
        for t in slots(open_study(folder, Sweep.load(folder))).values()
        for e in t.user_attrs.get(ATTEMPTS, [])
    ]
    assert {entry["how"] for entry in attempts} == {"stopped"}


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that sets the disk's size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *more):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join([*more, f"size={size}"]), "tmpfs", str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip

    tried = mount("1m") if sys.platform == "linux" else None
    if tried is None or tried.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {tried.stderr.strip() if tried else sys.platform}")

    def resize(size):
        assert mount(size, "remount").returncode == 0

    try:
        yield folder, resize
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_when_the_disk_is_full_nothing_is_lost_and_with_room_it_goes_on(start, small_disk, variant):
    disk, resize = small_disk
    folder = disk / "s"
    kinds = set()
    for kilobytes in range(40, 400, 24):
        shutil.rmtree(folder, ignore_errors=True)
        resize(f"{kilobytes}k")
        code = start(0, variant, folder)
        kinds.add(code)
        before = finished_in(folder) if code else {}
        resize("8m")
        assert start(0, variant, folder) == 0
        check_all_is_well(folder)
        after = finished_in(folder)
        assert {slot: after[slot] for slot in before} == before
    assert kinds == {0, 1}  # the smallest was too small, the largest was not


def finished_in(folder):
    """Slot to the values of each trial that ran to its end."""
    if not (folder / "sweep.json").exists():
        return {}
    taken = slots(open_study(folder, Sweep.load(folder)))
    return {slot: t.values for slot, t in taken.items() if t.state == TrialState.COMPLETE}
