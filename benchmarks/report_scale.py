"""How long `effnlp report` and `effnlp compare` take on 10,000 records, and how much memory.

    python benchmarks/report_scale.py

Writes invented records of a sweep to a folder: 200 keys each, a tenth of them stopped or failed, some replicates, with
a seeded generator; and, to be compared, two configurations of 5,000 seeds each with the predictions of every run. Then
starts the real commands on them a few times, each in a process of its own, and takes its seconds and the peak of its
resident memory. The first turn finds the files in the memory of the system, as they were just written. Target: 10 s and
1 GB.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tables import publish
from turns import Spread

RECORDS = 10_000
TURNS = 5
EXAMPLES = 872
CHOICES = {
    "model": ["bag_of_ngrams", "backbone", "pretrained"],
    "model/mixer": ["attention", "performer", "linear"],
    "peft": ["none", "lora", "bitfit", "adapter"],
    "compression/pruning": ["none", "magnitude", "movement", "wanda"],
    "compression/quantization": ["none", "int8_dynamic", "int8_weight_only"],
    "data/order": ["shuffle", "competence"],
    "hardware": ["fp32", "bf16"],
}
COMMAND = str(Path(sys.executable).with_name("effnlp"))
SETS = ("cad_sentiment", "imdb_contrast", "advglue", "anli", "becel")
KINDS = ("typos", "case", "punctuation", "whitespace", "swaps", "deletions")
SCENARIOS = ("single_stream", "fixed_batch", "random_batch", "offline")
STAGES = ("data", "finetuning", "compression", "evaluation", "total")


def invented(number: int, dice: random.Random) -> dict[str, Any]:
    """A record as a run with everything switched on writes it."""
    choices = {group: dice.choice(names) for group, names in CHOICES.items()}
    size = 10 ** dice.uniform(3, 8)
    seed = number % 3 if number % 20 < 3 else 0
    overrides = [f"{group}={choice}" for group, choice in choices.items()]
    overrides += [
        f"finetuning.learning_rate={dice.uniform(1e-5, 1e-2)!r}",
        f"trainer.epochs={dice.randint(1, 9)}",
    ]
    config_hash = hashlib.sha256(str(number - seed).encode()).hexdigest()[:10]
    fate = dice.random()
    return {
        "status": "failed" if fate < 0.03 else "stopped" if fate < 0.1 else "completed",
        "identity": {
            "config_hash": config_hash, "seed_init": seed, "seed_order": seed, "task": "sst2",
            "task_fingerprint": "9f3ab2c41d5e6f70", "recipe": {"train_size": 2000, "validation": 0.1}, "evaluator": "1",
            "effnlp": "0.1.0", "git_commit": "0f3c", "python": "3.11.7",
            "packages": dict.fromkeys(("torch", "transformers", "optuna", "hydra-core", "lightning"), "1.2.3"),
            "machine": {"cpu": "Example CPU", "cores": 2, "memory_bytes": 8_000_000_000, "gpus": []},
            "overrides": overrides, "started": f"2026-01-02T10:00:00.{number:06d}Z", "finished": "2026-01-02T10:09:00Z",
        },
        "choices": choices,
        "config": {f"group_{n}": {f"key_{m}": dice.random() for m in range(10)} for n in range(12)},
        "values": values(size, dice),
        "absent": {f"cost/{stage}/own/peak_gpu_memory_bytes": "there is no GPU" for stage in STAGES},
        "notes": {
            "energy/method": "estimated from processor time", "labels": ["negative", "positive"],
            "applied": [f"{name}: 24 layers" for name in choices],
            "val/reliability": [
                {"confidence": (n + 0.5) / 15, "accuracy": dice.random(), "count": dice.randint(1, 99)}
                for n in range(15)
            ],
        },
        "reason": "oom" if fate < 0.03 else None,
        "message": "no memory" if fate < 0.03 else "rung 1 of 2: position 9 of 9, 3 go on" if fate < 0.1 else None,
        "schema": 1,
    }  # fmt: skip


def values(size: float, dice: random.Random) -> dict[str, float]:
    """All keys of a run; costs follow the model's size and disagree a little."""
    found = {"model/params": size, "model/bytes": size * dice.uniform(1, 4), "data/labels": 2000.0}
    accuracy = 0.6 + 0.03 * dice.gauss(0, 1) + 0.04 * (len(str(int(size))) - 3)
    for split in ("val", "test"):
        found |= {
            f"{split}/{name}": accuracy + dice.gauss(0, 0.01) for name in ("accuracy", "macro_f1", "mcc")
        }
        found |= {f"{split}/{name}": dice.random() for name in ("loss", "ece", "brier")}
    for name in SETS:
        found |= {
            f"robustness/{name}/accuracy": accuracy - 0.1,
            f"robustness/{name}/drop": 0.1 * dice.random(),
        }
    for kind in KINDS:
        found |= {
            f"robustness/perturbations/{kind}/{rate}/accuracy": accuracy - rate for rate in (0.05, 0.1, 0.2)
        }
        found |= {f"robustness/perturbations/{kind}/{name}": dice.random() for name in ("accuracy", "drop")}
    for grouping in ("length", "identity", "rarity"):
        found |= {
            f"fairness/{grouping}/{name}_gap": dice.random() for name in ("accuracy", "tpr", "fpr", "ece")
        }
    for scenario in SCENARIOS:
        latency = size / 1e9 * dice.uniform(0.7, 1.4)
        amounts = {
            "latency_seconds_p50": latency, "latency_seconds_p95": latency * 1.3, "latency_seconds_p99": latency * 2,
            "examples_per_second": 1 / latency, "flops": size * 2, "peak_memory_bytes": 3e8 + size * 4,
            "energy_joules": latency * 9, "padding_waste": dice.random() / 5,
        }  # fmt: skip
        for name, amount in amounts.items():
            found |= {f"infer/{scenario}/{name}": amount}
            if name not in ("flops", "padding_waste"):
                found |= {
                    f"infer/{scenario}/{name}_low": amount * 0.97,
                    f"infer/{scenario}/{name}_high": amount * 1.03,
                }
    for stage in STAGES:
        seconds = dice.uniform(1, 60)
        found |= {
            f"cost/{stage}/own/{name}": seconds * factor
            for name, factor in (
                ("seconds", 1), ("cpu_seconds", 0.9), ("waiting_seconds", 0.01), ("flops", size * 1e4),
                ("energy_joules", 11), ("co2e_grams", 1e-3), ("peak_memory_bytes", 1e7),
            )
        }  # fmt: skip
    return found


