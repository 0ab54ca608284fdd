"""How good the frontier is that a search finds for a budget, simulated on runs whose curves are known.

    python benchmarks/search_quality.py --peer

Every method searches the same problems with the same seeds on a virtual clock, until its trials have spent as much
as 30 whole runs: three synthetic problems and, where it is there, the table of real runs that is shipped. The
figure is the hypervolume of the frontier of finished trials as a share of that of the best frontier there is.
With random proposals, methods differ in nothing but what they stop. `--peer` adds MO-ASHA of Syne Tune, in an
environment that is made for it (1.2 GB). What was computed is kept in .cache/search_quality and not computed again
unless the code of the search has changed.
"""

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import t as student
from tables import publish

from effnlp.menu import conf_dir
from effnlp.search import curves
from effnlp.search.early_stopping.halving import Decision, levels
from effnlp.search.problems import SYNTHETIC, Problem
from effnlp.search.samplers import make_sampler
from effnlp.search.simulate import Sampler, quality_over_budget, simulate

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "search_quality"
PEER = "syne-tune==0.16"

SEEDS = 40
BUDGET = 30
BUDGETS = [step / 2 for step in range(1, 2 * BUDGET + 1)]
WORKERS = 2

MOASHA: dict[str, Any] = {"early_stopping": "moasha"}
PROMOTION: dict[str, Any] = {**MOASHA, "variant": "promotion"}

METHODS: dict[str, dict[str, Any]] = {
    "random": {},
    "quasi-random": {"sampler": "quasi_random"},
    "NSGA-II": {"sampler": "nsga2"},
    "TPE": {"sampler": "tpe"},
    "ASHA, one objective": {"early_stopping": "asha"},
    "scalarised": {"early_stopping": "scalarised"},
    "MO-ASHA": MOASHA,
    "MO-ASHA, promotion": PROMOTION,
    "MO-ASHA, quasi-random": {**MOASHA, "sampler": "quasi_random"},
    "MO-ASHA, TPE": {**MOASHA, "sampler": "tpe"},
    "MO-ASHA, none passes": {**MOASHA, "passes_every": None},
    "MO-ASHA, first rung 1/27": {**MOASHA, "max_resource": 27},
    "MO-ASHA, promotion, first rung 1/27": {**PROMOTION, "max_resource": 27},
    "MO-ASHA, promotion, first rung 1/4": {**PROMOTION, "max_resource": 4, "reduction_factor": 2},
}
"""What a method is called to its sampler (random if none is named), rule, and settings of the rule."""

PEER_METHOD = "MO-ASHA of Syne Tune"
AGAINST = ("random", "scalarised", PEER_METHOD)


def sampler_of(method: Mapping[str, Any]) -> Sampler:
    """The sampler as a sweep has it."""
    config = OmegaConf.load(conf_dir() / "search" / "sampler" / f"{method.get('sampler', 'random')}.yaml")
    return partial(make_sampler, OmegaConf.to_container(config))


def halving_of(method: Mapping[str, Any], seed: int) -> Any:
    """The rule as a sweep has it, with the method's own settings."""
    name = method.get("early_stopping", "none")
    config = OmegaConf.load(conf_dir() / "search" / "early_stopping" / f"{name}.yaml")
    own = {key: value for key, value in method.items() if key not in ("sampler", "early_stopping")}
    whole = OmegaConf.create({"search": {"seed": seed, "rule": OmegaConf.merge(config, own)}})
    return instantiate(whole.search.rule, _convert_="all")


@dataclass
class PeerHalving:
    """Asks the peer; stands where a rule of ours stands.

    Attributes:
        ask: Sends a trial's number, its level and values, and returns whether it goes on.
        asked: How many rungs each trial has come to.
    """

    ask: Callable[[int, int, Sequence[float]], bool]
    variant: str = "stopping"
    reduction_factor: int = 3
    max_resource: int = 9
    asked: dict[int, int] = field(default_factory=dict)

    @property
    def levels(self) -> tuple[int, ...]:
        """Those of the defaults."""
        return levels(1, self.max_resource, self.reduction_factor)

    def passes(self, rung: int, number: int) -> bool:
        """Nobody passes unasked."""
        return False

    def decide(self, values: np.ndarray, item: int, inside: Any, numbers: np.ndarray) -> Decision:
        """Whether the trial goes on. Of the other records the peer knows what it was told itself."""
        number = int(numbers[item])
        rung = self.asked.get(number, 0)
        self.asked[number] = rung + 1
        goes_on = self.ask(number, self.levels[rung], values[item].tolist())
        return Decision(goes_on, 0 if goes_on else len(values) - 1, len(values), 1, None)


