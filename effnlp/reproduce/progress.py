"""What the runs of a reproduction will take, what they are taking, and what they took."""

import heapq
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnlp.record import Record, headline
from effnlp.report.units import human
from effnlp.reproduce.plan import PlannedRun
from effnlp.reproduce.session import Ending, Session

WHERE = (Path("multirun"), Path("outputs"))
"""Where earlier records are looked for."""

LOOK_SECONDS = 0.5
"""Between two looks at how the runs go."""


@dataclass(frozen=True)
class Expected:
    """What a run will cost, by earlier records that are most like it.

    Attributes:
        joules: None if a record has none.
        records: On how many it rests.
    """

    seconds: float
    joules: float | None
    records: int


def expect(runs: Sequence[PlannedRun], records: Sequence[Record]) -> dict[Path, Expected]:
    """Folder of a run to what it will cost; runs of whose task and model there is no record are left out."""
    from effnlp.search.plan import expected_cost, nearest

    found: dict[Path, Expected] = {}
    known: dict[str, Expected | None] = {}
    for run in runs:
        of = run.key["config_hash"]
        if of not in known:
            alike = nearest(run.composed, records)
            cost = expected_cost(alike) if alike else None
            known[of] = Expected(cost.seconds, cost.joules, len(alike)) if cost else None
        if (cost_of_run := known[of]) is not None:
            found[run.folder] = cost_of_run
    return found


def longest_first(runs: Sequence[PlannedRun], expected: Mapping[Path, Expected]) -> list[PlannedRun]:
    """The order in which runs are begun; those of which nothing is known come first, as they may be long."""
    return sorted(
        runs,
        key=lambda run: expected[run.folder].seconds if run.folder in expected else float("inf"),
        reverse=True,
    )


def schedule_seconds(seconds: Sequence[float], workers: int) -> float:
    """When the last of some runs is through, if a worker that is free takes the next one."""
    free = [0.0] * max(1, workers)
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def forecast_in_words(
    runs: Sequence[PlannedRun], expected: Mapping[Path, Expected], workers: int
) -> list[str]:
    """What the runs will take, and by what that is said."""
    known = [expected[run.folder] for run in longest_first(runs, expected) if run.folder in expected]
    if not known:
        return ["time      unknown: there is no earlier record of these tasks and models"]
    lacking = len(runs) - len(known)
    least = "at least " if lacking else "about "
    time = human("seconds", schedule_seconds([each.seconds for each in known], workers))
    lines = [f"time      {least}{time} with {workers} worker{'s' if workers > 1 else ''}"]
    if all(each.joules is not None for each in known):
        joules = sum(each.joules or 0.0 for each in known)
        lines.append(f"energy    {least}{human('joules', joules)}")
    else:
        lines.append("energy    unknown: not all of the earlier records say")
    fewest, most = min(each.records for each in known), max(each.records for each in known)
    count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    based = f"based on  {count} earlier record{'s' if most > 1 else ''} most like each run"
    return [
        *lines,
        based + (f"; nothing is known of {lacking} run{'s' if lacking > 1 else ''}" if lacking else ""),
    ]


def left_of_each(
    jobs: Sequence[Path], expected: Mapping[Path, float], spent: Mapping[int, float | None]
) -> list[float | None]:
    """What each run that has not ended will spend, in their order; None where nothing is known.

    What was expected is corrected by what runs spent so far, and their mean stands for those that nothing was known
    of. What is running counts in full: an estimate that errs on the long side.

    Args:
        jobs: Folders of the runs, in the order in which they are begun.
        expected: Folder to what was expected, seconds or joules.
        spent: Position of a run that ended to what it spent, in the same unit; None if it did not say.
    """
    said = {i: found for i, found in spent.items() if found is not None}
    before = [(found, expected[jobs[i]]) for i, found in said.items() if jobs[i] in expected]
    thought = sum(expectation for _, expectation in before)
    factor = sum(found for found, _ in before) / thought if thought > 0 else 1.0
    mean = sum(said.values()) / len(said) if said else None
    return [
        factor * expected[folder] if folder in expected else mean
        for i, folder in enumerate(jobs)
        if i not in spent
    ]


