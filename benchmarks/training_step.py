"""What the training loop costs on top of the training: seconds of one step of fine-tuning.

    python benchmarks/training_step.py

The same model, batches, loss, optimizer, schedule and clipping in the loop of effnlp (with its meters and
without), in a bare PyTorch loop and in the Trainer of transformers. Each runs in a process of its own with
one thread; they take turns of a few steps, so that a busy moment of the machine hits all of them, and the
first step of each turn is not counted. Ratios are taken turn by turn, and once more between the fastest turns,
which other work on the machine disturbs least. Texts have full length, so that every step has one shape; the
last candidate shows what it costs to count the FLOPs of a shape that is new.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tables import publish
from turns import Spread

BATCH_SIZE, TOKENS, CLASSES = 32, 64, 6
BATCHES = 8
"""Distinct batches, taken again and again."""

BARE, TRAINER = "bare PyTorch", "transformers Trainer"
METERED, UNMETERED, WATCHED = "effnlp", "effnlp, no meters", "effnlp, every step watched"


@dataclass(frozen=True)
class Case:
    """A model and how long its turns are.

    Attributes:
        steps: Of a turn; the first is not counted.
        targets: ``(candidate, reference)`` to the highest ratio that we accept.
    """

    steps: int
    turns: int
    vocabulary: int
    targets: dict[tuple[str, str], float]


CASES = {
    "MiniLM": Case(3, 9, 30522, {(METERED, BARE): 1.05, (METERED, TRAINER): 1.0, (METERED, UNMETERED): 1.02}),
    "backbone, small": Case(
        4, 21, 8192, {(METERED, BARE): 1.15, (METERED, TRAINER): 1.0, (METERED, UNMETERED): 1.02}
    ),
}


class Finished(Exception):  # noqa: N818 - it is no error: it ends the loops, which know nothing of turns
    """All turns are done."""


class Turns:
    """A candidate's side of the turns: it goes on when it is told to and then times its steps."""

    def __init__(self, parent: Connection, steps: int) -> None:
        self.parent, self.steps = parent, steps
        self.seconds: list[float] = []
        self.since = 0.0

    def wait(self) -> None:
        """Wait for the next turn.

        Raises:
            Finished: If there is none.
        """
        if not self.parent.recv():
            raise Finished
        self.seconds = []
        self.since = time.perf_counter()

    def step_done(self) -> None:
        """One step after another ends here; the last one of a turn hands over."""
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.since = now
        if len(self.seconds) == self.steps:
            self.parent.send(self.seconds)
            self.wait()


def examples_of(case: Case) -> Any:
    """Random texts of full length."""
    import numpy as np

    from effnlp.data.encodings import Encodings
    from effnlp.data.examples import Examples

    generator = np.random.default_rng(0)
    rows = generator.integers(5, case.vocabulary, (BATCHES * BATCH_SIZE, TOKENS))
    labels = generator.integers(0, CLASSES, len(rows))
    return Examples(Encodings.from_lists(rows.tolist(), pad_id=0), labels)


def model_of(name: str, case: Case) -> Any:
    """The classifier, with the same weights for all candidates."""
    import torch

    from effnlp.model.backbone import SIZES, BackboneEncoder
    from effnlp.model.classifier import Classifier
    from effnlp.model.mixer.attention import Attention
    from effnlp.model.pretrained import Pretrained

    torch.manual_seed(0)
    if name == "MiniLM":
        return Pretrained("minilm").build(None, CLASSES)  # type: ignore[arg-type]
    encoder = BackboneEncoder(SIZES["small"], Attention, case.vocabulary, max_length=128, dropout=0.1)
    return Classifier(encoder, CLASSES, dropout=0.1)


def positions_of(steps: int) -> list[list[int]]:
    """Examples of each batch of the training."""
    first = [(step % BATCHES) * BATCH_SIZE for step in range(steps)]
    return [list(range(start, start + BATCH_SIZE)) for start in first]


def bare(name: str, case: Case, turns: Turns) -> None:
    """Nothing but PyTorch."""
    import torch

    from effnlp.finetuning.classify import Classify

    model, examples, finetuning = model_of(name, case).train(), examples_of(case), Classify()
    steps = case.turns * case.steps + 1
    batches = [examples.batch(positions) for positions in positions_of(BATCHES)]
    optimizer, schedule = finetuning.optimizer(model, steps)
    turns.wait()
    for step in range(steps):
        loss = finetuning.objective(model, batches[step % BATCHES])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        turns.step_done()