@dataclass
class Peer:
    """Syne Tune in a process of its own."""

    process: "subprocess.Popen[str]"

    @classmethod
    def start(cls) -> "Peer":
        """Make its environment, once, and start it."""
        python = CACHE / "peer" / "bin" / "python"
        if not (CACHE / "peer" / "made").exists():
            venv.create(CACHE / "peer", with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
            (CACHE / "peer" / "made").touch()
        command = [str(python), str(HERE / "syne_tune_moasha.py")]
        return cls(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def say(self, content: Mapping[str, Any]) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()

    def halving(self, objectives: int) -> PeerHalving:
        """A new scheduler with the settings that are ours by default."""
        metrics = [f"objective_{index}" for index in range(objectives)]
        self.say({"start": {"metrics": metrics, "max_t": 9, "grace_period": 1, "reduction_factor": 3}})

        def ask(trial: int, level: int, values: Sequence[float]) -> bool:
            self.say({"trial": trial, "level": level, "values": values})
            assert self.process.stdout is not None
            return bool(json.loads(self.process.stdout.readline()))

        return PeerHalving(ask)


def problems(table: Path) -> dict[str, Problem]:
    """The synthetic ones, and the real one if its table is there."""
    made = {name: make() for name, make in SYNTHETIC.items()}
    if table.is_file():
        made["real"] = curves.problem_of(curves.read(table))
    return made


def searched(problem: Problem, method: Mapping[str, Any], seeds: int, peer: Peer | None) -> dict[str, Any]:
    """Quality after each budget for each seed, and how many trials that took on average."""
    quality, trials, finished, idle = [], [], [], []
    for seed in range(seeds):
        halving = peer.halving(len(problem.objectives)) if peer else halving_of(method, seed)
        found = simulate(problem, sampler_of(method), halving, workers=WORKERS, seed=seed, whole_runs=BUDGET)
        quality.append(quality_over_budget(found, BUDGETS))
        trials.append(found.trials)
        finished.append(len(found.finished))
        idle.append(found.idle_share)
    means = {"trials": trials, "finished": finished, "idle_share": idle}
    return {"quality": quality, **{name: float(np.mean(of)) for name, of in means.items()}}


def fingerprint(table: Path) -> str:
    """Changes with the code and settings that the figures hang on."""
    package = Path(curves.__file__).parent
    names = ("curves", "ledger", "pareto", "problems", "proposals", "rungs", "samplers", "simulate", "space")
    files = [*(package / f"{name}.py" for name in names), *package.glob("early_stopping/*.py")]
    files += [table, *(conf_dir() / "search" / "sampler").glob("*.yaml")]
    files += (conf_dir() / "search" / "early_stopping").glob("*.yaml")
    content = b"".join(path.read_bytes() for path in sorted(files) if path.is_file())
    content += repr((METHODS, BUDGETS, WORKERS)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def interval(values: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """Mean of paired differences with their t interval."""
    error = float(values.std(ddof=1) / len(values) ** 0.5)
    reach = float(student.ppf((1 + level) / 2, len(values) - 1)) * error
    mean = float(values.mean())
    return {"mean": mean, "lower": mean - reach, "upper": mean + reach}


def budget_to_reach(mean: np.ndarray, target: float) -> float | None:
    """The least of the budgets from which on a mean curve is at the target; None if it never is."""
    reached = np.flatnonzero(mean >= target - 1e-9)  # a sum may round
    return BUDGETS[reached[0]] if len(reached) else None


def summary(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one problem: each method's curve with its standard error, and paired differences."""
    curves_of = {name: np.array(part["quality"]) for name, part in parts.items()}
    target = float(curves_of["random"][:, -1].mean())
    whole = [index for index, budget in enumerate(BUDGETS) if budget == int(budget)]
    methods = {}
    for name, quality in curves_of.items():
        mean, error = quality.mean(axis=0), quality.std(axis=0, ddof=1) / len(quality) ** 0.5
        methods[name] = {
            "mean": [round(float(mean[index]), 4) for index in whole],
            "standard_error": [round(float(error[index]), 4) for index in whole],
            "trials": parts[name]["trials"],
            "finished": parts[name]["finished"],
            "idle_share": parts[name]["idle_share"],
            "budget_to_reach_random": budget_to_reach(mean, target),
        }
    differences = {
        f"{one} - {other}": interval(curves_of[one][:, -1] - curves_of[other][:, -1])
        for other in AGAINST
        if other in curves_of
        for one in curves_of
        if one != other
    }
    return {"methods": methods, "differences": differences}


def main() -> None:
    """Simulate what is not there yet, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=SEEDS,
        help="fewer show the table, but write no result (default: %(default)s)",
    )
    parser.add_argument("--peer", action="store_true", help="add MO-ASHA of Syne Tune")
    parser.add_argument(
        "--table", type=Path, default=curves.SHIPPED, help="curves of real runs (default: shipped)"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that a space is exhausted is said for each seed
    version = fingerprint(options.table)
    peer = Peer.start() if options.peer else None
    results: dict[str, Any] = {}
    for problem_name, problem in problems(options.table).items():
        parts: dict[str, dict[str, Any]] = {}
        for method_name, method in [*METHODS.items(), *([(PEER_METHOD, {})] if peer else [])]:
            name = f"{problem_name} {method_name} {options.seeds}".replace("/", "_of_")
            path = CACHE / version / f"{name}.json"
            if not path.is_file():
                asked = peer if method_name == PEER_METHOD else None
                try:
                    found = searched(problem, method, options.seeds, asked)
                except ValueError as error:  # the table has no looks where the method has rungs
                    sys.stdout.write(f"{problem_name:9} {method_name:36} left out: {error}\n")
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found), encoding="utf-8")
            parts[method_name] = json.loads(path.read_text(encoding="utf-8"))
            final = np.array(parts[method_name]["quality"])[:, -1]
            sys.stdout.write(f"{problem_name:9} {method_name:36} {final.mean():.3f}\n")
            sys.stdout.flush()
        results[problem_name] = summary(parts)
    content = {
        "budget_in_whole_runs": BUDGET,
        "seeds": options.seeds,
        "workers": WORKERS,
        "problems": results,
    }
    publish("search_quality", content, ["optuna", "numpy"], write=options.seeds >= SEEDS)


if __name__ == "__main__":
    main()