def left_seconds(
    jobs: Sequence[Path], expected: Mapping[Path, Expected], took: Mapping[int, float], workers: int
) -> float | None:
    """When the runs that are left are through, counted from now; None if nothing is known of any."""
    seconds = {folder: each.seconds for folder, each in expected.items()}
    left = left_of_each(jobs, seconds, took)
    known = [each for each in left if each is not None]
    return schedule_seconds(known, workers) if known or not left else None


def left_joules(
    jobs: Sequence[Path], expected: Mapping[Path, Expected], spent: Mapping[int, float | None]
) -> float | None:
    """The energy of all runs that are left; None if of one of them nothing is known."""
    joules = {folder: each.joules for folder, each in expected.items() if each.joules is not None}
    left = left_of_each(jobs, joules, spent)
    return None if None in left else sum(each for each in left if each is not None)


@dataclass
class Watcher:
    """Says what the workers of a session do, a line for each run that ended, and a bar on a terminal.

    Attributes:
        console: Of rich.
    """

    session: Session
    expected: Mapping[Path, Expected]
    console: Any

    def __post_init__(self) -> None:
        self.took: dict[int, float] = {}
        self.joules: dict[int, float | None] = {}
        self.folders = [Path(job.folder) for job in self.session.jobs]

    def look(self) -> list[str]:
        """A line for each run that ended since the last look."""
        lines = []
        for ending in self.session.endings(known=self.took):
            self.took[ending.number] = ending.seconds
            self.joules[ending.number] = joules_in(self.folders[ending.number])
            lines.append(self._line(ending))
        return lines

    def _line(self, ending: Ending) -> str:
        total = len(self.folders)
        done = f"{len(self.took):>{len(str(total))}}/{total}"
        name = self.session.jobs[ending.number].name
        what = ending_in_words(ending, self.folders[ending.number])
        return "  ".join([done, name, what, human("seconds", ending.seconds), *self.left()])

    def left(self) -> list[str]:
        """How long it will go on and what that costs, in words; nothing if nothing is known, or left."""
        if len(self.took) == len(self.folders):
            return []
        seconds = left_seconds(self.folders, self.expected, self.took, self.session.workers)
        joules = left_joules(self.folders, self.expected, self.joules)
        parts = [human("seconds", seconds)] if seconds is not None else []
        parts += [human("joules", joules)] if joules else []
        return [f"about {' and '.join(parts)} left"] if parts else []


def joules_in(folder: Path) -> float | None:
    """What the record in a folder says that its run used; None if it does not."""
    try:
        return Record.load(folder).values.get("cost/total/own/energy_joules")
    except (FileNotFoundError, ValueError):
        return None


def ending_in_words(ending: Ending, folder: Path) -> str:
    """The figure that sums up a run best, or why it failed."""
    if ending.reason is not None:
        return f"failed: {ending.reason}: {' '.join(str(ending.message).split())}"
    values = Record.load(folder).values
    key = headline(values)
    return f"{key} {values[key]:.4g}" if key else "done"


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Say how the runs go while the block runs, which waits for the workers."""
    over = threading.Event()
    bar = _bar(watcher) if watcher.console.is_terminal else None

    def say() -> None:
        watcher.session.beat()
        for line in watcher.look():
            watcher.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=len(watcher.took), left=" ".join(watcher.left()))

    def keep() -> None:
        while not over.wait(LOOK_SECONDS):
            say()

    thread = threading.Thread(target=keep, daemon=True, name=f"watch-{os.getpid()}")
    if bar is not None:
        bar.start()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        say()
        if bar is not None:
            bar.stop()


def _bar(watcher: Watcher) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
        console=watcher.console, transient=True,
    )  # fmt: skip
    bar.add_task("runs", total=len(watcher.folders), left=" ".join(watcher.left()))
    return bar
