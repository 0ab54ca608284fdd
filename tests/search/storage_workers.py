"""Workers on one storage at once: ``python storage_workers.py WHERE FOLDER WORKERS SLOTS ATTRIBUTES``.

As in a sweep: a slot is taken under the lock, what happens to the trial is written as attributes of it.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import optuna

from effnlp.search.storage import locked, open_storage

NAME = "study"


def open_study(where, folder):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=open_storage(where, folder), study_name=NAME, directions=["minimize", "maximize"],
        sampler=optuna.samplers.RandomSampler(), load_if_exists=True,
    )  # fmt: skip


def work(where, folder, worker, slots, attributes, start):
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


def main():
    where, folder = sys.argv[1], Path(sys.argv[2])
    workers, slots, attributes = map(int, sys.argv[3:])
    if where.startswith("postgresql"):
        # What the parent has open must do no harm to its children.
        open_study(where, folder)
        with locked(where, folder, NAME):
            pass
    context = multiprocessing.get_context("fork")
    start = context.Barrier(workers)
    processes = [
        context.Process(target=work, args=(where, folder, worker, slots, attributes, start))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if where.startswith("postgresql"):
        assert open_study(where, folder).get_trials()
    sys.stdout.flush()
    os._exit(max(abs(process.exitcode) for process in processes))


if __name__ == "__main__":
    main()
