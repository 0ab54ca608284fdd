"""The runs of experiments: those that are there are used, the others are done, and what is missing is named."""

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effnlp.compose import Composer, ConfigError, hydra_context
from effnlp.hardware.affinity import allowed_cpus
from effnlp.launch import is_of_the_launcher
from effnlp.record import FAILED, Record
from effnlp.reproduce.cells import Run, Runs
from effnlp.reproduce.launching import LAUNCHER, Launch, check_launcher, launch_workers
from effnlp.reproduce.plan import Finder, Found, Plan, PlannedRun, bind, distinct
from effnlp.reproduce.progress import WHERE, Watcher, expect, forecast_in_words, longest_first, watched
from effnlp.reproduce.result import Spent
from effnlp.reproduce.session import Job, begin
from effnlp.reproduce.tracked import overrides_for
from effnlp.signals import term_is_interrupt

SESSIONS = Path("outputs/reproduce/.sessions")
"""Where a command and its workers meet, below the folder of the command."""


@dataclass(frozen=True)
class Missing:
    """A run without which cells of its row have a hole.

    Attributes:
        reason: In a sentence.
        command: What does the run by hand.
    """

    row: str
    seed: str
    reason: str
    command: str


@dataclass(frozen=True)
class Done:
    """What there is of the runs of one plan.

    Attributes:
        rows: Row to its completed runs; each row of the plan is there, also with none.
        remarks: What is to be known of records that were used.
        spent: ``seconds`` is the time of this call, for all plans together.
    """

    experiment: str
    layer: str
    rows: Mapping[str, Runs]
    missing: Sequence[Missing] = ()
    remarks: Sequence[str] = ()
    spent: Spent = field(default_factory=Spent)


def complete(
    plans: Sequence[Plan],
    *,
    jobs: int = 1,
    launcher: str = LAUNCHER,
    anyway: bool = False,
    renew: bool = False,
    tracking: str | None = None,
    console: Any = None,
    launch: Launch = launch_workers,
) -> list[Done]:
    """Do the runs that are not there yet; what there is of each plan then, in their order.

    A run that fails is named in ``missing``, and the others go on. The same call takes up what was interrupted.

    Args:
        jobs: Workers at once; 0 does nothing and uses what is there.
        launcher: A choice of ``hydra/launcher``.
        anyway: Whether records of another evaluator are used.
        renew: Whether runs are done anew whose records other versions of packages made; these take their place.
        tracking: A choice of the group ``tracking`` for the runs that are done; None is the row's own.
        console: Of rich, for progress; None is standard error.

    Raises:
        ConfigError: If jobs, launcher or tracking are not what they must be, or values of runs do not fit.
        KeyboardInterrupt: If it was stopped.
    """
    start = time.monotonic()
    if jobs < 0:
        raise ConfigError(f"--jobs must be at least 0, got {jobs}")
    check_launcher(launcher)
    if tracking is not None:
        overrides_for(tracking, "any")
    if console is None:
        from rich.console import Console

        console = Console(file=sys.stderr)
    every, find = distinct(plans), Finder(anyway, renew)
    found = {run.folder: find(run) for run in every}
    to_do = [run for run in every if found[run.folder].record is None and not found[run.folder].is_barred]
    _announce(every, found, to_do, jobs, console)
    if to_do and jobs:
        with_tracker = tracked(to_do, tracking)
        bind(with_tracker)
        try:
            _do(with_tracker, min(jobs, len(to_do)), launcher, console, launch, renew)
        except KeyboardInterrupt:
            _say(console, "stopped; the same command goes on")
            raise
    for run in to_do:
        found[run.folder] = _looked_again(find(run), run)
    seconds = time.monotonic() - start
    return [_done(plan, found, {run.folder for run in to_do}, seconds) for plan in plans]


def _announce(
    every: Sequence[PlannedRun],
    found: Mapping[Path, Found],
    to_do: Sequence[PlannedRun],
    jobs: int,
    console: Any,
) -> None:
    """How many runs there are and are to be done, and what is odd about those that are there."""
    if not every:
        return
    there = sum(found[run.folder].record is not None for run in every)
    barred = len(every) - there - len(to_do)
    parts = [f"{there} there", f"{len(to_do)} to do", *([f"{barred} that cannot be told"] if barred else [])]
    _say(console, f"runs      {len(every)}: {', '.join(parts)}")
    remarks = [f"{run.name}: {remark}" for run in every if (remark := found[run.folder].remark)]
    for remark in remarks[:REMARKS_SHOWN]:
        _say(console, f"          {remark}")
    if len(remarks) > REMARKS_SHOWN:
        _say(console, f"          and {len(remarks) - REMARKS_SHOWN} more like these")
    if to_do and not jobs:
        _say(console, "          --jobs 0: none is done")


