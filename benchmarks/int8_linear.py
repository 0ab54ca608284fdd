"""How long a linear layer takes in float32, in dynamic int8 and with int8 weights only.

    python benchmarks/int8_linear.py

Prints a table and writes results/int8_linear.json. All candidates take turns, so that a busy moment of the
machine hits each of them; figures are medians (and the fastest turn) of one thread.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from effnlp.compression.quantization.int8_dynamic import DynamicInt8Linear
from effnlp.compression.quantization.integer import Int8Linear, quantize_rows

SHAPES = [  # rows (tokens), width in, width out
    (16, 384, 384),
    (16, 384, 1536),
    (16, 1536, 384),
    (512, 384, 1536),
    (2048, 384, 1536),
    (2048, 1536, 384),
]
SECONDS_PER_SHAPE = 3.0
RESULTS = Path(__file__).parent / "results" / "int8_linear.json"


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def candidates(rows: int, inner: int, outer: int) -> dict[str, Callable[[], Tensor]]:
    """What is compared, on the same numbers."""
    torch.manual_seed(0)
    linear, x = nn.Linear(inner, outer), torch.randn(rows, inner)
    dynamic, weight_only = DynamicInt8Linear(linear), Int8Linear(linear)
    integers, _ = quantize_rows(x)

    def whole_matrices() -> Tensor:
        """Dynamic int8 step by step, without cutting the rows into pieces."""
        found, scales = quantize_rows(x)
        total = torch._int_mm(found, dynamic.integers.t())
        return total.float().mul_(scales).mul_(dynamic.scales).add_(linear.bias)

    return {
        "float32": lambda: linear(x),
        "int8_dynamic": lambda: dynamic(x),
        "int8_dynamic, whole matrices": whole_matrices,
        "integer product alone": lambda: torch._int_mm(integers, dynamic.integers.t()),
        "int8_weight_only": lambda: weight_only(x),
    }


def measure(calls: dict[str, Callable[[], Tensor]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, in turns, until the time is up; two turns to warm up are not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    turn, end = 0, time.perf_counter() + seconds
    while turn < 7 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= 2:
                taken[name].append(time.perf_counter() - start)
        turn += 1
    return taken


def main() -> None:
    """Measure every shape, print, write."""
    torch.set_num_threads(1)
    results = []
    print(
        f"{cpu_model()}, torch {torch.__version__}, 1 thread; median milliseconds (times faster than float32)"
    )
    for shape in SHAPES:
        with torch.inference_mode():
            taken = measure(candidates(*shape), SECONDS_PER_SHAPE)
        medians = {name: statistics.median(values) for name, values in taken.items()}
        rows, inner, outer = shape
        print(f"\n{rows} × {inner} → {outer}")
        for name, median in medians.items():
            print(f"  {name:30} {median * 1e3:9.3f} {medians['float32'] / median:6.2f}")
        results.append(
            {
                "rows": rows,
                "width_in": inner,
                "width_out": outer,
                "median_seconds": medians,
                "fastest_seconds": {name: min(values) for name, values in taken.items()},
                "turns": len(taken["float32"]),
            }
        )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cpu": cpu_model(), "threads": 1, "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"machine": machine, "shapes": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
