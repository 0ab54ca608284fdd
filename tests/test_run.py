"""One run in this process, on a small file of texts with planted words."""

import errno
import math
import os
import signal
import threading
from collections import Counter

import pytest
import torch

from effnlp.ending import reason_of
from effnlp.evaluation.meter import STAGES
from effnlp.model.storage import Deployed
from effnlp.record import COMPLETED, FAILED, Events, Record

MODELS = {
    "full": ["model=backbone"],
    "lora": ["model=backbone", "peft=lora"],
    "movement": ["model=backbone", "compression/pruning=movement", "compression.pruning.update_every=1"],
    "deebert": ["model=backbone", "compression/early_exit=deebert"],
}
MEASURED = ("cost/", "infer/single_stream/latency")


def weights(folder):
    return Deployed.load(folder / "deployed.pt").model.state_dict()


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def results(record):
    """All values but what a clock, a sensor or the state of the cache decides, and where it resumed."""
    left_out = ("cost/", "train/resumed_at")
    return {key: value for key, value in record.values.items() if not key.startswith(left_out)}


def batches_seen(monkeypatch):
    """The training batches of every run from now on: lists of positions."""
    seen = []
    from effnlp.finetuning import loop

    original = loop.Batches.__getitem__

    def get(self, index):
        seen.append((len(self.examples), list(self.positions[index])))
        return original(self, index)

    monkeypatch.setattr(loop.Batches, "__getitem__", get)
    return seen


def interrupt_after(monkeypatch, steps, how):
    """Call ``how`` in the training step after ``steps`` of them."""
    from effnlp.finetuning import loop

    taken = []
    original = loop.Training.training_step

    def step(self, batch, index):
        if len(taken) == steps:
            taken.append(None)
            how()
        taken.append(None)
        return original(self, batch, index)

    monkeypatch.setattr(loop.Training, "training_step", step)


def losses_of(monkeypatch):
    """Step and loss of every training batch from now on."""
    from effnlp.finetuning import loop

    losses = []
    original = loop.Training.training_step

    def step(self, batch, index):
        loss = original(self, batch, index)
        losses.append((self.global_step, float(loss.detach())))
        return loss

    monkeypatch.setattr(loop.Training, "training_step", step)
    return losses


def raise_interrupt():
    raise KeyboardInterrupt


# What a run leaves behind


def test_the_same_command_gives_the_same_results_and_weights(run_tiny, tmp_path):
    one = run_tiny("model=backbone", folder=tmp_path / "one")
    other = run_tiny("model=backbone", folder=tmp_path / "other")
    assert results(one) == results(other)
    assert same_weights(weights(tmp_path / "one"), weights(tmp_path / "other"))


def test_the_planted_words_are_learnt(run_tiny):
    record = run_tiny("trainer.epochs=8", "finetuning.learning_rate=5e-3")
    assert record.values["val/accuracy"] > 0.7  # chance is a third


def test_the_initial_seed_changes_weights_and_not_batches_the_other_one_batches_alone(
    run_tiny, tmp_path, monkeypatch
):
    from effnlp.run import fit

    initial = []

    def note_weights(training, **kwargs):
        initial.append({name: value.clone() for name, value in training.model.state_dict().items()})
        return fit(training, **kwargs)

    monkeypatch.setattr("effnlp.run.fit", note_weights)
    seen = batches_seen(monkeypatch)
    batches = []
    for seeds in ([], ["seed.init=1"], ["seed.order=1"]):
        seen.clear()
        run_tiny("trainer.epochs=1", *seeds, folder=tmp_path / "-".join(["run", *seeds]))
        batches.append([positions for _, positions in seen])
    plain, other_weights, other_order = range(3)
    assert batches[plain] == batches[other_weights]
    assert batches[plain] != batches[other_order]
    assert same_weights(initial[plain], initial[other_order])
    assert not same_weights(initial[plain], initial[other_weights])


def test_a_shuffled_training_sees_every_text_once_an_epoch(run_tiny, monkeypatch):
    seen = batches_seen(monkeypatch)
    record = run_tiny("trainer.epochs=2")
    count = int(record.values["data/examples"])
    train = [positions for size, positions in seen if size == count]
    assert Counter(p for batch in train for p in batch) == dict.fromkeys(range(count), 2)
    half = len(train) // 2
    assert sorted(p for batch in train[:half] for p in batch) == list(range(count))


def test_a_curriculum_begins_with_short_texts(run_tiny, monkeypatch):
    seen = batches_seen(monkeypatch)
    record = run_tiny("data/order=competence", "trainer.epochs=2", "trainer.batch_size=8")
    count = int(record.values["data/examples"])
    assert int(record.values["train/steps"]) == 2 * math.ceil(count / 8)
    train = [positions for size, positions in seen if size == count]
    assert len(train) == record.values["train/steps"]
    assert len(train[0]) < len(train[-1]) or len(set(train[0])) < count
    assert len({p for batch in train[:3] for p in batch}) < len({p for batch in train[-3:] for p in batch})