REMARKS_SHOWN = 5


def _say(console: Any, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def tracked(runs: Sequence[PlannedRun], tracking: str | None) -> list[PlannedRun]:
    """The runs with a tracker, their experiment being the group; a row that has a tracker of its own keeps it.

    Raises:
        ConfigError: If there is no such tracker.
    """
    if tracking is None:
        return list(runs)
    added = {group: overrides_for(tracking, group) for group in dict.fromkeys(run.group for run in runs)}
    made = []
    with hydra_context():
        composer = Composer()
        for run in runs:
            if not any(override.startswith("tracking") for override in run.overrides):
                overrides = (*run.overrides, *added[run.group])
                run = replace(run, overrides=overrides, composed=composer(overrides))
            made.append(run)
    return made


def _do(
    runs: Sequence[PlannedRun], workers: int, launcher: str, console: Any, launch: Launch, again: bool
) -> None:
    """Launch workers until every run has ended, or nothing goes on any more."""
    from effnlp.search.plan import earlier_records

    expected = expect(runs, earlier_records(WHERE))
    for line in forecast_in_words(runs, expected, workers):
        _say(console, line)
    ordered = longest_first(runs, expected)
    numbers = {run.folder: number for number, run in enumerate(ordered)}
    jobs = [
        _job(run, [numbers[folder] for folder in run.after if folder in numbers], again) for run in ordered
    ]
    session = begin(SESSIONS, jobs, workers, max(1, len(allowed_cpus()) // workers))
    with term_is_interrupt(), watched(Watcher(session, expected, console)):
        left = session.open_numbers
        while left:
            broken: Exception | None = None
            try:
                launch(session, launcher)
            except Exception as error:
                if not is_of_the_launcher(error):
                    raise
                broken = error
            before, left = left, session.open_numbers
            if left and len(left) == len(before):
                raise broken or RuntimeError(f"{len(left)} runs are left that no worker takes up")
            if left:
                _say(console, f"workers were lost ({broken}); {len(left)} runs go on with new ones")
    session.remove()


def _job(run: PlannedRun, after: Sequence[int], again: bool) -> Job:
    config = {**run.composed.config, **({"again": True} if again else {})}
    return Job(run.name, run.overrides, str(run.folder), config, run.composed.chosen, after)


def _looked_again(found: Found, run: PlannedRun) -> Found:
    """What there is of a run that was to be done; if it failed, why."""
    try:
        record = Record.load(run.folder)
    except (FileNotFoundError, ValueError):
        return found
    if record.status == FAILED:
        return replace(found, remark=f"failed ({record.reason}): {record.message}")
    return found


def _done(plan: Plan, found: Mapping[Path, Found], were_to_do: set[Path], seconds: float) -> Done:
    """What there is of one plan."""
    rows: dict[str, list[Run]] = {}
    missing, remarks = [], []
    for row, seeds in plan.rows.items():
        rows[row] = []
        for seed, run in seeds.items():
            there = found[run.folder]
            if there.record is None:
                missing.append(Missing(row, seed, there.remark or "it has not been done", run.command))
                continue
            rows[row].append(Run(row, seed, there.record, run.folder))
            if there.remark:
                remarks.append(f"{row}, seed {seed}: {there.remark}")
    records = {run.folder: run.record for runs in rows.values() for run in runs}
    spent = spent_on(records.values(), seconds, sum(folder in were_to_do for folder in records))
    return Done(plan.experiment, plan.layer, rows, missing, remarks, spent)


def spent_on(records: Iterable[Record], seconds: float, runs: int) -> Spent:
    """What runs took by their records.

    Args:
        seconds: Of the command.
        runs: How many of them it did.
    """
    records = list(records)

    def known(key: str) -> list[float]:
        return [amount for r in records if (amount := r.values.get(f"cost/total/own/{key}")) is not None]

    def total(key: str) -> float | None:
        return math.fsum(known(key)) if records and len(known(key)) == len(records) else None

    methods = {str(record.notes["energy/method"]) for record in records if "energy/method" in record.notes}
    joules = total("energy_joules")
    return Spent(
        seconds=seconds,
        runs=runs,
        reused=len(records) - runs,
        run_seconds=math.fsum(known("seconds")),
        energy_joules=joules,
        energy_method=" and ".join(sorted(methods)) if joules is not None and methods else None,
        co2e_grams=total("co2e_grams"),
    )
