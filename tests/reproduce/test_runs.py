"""What a reproduction owes for its runs. Workers are in this process, one after another, and their runs are real."""

import contextlib
import io
import logging
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from effnlp.compose import ConfigError
from effnlp.record import EVALUATOR, Record
from effnlp.reproduce.experiment import Experiment, Layer
from effnlp.reproduce.plan import make_plans
from effnlp.reproduce.runs import SESSIONS, complete, spent_on, tracked
from effnlp.reproduce.worker import work
from effnlp.search.children import Ended


def experiment(name, rows, common=(), seeds=((0, 0),)):
    layer = Layer("small", common=common, rows=rows, seeds=seeds)
    return Experiment(name, "model", "", "", "", [], {"small": layer}, [])


@contextlib.contextmanager
def undisturbed():
    """What a run does to the process that it takes for its own."""
    root = logging.getLogger()
    before = sys.stdout, sys.stderr, list(root.handlers), root.level
    try:
        yield
    finally:
        sys.stdout, sys.stderr, root.handlers[:] = before[:3]
        root.setLevel(before[3])


@pytest.fixture
def lab(texts_file, private_folders, tmp_path, monkeypatch):
    """Reproduce here: ``lab.go(experiments…)`` gives what there is; ``lab.begun`` are the folders of runs begun."""
    monkeypatch.chdir(tmp_path)
    made = SimpleNamespace(begun=[], said=io.StringIO(), texts=texts_file)

    def call(processes, function, arguments, go_on, answer=None, limit_seconds=None):
        made.begun.append(arguments[1])
        with undisturbed():
            try:
                function(*arguments)
            except SystemExit as end:
                return Ended(int(end.code or 0))
        return Ended(0)

    monkeypatch.setattr("effnlp.reproduce.worker.call_in_child", call)
    monkeypatch.setattr("effnlp.reproduce.worker.context", lambda: None)
    monkeypatch.setattr("effnlp.reproduce.worker.occupy_share", lambda *_: None)  # it would bind the tests

    def launch(session, launcher):
        for worker in range(session.workers):
            work(worker, session.folder)

    def go(*experiments, launch=launch, **options):
        made.begun.clear()
        made.said.seek(0)
        made.said.truncate()
        plans = make_plans([(each, "small") for each in experiments])
        console = Console(file=made.said, width=200)
        return complete(plans, launch=launch, console=console, **options)

    made.go, made.launch = go, launch
    made.common = (
        "task=files", f"task.path={texts_file}", "model=bag_of_ngrams", "model.buckets=512", "trainer.epochs=1",
        "evaluation.latency=false", "trainer.progress=none", "keep_model=false",
    )  # fmt: skip
    return made


def accuracies(done):
    return {
        row: {run.seed: run.record.values["val/accuracy"] for run in runs} for row, runs in done.rows.items()
    }


def test_every_row_has_a_run_for_each_seed_and_the_same_call_does_nothing_more(lab):
    tried = experiment(
        "tried", {"a": ["model.width=4"], "b": ["model.width=8"]}, lab.common, [(0, 0), (0, 1)]
    )
    [done] = lab.go(tried, jobs=2)
    assert {row: [run.seed for run in runs] for row, runs in done.rows.items()} == {
        "a": ["0", "0-1"],
        "b": ["0", "0-1"],
    }
    for runs in done.rows.values():
        for run in runs:
            assert run.record.values == Record.load(run.folder).values
            assert run.seed == ("0" if run.record.identity["seed_order"] == 0 else "0-1")
    assert done.missing == []
    assert (done.spent.runs, done.spent.reused) == (4, 0)
    assert done.spent.run_seconds > 0
    assert list(SESSIONS.iterdir()) == []
    [again] = lab.go(tried)
    assert lab.begun == []
    assert accuracies(again) == accuracies(done)
    assert (again.spent.runs, again.spent.reused) == (0, 4)
    assert again.spent.run_seconds == done.spent.run_seconds


def test_a_run_that_experiments_share_is_done_once_and_one_done_by_hand_is_not_done_again(lab, run_tiny):
    first = experiment("first", {"a": ["model.width=4"], "b": ["model.width=8"]}, lab.common)
    second = experiment("second", {"c": ["model.width=8"], "d": ["model.width=16"]}, lab.common)
    by_hand = make_plans([(second, "small")])[0].rows["d"]["0"]
    run_tiny(*by_hand.overrides, folder=by_hand.folder)
    done = lab.go(first, second)
    assert len(lab.begun) == 2
    assert by_hand.folder not in lab.begun
    assert accuracies(done[0])["b"] == accuracies(done[1])["c"]
    assert done[1].rows["d"][0].folder == by_hand.folder
    assert [(each.spent.runs, each.spent.reused) for each in done] == [(2, 0), (1, 1)]


