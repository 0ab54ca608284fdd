"""The training loop: Lightning trains, our callbacks say when to look, to save and to let others measure.

A training is divided into *rounds*. Each ends with a validation and a checkpoint from which an interrupted
run goes on; all randomness of a step follows from the seed and the step's number, so that the resumed run
ends as the uninterrupted one would. A round may be cut: at a cut there is a checkpoint and a look at the
model, but no validation, so that cuts do not change what comes of a training.
"""

import bisect
import contextlib
import hashlib
import itertools
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from effnlp.data.encodings import Batch
from effnlp.data.examples import Examples, labelled_part
from effnlp.finetuning.judge import ACCURACY, Judge, unsettled
from effnlp.hardware.settings import Hardware
from effnlp.method import Objective
from effnlp.model.storage import save_whole
from effnlp.record import write_atomically

log = logging.getLogger(__name__)

LOG_EVERY = 25
"""Steps between two entries of the training curve."""

SELECTION = "val/selection"


class DivergedError(RuntimeError):
    """The loss is not a finite number; the run has failed with reason ``nan``."""

    def __init__(self, loss: float, step: int, split: str = "") -> None:
        where = f" on {split}" if split else ""
        super().__init__(
            f"the loss{where} is {loss} at step {step}; a lower finetuning.learning_rate may help"
        )
        self.step = step


class InterruptedRunError(RuntimeError):
    """The user stopped the run (Ctrl-C or SIGTERM); the same command resumes it."""


@dataclass(frozen=True)
class TrainerSettings:
    """The config group ``trainer``; see ``conf/trainer/default.yaml``.

    Raises:
        ValueError: If a value is outside its range.
    """

    epochs: int = 3
    batch_size: int = 32
    gradient_clip: float | None = 1.0
    validations_per_epoch: int = 1
    patience: int | None = None
    pad_to_multiple: int = 8
    deterministic: bool = True
    progress: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validations_per_epoch", "pad_to_multiple"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"trainer.{name} must be a whole number of at least 1, got {value!r}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"trainer.patience must be at least 1 or null, got {self.patience}")
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise ValueError(f"trainer.gradient_clip must be above 0 or null, got {self.gradient_clip}")
        if self.progress not in ("auto", "bar", "lines", "none"):
            raise ValueError(f"trainer.progress must be auto, bar, lines or none, got {self.progress!r}")


def steps_of(examples: int, settings: TrainerSettings) -> int:
    """Optimiser steps of a whole training: epochs times batches an epoch."""
    return settings.epochs * math.ceil(examples / settings.batch_size)


def rounds_of(batches: Sequence[Sequence[int]], settings: TrainerSettings) -> list[list[Sequence[int]]]:
    """The batches of the whole training, cut into rounds of nearly equal length."""
    count = min(settings.epochs * settings.validations_per_epoch, len(batches))
    edges = [round(i * len(batches) / count) for i in range(count + 1)]
    return [list(batches[a:b]) for a, b in itertools.pairwise(edges)]


class StepGauge(Protocol):
    """Counts the work of single steps; the run's meter is behind it."""

    def start_step(self, batch: Batch, phase: str) -> None:
        """Called before a step; ``phase`` names what the step does with a batch of this shape."""
        ...

    def end_step(self) -> None:
        """Called after it."""
        ...

    def abort_step(self) -> None:
        """Called when it failed."""
        ...

    def let_others_measure(self) -> None:
        """Called between steps: waits while another process measures quietly."""
        ...


class Batches(Dataset[Batch]):
    """Ready batches of given positions."""

    def __init__(self, examples: Examples, positions: Sequence[Sequence[int]], pad_to_multiple: int) -> None:
        self.examples, self.positions, self.pad_to_multiple = examples, positions, pad_to_multiple

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Batch:
        return self.examples.batch(list(self.positions[index]), self.pad_to_multiple)


