import hashlib
import json
import math
import random
from pathlib import Path

import pytest

from effnlp.record import COMPLETED, FAILED, STOPPED, Record

MODELS = {"bag_of_ngrams": (0.78, 2.0e5), "backbone": (0.80, 4.0e7), "pretrained": (0.89, 1.4e9)}
PEFT = {"none": (0.0, 1.0), "lora": (-0.004, 1.0), "bitfit": (-0.02, 1.0)}
PRUNING = {"none": (0.0, 1.0), "magnitude": (-0.012, 1.0), "movement": (-0.006, 0.7)}
QUANTIZATION = {"none": (0.0, 1.0), "int8_dynamic": (-0.003, 0.55)}


@pytest.fixture
def make_record():
    """A function that gives one invented, plausible record of a run."""

    def make(
        model="backbone", peft="none", pruning="none", quantization="none", seed=0, task="docstrings",
        fingerprint="9f3ab2c41d5e6f70", energy="estimated", **more,
    ):  # fmt: skip
        choices = {
            "task": task, "model": model, "peft": peft, "compression/pruning": pruning,
            "compression/quantization": quantization, "data/order": "shuffle",
        }  # fmt: skip
        overrides = [f"{group}={choice}" for group, choice in choices.items()] + [f"seed.init={seed}"]
        parts = "|".join([*choices.values(), fingerprint, *more.get("overrides", [])])
        config_hash = hashlib.sha256(parts.encode()).hexdigest()[:10]
        dice = random.Random(f"{config_hash}-{seed}")
        parts = [MODELS[model], PEFT[peft], PRUNING[pruning], QUANTIZATION[quantization]]
        accuracy = sum(part[0] for part in parts) + dice.gauss(0, 0.004)
        flops = math.prod(part[1] for part in parts)
        seconds = 20 + flops / 2e7
        record = Record(
            COMPLETED,
            {
                "config_hash": config_hash, "seed_init": seed, "seed_order": seed, "task": task,
                "task_fingerprint": fingerprint, "effnlp": "0.1.0", "evaluator": "1", "python": "3.11.7",
                "git_commit": "0f3c", "packages": {"torch": "2.13.0", "optuna": "5.0.0"},
                "machine": {"cpu": "Example CPU", "cores": 2, "memory_bytes": 8_000_000_000},
                "overrides": overrides + more.get("overrides", []),
                "started": f"2026-01-02T10:00:{dice.random():.9f}Z", "finished": "2026-01-02T10:09:00Z",
            },
            choices,
            {"model": {"width": 128}},
            notes={"energy/method": energy},
        )  # fmt: skip
        record.put(
            {
                "val/accuracy": accuracy,
                "val/loss": 1.2 - accuracy,
                "infer/single_stream/flops": flops,
                "infer/single_stream/latency_seconds_p50": 2e-4 + flops / 9e10,
                "infer/single_stream/energy_joules": 0.002 + flops / 3e10,
                "infer/fixed_batch/examples_per_second": 6e10 / (flops + 1e6),
                "model/params": 3e5 + flops / 60,
                "model/bytes": 1.2e6 + flops / 15 * (0.3 if quantization != "none" else 1.0),
                "cost/finetuning/own/seconds": seconds,
                "cost/finetuning/own/flops": flops * 3e4,
                "cost/finetuning/own/energy_joules": seconds * 11,
                "cost/finetuning/own/peak_memory_bytes": 3e8 + flops / 4,
                "cost/evaluation/own/seconds": 4.5,
                "cost/total/own/seconds": seconds + 4.5,
                "cost/total/own/flops": flops * 3.1e4,
                "cost/total/own/energy_joules": seconds * 12,
                "cost/total/own/peak_memory_bytes": 3e8 + flops / 4,
            }
        )
        return record

    return make


@pytest.fixture
def save(tmp_path):
    """A function that saves a record into a folder of its own below ``tmp_path`` and gives the folder."""

    def put(record, name):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        record.save(folder)
        return folder

    return put


