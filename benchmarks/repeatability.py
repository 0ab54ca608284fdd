"""How far the same deployed model, measured in fresh processes, agrees with itself.

    python benchmarks/repeatability.py

A small backbone and MiniLM, not trained, each saved once and measured five times as a run measures it: a process of
its own, one thread, warm, under the quiet lock. Target: every median latency of single requests lies within 5 % of
the middle one.

How much of that is the machine: the same requests, asked for two minutes by one process that changes nothing, cut into
windows. Where the medians of its windows lie apart, fresh processes must, too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tables import publish

from effnlp.data.encodings import Encodings
from effnlp.evaluation.isolated import measure_use
from effnlp.evaluation.latency import pinned_threads, warm_up
from effnlp.evaluation.meter import Meter, machine_meter
from effnlp.evaluation.quiet import QuietLock
from effnlp.model.backbone import Backbone
from effnlp.model.mixer.attention import Attention
from effnlp.model.pretrained import Pretrained
from effnlp.model.storage import Deployed

PROCESSES, TARGET = 5, 0.05
STEADY_SECONDS, WINDOWS_SECONDS = 120.0, (1, 5, 20)
WATCHED = ("latency_seconds_p50", "latency_seconds_p95", "energy_joules", "peak_memory_bytes")
SCENARIO = {
    "_target_": "effnlp.evaluation.scenarios.single_stream.single_stream",
    "_partial_": True,
}
WORDS = (
    "a", "film", "that", "was", "never", "dull", "and", "often", "lovely", "though", "its", "plot", "is", "thin",
)  # fmt: skip


def largest_deviation(values: Sequence[float]) -> float:
    """How far the value that is farthest from the median lies from it, as a share of the median."""
    middle = statistics.median(values)
    return max(abs(value / middle - 1) for value in values)


def texts(count: int = 400) -> list[str]:
    """Texts with as many words as sentences of reviews have, always the same ones."""
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, size=draw.integers(3, 40))) for _ in range(count)]


def models() -> dict[str, tuple[Deployed, Encodings]]:
    """Name to a model and the texts as it reads them."""
    table = pd.DataFrame({"text": texts(), "label": [index % 2 for index in range(400)]})
    made: dict[str, tuple[Deployed, Encodings]] = {}
    choices: dict[str, Any] = {"backbone": Backbone(Attention), "MiniLM": Pretrained(name="minilm")}
    for name, choice in choices.items():
        torch.manual_seed(0)
        tokenizer = choice.tokenizer(table)
        model = choice.build(tokenizer, 2).eval()
        made[name] = Deployed(model, tokenizer, ["no", "yes"]), tokenizer.encode(table["text"].tolist())
    return made


def measured(deployed: Deployed, encodings: Encodings, meter: Meter) -> Mapping[str, float]:
    """The figures of one fresh process.

    Raises:
        RuntimeError: If it gave none.
    """
    quiet = QuietLock(description="repeatability", around_wait=meter.paused)
    with tempfile.TemporaryDirectory() as folder, quiet.working(), meter.stage("evaluation"):
        found = measure_use(deployed, encodings, {"it": SCENARIO}, quiet, meter, within=Path(folder))
    missing = [f"infer/it/{key}" for key in WATCHED if f"infer/it/{key}" not in found.values]
    if missing:
        raise RuntimeError(f"not measured: {found.absent}")
    return {key: found.values[f"infer/it/{key}"] for key in WATCHED}


def steady(deployed: Deployed, encodings: Encodings, seconds: float) -> Mapping[str, float]:
    """Window in seconds to how far the median latency of one of them lies from the middle one, at most.

    All windows are of one process that asks the same requests all the time.
    """
    batches = [encodings.batch([row]) for row in range(20)]
    taken: list[tuple[float, float]] = []  # when it ended, how long it took
    with torch.inference_mode(), pinned_threads(1):
        warm_up(deployed.model, batches, len(batches))
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            for batch in batches:
                deployed.model(batch)
                now = time.perf_counter()
                taken.append((now, now - start))
                start = now
    ends, latencies = np.array(taken).T
    apart = {}
    for window in WINDOWS_SECONDS:
        which = ((ends - ends[0]) // window).astype(int)
        medians = [float(np.median(latencies[which == number])) for number in range(int(seconds // window))]
        apart[str(window)] = largest_deviation(medians)
    return apart


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=PROCESSES,
        help="of each model; the result is written for %(default)s",
    )
    parser.add_argument("--seconds", type=float, default=STEADY_SECONDS, help="of the one steady process")
    options = parser.parse_args()
    meter = machine_meter()
    results: dict[str, dict[str, list[float]]] = {}
    made = models()
    for _ in range(options.processes):
        for name, (deployed, encodings) in made.items():
            for key, value in measured(deployed, encodings, meter).items():
                results.setdefault(name, {}).setdefault(key, []).append(value)
    meter.stop()
    windows = {name: steady(*model, seconds=options.seconds) for name, model in made.items()}
    found = {
        name: {key: {"values": v, "largest_deviation": largest_deviation(v)} for key, v in figures.items()}
        for name, figures in results.items()
    }
    publish(
        "repeatability",
        {
            "processes": options.processes,
            "target": TARGET,
            "models": found,
            "windows_of_one_process": {"seconds": options.seconds, "largest_deviation": windows},
        },
        packages=("torch",),
        write=(options.processes, options.seconds) == (PROCESSES, STEADY_SECONDS),
    )


if __name__ == "__main__":
    main()
