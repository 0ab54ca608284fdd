"""Measured time of early exit against what the expected saving says, one text at a time and in batches of 32.

    python benchmarks/early_exit.py FOLDER

FOLDER is a run that kept a model with exits, such as MiniLM with DeeBERT and a point of accuracy to lose, on AG News:

    effnlp run task=ag_news task.train_size=2000 task.validation_size=1000 model=pretrained model.max_length=64 \\
        model.inner_dropout=false hardware=bf16 data/order=length_grouped trainer.epochs=3 trainer.batch_size=16 \\
        finetuning.learning_rate=1e-3 compression/early_exit=deebert compression.early_exit.largest_loss=0.01 \\
        hydra.run.dir=FOLDER

One thread, validation texts as they come. For each batch, the model without its exits, the same with exits by which
nobody leaves, and with texts that leave, take turns. What the formula says is the time without exits times the share of
layers that these very texts go through. Target: measured at most 15 % off.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tables import publish
from turns import Spread

TEXTS = {1: 60, 32: 192}
"""Texts in a batch to how many there are in all."""

TARGET = 0.15
PLAIN, STAY, LEAVE = "without exits", "nobody leaves", "texts leave"


def measure(folder: Path, turns: int, shares: int = 1) -> dict[str, Any]:
    """For each size of a batch: seconds of a text in each way, and how they compare with the formula.

    Args:
        turns: Each goes through all batches; one more, before them, warms up.
        shares: Divides the number of texts.
    """
    import torch

    from effnlp.record import Record
    from effnlp.reproduce.analyses.exits import model_with_exits
    from effnlp.reproduce.analytic.early_exit import expected_saving
    from effnlp.reproduce.cells import Run

    torch.set_num_threads(1)
    kept, model = model_with_exits(Run("early exit", "0", Record.load(folder), folder))
    threshold = model.threshold
    found: dict[str, Any] = {}
    for batch_size, count in TEXTS.items():
        batches = list(kept.batches("validation", count // shares, batch_size, by_length=False))
        ways = {name: as_way(model, *way) for name, way in {
            PLAIN: (False, threshold), STAY: (True, 0.0), LEAVE: (True, threshold),
        }.items()}  # fmt: skip
        with torch.inference_mode():
            model.reset_exit_counts()
            for batch in batches:
                ways[LEAVE](batch)
            counts = model.exit_counts.tolist()
            seconds = in_turns(ways, batches, turns)
        saving, texts = expected_saving(counts), sum(counts)
        whole = seconds[PLAIN]
        found[str(batch_size)] = {
            "texts": texts, "exit_counts": counts, "expected_saving": saving,
            "text_seconds": {name: asdict(Spread.of([v / texts for v in values])) for name, values in seconds.items()},
            "saved": asdict(Spread.of([1 - l / w for l, w in zip(seconds[LEAVE], whole, strict=True)])),  # noqa: E741
            "exits_cost": asdict(Spread.of([s / w - 1 for s, w in zip(seconds[STAY], whole, strict=True)])),
            "to_formula": asdict(
                Spread.of([l / (w * (1 - saving)) for l, w in zip(seconds[LEAVE], whole, strict=True)])  # noqa: E741
            ),
        }  # fmt: skip
    return {"turns": turns, "target": TARGET, "threshold": threshold, "batches": found}


def as_way(model: Any, are_in_use: bool, threshold: float) -> Callable[[Any], Any]:
    """The model with its exits in use or not, at a threshold."""

    def call(batch: Any) -> Any:
        model.exits_in_use, model.threshold = are_in_use, threshold
        return model(batch)

    return call


def in_turns(
    ways: dict[str, Callable[[Any], Any]], batches: Sequence[Any], turns: int
) -> dict[str, list[float]]:
    """Seconds of all batches in each way, a figure a turn; the ways take turns at each batch."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        seconds = dict.fromkeys(ways, 0.0)
        for batch in batches:
            for name, call in ways.items():
                start = time.perf_counter()
                call(batch)
                seconds[name] += time.perf_counter() - start
        for name, value in seconds.items() if turn else ():
            taken[name].append(value)
    return taken


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run that kept a model with exits")
    parser.add_argument(
        "--quick", action="store_true", help="a sixth of the texts, two turns; nothing is written"
    )
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    content = (
        measure(options.folder, turns=2, shares=6) if options.quick else measure(options.folder, turns=9)
    )
    publish("early_exit", content, ("torch", "transformers"), write=not options.quick)


if __name__ == "__main__":
    main()
