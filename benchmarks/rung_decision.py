"""How long a decision at a rung with 10,000 records takes.

    python benchmarks/rung_decision.py

The records are random points (uniform, in no order), or all of them in one front, which is the worst case: the
front is then spread out until the trial's own record is reached. Each turn decides on another record. *All*
finds everyone within the quota, as a free worker does that looks for a paused trial to promote. *Ledger* is the whole
of it, in a study of so many trials in memory: the record is written, all others are read, the decision is written.
Target: a decision by MO-ASHA among random records in less than 50 ms.
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


def through_the_ledger(values: np.ndarray, rounds: int) -> list[float]:
    """Seconds of each of some reports to a ledger whose study has the records."""
    import optuna

    from effnlp.search.attributes import RUNG, SLOT
    from effnlp.search.ledger import Job, Ledger, Owner
    from effnlp.search.rungs import Rung

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = dict.fromkeys([f"model/{i}" for i in range(values.shape[1])], "minimize")
    study = optuna.create_study(
        directions=list(objectives.values()), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    for slot, row in enumerate(values.tolist()):
        shown = {"values": dict(zip(objectives, row, strict=True)), "cost": {}}
        state = optuna.trial.TrialState.PRUNED
        study.add_trial(optuna.trial.create_trial(state=state, user_attrs={SLOT: slot, f"{RUNG}0": shown}))

    def propose(study: optuna.Study, taken: object) -> tuple[optuna.Trial, list[str], str]:
        trial = study.ask()
        return trial, [], str(trial.number)

    ledger = Ledger(study, objectives, moasha(), propose, 2 * RECORDS, Owner("s", 0, "s"))
    seconds = []
    for row in np.random.default_rng(2).random((rounds + 1, values.shape[1])).tolist():
        job = ledger.take(0.0)
        assert isinstance(job, Job)
        rung = Rung(0, 1, 1, 9, dict(zip(objectives, row, strict=True)), {})
        start = time.perf_counter()
        ledger.report(job, rung, 0.0)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]  # the first reads all records


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
    for (kind, m), values in rungs.items():
        if kind == "random":
            seconds[kind, m]["ledger"] = through_the_ledger(values, options.rounds)
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