def test_a_run_that_fails_is_missing_with_its_reason_and_command_and_is_tried_anew_by_the_next_call(lab):
    tried = experiment("tried", {"good": [], "bad": ["finetuning.learning_rate=1e30"]}, lab.common)
    for _ in range(2):
        [done] = lab.go(tried)
        assert done.rows["bad"] == []
        assert len(done.rows["good"]) == 1
        [missing] = done.missing
        assert (missing.row, missing.seed) == ("bad", "0")
        assert "failed (nan)" in missing.reason
        assert missing.command.startswith("effnlp run task=files")
        assert missing.command.endswith("finetuning.learning_rate=1e30 seed.init=0 seed.order=0")
        assert "failed: nan" in lab.said.getvalue()
        [plan] = make_plans([(tried, "small")])
        assert plan.rows["bad"]["0"].folder in lab.begun


def test_without_a_worker_nothing_is_done_and_what_lacks_is_named_with_its_command(lab):
    tried = experiment("tried", {"a": []}, lab.common)
    [done] = lab.go(tried, jobs=0)
    assert lab.begun == []
    [missing] = done.missing
    assert missing.reason == "it has not been done"
    assert missing.command.startswith("effnlp run task=files")


def test_what_was_interrupted_is_gone_on_with(lab):
    tried = experiment(
        "tried", {"a": ["model.width=4"], "b": ["model.width=8"], "c": ["model.width=16"]}, lab.common
    )

    def stop_after_one(session, launcher):
        with session.take() as number:
            from effnlp.reproduce.worker import _do

            _do(session, number, None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.go(tried, launch=stop_after_one)
    [first] = lab.begun
    assert "the same command goes on" in lab.said.getvalue()
    [done] = lab.go(tried)
    assert len(lab.begun) == 2
    assert first not in lab.begun
    assert all(done.rows.values())


class TerminatedWorkerError(Exception):
    """As joblib has it."""


TerminatedWorkerError.__module__ = "joblib.externals.loky.process_executor"


def test_workers_that_are_lost_are_launched_again_as_long_as_something_goes_on(lab):
    from effnlp.reproduce.worker import _do

    tried = experiment("tried", {"a": ["model.width=4"], "b": ["model.width=8"]}, lab.common)
    launched = []

    def lose_the_worker_after_one(session, launcher):
        launched.append(launcher)
        with session.take() as number:
            _do(session, number, None)
        raise TerminatedWorkerError("a worker was killed")

    [done] = lab.go(tried, launch=lose_the_worker_after_one, launcher="joblib")
    assert launched == ["joblib", "joblib"]
    assert all(done.rows.values())

    def lose_at_once(session, launcher):
        raise TerminatedWorkerError("a worker was killed")

    with pytest.raises(TerminatedWorkerError):
        lab.go(experiment("other", {"c": ["model.width=16"]}, lab.common), launch=lose_at_once)


def test_an_error_of_a_worker_is_not_taken_for_the_loss_of_one(lab):
    def break_down(session, launcher):
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        lab.go(experiment("tried", {"a": []}, lab.common), launch=break_down)


def test_a_record_of_another_evaluator_is_done_anew_unless_it_is_to_be_used_and_then_it_is_named(lab):
    tried = experiment("tried", {"a": []}, lab.common)
    [before] = lab.go(tried)
    [run] = before.rows["a"]
    run.record.identity["evaluator"] = "0"
    run.record.save(run.folder)
    [used] = lab.go(tried, anyway=True)
    assert lab.begun == []
    assert used.rows["a"][0].record.identity["evaluator"] == "0"
    [remark] = used.remarks
    assert remark.startswith("a, seed 0: its record was measured by evaluator 0")
    [held] = lab.go(tried, jobs=0)
    assert held.rows["a"] == []
    assert "measured by evaluator 0" in held.missing[0].reason
    [anew] = lab.go(tried)
    assert lab.begun == [run.folder]
    assert "measured by evaluator 0" in lab.said.getvalue()
    assert anew.rows["a"][0].record.identity["evaluator"] == EVALUATOR
    assert anew.remarks == []


def test_on_request_runs_are_done_anew_that_other_packages_made_and_only_those(lab):
    tried = experiment("tried", {"a": [], "b": ["model.width=8"]}, lab.common)
    [before] = lab.go(tried)
    [old], [kept] = before.rows["a"], before.rows["b"]
    old.record.identity["packages"] = {**old.record.identity["packages"], "torch": "1.0"}
    old.record.save(old.folder)
    lab.begun.clear()
    [as_it_is] = lab.go(tried)
    assert lab.begun == []
    assert as_it_is.rows["a"][0].record.identity["packages"]["torch"] == "1.0"
    [anew] = lab.go(tried, renew=True)
    assert lab.begun == [old.folder]
    assert "torch 1.0" in lab.said.getvalue()
    assert anew.rows["a"][0].record.identity["packages"] == kept.record.identity["packages"]


def test_a_run_that_another_reads_is_done_before_it(lab):
    rows = {
        "a": ["trainer.epochs=3"],
        "b": ["evaluation.reference=@{a}"],
        "c": ["trainer.epochs=2", "evaluation.reference=@{b}"],
    }
    [done] = lab.go(experiment("tried", rows, lab.common), jobs=2)
    order = {folder: number for number, folder in enumerate(lab.begun)}
    [a], [b], [c] = (done.rows[row] for row in "abc")
    assert order[a.folder] < order[b.folder] < order[c.folder]
    assert "reference/val/changed" in b.record.values


def test_a_record_whose_texts_are_gone_is_kept_and_its_cells_are_holes(lab):
    tried = experiment("tried", {"a": []}, lab.common)
    [before] = lab.go(tried)
    lab.texts.unlink()
    [done] = lab.go(tried)
    assert lab.begun == []
    assert "cannot be told" in done.missing[0].reason
    assert Record.load(before.rows["a"][0].folder).status == "completed"


def test_what_makes_no_sense_is_said_before_anything_is_done(lab):
    tried = experiment("tried", {"a": []}, lab.common)
    with pytest.raises(ConfigError, match="--jobs must be at least 0, got -1"):
        lab.go(tried, jobs=-1)
    with pytest.raises(ConfigError, match=r"--launcher: .*'slurn'; did you mean"):
        lab.go(tried, launcher="slurn")
    with pytest.raises(ConfigError, match=r"--tracking: .*'wandbb'; did you mean 'wandb'"):
        lab.go(tried, tracking="wandbb")
    with pytest.raises(ConfigError, match=r"tried: odd, seed 0: model\.width must be"):
        lab.go(experiment("tried", {"a": [], "odd": ["model.width=wide"]}, lab.common))
    assert lab.begun == []


def test_what_a_forecast_rests_on_are_the_runs_before(lab):
    lab.go(experiment("tried", {"a": []}, lab.common))
    assert "time      unknown" in lab.said.getvalue()
    lab.go(experiment("tried", {"a": []}, lab.common, seeds=[(1, 1), (2, 2)]))
    assert "based on  1 earlier record most like each run" in lab.said.getvalue()


def test_a_tracker_gets_the_experiment_as_group_and_changes_neither_the_run_nor_its_place(lab):
    rows = {"a": ["model.width=4"], "own": ["model.width=8", "tracking=wandb", "tracking.group=mine"]}
    [plan] = make_plans([(experiment("tried", rows, lab.common), "small")])
    with_tracker = tracked(plan.runs, "wandb")
    assert [run.composed.config["tracking"]["group"] for run in with_tracker] == ["tried", "mine"]
    assert [run.key for run in with_tracker] == [run.key for run in plan.runs]
    assert [run.folder for run in with_tracker] == [run.folder for run in plan.runs]
    [plain] = tracked(plan.runs[:1], "files")
    assert "group" not in plain.composed.config["tracking"]


def test_a_sum_that_lacks_a_figure_is_none_and_methods_of_energy_are_named():
    def record(joules, method):
        values = {"cost/total/own/seconds": 2.0}
        values |= {} if joules is None else {"cost/total/own/energy_joules": joules}
        return Record("completed", {}, values=values, notes={"energy/method": method})

    whole = spent_on([record(1.0, "measured"), record(2.0, "estimated")], seconds=9.0, runs=1)
    assert (whole.energy_joules, whole.energy_method) == (3.0, "estimated and measured")
    assert (whole.seconds, whole.run_seconds, whole.runs, whole.reused) == (9.0, 4.0, 1, 1)
    part = spent_on([record(1.0, "measured"), record(None, "measured")], seconds=9.0, runs=2)
    assert (part.energy_joules, part.energy_method, part.run_seconds) == (None, None, 4.0)
