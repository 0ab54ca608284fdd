"""How long a linear layer takes in float32, in dynamic int8 and with int8 weights only.

    python benchmarks/int8_linear.py

All candidates take turns, so that a busy moment of the machine hits each of them; figures are medians (and
the fastest turn) of one thread.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from tables import publish
from torch import Tensor, nn
from turns import until

from effnlp.compression.quantization.integer import Int8Linear, quantize_rows
from effnlp.compression.quantization.products import DynamicInt8Linear

SHAPES = [  # rows (tokens), width in, width out
    (16, 384, 384),
    (16, 384, 1536),
    (16, 1536, 384),
    (512, 384, 1536),
    (2048, 384, 1536),
    (2048, 1536, 384),
]
SECONDS_PER_SHAPE = 3.0


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


def main() -> None:
    """Measure every shape, print, write."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    results = []
    for shape in SHAPES:
        with torch.inference_mode():
            taken = until(SECONDS_PER_SHAPE, candidates(*shape))
        rows, inner, outer = shape
        results.append(
            {
                "rows": rows,
                "width_in": inner,
                "width_out": outer,
                "median_seconds": {name: statistics.median(values) for name, values in taken.items()},
                "fastest_seconds": {name: min(values) for name, values in taken.items()},
                "turns": len(taken["float32"]),
            }
        )
    publish("int8_linear", {"threads": 1, "shapes": results}, ["torch"])


if __name__ == "__main__":
    main()