def test_all_promised_keys_are_there_and_what_is_not_has_its_reason(run_tiny):
    record = run_tiny("model=backbone", "evaluation.test=true")
    figures = ["seconds", "cpu_seconds", "flops", "energy_joules", "co2e_grams", "peak_memory_bytes"]
    promised = {f"cost/{stage}/own/{figure}" for stage in [*STAGES, "total"] for figure in figures}
    promised |= {"model/params", "model/active_params", "model/trainable_params", "model/bytes"}
    promised |= {"model/delta_bytes", "data/tokens", "data/labels", "train/steps", "train/resumed_at"}
    promised |= {f"{split}/{key}" for split in ("val", "test") for key in ("accuracy", "macro_f1", "loss")}
    promised |= {f"infer/{scenario}/flops" for scenario in ("single_stream", "fixed_batch")}
    promised |= {f"infer/single_stream/latency_seconds_p{p}" for p in (50, 95, 99)}
    assert promised <= set(record.values) | set(record.absent)
    assert not set(record.values) & set(record.absent)
    assert all(math.isfinite(value) for value in record.values.values())
    assert all(record.absent.values())
    assert Record.load(record.folder).values == record.values


def test_the_stages_sum_to_the_total(run_tiny):
    values = run_tiny("model=backbone", "peft=lora", "compression/quantization=int8_dynamic").values
    for figure in ("seconds", "cpu_seconds", "flops"):
        parts = [values[f"cost/{stage}/own/{figure}"] for stage in STAGES]
        assert values[f"cost/total/own/{figure}"] == pytest.approx(sum(parts)), figure
    peaks = [values[f"cost/{stage}/own/peak_memory_bytes"] for stage in STAGES]
    assert values["cost/total/own/peak_memory_bytes"] == max(peaks)


def test_the_test_split_is_evaluated_only_when_asked(run_tiny, tmp_path):
    without = run_tiny(folder=tmp_path / "a")
    assert not [key for key in [*without.values, *without.absent] if key.startswith("test/")]
    assert "test/accuracy" in run_tiny("evaluation.test=true", folder=tmp_path / "b").values


def test_what_the_cache_gave_is_amortised_and_not_own(run_tiny, tmp_path):
    first = run_tiny(folder=tmp_path / "first")
    second = run_tiny("finetuning.learning_rate=1e-3", folder=tmp_path / "second")
    assert not [key for key in first.values if "amortised" in key]
    assert second.values["cost/data/amortised/seconds"] > 0
    assert second.values["cost/total/amortised/seconds"] == second.values["cost/data/amortised/seconds"]
    assert second.values["cost/data/own/seconds"] < first.values["cost/data/own/seconds"]
    made = [event["made"] for event in Events(tmp_path / "second") if event["event"] == "cache"]
    assert made == [False] * 3


def test_events_tell_the_run_in_order(run_tiny, tmp_path):
    run_tiny(folder=tmp_path / "run")
    kinds = [event["event"] for event in Events(tmp_path / "run")]
    assert list(dict.fromkeys(kinds)) == ["cache", "started", "train", "completed"]
    steps = [event["step"] for event in Events(tmp_path / "run") if "val/accuracy" in event]
    assert steps == sorted(set(steps))
    assert len(steps) == 2


def test_the_saved_model_gives_what_was_recorded(run_tiny, tmp_path):
    record = run_tiny("model=backbone", "evaluation.test=true", folder=tmp_path / "run")
    deployed = Deployed.load(tmp_path / "run" / "deployed.pt")
    assert list(deployed.labels) == sorted({"good", "bad", "odd"})
    import pandas as pd

    from effnlp.cache import cache_dir

    (table,) = [pd.read_parquet(path) for path in (cache_dir() / "task").rglob("validation*.parquet")]
    encoded = deployed.tokenizer.encode(table["text"].tolist())
    with torch.inference_mode():
        logits = deployed.model.eval()(encoded.batch(range(len(encoded))))
    right = (logits.argmax(-1).numpy() == table["label"].to_numpy()).mean()
    assert right == pytest.approx(record.values["val/accuracy"])


class Broken:
    """A tracker in which everything fails."""

    def __getattr__(self, name):
        def fail(*_, **__):
            raise OSError(errno.ENOSPC, f"no {name}")

        return fail