class Training(pl.LightningModule):
    """The model, its loss, and the rounds of its training data.

    Args:
        model: What is trained.
        objective: Its loss on a batch.
        optimizer: Makes the optimiser and its schedule for the model.
        rounds: For each round the positions of each of its batches.
        settled_after: Fraction of the schedule before which the model is not yet what it will be (a pruning
            schedule still runs, say): a validation before it cannot be selected.
        cuts: Steps at which a round is cut.
        judge: What a validation looks at.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Callable[[nn.Module], tuple[torch.optim.Optimizer, Any]],
        rounds: Sequence[Sequence[Sequence[int]]],
        train: Examples,
        validation: Examples,
        settings: TrainerSettings,
        settled_after: float = 0.0,
        cuts: Sequence[int] = (),
        judge: Judge = ACCURACY,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective, self.optimizer_factory = objective, optimizer
        self.batches = [batch for round_ in rounds for batch in round_]
        self.train_examples, self.validation_examples = train, validation
        self.settings, self.settled_after = settings, settled_after
        self.steps = len(self.batches)
        self.round_ends = frozenset(itertools.accumulate(len(round_) for round_ in rounds))
        self.ends = sorted(self.round_ends | {cut for cut in cuts if 0 < cut < self.steps})
        self.next_end = self.ends[0]
        self.judge = judge
        self.score_sum, self.seen = 0.0, 0.0
        self.loss_sum, self.loss_count = torch.zeros(()), 0

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches up to the end of the round, or to its next cut.

        Found by the steps done and not by counting: the attempt that is taken up may have had other cuts.
        """
        self.next_end = (self.ends_after(self.global_step) or [self.steps])[0]
        positions = self.batches[self.global_step : self.next_end]
        data = Batches(self.train_examples, positions, self.settings.pad_to_multiple)
        return DataLoader(data, batch_size=None, shuffle=False)

    def ends_after(self, step: int) -> list[int]:
        """The steps after ``step`` at which a round ends or is cut."""
        return self.ends[bisect.bisect_right(self.ends, step) :]

    def last_batches(self, count: int) -> Iterator[Batch]:
        """What has labels of the last batches, ``count`` at most, on which it was trained; oldest first."""
        positions = self.batches[max(0, self.global_step - count) : self.global_step]
        data = Batches(self.train_examples, positions, self.settings.pad_to_multiple)
        labelled = (labelled_part(data[index]) for index in range(len(data)))
        return (batch for batch in labelled if len(batch["labels"]))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The whole validation split, longest texts first; nothing where the round is only cut."""
        is_due = self.next_end in self.round_ends
        positions = self.validation_examples.by_length(2 * self.settings.batch_size) if is_due else []
        data = Batches(self.validation_examples, positions, self.settings.pad_to_multiple)
        return DataLoader(data, batch_size=None, shuffle=False)

    def configure_optimizers(self) -> Any:
        """Lightning's form of an optimiser with a schedule that moves each step."""
        optimizer, schedule = self.optimizer_factory(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch.

        Raises:
            DivergedError: If it is not finite.
        """
        loss = self.objective(self.model, batch)
        if not torch.isfinite(loss):
            raise DivergedError(float(loss.detach()), self.global_step)
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach()
        self.loss_count += 1
        return loss

    def on_validation_epoch_start(self) -> None:
        self.score_sum, self.seen = 0.0, 0.0

    def validation_step(self, batch: Batch, _: int) -> None:
        outputs, labels = self.model(batch), batch["labels"]
        self.score_sum += float(self.judge.of_batch(outputs, labels))
        self.seen += float(self.judge.weight_of_batch(outputs, labels))

    def on_validation_epoch_end(self) -> None:
        score = self.score_sum / max(1, self.seen)
        progress = min(1.0, self.global_step / self.steps)
        settled = progress >= self.settled_after
        self.log(f"val/{self.judge.name}", score)
        self.log(SELECTION, self.judge.preference(score) if settled else unsettled(progress))

    def mean_loss(self) -> float:
        """Mean training loss since the last call; NaN if there was no step."""
        mean = float(self.loss_sum) / self.loss_count if self.loss_count else float("nan")
        self.loss_sum, self.loss_count = torch.zeros(()), 0
        return mean


class Gauged(pl.Callback):
    """Tells the gauge of every step."""

    def __init__(self, gauge: StepGauge) -> None:
        self.gauge = gauge

    def _start(self, module: pl.LightningModule, batch: Batch, kind: str) -> None:
        self.gauge.let_others_measure()
        grads = bytes(parameter.requires_grad for parameter in module.parameters())
        differs = getattr(getattr(module, "model", None), "step_kind", "")
        self.gauge.start_step(batch, kind + hashlib.sha1(grads).hexdigest()[:8] + differs)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, i: int
    ) -> None:
        self._start(module, batch, "train")

    def on_train_batch_end(self, *_: Any) -> None:
        self.gauge.end_step()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, i: int, dataloader_idx: int = 0
    ) -> None:
        self._start(module, batch, "validation")

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.gauge.end_step()

    def on_exception(self, *_: Any) -> None:
        self.gauge.abort_step()


class Seeded(pl.Callback):
    """Seeds every step anew from the run's seed and the steps done, so that a resumed step is what it would have been.

    Once a round would not do: where a round is resumed, Lightning makes its data loader, which draws a number, at
    another moment.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        seed = (self.seed * 1_000_003 + trainer.global_step * 7_919 + 1) % 2**63
        # Not torch.manual_seed: where no GPU is in use it notes the stack for each that might come.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


class AtCheckpoint(pl.Callback):
    """Calls a function of ours whenever a checkpoint from which to resume has been written."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def on_train_epoch_end(self, *_: Any) -> None:
        self.then()


class AtStart(pl.Callback):
    """Calls a function of ours before each round, and each part of one, begins.

    Then the checkpoint of the steps done is complete. A training that has ended begins no round.
    """

    def __init__(self, then: Callable[["Training"], None]) -> None:
        self.then = then

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.then(module)


class StayStopped(pl.Callback):
    """Trains nothing more where the attempt that is taken up was lost in the moment in which patience ran out."""

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        early = trainer.early_stopping_callback
        if early is not None and early.wait_count >= early.patience:
            trainer.should_stop = True


class Curve(pl.Callback):
    """Hands the training curve on: to the events of the run, the tracker, and the reader of a log."""

    def __init__(self, report: Callable[[dict[str, float], int], None], say: bool) -> None:
        self.report, self.say = report, say

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step % LOG_EVERY == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self.report({"train/loss": module.mean_loss(), "train/learning_rate": rate}, trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        name = module.judge.name
        score = float(trainer.callback_metrics[f"val/{name}"])
        self.report({f"val/{name}": score}, trainer.global_step)
        if self.say:
            log.info("step %d of %d: validation %s %.4f", trainer.global_step, module.steps, name, score)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames; Lightning's own way is whole only within one disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_whole(checkpoint, Path(path))


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from talking about itself; its warnings that matter here are errors of ours."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning.*|lightning_fabric.*")
            warnings.filterwarnings(
                "ignore", message=r".*(num_workers|log_every_n_steps|LeafSpec|isinstance\(treespec).*"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class Fitted:
    """How a training went.

    Attributes:
        steps: Optimiser steps taken.
        best_score: What the judge said on validation of the model that was kept; before ``finish``.
        best_step: The step at which it was validated.
        stopped_early: Whether patience ran out.
        resumed_at: The step from which an earlier attempt was taken up; 0 if there was none.
    """

    steps: int
    best_score: float
    best_step: int
    stopped_early: bool
    resumed_at: int


def fit(
    training: Training,
    *,
    callbacks: Sequence[pl.Callback],
    hardware: Hardware,
    folder: Path,
    seed: int,
    gauge: StepGauge,
    at_checkpoint: Callable[[], None],
    report: Callable[[dict[str, float], int], None],
    at_start: Callable[[Training], None] = lambda _: None,
) -> Fitted:
    """Train ``training.model`` in place, up to its best settled validation.

    Args:
        callbacks: Those of the methods; they come before those of ours that meter and save.
        folder: Where checkpoints go; if an interrupted attempt left one there, it is taken up. One that had
            trained to its end is not trained further, be it that it had stopped early.
        at_checkpoint: Called when a checkpoint is written.
        report: Receives points of the training curve and their step.
        at_start: Called before each round and each part of one, once the checkpoint of the steps done is
            complete; also where an attempt is taken up. What it raises ends the training.

    Raises:
        DivergedError: If the loss is not finite.
        InterruptedRunError: If the user stopped it.
    """
    settings = training.settings
    last = folder / "last.ckpt"
    taken_up = torch.load(last, weights_only=False) if last.exists() else {"global_step": 0, "epoch": -1}
    resumed_at, rounds_done = int(taken_up["global_step"]), int(taken_up["epoch"]) + 1
    del taken_up  # it holds a copy of the model and of the optimiser's state
    ended = folder / "fitted.json"
    if ended.exists():
        _load_best(training.model, folder)
        return Fitted(**{**json.loads(ended.read_text(encoding="utf-8")), "resumed_at": resumed_at})
    best = ModelCheckpoint(
        folder, filename="best", monitor=SELECTION, mode="max", save_weights_only=True,
        save_on_train_epoch_end=False, enable_version_counter=False,
    )  # fmt: skip
    newest = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, every_n_epochs=1,
        enable_version_counter=False,
    )  # fmt: skip
    bar = settings.progress == "bar" or (settings.progress == "auto" and sys.stderr.isatty())
    extra: list[pl.Callback] = [RichProgressBar(leave=False)] if bar else []
    if settings.patience is not None:
        extra.append(
            EarlyStopping(
                SELECTION, patience=settings.patience, mode="max", check_finite=False,
                check_on_train_epoch_end=False,
            )
        )  # fmt: skip
    training.model.train()  # Lightning keeps the modes of modules, and a pretrained model comes in evaluation mode
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if hardware.torch_device() == "cuda" else "cpu",
            devices=1,
            precision=hardware.precision,  # type: ignore[arg-type]
            max_epochs=rounds_done + len(training.ends_after(resumed_at)),
            reload_dataloaders_every_n_epochs=1,
            gradient_clip_val=settings.gradient_clip,
            num_sanity_val_steps=0,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            use_distributed_sampler=False,
            deterministic=settings.deterministic,
            default_root_dir=folder,
            # One process wherever it runs: in a job of SLURM, Lightning would take its tasks for ours.
            plugins=[WholeCheckpoints(), LightningEnvironment()],
            callbacks=[
                StayStopped(), AtStart(at_start), Seeded(seed), *callbacks, Gauged(gauge), AtCheckpoint(at_checkpoint),
                Curve(report, say=not bar and settings.progress != "none"), *extra, best, newest,
            ],
        )  # fmt: skip
        try:
            trainer.fit(training, ckpt_path=last if last.exists() else None, weights_only=False)
        except SystemExit as stop:  # Lightning's answer to a KeyboardInterrupt
            raise InterruptedRunError(f"stopped by the user at step {trainer.global_step}") from stop
    preferred = best.best_model_score
    fitted = Fitted(
        steps=trainer.global_step,
        best_score=training.judge.preference(float(preferred)) if preferred is not None else float("nan"),
        best_step=_load_best(training.model, folder),
        stopped_early=trainer.global_step < training.steps,
        resumed_at=resumed_at,
    )
    write_atomically(ended, json.dumps(asdict(fitted)))
    return fitted


def _load_best(model: nn.Module, folder: Path) -> int:
    """Give the model the weights of the best checkpoint; the step at which it was validated."""
    chosen = torch.load(folder / "best.ckpt", weights_only=False)
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in chosen["state_dict"].items()}
    )
    return int(chosen["global_step"])
