"""Folders of runs as they are met on a disk: finished, stopped, failed, running, torn, with predictions."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effnlp.evaluation.predictions import Predictions, save_predictions
from effnlp.record import Record

X, Y = "infer/single_stream/flops", "val/accuracy"


class Folder:
    """Writes runs below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = 0

    def run(
        self,
        name: str,
        x: float = 1e6,
        y: float = 0.8,
        status: str = "completed",
        choices: Mapping[str, str] | None = None,
        task: str = "files",
        fingerprint: str = "f1",
        config_hash: str = "",
        seed: int = 0,
        settings: tuple[str, ...] = (),
        **more: Any,
    ) -> Path:
        """A run with its record; ``more`` are values, ``a__b`` for ``a/b``."""
        self.made += 1
        identity = {
            "config_hash": config_hash or f"hash{self.made}", "seed_init": seed, "seed_order": 0, "task": task,
            "task_fingerprint": fingerprint, "evaluator": "1", "started": f"time {self.made}",
            "overrides": list(settings),
        }  # fmt: skip
        made = {"model": "backbone", "peft": "none", "task": task, **(choices or {})}
        record = Record(status, identity, made, config={"model": {"width": self.made, "_target_": "a.b"}})
        record.put({X: x, Y: y, **{key.replace("__", "/"): value for key, value in more.items()}})
        record.notes |= {"energy/method": "estimated", "labels": ["bad", "good"]}
        if status == "failed":
            record.reason, record.message = "oom", "out of memory at step 3\nand more"
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        record.save(folder)
        return folder

    def events(self, name: str, *events: Mapping[str, Any], torn: str = "") -> Path:
        """A run that has left events and no record."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "events.jsonl").open("a") as file:
            file.writelines(json.dumps({"time": time.time(), **event}) + "\n" for event in events)
            file.write(torn)
        return folder

    def running(self, name: str) -> Path:
        """A run that has begun to train."""
        started = {"event": "started", "task": "files", "fingerprint": "f1"}
        steps = [
            {"event": "train", "step": 10 * n, "train/loss": 2.0 - n / 10, Y: 0.5 + n / 100} for n in range(5)
        ]
        return self.events(name, started, *steps, torn='{"time": 17')

    def predictions(self, name: str, logits: list[list[float]], labels: list[int]) -> None:
        """What a run answered on validation."""
        save_predictions(
            self.root / name, {"val": Predictions.of(torch.tensor(logits), torch.tensor(labels))}
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty folder below which runs can be made."""
    root = tmp_path / "runs"
    root.mkdir()
    return Folder(root)


@pytest.fixture
def runs_of() -> Callable[[Folder], Any]:
    """What the dashboard has read of a folder."""
    from effnlp.dashboard.data import Runs
    from effnlp.dashboard.index import Index

    def read(folder: Folder) -> Any:
        index = Index(folder.root)
        index.refresh()
        return Runs.of(index.runs.values(), index.damaged, index.version)

    return read


@pytest.fixture
def mixed(folder: Folder) -> SimpleNamespace:
    """A folder with runs of every kind; ``names`` of those that completed."""
    folder.run("a", 1e3, 0.70, choices={"model": "bag_of_ngrams"}, settings=("model.width=8",))
    folder.run("b", 1e6, 0.80, choices={"peft": "lora"}, cost__finetuning__own__seconds=3.0)
    folder.run("c", 1e6, 0.75, choices={"peft": "lora"}, cost__finetuning__own__energy_joules=5.0)
    folder.run("d", 1e9, 0.79)
    folder.run("sweep/trials/000", 1e5, 0.95, status="stopped")
    folder.run("sweep/trials/001", status="failed")
    folder.running("sweep/trials/002")
    (folder.root / "half").mkdir()
    (folder.root / "half" / "record.json").write_text('{"status": "comp')
    logits = [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]]
    folder.predictions("a", logits, [0, 0, 1, 1])
    folder.predictions("b", [[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [0, 0, 1, 1])
    return SimpleNamespace(folder=folder, root=folder.root, names=["a", "b", "c", "d"])