def write_records(folder: Path, records: int) -> int:
    """Write a sweep of so many trials; gives the bytes of all records."""
    dice = random.Random(0)
    size = 0
    for number in range(records):
        trial = folder / "trials" / f"{number:05d}"
        trial.mkdir(parents=True)
        text = json.dumps(invented(number, dice), indent=1)
        size += len(text)
        (trial / "record.json").write_text(text)
    sweep = {
        "name": "scale",
        "objectives": {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"},
    }
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return size


def write_sides(folder: Path, records: int) -> list[Path]:
    """Write two configurations, half of the runs each: the second is right a little more often."""
    dice, random_state = random.Random(0), np.random.default_rng(0)
    labels = random_state.integers(0, 2, EXAMPLES, dtype=np.int32)
    sides = [folder / name for name in ("one", "other")]
    for side, path in enumerate(sides):
        of_all = invented(side, dice)
        for seed in range(records // 2):
            run = path / f"{seed:05d}"
            run.mkdir(parents=True)
            record = {**invented(side, dice), "status": "completed", "reason": None, "message": None}
            record |= {"choices": of_all["choices"], "config": of_all["config"]}
            record["identity"] = {**of_all["identity"], "seed_init": seed, "seed_order": seed}
            (run / "record.json").write_text(json.dumps(record, indent=1))
            is_right = random_state.random(EXAMPLES) < 0.85 + 0.02 * side
            chosen = np.where(is_right, labels, 1 - labels)
            logits = np.eye(2, dtype=np.float16)[chosen]
            np.savez_compressed(run / "predictions.npz", **{"val/logits": logits, "val/labels": labels})
    return sides


def measured(arguments: list[str]) -> tuple[float, float, int]:
    """Seconds, seconds of CPU time, and peak resident bytes of the command in a process of its own.

    Raises:
        RuntimeError: If it fails.
    """
    begin = time.monotonic()
    process = os.posix_spawn(
        COMMAND, [COMMAND, *arguments], os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"effnlp {' '.join(arguments)} ended with status {status}")
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def figures(turns: Sequence[tuple[float, float, int]]) -> dict[str, Any]:
    """Seconds with their spread, and the largest memory, of several turns."""
    return {
        "seconds": asdict(Spread.of([seconds for seconds, _, _ in turns])),
        "cpu_seconds": asdict(Spread.of([cpu for _, cpu, _ in turns])),
        "load": os.getloadavg()[0],
        "peak_memory_bytes": max(peak for *_, peak in turns),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "scale"), Path(name, "out")
        size = write_records(folder, given.records)
        report = figures([measured(["report", str(folder), "--out", str(out)]) for _ in range(given.turns)])
        page_bytes = (out / "report.html").stat().st_size
        shutil.rmtree(folder)
        sides = [str(side) for side in write_sides(Path(name, "sides"), given.records)]
        compare = figures([measured(["compare", *sides]) for _ in range(given.turns)])
        content = {
            "records": given.records,
            "bytes_of_records": size,
            **report,
            "page_bytes": page_bytes,
            "compare": compare,
        }
    publish("report_scale", content, write=given.records == RECORDS and given.turns == TURNS)


if __name__ == "__main__":
    main()