def test_a_method_that_changed_nothing_is_recorded_as_that(run_tiny, tmp_path, caplog):
    plain = ["model=backbone", "compression/pruning=magnitude"]
    nothing = run_tiny(*plain, "compression.pruning.sparsity=0", folder=tmp_path / "nothing")
    assert nothing.notes["changed_nothing"] == ["compression/pruning"]
    assert "compression/pruning=magnitude was applied and changed nothing" in caplog.text
    caplog.clear()
    half = run_tiny(*plain, "compression.pruning.sparsity=0.5", folder=tmp_path / "half")
    assert half.notes["changed_nothing"] == []
    assert "changed nothing" not in caplog.text


def test_a_tracker_that_fails_never_costs_the_result(run_tiny, monkeypatch):
    from effnlp.tracking import files

    monkeypatch.setattr(files, "FilesTracker", Broken)
    record = run_tiny()
    assert record.status == COMPLETED
    assert Record.load(record.folder) == record


# The same command again


def test_a_finished_run_is_not_run_again_unless_asked(run_tiny, tmp_path):
    first = run_tiny(folder=tmp_path / "run")
    stamp = (tmp_path / "run" / "record.json").stat().st_mtime_ns
    assert run_tiny(folder=tmp_path / "run") == first
    assert (tmp_path / "run" / "record.json").stat().st_mtime_ns == stamp
    again = run_tiny("again=true", folder=tmp_path / "run")
    assert (tmp_path / "run" / "record.json").stat().st_mtime_ns != stamp
    assert results(again) == results(first)
    assert [event["event"] for event in Events(tmp_path / "run")].count("completed") == 2


def test_other_data_under_the_same_config_is_another_run(run_tiny, texts_file, tmp_path):
    first = run_tiny(folder=tmp_path / "run")
    rows = texts_file.read_text().splitlines()
    texts_file.write_text("\n".join(rows[:-20]) + "\n")
    second = run_tiny(folder=tmp_path / "run")
    assert second.identity["config_hash"] == first.identity["config_hash"]
    assert second.identity["task_fingerprint"] != first.identity["task_fingerprint"]
    assert second.values["data/examples"] < first.values["data/examples"]


