"""What the solvers of post-training quantization take: GPTQ on the layers of MiniLM, and bits for a hundred layers.

    python benchmarks/solvers.py

GPTQ reads 128 random texts of 64 tokens and rounds every linear layer of the encoder, by default settings. The
allocation of `mixed` chooses among four widths for layers whose sizes and errors are drawn at random, at budgets
between the least and the most that can be spent. One thread.

Targets: GPTQ within two minutes, an allocation within a second.
"""

import argparse
import copy
import os
import time
from dataclasses import asdict
from typing import Any

from tables import publish
from turns import Spread

TEXTS, TOKENS = 128, 64
LAYERS, DRAWS = 100, 15
GPTQ_SECONDS, ALLOCATION_SECONDS = 120.0, 1.0


def gptq(turns: int) -> dict[str, Any]:
    """Seconds of calibration and of rounding."""
    import torch

    from effnlp.compression.quantization.gptq import GPTQ
    from effnlp.model.pretrained import Pretrained

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = Pretrained("minilm").build(None, 2).eval()  # type: ignore[arg-type]
    batches = [
        {
            "input_ids": torch.randint(5, 30522, (32, TOKENS)),
            "attention_mask": torch.ones(32, TOKENS, dtype=torch.int64),
        }
        for _ in range(TEXTS // 32)
    ]
    seconds: dict[str, list[float]] = {"calibration": [], "rounding": []}
    for _ in range(turns):
        method, rounded = GPTQ(), copy.deepcopy(model)
        start = time.perf_counter()
        with torch.inference_mode():
            method.calibrate(rounded, batches)
        middle = time.perf_counter()
        method.finish(rounded)
        seconds["calibration"].append(middle - start)
        seconds["rounding"].append(time.perf_counter() - middle)
    return {name: asdict(Spread.of(values)) for name, values in seconds.items()}


def allocation(draws: int) -> dict[str, Any]:
    """Seconds of one allocation, and how far the longest came."""
    import numpy as np

    from effnlp.compression.quantization.allocation import assign

    dice, seconds = np.random.default_rng(0), []
    bits = np.array([2, 3, 4, 8])
    for _ in range(draws):
        costs = dice.integers(50_000, 2_000_000, (LAYERS, 1)) * bits // 8
        errors = (
            np.exp(dice.normal(size=(LAYERS, 1))) * 4.0**-bits * np.exp(dice.normal(size=(LAYERS, 4)) / 4)
        )
        least, most = costs.min(axis=1).sum(), costs.max(axis=1).sum()
        budget = int(least + dice.random() * (most - least))
        start = time.perf_counter()
        assign(costs, errors, budget)
        seconds.append(time.perf_counter() - start)
    return {"seconds": asdict(Spread.of(seconds)), "longest_seconds": max(seconds), "layers": LAYERS}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="each once; nothing is written")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    content = {
        "gptq": gptq(1 if options.quick else 5),
        "allocation": allocation(1 if options.quick else DRAWS),
        "targets": {"gptq_seconds": GPTQ_SECONDS, "allocation_seconds": ALLOCATION_SECONDS},
    }
    publish("solvers", content, ("torch", "transformers", "numpy"), write=not options.quick)


if __name__ == "__main__":
    main()
