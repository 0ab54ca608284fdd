"""What a sweep would do, without doing it: ``effnlp sweep --simulate`` and ``effnlp sweep --dry-run``.

The forecast of a dry run draws points of the space and takes from earlier records what each would cost: those of
the same task whose model is the same, of these the ones whose other choices and sizes are nearest.
"""

import contextlib
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from effnlp.compose import Composed, Composer, ConfigError, compose, hydra_context
from effnlp.launch import first_value, preflight, split_arguments
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import config_folders
from effnlp.record import COMPLETED, Record
from effnlp.search.budget import JOULES_PER_KILOWATT_HOUR, Budget, Spent, cost_of
from effnlp.search.compare import SEEDS, compare, problem_named, rows_of
from effnlp.search.early_stopping.halving import SuccessiveHalving
from effnlp.search.problems import draw
from effnlp.search.simulate import fractions_of
from effnlp.search.state import Sweep
from effnlp.search.sweeper import advise, check_space, specify

SAMPLES = 60
"""Points of the space that a forecast is made of."""

FORECASTS = 400

WHERE = (Path("multirun"), Path("outputs"))
"""Where earlier records are looked for."""


def plan(arguments: Sequence[str]) -> int:
    """``effnlp sweep --simulate`` or ``--dry-run``; 2 if what was asked for cannot be."""
    wishes = [word for word in arguments if word.partition("=")[0] in ("--dry-run", "--simulate")]
    rest = [word for word in arguments if word not in wishes]
    try:
        if len(wishes) > 1:
            raise ConfigError(f"{' and '.join(wishes)}: one at a time")
        _, overrides, config_dir = split_arguments(rest)
        preflight("sweep", overrides, config_dir, multirun=False)
        config = sweep_config(overrides, config_dir)
        spec = specify(config, overrides, config_dir)
        if wishes[0] == "--dry-run":
            lines = dry_run(spec, config, config_dir)
        else:
            lines = simulated(spec, wishes[0].partition("=")[2], overrides)
    except ValueError as error:
        sys.stderr.write(f"effnlp sweep: {error}\n")
        return 2
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def sweep_config(overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    """The config of a sweep; of what is swept over, only the first values are in it."""
    plain = [one for override in overrides if (one := first_value(override)) is not None]
    with hydra_context():
        return DictConfig(compose(plain, config_dir, "sweep", complete=False).config)


# --simulate


def simulated(spec: Sweep, name: str, overrides: Sequence[str]) -> list[str]:
    """How the search would have done on a problem, in lines."""
    typed = any(override.partition("=")[0].lstrip("+") == "search.objectives" for override in overrides)
    problem, what = problem_named(name, spec.objectives if typed else None)
    missing = [override for override in overrides if not override.lstrip("+").startswith(("search", "hydra"))]
    comparison = compare(
        problem, spec.sampler, lambda _: spec.halving, trials=spec.trials, workers=spec.workers
    )
    rows = [("", "this search", "random"), *rows_of(comparison)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"simulated on {what}"]
    lines.append(
        f"{spec.trials} trials by {spec.workers} workers, {SEEDS} seeds; random proposals without early stopping"
        " spend as much"
    )
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    gain = comparison.gain
    verdict = (
        "better than" if gain.lower > 0 else "worse than" if gain.upper < 0 else "not distinguishable from"
    )
    lines.append(f"difference in hypervolume {gain.show('+.3f')}: {verdict} random")
    if missing:
        lines.append(f"the problem has a space of its own: {' '.join(missing)} did not matter here")
    return lines


# --dry-run


@dataclass(frozen=True)
class Cost:
    """What a whole trial would cost.

    Attributes:
        like: The model choice of the record that says so.
    """

    like: str
    seconds: float
    joules: float | None
    flops: float | None
    labels: float


@dataclass(frozen=True)
class Range:
    """The middle of what may come, and where nine in ten of the cases lie."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Range":
        """By the quantiles of some cases."""
        lower, median, upper = np.quantile(values, [0.05, 0.5, 0.95])
        return cls(float(median), float(lower), float(upper))

    def show(self, unit: str, smaller: str = "", factor: float = 1.0) -> str:
        """The middle with its unit, and the range in brackets if there is one.

        Args:
            smaller: The unit that is shown instead if the middle is below 1, ``factor`` times smaller.
        """
        if smaller and self.median < 0.995:  # 1 to three digits is no part of the larger unit
            return Range(self.median * factor, self.lower * factor, self.upper * factor).show(smaller)
        ends = f" ({self.lower:.3g} to {self.upper:.3g})" if self.lower < self.upper else ""
        return f"{self.median:.3g} {unit}{ends}"


@dataclass(frozen=True)
class Forecast:
    """What a budget buys; energy and FLOPs are None where a record has none.

    Attributes:
        ended_by: In how many of the cases each limit is the first to be reached.
    """

    trials: Range
    hours: Range
    kilowatt_hours: Range | None
    flops: Range | None
    ended_by: dict[str, float]


def forecast(
    costs: Sequence[Cost], halving: SuccessiveHalving | None, budget: Budget, workers: int, seed: int = 0
) -> Forecast:
    """Draw sweeps of trials that cost what earlier ones did, until the budget ends.

    Of the trials at a rung, one in ``reduction_factor`` is taken to go on.

    Args:
        costs: Of whole trials, each as likely as the others.
    """
    source = random.Random(seed)
    cases = [_one_case(costs, halving, budget, workers, source) for _ in range(FORECASTS)]
    joules = all(cost.joules is not None for cost in costs)
    flops = all(cost.flops is not None for cost in costs)
    ends = Counter(_limit_of(budget, case) for case in cases)
    return Forecast(
        trials=Range.of([case.trials for case in cases]),
        hours=Range.of([case.hours for case in cases]),
        kilowatt_hours=Range.of([case.kilowatt_hours or 0.0 for case in cases]) if joules else None,
        flops=Range.of([case.flops or 0.0 for case in cases]) if flops else None,
        ended_by={name: count / len(cases) for name, count in ends.most_common()},
    )


def _one_case(
    costs: Sequence[Cost],
    halving: SuccessiveHalving | None,
    budget: Budget,
    workers: int,
    source: random.Random,
) -> Spent:
    spent = Spent(0, 0.0, 0.0, 0.0, 0.0)
    while budget.reached(spent) is None:
        cost, share = source.choice(costs), share_run(halving, source)
        spent = Spent(
            trials=spent.trials + 1,
            hours=spent.hours + share * cost.seconds / workers / 3600,
            kilowatt_hours=(spent.kilowatt_hours or 0.0)
            + share * (cost.joules or 0.0) / JOULES_PER_KILOWATT_HOUR,
            flops=(spent.flops or 0.0) + share * (cost.flops or 0.0),
            labels=max(spent.labels, cost.labels),
        )
    return spent


def _limit_of(budget: Budget, spent: Spent) -> str:
    """The name of the limit that was reached."""
    for name in ("trials", "hours", "kilowatt_hours", "flops", "labels"):
        limit = getattr(budget, name)
        if limit is not None and getattr(spent, name) >= limit:
            return f"search.{name}"
    return "none"


def share_run(halving: SuccessiveHalving | None, source: random.Random) -> float:
    """The part of its schedule that a trial runs, drawn: it passes each rung with chance one in eta."""
    *rungs, _ = fractions_of(halving)
    for fraction in rungs:
        assert halving is not None
        if source.random() >= 1 / halving.reduction_factor:
            return fraction
    return 1.0


def sizeless(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's config without how much of it is used."""
    return {key: value for key, value in task.items() if not key.endswith("_size")}


def nearest(composed: Composed, records: Sequence[Record]) -> list[Record]:
    """Records of the same task and model, of these the ones that are most alike in size and other choices."""
    task = composed.config["task"]

    def differs(record: Record) -> int:
        sizes = sum(record.config["task"].get(key) != value for key, value in task.items())
        choices = sum(record.choices.get(key) != value for key, value in composed.chosen.items())
        epochs = record.config.get("trainer", {}).get("epochs") != composed.config["trainer"].get("epochs")
        return 2 * sizes + choices + epochs

    alike = [
        record
        for record in records
        if record.choices.get("model") == composed.chosen.get("model")
        and sizeless(record.config.get("task", {})) == sizeless(task)
    ]
    least = min(map(differs, alike), default=0)
    return [record for record in alike if differs(record) == least]


def expected_cost(records: Sequence[Record]) -> Cost:
    """The mean cost of records of whole runs."""
    costs = [cost_of(record.values) for record in records]

    def mean(name: str) -> float | None:
        found = [cost[name] for cost in costs if name in cost]
        return sum(found) / len(found) if len(found) == len(costs) else None

    return Cost(
        like=records[0].choices.get("model", ""),
        seconds=mean("seconds") or 0.0,
        joules=mean("energy_joules"),
        flops=mean("flops"),
        labels=mean("labels") or 0.0,
    )


def earlier_records(folders: Sequence[Path]) -> list[Record]:
    """Completed records with a cost below folders, as far as these are there."""
    from effnlp.report.read import read_records

    found: list[Record] = []
    for folder in folders:
        try:
            loaded = read_records([folder]).loaded
        except ValueError:  # not there, or empty
            continue
        found += [one.record for one in loaded if one.record.status == COMPLETED]
    return [record for record in found if "seconds" in cost_of(record.values)]


def drawn_trials(spec: Sweep, config_dir: Path | None) -> list[Composed]:
    """Legal points of the space, composed."""
    source = random.Random(spec.seed)
    folders = config_folders(config_dir)
    points = [tuple(draw(spec.space, source).items()) for _ in range(SAMPLES)]
    legal: dict[tuple[tuple[str, str], ...], Composed] = {}
    with hydra_context():
        composer = Composer(config_dir)
        for point in set(points):
            composed = composer([*spec.fixed, *(f"{key}={value}" for key, value in point)])
            with contextlib.suppress(IllegalCombinationError):
                check(composed.config, composed.chosen, folders)
                legal[point] = composed
    return [legal[point] for point in points if point in legal]


def dry_run(spec: Sweep, config: DictConfig, config_dir: Path | None) -> list[str]:
    """Check the space, and say what the budget buys, in lines."""
    legal, refusals = check_space(spec.space, spec.fixed, config_dir)
    combinations = spec.space.combinations()
    size = "a continuum of points" if combinations is None else f"{combinations} points"
    lines = [
        f"space     {size} in {sum(d.varies for d in spec.space.dimensions)} dimensions;"
        f" {legal} of {legal + sum(refusals.values())} points tried are legal"
    ]
    lines += [f"          {count} x {refusal}" for refusal, count in refusals.most_common(5)]
    lines += [f"note      {line}" for line in advise(spec)]
    source = config.search.warm_start["from"]
    folders = [Path(str(source))] if source else list(WHERE)
    records = earlier_records(folders)
    trials = drawn_trials(spec, config_dir)
    known = [(trial, nearest(trial, records)) for trial in trials]
    costs = [expected_cost(found) for _, found in known if found]
    lines += _based_on(known, folders)
    lines.append(f"budget    {_limits_in_words(spec)}")
    if not costs:
        return [*lines, *(f"{name}unknown: no record yet" for name in ("time      ", "energy    "))]
    found = forecast(costs, spec.halving, spec.budget, spec.workers)
    least = "" if len(costs) == len(known) else "at least "
    lines.append(f"trials    {found.trials.show('trials')}, ended by {_ends_in_words(found.ended_by)}")
    time = found.hours.show("hours", "minutes", 60)
    lines.append(f"time      {least}{time} with {spec.workers} worker{'s' if spec.workers > 1 else ''}")
    energy, compute = found.kilowatt_hours, found.flops
    unknown = "unknown: not all of these records say"
    lines.append(f"energy    {least}{energy.show('kWh', 'Wh', 1000)}" if energy else f"energy    {unknown}")
    lines.append(f"compute   {least}{compute.show('FLOPs')}" if compute else f"compute   {unknown}")
    if spec.seeds > 1:
        lines.append(
            f"          and {spec.seeds - 1} more runs of each candidate for its replicates, not counted here"
        )
    return lines


def _based_on(known: Sequence[tuple[Composed, list[Record]]], folders: Sequence[Path]) -> list[str]:
    """Which records the forecast is made of, and for which models there are none."""
    where = " and ".join(f"{folder}/" for folder in folders)
    used: dict[str, set[int]] = {}
    without: Counter[str] = Counter()
    for trial, found in known:
        model = trial.chosen.get("model", "")
        used.setdefault(model, set()).update(map(id, found))
        without[model] += not found
    parts = [f"{len(some)} of model={model}" for model, some in sorted(used.items()) if some]
    task = known[0][0].chosen.get("task", "")
    lines = [f"based on  records of task={task} in {where}: {', '.join(parts) or 'none'}"]
    for model, count in sorted(without.items()):
        if count:
            lines.append(
                f"          no record yet of model={model}: unknown what {count / len(known):.0%} of the trials cost"
            )
    return lines


def _limits_in_words(spec: Sweep) -> str:
    limits = {"search.trials": spec.trials, **{f"search.{key}": value for key, value in spec.limits.items()}}
    return ", ".join(f"{name}={value:g}" for name, value in limits.items() if value is not None)


def _ends_in_words(ended_by: Mapping[str, float]) -> str:
    if len(ended_by) == 1:
        return next(iter(ended_by))
    return ", ".join(f"{name} in {share:.0%} of the cases" for name, share in ended_by.items())
