"""Rungs inside a run: it shows what it would become, and nothing but its costs depends on that."""

import copy
import math

import pytest
import torch

from effnlp import method
from effnlp.finetuning.loop import Training
from effnlp.model.storage import Deployed
from effnlp.record import COMPLETED, FAILED, PAUSED, STOPPED, Events, Record
from effnlp.search.rungs import Rungs, Verdict

LEVELS, END = (1, 3), 9
STEPS = 16
AT = (2, 6)
"""The steps of the two rungs; a round of the training ends at step 8."""

TRAINING = ["trainer.epochs=2", "trainer.batch_size=32"]
MODELS = {
    "bag_of_ngrams": ["model=bag_of_ngrams"],
    "full": ["model=backbone", "trainer.patience=1"],
    "lora_int8": ["model=backbone", "peft=lora", "compression/quantization=int8_weight_only"],
    "bitfit": ["model=backbone", "peft=bitfit"],
    "magnitude": ["model=backbone", "compression/pruning=magnitude"],
    "movement": ["model=backbone", "compression/pruning=movement", "compression.pruning.update_every=1"],
    "deebert": ["model=backbone", "compression/early_exit=deebert", "compression.early_exit.threshold=1.0"],
}
FAST = ("lora_int8", "movement", "deebert")
every_model = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)


class Search:
    """Stands for the search: keeps what it is shown, and answers with what it was told to."""

    def __init__(self, *answers):
        self.rungs, self.answers = [], list(answers)

    def report(self, rung):
        self.rungs.append(rung)
        answer = self.answers.pop(0) if self.answers else "continue"
        if isinstance(answer, BaseException):
            raise answer
        return Verdict(answer, f"told to {answer}")

    def on(self, levels=LEVELS, end=END, known=0):
        return Rungs(levels, end, known, self.report)


@pytest.fixture
def go(run_tiny):
    """A run with the rungs of a search, in a folder of its name."""

    def run(*overrides, rungs=None, **kwargs):
        return run_tiny(*TRAINING, *overrides, rungs=rungs, **kwargs)

    return run


def weights(folder):
    return Deployed.load(folder / "deployed.pt").model.state_dict()


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def results(record):
    left_out = ("cost/", "train/resumed_at")
    return {key: value for key, value in record.values.items() if not key.startswith(left_out)}


# What comes of the training


@pytest.mark.slow
@every_model
def test_with_rungs_and_killed_between_them_a_run_ends_as_it_would_have_without(
    name, go, tmp_path, monkeypatch
):
    whole = go(*MODELS[name], folder=tmp_path / "whole")
    assert whole.values["train/steps"] == STEPS

    search = Search()
    through = go(*MODELS[name], rungs=search.on(), folder=tmp_path / "through")
    assert [(rung.index, rung.level, rung.step, rung.steps) for rung in search.rungs] == [
        (0, 1, AT[0], STEPS), (1, 3, AT[1], STEPS),
    ]  # fmt: skip
    assert results(through) == results(whole)
    assert same_weights(weights(tmp_path / "through"), weights(tmp_path / "whole"))
    flops = "cost/finetuning/own/flops"
    assert through.values[flops] == whole.values[flops]
    assert through.values["cost/evaluation/own/flops"] > whole.values["cost/evaluation/own/flops"]

    original = Training.training_step

    def interrupted(self, batch, index):
        if self.global_step == AT[1] - 2:
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "training_step", interrupted)
        assert go(*MODELS[name], rungs=Search().on(), folder=tmp_path / "killed").reason == "interrupted"
    again = Search()
    resumed = go(*MODELS[name], rungs=again.on(known=1), folder=tmp_path / "killed")
    assert resumed.values["train/resumed_at"] == AT[0]
    assert [rung.index for rung in again.rungs] == [1]
    assert again.rungs[0].values == search.rungs[1].values
    assert results(resumed) == results(whole)
    assert same_weights(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def state_of(training):
    """All that a look could change of a training, copied."""
    trainer, model = training.trainer, training.model
    (optimizer,) = trainer.optimizers
    return copy.deepcopy(
        {
            "weights": dict(model.state_dict()),
            "gradients": {name: p.grad for name, p in model.named_parameters()},
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "modes": [(name, type(module), module.training) for name, module in model.named_modules()],
            "applied": method.applied(model),
            "exits_in_use": getattr(model, "exits_in_use", None),
            "optimizer": optimizer.state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "loops": trainer.fit_loop.state_dict(),
            "callbacks": [callback.state_dict() for callback in trainer.callbacks],
            "metrics": dict(trainer.callback_metrics),
            "random": torch.get_rng_state(),
            "grad_enabled": torch.is_grad_enabled(),
        }
    )


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@every_model
def test_a_look_touches_nothing_of_the_training(name, go, monkeypatch):
    from effnlp.at_rungs import AtRungs

    looks = []
    original = AtRungs.look

    def watched(self, training):
        ids = [id(parameter) for parameter in training.model.parameters()]
        before = state_of(training)
        original(self, training)
        after = state_of(training)
        looks.append({key: equal(before[key], after[key]) for key in before})
        assert ids == [id(parameter) for parameter in training.model.parameters()]

    finished = method.preview

    def drawing(*arguments):
        torch.rand(3)
        return finished(*arguments)

    monkeypatch.setattr(AtRungs, "look", watched)
    monkeypatch.setattr(method, "preview", drawing)
    search = Search()
    go(*MODELS[name], "trainer.epochs=1", rungs=search.on((1, 3, 6)))
    assert len(search.rungs) == 3
    assert all(all(untouched.values()) for untouched in looks), looks


# What is shown


@pytest.mark.parametrize(
    "name",
    [
        "lora_int8",
        "movement",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "magnitude")),
    ],
)
def test_the_cost_shown_is_that_of_the_finished_model(name, go):
    search = Search()
    record = go(*MODELS[name], rungs=search.on())
    keys = ["infer/single_stream/flops", "infer/fixed_batch/flops", "model/bytes", "model/params"]
    for rung in search.rungs:
        assert {key: rung.values[key] for key in keys} == {key: record.values[key] for key in keys}