def test_checkpoints_of_other_data_are_not_taken_up(run_tiny, texts_file, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 12, raise_interrupt)
        run_tiny(folder=tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()  # as after a kill
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    rows = texts_file.read_text().splitlines()
    texts_file.write_text("\n".join(rows[:-20]) + "\n")
    resumed = run_tiny(folder=tmp_path / "run")
    assert resumed.values["train/resumed_at"] == 0
    assert results(resumed) == results(run_tiny(folder=tmp_path / "fresh"))


def test_two_processes_never_do_one_run_at_once(run_tiny, tmp_path):
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(RuntimeError, match="another process"):
        run_tiny(folder=tmp_path / "run")


# Interruptions


@pytest.mark.parametrize("name", MODELS)
def test_an_interrupted_run_ends_as_the_uninterrupted_one_would(name, run_tiny, tmp_path, monkeypatch):
    overrides = [*MODELS[name], "trainer.epochs=4", "trainer.batch_size=32"]
    losses = losses_of(monkeypatch)
    whole = run_tiny(*overrides, folder=tmp_path / "whole")
    steps = int(whole.values["train/steps"])
    uninterrupted = list(losses)
    with monkeypatch.context() as patched:
        interrupt_after(patched, steps - 3, raise_interrupt)
        stopped = run_tiny(*overrides, folder=tmp_path / "run")
    assert (stopped.status, stopped.reason) == (FAILED, "interrupted")
    assert "same command resumes" in stopped.message
    assert Record.load(tmp_path / "run").reason == "interrupted"
    losses.clear()
    resumed = run_tiny(*overrides, folder=tmp_path / "run")
    assert resumed.values["train/resumed_at"] == steps * 3 // 4
    assert losses == uninterrupted[steps * 3 // 4 :]
    assert results(resumed) == results(whole)
    assert same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    spent = stopped.values["cost/finetuning/own/seconds"]
    assert resumed.values["cost/finetuning/own/seconds"] > spent > 0
    repeated = steps - 3 - steps * 3 // 4
    assert repeated > 0
    assert resumed.values["cost/finetuning/own/flops"] > whole.values["cost/finetuning/own/flops"]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_a_record_and_the_run_resumes(number, run_tiny, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 12, lambda: os.kill(os.getpid(), number))
        stopped = run_tiny(folder=tmp_path / "run")
    assert (stopped.status, stopped.reason) == (FAILED, "interrupted")
    assert signal.getsignal(signal.SIGTERM) == handler
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    resumed = run_tiny(folder=tmp_path / "run")
    assert resumed.values["train/resumed_at"] > 0


def test_a_signal_while_data_is_prepared_is_an_interruption_too(run_tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("effnlp.run.prepare_data", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run_tiny(folder=tmp_path / "run").reason == "interrupted"
    assert run_tiny(folder=tmp_path / "run").status == COMPLETED


def test_interrupted_in_its_evaluation_a_run_does_not_train_again(run_tiny, tmp_path, monkeypatch):
    whole = run_tiny("model=backbone", folder=tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("effnlp.evaluation.stage.score", lambda *_: raise_interrupt())
        assert run_tiny("model=backbone", folder=tmp_path / "run").reason == "interrupted"
    seen = batches_seen(monkeypatch)
    resumed = run_tiny("model=backbone", folder=tmp_path / "run")
    assert seen == []
    assert results(resumed) == results(whole)
    assert same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_an_interruption_before_the_attempt_is_taken_up_loses_no_checkpoint(run_tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 12, raise_interrupt)
        run_tiny(folder=tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr("effnlp.run.load_task", lambda *_: raise_interrupt())
        assert run_tiny(folder=tmp_path / "run").reason == "interrupted"
    assert run_tiny(folder=tmp_path / "run").values["train/resumed_at"] > 0


def test_an_entry_of_the_cache_that_an_earlier_attempt_paid_for_is_not_amortised(
    run_tiny, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 12, raise_interrupt)
        stopped = run_tiny(folder=tmp_path / "run")
    resumed = run_tiny(folder=tmp_path / "run")
    assert not [key for key in resumed.values if "amortised" in key]
    assert resumed.values["cost/data/own/seconds"] > stopped.values["cost/data/own/seconds"]


def test_in_a_thread_where_no_signal_can_be_handled_a_run_still_runs(run_tiny):
    found = []
    thread = threading.Thread(target=lambda: found.append(run_tiny()))
    thread.start()
    thread.join()
    assert found[0].status == COMPLETED


# Failures


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(run_tiny, tmp_path):
    record = run_tiny("model=backbone", "finetuning.learning_rate=1e30", folder=tmp_path / "run")
    assert (record.status, record.reason) == (FAILED, "nan")
    assert record.values["train/diverged_at_step"] > 0
    assert f"at step {record.values['train/diverged_at_step']:.0f}" in record.message
    assert record.values["cost/finetuning/own/seconds"] > 0
    assert Record.load(tmp_path / "run").reason == "nan"
    assert [event["event"] for event in Events(tmp_path / "run")][-1] == "failed"


def test_a_model_broken_by_its_very_last_step_has_failed_for_nan_too(run_tiny):
    record = run_tiny(
        "model=backbone", "finetuning.learning_rate=1e30", "trainer.epochs=1", "trainer.batch_size=10000"
    )
    assert (record.reason, record.values["train/diverged_at_step"]) == ("nan", 1)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["effnlp.finetuning.loop.save_whole", "effnlp.model.storage.save_whole"])
def test_a_full_disk_is_named_and_the_same_command_goes_on_once_there_is_room(
    where, run_tiny, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(where, full_disk)
        record = run_tiny(folder=tmp_path / "run")
    assert (record.status, record.reason) == (FAILED, "disk")
    assert "No space left" in record.message
    assert not (tmp_path / "run" / "deployed.pt").exists()
    assert run_tiny(folder=tmp_path / "run").status == COMPLETED


def test_a_disk_too_full_for_the_record_leaves_the_earlier_one_whole(run_tiny, tmp_path, monkeypatch):
    first = run_tiny(folder=tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(Record, "save", full_disk)
        record = run_tiny("again=true", folder=tmp_path / "run")
    assert (record.status, record.reason) == (FAILED, "disk")
    assert Record.load(tmp_path / "run") == first


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (FileNotFoundError("reviews.csv"), "error"),
        (ValueError("nothing to prune"), "error"),
    ],
)
def test_a_failure_is_called_by_its_reason(error, reason):
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    assert reason_of(error) == reason_of(wrapped) == reason


def test_no_more_memory_is_named(run_tiny, monkeypatch):
    from effnlp.finetuning import loop

    def want_too_much(self, batch, index):
        return torch.empty(2**62, dtype=torch.uint8)

    monkeypatch.setattr(loop.Training, "training_step", want_too_much)
    assert run_tiny().reason == "oom"


def test_what_a_choice_says_of_its_values_is_said_in_its_own_words(run_tiny):
    record = run_tiny("model=backbone", "peft=lora", "peft.rank=0")
    assert record.message == "rank must be at least 1, got 0"


def test_any_other_failure_keeps_its_traceback_beside_the_record(run_tiny, tmp_path):
    folder = tmp_path / "run"
    record = run_tiny("task.label=stars", folder=folder)
    assert (record.status, record.reason) == (FAILED, "error")
    assert "stars" in record.message
    assert "Traceback" in (folder / "traceback.txt").read_text()
    assert run_tiny(folder=folder).status == COMPLETED
    assert not (folder / "traceback.txt").exists()
