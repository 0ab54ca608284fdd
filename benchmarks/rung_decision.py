"""How long a decision at a rung with 10,000 records takes.

    python benchmarks/rung_decision.py

The records are random points (uniform, in no order), or all of them in one front, which is the worst case: the
front is then spread out until the trial's own record is reached. Each turn decides on another record. *All*
finds everyone within the quota, as a free worker does that looks for a paused trial to promote. Target: a
decision by MO-ASHA among random records in less than 50 ms.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from tables import publish
from turns import Spread

from effnlp.search.early_stopping.asha import asha
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.early_stopping.scalarised import scalarised

RECORDS = 10_000
TARGET_SECONDS = 0.05

Call = Callable[[np.ndarray, int], object]
NUMBERS = np.arange(RECORDS)

CALLS: dict[str, Call] = {
    "moasha": lambda values, item: moasha().decide(values, item, None, NUMBERS),
    "asha": lambda values, item: asha().decide(values, item, None, NUMBERS),
    "scalarised": lambda values, item: scalarised(seed=0).decide(values, item, None, NUMBERS),
    "moasha, all": lambda values, item: moasha().going_on(values, None, NUMBERS),
}


def random_records(objectives: int) -> np.ndarray:
    """(n, m) uniform on the unit cube."""
    return np.random.default_rng(0).random((RECORDS, objectives))


def one_front(objectives: int) -> np.ndarray:
    """(n, m) on a piece of the unit sphere, none of which dominates another."""
    points = -np.abs(np.random.default_rng(0).normal(size=(RECORDS, objectives)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


KINDS = {"random": random_records, "one front": one_front}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31, help="turns of each call (default: %(default)s)")
    options = parser.parse_args()
    rungs = {(kind, m): make(m) for kind, make in KINDS.items() for m in (2, 3)}
    seconds: dict[tuple[str, int], dict[str, list[float]]] = {
        rung: {name: [] for name in CALLS} for rung in rungs
    }
    items = np.random.default_rng(1).integers(0, RECORDS, options.rounds + 1).tolist()
    for turn, item in enumerate(items):
        for rung, values in rungs.items():
            for name, call in CALLS.items():
                start = time.perf_counter()
                call(values, item)
                if turn:  # the first warms up
                    seconds[rung][name].append(time.perf_counter() - start)
    publish(
        "rung_decision",
        {
            "records": RECORDS,
            "target_seconds": TARGET_SECONDS,
            "rounds": options.rounds,
            "rungs": [
                {
                    "kind": kind,
                    "objectives": objectives,
                    "seconds": {name: asdict(Spread.of(taken)) for name, taken in found.items()},
                }
                for (kind, objectives), found in seconds.items()
            ],
        },
        ["numpy"],
    )


if __name__ == "__main__":
    main()