def test_values_have_the_keys_of_the_record_without_clocks_and_costs_grow(go):
    search = Search()
    record = go("model=backbone", "peft=lora", "evaluation.latency=true", rungs=search.on())
    first, second = search.rungs
    left_out = ("cost/", "train/", "test/")
    clocked = ("seconds", "latency", "energy", "memory", "loaded", "is_quiet", "second")
    expected = {
        key
        for key in record.values
        if not key.startswith(left_out) and not any(word in key for word in clocked)
    }
    # A class that is not yet predicted has no precision at an early look.
    unsure = {key for key in record.values if key.startswith("val/class/") and key.endswith("/precision")}
    assert unsure
    assert set(first.values) - unsure == set(second.values) - unsure == expected - unsure
    assert {"val/accuracy", "val/loss", "model/bytes", "model/delta_bytes", "data/labels"} <= expected
    assert {"model/trainable_params", "infer/single_stream/flops"} <= expected
    assert all(math.isfinite(value) for rung in search.rungs for value in rung.values.values())
    assert all(key.startswith("cost/") and "/own/" in key for key in first.cost)
    for figure in ("seconds", "flops"):
        for stage in ("finetuning", "evaluation", "total"):
            key = f"cost/{stage}/own/{figure}"
            assert 0 < first.cost[key] < second.cost[key] < record.values[key]


def test_each_look_is_in_the_events_and_goes_to_the_tracker(go, tmp_path, monkeypatch):
    from effnlp.tracking.files import FilesTracker

    logged = []
    monkeypatch.setattr(FilesTracker, "log", lambda self, *point: logged.append(point))
    search = Search("continue", "stop")
    go(rungs=search.on(), folder=tmp_path / "run")
    lines = [event for event in Events(tmp_path / "run") if event["event"] == "rung"]
    assert [(line["index"], line["level"], line["step"], line["verdict"]) for line in lines] == [
        (0, 1, AT[0], "continue"), (1, 3, AT[1], "stop"),
    ]  # fmt: skip
    assert lines[1]["sentence"] == "told to stop"
    assert lines[0]["values"] == search.rungs[0].values
    assert [point[1:] for point in logged if point[2] == "rung"] == [(AT[0], "rung"), (AT[1], "rung")]


def test_levels_on_one_step_are_shown_in_order_and_one_on_the_last_step_not_at_all(go):
    search = Search()
    go("trainer.batch_size=128", "trainer.epochs=2", rungs=search.on((1, 2, 4, 8)))
    assert [(rung.index, rung.step) for rung in search.rungs] == [(0, 1), (1, 1), (2, 2)]
    assert search.rungs[0].values == search.rungs[1].values
    stopped = Search("continue", "stop")
    go("trainer.batch_size=128", "again=true", rungs=stopped.on((1, 2, 4, 8)))
    assert [rung.index for rung in stopped.rungs] == [0, 1]


def test_a_run_without_a_rung_before_its_end_shows_nothing(go):
    search = Search()
    assert go("trainer.batch_size=1000", "trainer.epochs=1", rungs=search.on()).status == COMPLETED
    assert search.rungs == []


def test_where_patience_ends_the_training_at_a_rung_nothing_is_shown(go, monkeypatch):
    def worse_each_time(self):
        self.log("val/accuracy", -float(self.global_step))
        self.log("val/selection", -float(self.global_step))

    monkeypatch.setattr(Training, "on_validation_epoch_end", worse_each_time)
    search = Search()
    record = go("trainer.epochs=3", "trainer.patience=1", rungs=search.on((3, 6)))
    assert (record.values["train/stopped_early"], record.values["train/steps"]) == (1, 16)
    assert [rung.step for rung in search.rungs] == [8]


# Taken up at a rung


