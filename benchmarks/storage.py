"""What the storage of a sweep costs, and whether it loses anything.

    python benchmarks/storage.py

A large study is opened from its journal with and without the snapshot, and through Optuna's own back-end; a
trial's records are written to each storage in turns, under the lock as a sweep does it; and many workers share
one PostgreSQL server, which is started for it (Debian's package postgresql). The disk is that of the temporary
folder (TMPDIR).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from local_postgresql import local_postgresql
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from storage_workers import NAME, open_study
from tables import publish
from turns import Spread

from effnlp.search.storage import locked, open_storage

ATTRIBUTES = 15
OPENINGS = 9


def write_trial(study: optuna.Study, where: str, folder: Path) -> None:
    """All that a sweep writes of one trial that comes to three rungs: taken, judged, told."""
    with locked(where, folder, NAME):
        trial = study.ask()
        trial.suggest_float("rate", 1e-5, 1e-1, log=True)
        trial.suggest_categorical("model", ["bag_of_ngrams", "backbone", "pretrained"])
        for number in range(ATTRIBUTES - 6):
            trial.set_user_attr(f"identity:{number}", ["model=backbone", "peft=lora", "trainer.epochs=3"])
    for rung in (1, 3, 9):
        with locked(where, folder, NAME):
            values = {"val/accuracy": 0.8123, "infer/single_stream/flops": 1.234e9}
            cost = {"cost/total/own/seconds": 12.3, "cost/total/own/flops": 1.2e12}
            trial.set_user_attr(f"rung:{rung}", {"values": values, "cost": cost, "step": rung, "at": 123.4})
            trial.set_user_attr(f"decision:{rung}", {"verdict": "continue", "position": 0, "saw": [1, 2, 3]})
    with locked(where, folder, NAME):
        study.tell(trial, [0.8, 1e9])


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def opening(trials: int) -> dict[str, Any]:
    """Seconds until a study of that many trials is open and read, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = open_study("journal", folder)
        for _ in range(trials):
            write_trial(study, "journal", folder)
        journal = folder / "study.journal"
        snapshot, aside = folder / "study.journal.snapshot", folder / "aside"

        def read(storage: BaseStorage) -> None:
            found = optuna.load_study(storage=storage, study_name=NAME).get_trials(deepcopy=False)
            if len(found) != trials or any(len(trial.user_attrs) != ATTRIBUTES for trial in found):
                raise RuntimeError(f"of {trials} trials {len(found)} were read")

        seconds: dict[str, list[float]] = {"with its snapshot": [], "without it": [], "by Optuna": []}
        for _ in range(OPENINGS):
            seconds["with its snapshot"].append(seconds_of(lambda: read(open_storage("journal", folder))))
            snapshot.rename(aside)
            seconds["without it"].append(seconds_of(lambda: read(open_storage("journal", folder))))
            optunas = JournalFileBackend(str(journal))
            seconds["by Optuna"].append(seconds_of(lambda b=optunas: read(JournalStorage(b))))
            aside.rename(snapshot)
        return {
            "trials": trials,
            "attributes": ATTRIBUTES,
            "journal_bytes": journal.stat().st_size,
            "seconds": {way: asdict(Spread.of(values)) for way, values in seconds.items()},
        }


def writing(server: str, trials: int) -> dict[str, Any]:
    """Milliseconds of a trial's records in each storage, in turns."""
    with tempfile.TemporaryDirectory() as name:
        own, optunas, remote = Path(name, "own"), Path(name, "optunas"), Path(name, "remote")
        for folder in (own, optunas, remote):
            folder.mkdir()
        backend = JournalFileBackend(str(optunas / "study.journal"))
        studies = {
            "journal": (open_study("journal", own), "journal", own),
            "Optuna's journal file": (
                optuna.create_study(
                    storage=JournalStorage(backend), study_name=NAME, directions=["minimize", "maximize"],
                    sampler=optuna.samplers.RandomSampler(),
                ), "journal", optunas,
            ),
            "PostgreSQL": (open_study(server, remote), server, remote),
        }  # fmt: skip
        milliseconds: dict[str, list[float]] = {which: [] for which in studies}
        for turn in range(trials + 3):
            for which, arguments in studies.items():
                taken = seconds_of(lambda a=arguments: write_trial(*a))
                if turn >= 3:
                    milliseconds[which].append(taken * 1e3)
        return {which: asdict(Spread.of(values)) for which, values in milliseconds.items()}


def crowd(server: str, workers: int, slots: int) -> Mapping[str, Any]:
    """What many workers leave on one server."""
    command = [sys.executable, str(Path(__file__).with_name("storage_workers.py")), server]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [folder, str(workers), str(slots), str(ATTRIBUTES)]
        taken = seconds_of(lambda: subprocess.run([*command, *arguments], check=True))
    trials = open_study(server, Path()).get_trials()
    found = Counter(trial.user_attrs["slot"] for trial in trials)
    whole = [t for t in trials if t.state.is_finished() and len(t.user_attrs) == ATTRIBUTES + 1]
    return {
        "workers": workers,
        "slots": slots,
        "seconds": taken,
        "slots_lost": len(set(range(slots)) - set(found)),
        "slots_taken_twice": sum(number > 1 for number in found.values()),
        "trials_with_records_lost": len(trials) - len(whole),
    }


def main() -> None:
    """Measure all, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000, help="of the study that is opened")
    parser.add_argument("--workers", type=int, default=64, help="on the server at once")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = opening(given.trials)
    with local_postgresql({"max_connections": str(3 * given.workers + 20)}) as server:
        os.environ["PGPASSWORD"] = server.password
        shared = crowd(server.make_database("crowd"), given.workers, slots=4 * given.workers)
        written = writing(server.make_database("writing"), trials=100)
        version = server.version()
    content = {"postgresql": version, "opening": opened, "trial_milliseconds": written, "crowd": shared}
    whole = given.trials == 2000 and given.workers == 64
    publish("storage", content, ["optuna"], write=whole)


if __name__ == "__main__":
    main()
