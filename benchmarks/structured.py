"""Half of the heads and inner units less: latency of a batch, accuracy lost, and that it is the masked model.

    python benchmarks/structured.py DENSE PRUNED

DENSE and PRUNED are runs that kept their models, such as MiniLM on 3000 texts of SST-2, with and without the pruning:

    OPTIONS="task=sst2 task.train_size=3000 model=pretrained model.max_length=64 model.inner_dropout=false \\
        hardware=bf16 data/order=length_grouped trainer.epochs=3 trainer.batch_size=16 finetuning.learning_rate=1e-3"
    effnlp run $OPTIONS hydra.run.dir=DENSE
    effnlp run $OPTIONS compression/pruning=structured hydra.run.dir=PRUNED

One thread, validation texts as they come, alone and in batches of 32. The two models take turns batch by batch; ratios
are taken turn by turn. Half of the groups of DENSE, drawn at random, are masked, and cut out of a copy; both must
answer alike. Targets: at least 1.6 times as fast at 32, at most 3 points lost, and at most 1e-5 between masked and cut.
"""

import argparse
import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import publish
from turns import compared

TEXTS = {1: 48, 32: 192}
"""Texts in a batch to how many there are in all."""

SPEED, LOST, APART = 1.6, 0.03, 1e-5
DENSE, PRUNED = "dense", "pruned"


def in_turns(models: dict[str, Any], batches: Sequence[Any], turns: int) -> dict[str, list[float]]:
    """Seconds of each model for all batches, one figure a turn; a turn before them warms up."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        spent = dict.fromkeys(models, 0.0)
        with torch.inference_mode():
            for batch in batches:
                for name, model in models.items():
                    began = time.perf_counter()
                    model(batch)
                    spent[name] += time.perf_counter() - began
        for name in models if turn else ():
            seconds[name].append(spent[name])
    return seconds


def apart(model: Any, batch: Any) -> float:
    """The largest difference between logits of the model with half of its groups masked, and cut."""
    import torch

    from effnlp.compression.pruning.groups import choose, cut, masked
    from effnlp.model.parts import heads_of, units_of

    parts = [*heads_of(model), *units_of(model)]
    generator = torch.Generator().manual_seed(0)
    masks = choose({part.reader: torch.rand(part.count, generator=generator) for part in parts}, 0.5, "layer")
    small = copy.deepcopy(model)
    cut(small, parts, masks)
    with torch.inference_mode(), masked(model, parts, masks):
        return float((model(batch) - small(batch)).abs().max())


def measure(folders: dict[str, Path], turns: int) -> dict[str, Any]:
    """Seconds and ratios for each size of a batch, accuracies, and how far masked and cut are apart."""
    import torch

    from effnlp.record import Record
    from effnlp.reproduce.analyses.kept import Kept
    from effnlp.reproduce.cells import Run

    torch.set_num_threads(1)
    records = {name: Record.load(folder) for name, folder in folders.items()}
    kept = {name: Kept.of(Run(name, "0", records[name], folder)) for name, folder in folders.items()}
    models = {name: each.model for name, each in kept.items()}
    found = {}
    for size, count in TEXTS.items():
        batches = list(kept[DENSE].batches("validation", count, size, by_length=False))
        found[str(size)] = compared(in_turns(models, batches, turns), PRUNED)
    return {
        "batches": found,
        "accuracy": {name: record.values["val/accuracy"] for name, record in records.items()},
        "apart": apart(models[DENSE], batches[0]),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dense", type=Path, help="folder of the run without pruning")
    parser.add_argument("pruned", type=Path, help="folder of the run with it")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = measure({DENSE: options.dense, PRUNED: options.pruned}, options.turns)
    result["targets"] = {"speed": SPEED, "lost": LOST, "apart": APART}
    publish("structured", result, ("torch", "transformers"))


if __name__ == "__main__":
    main()