@pytest.mark.parametrize("name", ["movement", "deebert"])
def test_killed_before_it_was_heard_a_run_shows_the_same_again_before_it_trains_on(
    name, go, tmp_path, monkeypatch
):
    unheard = Search("continue", KeyboardInterrupt())
    assert go(*MODELS[name], rungs=unheard.on(), folder=tmp_path / "run").reason == "interrupted"
    trained, heard = [], Search()
    original = Training.training_step

    def step(self, batch, index):
        trained.append((self.global_step, len(heard.rungs)))
        return original(self, batch, index)

    monkeypatch.setattr(Training, "training_step", step)
    record = go(*MODELS[name], rungs=heard.on(known=1), folder=tmp_path / "run")
    assert trained[0] == (AT[1], 1)
    assert [(rung.index, rung.step) for rung in heard.rungs] == [(1, AT[1])]
    assert heard.rungs[0].values == unheard.rungs[1].values
    key = "cost/evaluation/own/seconds"
    assert unheard.rungs[1].cost[key] < heard.rungs[0].cost[key] < record.values[key]


def test_retried_from_its_start_a_run_does_not_show_what_is_known(go):
    search = Search()
    go(rungs=search.on(known=1))
    assert [rung.index for rung in search.rungs] == [1]
    silent = Search()
    go("again=true", rungs=silent.on(known=2))
    assert silent.rungs == []


# Stopped


def test_told_to_stop_a_run_leaves_a_record_of_the_rung_and_no_model(go, tmp_path):
    search = Search("continue", "stop")
    record = go("model=backbone", "peft=lora", rungs=search.on(), folder=tmp_path / "run")
    assert (record.status, record.reason, record.message) == (STOPPED, "stopped", "told to stop")
    read = Record.load(tmp_path / "run")
    assert read == record
    rung = search.rungs[1]
    assert {key: read.values[key] for key in rung.values} == rung.values
    assert read.values["train/steps"] == AT[1]
    assert read.notes["rung"] == {"index": 1, "level": 3, "step": AT[1], "steps": STEPS}
    for key in ("cost/finetuning/own/flops", "cost/evaluation/own/flops"):
        assert read.values[key] == rung.cost[key]
    assert read.values["cost/total/own/seconds"] >= rung.cost["cost/total/own/seconds"]
    assert read.identity["finished"]
    assert read.notes["applied"]["peft"]["merged_layers"] > 0
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"record.json", "events.jsonl", ".lock"}
    assert [event["event"] for event in Events(tmp_path / "run")][-1] == "stopped"


def test_stopped_is_an_end_in_a_search_and_not_outside(go, tmp_path):
    search = Search("stop")
    first = go(rungs=search.on(), folder=tmp_path / "run")
    assert go(rungs=search.on(), folder=tmp_path / "run") == first
    assert len(search.rungs) == 1
    alone = go(folder=tmp_path / "run")
    assert alone.status == COMPLETED
    assert results(alone) == results(go(folder=tmp_path / "fresh"))


# Paused


def test_told_to_pause_a_run_waits_without_a_record_and_goes_on_with_its_costs(go, tmp_path):
    whole = go("model=backbone", folder=tmp_path / "whole")
    search = Search("continue", "pause")
    paused = go("model=backbone", rungs=search.on(), folder=tmp_path / "run")
    assert (paused.status, paused.message) == (PAUSED, "told to pause")
    assert not (tmp_path / "run" / "record.json").exists()
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "last.ckpt", "attempt.json",
    }  # fmt: skip
    promoted = Search()
    record = go("model=backbone", rungs=promoted.on(known=2), folder=tmp_path / "run")
    assert promoted.rungs == []
    assert (record.status, record.values["train/resumed_at"]) == (COMPLETED, AT[1])
    assert results(record) == results(whole)
    assert same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    flops = "cost/finetuning/own/flops"
    assert record.values[flops] == whole.values[flops]
    for stage in ("finetuning", "evaluation"):
        key = f"cost/{stage}/own/seconds"
        assert record.values[key] > paused.values[key] > 0


def test_a_paused_run_does_not_look_like_the_failed_attempt_before_it(go, tmp_path):
    go(rungs=Search(KeyboardInterrupt()).on(), folder=tmp_path / "run")
    assert Record.load(tmp_path / "run").status == FAILED
    assert go(rungs=Search("pause").on(), folder=tmp_path / "run").status == PAUSED
    assert not (tmp_path / "run" / "record.json").exists()


# Failures


def test_a_model_that_is_broken_at_a_rung_has_failed_and_is_not_shown(go):
    search = Search()
    record = go("model=backbone", "finetuning.learning_rate=1e30", rungs=search.on((1,), 16))
    assert (record.status, record.reason) == (FAILED, "nan")
    assert "on validation" in record.message
    assert record.values["train/diverged_at_step"] == 1
    assert search.rungs == []


def test_what_fails_in_the_search_fails_the_run_with_its_words(go):
    record = go(rungs=Search(ConnectionError("the worker is gone")).on())
    assert (record.status, record.reason, record.message) == (FAILED, "error", "the worker is gone")