def trainer(name: str, case: Case, turns: Turns) -> None:
    """The Trainer of transformers; it neither logs nor saves. Its data are ready batches."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from effnlp.finetuning.classify import Classify

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.finetuning = model_of(name, case), Classify()

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
            return {"loss": self.finetuning.objective(self.model, batch)}

    class TakeTurns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not turns.since:
                turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step_done()

    model, examples = WithLoss(), examples_of(case)
    steps = case.turns * case.steps + 1
    batches = [examples.batch(positions) for positions in positions_of(BATCHES)]
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=1, max_grad_norm=1.0, use_cpu=True,
                report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
                remove_unused_columns=False, dataloader_pin_memory=False,
            ),
            train_dataset=[batches[step % BATCHES] for step in range(steps)],  # type: ignore[arg-type]
            data_collator=lambda items: items[0],
            optimizers=Classify().optimizer(model, steps),
            callbacks=[TakeTurns()],
        ).train()  # fmt: skip


class SilentGauge:
    """Meters nothing."""

    def start_step(self, batch: Any, phase: str) -> None:
        """Nothing."""

    def end_step(self) -> None:
        """Nothing."""

    def abort_step(self) -> None:
        """Nothing."""

    def let_others_measure(self) -> None:
        """Nothing."""


def ours(name: str, case: Case, turns: Turns, metered: bool = True, watched: bool = False) -> None:
    """The loop of effnlp with the default settings, as a run calls it."""
    import pytorch_lightning as pl

    from effnlp.evaluation.meter import machine_meter
    from effnlp.evaluation.quiet import QuietLock
    from effnlp.evaluation.steps import MeterGauge
    from effnlp.finetuning.classify import Classify
    from effnlp.finetuning.loop import TrainerSettings, Training, fit
    from effnlp.hardware.fp32 import fp32
    from effnlp.record import Events

    class TakeTurns(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if not turns.since:
                turns.wait()

        def on_train_batch_end(self, *_: Any) -> None:
            turns.step_done()

    examples, finetuning = examples_of(case), Classify()
    steps = case.turns * case.steps + 1
    training = Training(
        model_of(name, case), finetuning.objective, lambda model: finetuning.optimizer(model, steps),
        [positions_of(steps)], examples, examples, TrainerSettings(progress="none"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        events, gauge = Events(Path(folder)), SilentGauge()
        if metered:
            meter = machine_meter()
            quiet = QuietLock(Path(folder) / "locks", around_wait=meter.paused)
            gauge = MeterGauge(meter, quiet, data_dependent=watched)  # type: ignore[assignment]
            stack.callback(meter.stop)
            stack.enter_context(quiet.working())
            stack.enter_context(meter.stage("finetuning"))
        fit(
            training, callbacks=[TakeTurns()], hardware=fp32("cpu"), folder=Path(folder) / "checkpoints",
            seed=0, gauge=gauge, at_checkpoint=lambda: None,
            report=lambda values, step: events.add("train", step=step, **values),
        )  # fmt: skip


CANDIDATES: dict[str, tuple[Callable[..., None], dict[str, bool]]] = {
    BARE: (bare, {}),
    TRAINER: (trainer, {}),
    UNMETERED: (ours, {"metered": False}),
    METERED: (ours, {}),
    WATCHED: (ours, {"watched": True}),
}


def candidate(parent: Connection, which: str, name: str, case: Case) -> None:
    """A process: one candidate."""
    import torch

    torch.set_num_threads(1)
    function, options = CANDIDATES[which]
    with contextlib.suppress(Finished, EOFError, BrokenPipeError):  # the latter: the parent is gone
        function(name, case, Turns(parent, case.steps), **options)


def measure(name: str, case: Case) -> dict[str, list[float]]:
    """For each candidate the median seconds of a step in each turn."""
    spawn = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    for which in CANDIDATES:
        ends[which], theirs = spawn.Pipe()
        process = spawn.Process(target=candidate, args=(theirs, which, name, case), daemon=True)
        process.start()
        theirs.close()  # so that the end of a process that dies is seen here
        processes.append(process)
    found: dict[str, list[float]] = {which: [] for which in CANDIDATES}
    for turn in range(case.turns):
        for which, end in ends.items():
            try:
                end.send(True)
                seconds = end.recv()
            except (EOFError, BrokenPipeError):
                raise RuntimeError(f"{which} has ended in turn {turn} of {name}; see above") from None
            if turn > 0:  # the first one warms up
                found[which].append(statistics.median(seconds[1:]))
    for end, process in zip(ends.values(), processes, strict=True):
        end.send(False)
        process.join()
    return found


def summary(found: dict[str, list[float]], targets: dict[tuple[str, str], float]) -> dict[str, Any]:
    """Seconds of each candidate, and the ratios that have a target or are to bare PyTorch."""

    def ratio(which: str, reference: str) -> dict[str, Any]:
        values = [a / b for a, b in zip(found[which], found[reference], strict=True)]
        fastest = min(found[which]) / min(found[reference])
        target = targets.get((which, reference))
        spread = asdict(Spread.of(values))
        return {"of": which, "to": reference, "ratio": spread, "fastest": fastest, "target": target}

    pairs: Sequence[tuple[str, str]] = [*targets, (UNMETERED, BARE), (TRAINER, BARE), (WATCHED, METERED)]
    return {
        "seconds": {which: asdict(Spread.of(values)) for which, values in found.items()},
        "fastest_seconds": {which: min(values) for which, values in found.items()},
        "ratios": [ratio(*pair) for pair in pairs],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(CASES), help="only this one; nothing is written")
    parser.add_argument(
        "--turns", type=int, help="of each candidate (default: 9 for MiniLM, 21 for backbone)"
    )
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    models = {}
    for name, case in CASES.items():
        if options.model in (None, name):
            turns = options.turns or case.turns
            case = Case(case.steps, turns, case.vocabulary, case.targets)
            models[name] = {"turns": turns - 1, "steps": case.steps - 1} | summary(
                measure(name, case), case.targets
            )
    content = {"batch_size": BATCH_SIZE, "tokens": TOKENS, "threads": 1, "models": models}
    packages = ("torch", "pytorch-lightning", "transformers")
    publish("training_step", content, packages, write=options.model is None)


if __name__ == "__main__":
    main()
