"""Workers on one storage at once; tests and ``storage.py`` look at what they leave in it.

    python benchmarks/storage_workers.py WHERE FOLDER WORKERS SLOTS ATTRIBUTES

As in a sweep: a slot is taken under the lock, what happens to the trial is written as attributes of it. Fails if
two are alone at once.
"""

import argparse
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import optuna

from effnlp.search.storage import locked, open_storage

NAME = "study"


def open_study(where: str, folder: Path) -> optuna.Study:
    """The study of all these workers, made if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=open_storage(where, folder), study_name=NAME, directions=["minimize", "maximize"],
        sampler=optuna.samplers.RandomSampler(), load_if_exists=True,
    )  # fmt: skip


def work(where: str, folder: Path, worker: int, slots: int, attributes: int, start: Any) -> None:
    """Take slots until all are taken."""
    start.wait()
    study = open_study(where, folder)
    alone = folder / "alone"
    while True:
        with locked(where, folder, NAME):
            alone.touch(exist_ok=False)
            taken = sum("slot" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
            if taken < slots:
                trial = study.ask()
                trial.suggest_float("x", 0, 1)
                trial.set_user_attr("slot", taken)
            alone.unlink()
        if taken >= slots:
            return
        for number in range(attributes):
            trial.set_user_attr(f"rung:{number}", {"worker": worker, "values": {"val/accuracy": taken}})
        with locked(where, folder, NAME):
            alone.touch(exist_ok=False)
            study.tell(trial, [taken, -taken])
            alone.unlink()


def main() -> None:
    """Start the workers at once and wait for them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("where")
    parser.add_argument("folder", type=Path)
    for name in ("workers", "slots", "attributes"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    where, folder, workers = given.where, given.folder, given.workers
    if where.startswith("postgresql"):
        # What the parent has open must do no harm to its children.
        open_study(where, folder)
        with locked(where, folder, NAME):
            pass
    context = multiprocessing.get_context("fork")
    start = context.Barrier(workers)
    processes = [
        context.Process(target=work, args=(where, folder, worker, given.slots, given.attributes, start))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if where.startswith("postgresql"):
        open_study(where, folder).get_trials()  # its connections still are its own
    sys.stdout.flush()
    os._exit(max(abs(process.exitcode) for process in processes))


if __name__ == "__main__":
    main()