@pytest.fixture
def runs(make_record, save, tmp_path) -> Path:
    """A folder with a sweep, a multirun and single runs: 34 records, of two tasks, some failed."""
    trial = 0
    for model in MODELS:
        for pruning in PRUNING:
            for quantization in QUANTIZATION:
                peft = ["none", "lora", "bitfit"][trial % 3] if model != "bag_of_ngrams" else "none"
                record = make_record(model, peft, pruning, quantization)
                save(record, f"multirun/quickstart/trials/{trial}")
                trial += 1
    for seed in (1, 2):
        for model in MODELS:
            save(make_record(model, "none", seed=seed), f"outputs/docstrings/{model}-i{seed}-o{seed}")
    for number, model in enumerate(MODELS):
        other = make_record(model, task="sst2", fingerprint="1111222233334444")
        save(other, f"multirun/2026-01-02/{number}")
    for number, reason in enumerate(["nan", "oom", "nan"]):
        failed = Record(
            FAILED, {"config_hash": f"f{number}", "task": "docstrings", "overrides": ["trainer.lr=9"]}
        )
        failed.reason, failed.message = reason, f"loss is <{reason}> at step 12"
        failed.put({"cost/total/own/seconds": 10.0})
        save(failed, f"multirun/quickstart/trials/{trial + number}")
    without = make_record("backbone", "lora", "movement", "int8_dynamic", overrides=["peft.rank=64"])
    del without.values["infer/single_stream/flops"]
    without.put({}, absent={"infer/single_stream/flops": "aten::mystery has no formula"})
    save(without, "outputs/docstrings/without")
    sweep = {
        "name": "quickstart",
        "command": "effnlp sweep search.budget.trials=21",
        "objectives": {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"},
        "budget": {"trials": 21},
        "wall_seconds": 312.4,
        "workers": 2,
    }
    (tmp_path / "multirun/quickstart/sweep.json").write_text(json.dumps(sweep))
    return tmp_path


@pytest.fixture
def searched(make_record, save, tmp_path) -> Path:
    """The folder of a sweep that ended: 12 finished trials, two of them infeasible, 5 stopped, 3 failed."""
    folder = tmp_path / "multirun/searched"
    number = 0

    def put(record, minute):
        nonlocal number
        record.identity |= {
            "finished": f"2026-01-02T10:{minute:02d}:00Z",
            "started": f"2026-01-02T09:{minute:02d}:00Z",
        }
        record.put({"data/labels": 500.0})
        save(record, f"multirun/searched/trials/{number:03d}")
        number += 1

    for place, (model, quantization) in enumerate([(m, q) for m in MODELS for q in QUANTIZATION]):
        for turn, pruning in enumerate(["none", "magnitude"]):
            put(make_record(model, "none", pruning, quantization), 2 * place + turn)
    for turn in range(5):
        stopped = make_record(
            ["backbone", "pretrained"][turn % 2], "bitfit", overrides=[f"peft.rank={turn + 1}"]
        )
        stopped.status, stopped.reason = STOPPED, "stopped"
        stopped.message = (
            f"rung 1 of 2: position {turn + 4} of 9, 3 go on; trial 002 came before it <with more>"
        )
        stopped.values = {k: v for k, v in stopped.values.items() if "latency" not in k}
        put(stopped, 20 + turn)
    for turn, (reason, message) in enumerate(
        [("oom", "no memory\nat all"), ("killed", "signal 9"), ("oom", "none")]
    ):
        failed = Record(FAILED, {"config_hash": f"f{turn}", "overrides": ["trainer.lr=9"]}, reason=reason)
        failed.message = message
        failed.put({"cost/total/own/seconds": 10.0, "cost/total/own/flops": 1e9})
        put(failed, 30 + turn)
    bytes_ = sorted(
        Record.load(path.parent).values["model/bytes"] for path in folder.glob("trials/*/record.json")
        if Record.load(path.parent).status == COMPLETED
    )  # fmt: skip
    sweep = {
        "name": "searched", "command": ["search.trials=20", "search.hours=1"], "trials": 20, "workers": 2, "seeds": 1,
        "objectives": {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"},
        "limits": {"hours": 1.0, "flops": None}, "constraints": [f"model/bytes < {bytes_[-2]!r}"], "reference": {},
        "outcome": {
            "trials": {"complete": 12, "stopped": 5, "fail": 3}, "rejected_proposals": 4, "frontier": [1, 2],
            "spent": {"trials": 20, "hours": 0.5, "kilowatt_hours": 0.0123, "flops": 2.5e15, "labels": 500.0},
            "ended_by": "20 of 20 trials are spent",
            "attempts": {"018": [{"how": "lost", "why": "worker 1 was lost", "worker": 1, "at": 1.0}]},
            "transfer": {"from": "multirun/small", "points": 3, "hypervolume": 0.5, "spent": 3, "spent_without": 11},
        },
        "early_stopping": {"_target_": "effnlp.search.early_stopping.moasha.moasha", "variant": "stopping"},
        "wall_seconds": 1800.0,
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return folder
