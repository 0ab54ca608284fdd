import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effnlp.evaluation.predictions import Predictions, save_predictions
from effnlp.record import COMPLETED, FAILED, Record
from effnlp.tracking.wandb import WandbTracker, mirror_frontier, place_of, run_id, tags

IDENTITY = {"config_hash": "ab12cd34ef", "seed_init": 3, "seed_order": 5}
CONFIG = {
    "model": {"width": 128, "mixer": {"heads": 4}},
    "compression": {"order": ["pruning", "quantization"]},
}
CHOICES = {
    "task": "sst2",
    "data/filter": "exact_dedup+minhash_dedup",
    "peft": "lora",
    "compression/pruning": "none",
}
WANDB = shutil.which("wandb") or str(Path(sys.executable).with_name("wandb"))


@pytest.fixture
def record():
    made = Record(COMPLETED, dict(IDENTITY), dict(CHOICES), CONFIG)
    made.put({"val/accuracy": 0.75, "cost/total/own/seconds": 12.5, "infer/single_stream/flops": 2e9})
    return made


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path_factory):
    """No test may meet the login, the settings or the network of the machine that it runs on."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)


def inspected(run_folder, *options):
    command = [WANDB, "leet", "inspect", *options, "--json", str(run_folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def offline_run(record, tmp_path):
    """The folder that W&B wrote for a run of two stages in a sweep."""
    folder = tmp_path / "quick" / "trials" / "007"
    folder.mkdir(parents=True)
    (tmp_path / "quick" / "sweep.json").write_text("{}")
    tracker = WandbTracker(project="laboratory")
    tracker.start(IDENTITY, CONFIG, CHOICES, folder)
    tracker.log({"train/loss": 2.0}, step=10, stage="pretraining")
    tracker.log(
        {"train/loss": 0.9, "val/accuracy": 0.5, "val/loss": float("nan")}, step=1, stage="finetuning"
    )
    tracker.log({"train/loss": 0.4, "val/accuracy": 0.6}, step=2, stage="finetuning")
    tracker.finish(record)
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


def test_the_offline_run_reads_back_as_the_record_says(offline_run, record):
    read = json.loads(inspected(offline_run, "--summary"))
    own = {key: value for key, value in read["summary"].items() if not key.startswith("_")}
    assert own == {**record.values, "status": "completed"}
    assert read["config"] == {**CONFIG, "choices": CHOICES}
    assert read["tags"] == ["exact_dedup", "minhash_dedup", "lora"]
    assert read["run_id"] == "ab12cd34ef-i3-o5"
    assert read["project"] == "laboratory"
    assert (read["state"], read["exit_code"]) == ("finished", 0)


def test_group_job_type_and_steps_per_stage_are_in_the_offline_run(offline_run):
    lines = [json.loads(line) for line in inspected(offline_run).splitlines()]
    (run,) = [line["run"] for line in lines if line["type"] == "run"]
    assert (run["run_group"], run["job_type"]) == ("quick", "trial")
    metrics = {
        line["metric"]["name"]: line["metric"].get("step_metric") for line in lines if "metric" in line
    }
    assert metrics["train/loss"] == metrics["val/accuracy"] == "finetuning/step"
    assert metrics["pretraining/train/loss"] == "pretraining/step"
    points = [line["history"]["item"] for line in lines if line["type"] == "history"]
    assert [point.get("train/loss") for point in points] == [None, 0.9, 0.4]
    assert [point.get("finetuning/step") for point in points] == [None, 1, 2]
    assert points[0]["pretraining/train/loss"] == 2.0
    assert not any("val/loss" in point for point in points)  # NaN is no point of a curve


def media_of(run_folder, name):
    (path,) = (run_folder / "files" / "media" / "table").rglob(f"{name}*.table.json")
    return json.loads(path.read_text())


def test_the_table_of_predictions_says_of_each_what_was_right(record, tmp_path):
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    save_predictions(tmp_path, {"val": Predictions.of(logits, torch.tensor([0, 1, 1]))})
    record.notes["labels"] = ["no", "yes"]
    tracker = WandbTracker()
    tracker.start(IDENTITY, CONFIG, CHOICES, tmp_path)
    tracker.finish(record)
    (found,) = (tmp_path / "wandb").glob("offline-run-*")
    table = media_of(found, "predictions")
    assert table["columns"][:4] == ["position", "label", "predicted", "is_correct"]
    assert [row[:4] for row in table["data"]] == [
        [0, "no", "no", True], [1, "yes", "yes", True], [2, "yes", "no", False],
    ]  # fmt: skip
    assert table["data"][2][4] == pytest.approx(1 / (1 + math.e))


def sweep_with(tracking, folder):
    for number in range(2):
        made = Record(COMPLETED, {**IDENTITY, "seed_init": number}, config={"tracking": tracking})
        (folder / "trials" / f"{number:03d}").mkdir(parents=True)
        made.save(folder / "trials" / f"{number:03d}")
    rows = [
        {
            "trial": n,
            "configuration": f"model.width={n}",
            "is_on_frontier": n < 2,
            "val/accuracy": n / 4,
            "bytes": n,
        }
        for n in range(3)
    ]
    mirror_frontier(folder, {"val/accuracy": "maximize", "bytes": "minimize"}, rows)
    return rows


def test_the_frontier_of_a_sweep_is_a_run_of_its_group_with_table_and_scatter(tmp_path):
    ours = {
        "_target_": "effnlp.tracking.wandb.WandbTracker",
        "mode": "offline",
        "project": "laboratory",
        "group": None,
    }
    rows = sweep_with(ours, tmp_path / "quick")
    (found,) = (tmp_path / "quick" / "wandb").glob("offline-run-*")
    table = (
        media_of(found, "frontier_table")
        if list(found.rglob("frontier_table*"))
        else media_of(found, "frontier")
    )
    assert table["columns"] == list(rows[0])
    assert table["data"] == [list(row.values()) for row in rows]
    read = json.loads(inspected(found, "--summary"))
    assert read["run_id"] == "frontier-quick-i0-o0"
    assert read["project"] == "laboratory"
    assert (read["summary"]["frontier/size"], read["summary"]["frontier/trials"]) == (2, 3)
    lines = [json.loads(line) for line in inspected(found).splitlines()]
    (run,) = [line["run"] for line in lines if line["type"] == "run"]
    assert (run["run_group"], run["job_type"]) == ("quick", "frontier")


def test_a_sweep_that_is_not_in_wandb_gets_no_run_of_its_frontier(tmp_path):
    sweep_with({"_target_": "effnlp.tracking.files.FilesTracker"}, tmp_path / "quick")
    assert not (tmp_path / "quick" / "wandb").exists()


def test_nothing_is_written_to_the_console(record, tmp_path, capfd):
    tracker = WandbTracker()
    tracker.start(IDENTITY, CONFIG, CHOICES, tmp_path)
    tracker.log({"train/loss": 1.0}, step=1, stage="finetuning")
    tracker.finish(record)
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert capfd.readouterr() == ("", "")


def test_a_failed_run_is_marked_as_one(tmp_path):
    tracker = WandbTracker()
    tracker.start(IDENTITY, CONFIG, CHOICES, tmp_path)
    tracker.finish(Record(FAILED, dict(IDENTITY), reason="nan", message="loss is nan at step 7"))
    (found,) = (tmp_path / "wandb").glob("offline-run-*")
    read = json.loads(inspected(found, "--summary"))
    assert read["exit_code"] == 1
    assert read["summary"]["reason"] == "nan"


def run_through(tracker, record, folder):
    record.save(folder)
    before = (folder / "record.json").read_bytes()
    tracker.start(IDENTITY, CONFIG, CHOICES, folder)
    tracker.log({"train/loss": 1.0}, step=1, stage="finetuning")
    tracker.log({"train/loss": 0.5}, step=2, stage="finetuning")
    tracker.finish(record)
    assert (folder / "record.json").read_bytes() == before


def warnings_of(caplog):
    ours = [entry for entry in caplog.records if entry.name.startswith("effnlp")]
    return [entry.getMessage() for entry in ours if entry.levelno >= logging.WARNING]


def test_without_the_package_the_run_goes_on_and_the_one_warning_says_what_to_do(
    record, tmp_path, caplog, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run_through(WandbTracker(), record, tmp_path)
    (warning,) = warnings_of(caplog)
    assert "pip install wandb" in warning
    assert "tracking=files" in warning


@pytest.mark.parametrize("moment", ["init", "log", "define_metric", "finish"])
def test_wherever_wandb_fails_the_run_goes_on_with_one_warning(record, tmp_path, caplog, monkeypatch, moment):
    import wandb

    def fail(*_, **__):
        raise OSError("No space left\non device")

    monkeypatch.setattr(*((wandb, "init") if moment == "init" else (wandb.Run, moment)), fail)
    run_through(WandbTracker(), record, tmp_path)
    (warning,) = warnings_of(caplog)
    assert "OSError: No space left on device" in warning
    assert "its own files are whole" in warning
    assert "wandb sync" in warning
    monkeypatch.undo()
    wandb.teardown()


def test_online_without_a_login_is_kept_offline_and_never_asks(record, tmp_path, caplog, capfd):
    run_through(WandbTracker(mode="online"), record, tmp_path)
    (warning,) = warnings_of(caplog)
    assert "wandb login" in warning
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert "API key" not in capfd.readouterr().err


def test_online_without_a_network_is_kept_offline(record, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("effnlp.tracking.wandb.PATIENCE_SECONDS", 1.0)
    run_through(WandbTracker(mode="online"), record, tmp_path)
    (warning,) = warnings_of(caplog)
    assert "going online" in warning
    (found,) = (tmp_path / "wandb").glob("offline-run-*")
    assert json.loads(inspected(found, "--summary"))["summary"]["val/accuracy"] == 0.75


def test_ctrl_c_is_not_swallowed(record, tmp_path, monkeypatch):
    import wandb

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WandbTracker().start(IDENTITY, CONFIG, CHOICES, tmp_path)


def test_a_mode_that_is_not_one_is_refused_at_once():
    with pytest.raises(ValueError, match="mode must be 'offline' or 'online', got 'dryrun'"):
        WandbTracker(mode="dryrun")


def test_the_id_depends_on_config_and_seeds_and_on_nothing_else():
    assert run_id(IDENTITY) == run_id({**IDENTITY, "started": "later", "machine": "another"})
    others = [{**IDENTITY, key: "9"} for key in IDENTITY]
    assert len({run_id(identity) for identity in [IDENTITY, *others]}) == 4


def test_tags_are_the_methods_chosen_each_once_and_short_enough():
    more = {"model/mixer": "m" * 99, "data/order": "lora", "evaluation/scenarios": "none"}
    assert tags(CHOICES | more) == ["exact_dedup", "minhash_dedup", "lora", "m" * 64]
    assert tags({"tracking": "wandb", "search/space": "small", "trainer": "default"}) == []


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("multirun/quick/trials/003", ("quick", "trial")),
        ("multirun/quick/trials/003-s1", ("quick", "replicate")),
        ("outputs/sst2/ab12-i0-o0", (None, "run")),
    ],
)
def test_a_run_knows_the_sweep_that_it_lies_in(tmp_path, folder, expected):
    (tmp_path / "multirun/quick").mkdir(parents=True)
    (tmp_path / "multirun/quick/sweep.json").write_text("{}")
    assert place_of(tmp_path / folder) == expected


def test_nothing_of_wandb_is_loaded_before_a_run_starts():
    code = "import sys, effnlp.tracking.wandb as w; w.WandbTracker(); assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
