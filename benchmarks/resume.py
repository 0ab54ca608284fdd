"""How long a sweep of 2,000 trials takes to go on.

    python benchmarks/resume.py

Makes a sweep's folder with 2,000 trials in its journal (a third finished, the others stopped at a rung, each with its
records and decisions), without running any of them. Then starts the real command with a budget of one trial more, five
times, and takes the time until that trial's process writes its first line; also that of the same command on an empty
folder, which is mostly imports and the check of the space. Target: 5 s.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tables import publish
from turns import Spread

TRIALS = 2_000
OVERRIDES = [
    "model=bag_of_ngrams", "finetuning.learning_rate=interval(1e-4,1e-2)", "search.name=long", "search.workers=1",
    "search.objectives=[val/accuracy:max,model/bytes:min]", "search.live=false",
]  # fmt: skip


def make_sweep(folder: Path, trials: int) -> None:
    """Write ``sweep.json`` and a study with as many trials, all over."""
    from hydra import compose

    from effnlp.compose import hydra_context
    from effnlp.launch import is_sweep_override
    from effnlp.search.ledger import Job, Ledger, Owner
    from effnlp.search.proposals import Proposer
    from effnlp.search.rungs import Rung
    from effnlp.search.state import locked, open_study
    from effnlp.search.sweeper import specify

    typed = [*OVERRIDES, f"search.trials={trials}"]
    with hydra_context():
        plain = [o for o in typed if not is_sweep_override(o)]
        config = compose("sweep", overrides=plain, return_hydra_config=True)
        spec = specify(config, typed, None)
    folder.mkdir(parents=True)
    spec.save(folder)
    study = open_study(folder, spec)

    def overrides(values: object) -> list[str]:
        return [f"{key}={value}" for key, value in dict(values).items()]  # type: ignore[call-overload]

    def judge(typed: object) -> tuple[None, str]:
        return None, str(typed)

    proposer = Proposer(spec.space, overrides, judge)
    ledger = Ledger(study, spec.objectives, spec.halving, proposer, trials, Owner("made", 0, "made"))
    random = np.random.default_rng(0)
    with locked(folder, spec):
        for now in range(trials):
            job = ledger.take(float(now))
            assert isinstance(job, Job)
            accuracy, size = random.random(2).tolist()
            cost = {"cost/total/own/flops": 1e9, "cost/total/own/energy_joules": 10.0}
            values = {"val/accuracy": accuracy, "model/bytes": size}
            for index, level in enumerate((1, 3)):
                verdict = ledger.report(job, Rung(index, level, level, 9, values, cost), float(now))
                assert verdict is not None
                if verdict.word != "continue":
                    break
            else:
                ledger.complete(job, [accuracy, size], cost, {})


def seconds_to_first_trial(where: Path, trials: int, slot: int) -> float:
    """From the start of the command to the first line of a trial's log; the command is ended then."""
    log = where / "multirun" / "long" / "trials" / f"{slot:03d}" / "output.log"
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "effnlp.cli", "sweep", *OVERRIDES, f"search.trials={trials}"],
        cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not log.exists():
            if process.poll() is not None or time.monotonic() - begin > 300:
                raise RuntimeError(f"the sweep started no trial {slot}: exit code {process.poll()}")
            time.sleep(0.01)
        return time.monotonic() - begin
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "made" / "multirun" / "long"
        make_sweep(made, TRIALS)
        rows: dict[str, list[float]] = {"2,000 trials": [], "an empty folder": []}
        for turn in range(options.rounds):
            for kind, trials, slot in (("2,000 trials", TRIALS + 1, TRIALS), ("an empty folder", 1, 0)):
                where = Path(name) / f"{turn} {slot}"
                if slot:
                    shutil.copytree(made, where / "multirun" / "long")
                else:
                    where.mkdir()
                rows[kind].append(seconds_to_first_trial(where, trials, slot))
                shutil.rmtree(where)
    content = {"trials": TRIALS, "seconds": {kind: asdict(Spread.of(found)) for kind, found in rows.items()}}
    publish("resume", content, ["optuna", "hydra-core"])


if __name__ == "__main__":
    main()
