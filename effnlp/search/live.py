"""The live view of a sweep: its workers, frontier, budgets and failures, drawn below the lines of its log.

:func:`frame` draws one state; :func:`show_live` draws again and again; :func:`live_view` puts the view below
everything that a sweep and its workers write on the terminal.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from effnlp.report.units import UP, human
from effnlp.search.budget import UNITS
from effnlp.search.status import Reader, SweepState, TrialStatus, latest_lines

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0

FRONTIER_ROWS = 8
WORKER_ROWS = 8
FAILURE_ROWS = 4
LINE_ROWS = 5

BARS = "▁▂▃▄▅▆▇█"

NAMES = {"trials": "trials", "hours": "time", "kilowatt_hours": "energy", "flops": "work", "labels": "labels"}
"""What a limit is on, for a reader."""

COLOURS = {
    "running": "cyan", "waiting": "yellow", "paused": "blue", "stopped": "dim", "complete": "green", "failed": "red",
}  # fmt: skip


def span(seconds: float) -> str:
    """A stretch of time in at most two units: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def clock(at: float, now: float) -> str:
    """A moment, seconds since 1970, as the local time of day; with the date if it is not today's."""
    then = time.localtime(at)
    is_today = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M" if is_today else "%a %d %b %H:%M", then)


def frame(
    state: SweepState, now: float, width: int, height: int, lines: Sequence[str] = ()
) -> RenderableType:
    """One picture of a sweep, to fit a terminal of ``width`` columns and ``height`` rows.

    Where there are too few rows, the tables are cut, those of the frontier and the workers last.

    Args:
        now: Seconds since 1970.
        lines: The last lines of its log, to be shown at the end.
    """
    top: list[RenderableType] = [_header(state, now), _counts(state), _bars(state, width)]
    left = max(0, height - 2 - len(state.budgets) - (len(state.curve) > 1) - 1)
    parts: list[RenderableType] = []

    def rows_of(wanted: int) -> int:
        """How many of the rows that a table wants there is room for, and taken; it has a heading and stands apart."""
        nonlocal left
        rows = max(0, min(wanted, left - 2))
        left -= rows + 2 if rows else 0
        return rows

    if state.status == "running" and (rows := rows_of(min(WORKER_ROWS, state.workers))):
        parts += [Text(""), _workers(state, now, rows, width)]
    if rows := rows_of(min(FRONTIER_ROWS, len(state.frontier))):
        parts += [Text(""), _frontier(state, rows, width)]
    if rows := rows_of(min(FAILURE_ROWS, len(state.failures))):
        parts += [Text(""), _failures(state, rows)]
    shown = list(lines)[-max(0, min(LINE_ROWS, left - 1)) :] if left > 1 else []
    if shown:
        parts += [Text("")] + [_line(line, "dim") for line in shown]
    return Group(*top, *parts)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _header(state: SweepState, now: float) -> Text:
    line = _line("")
    line.append(state.name, style="bold")
    if state.status == "running":
        line.append(f"  running, {span(state.active_seconds)} so far", style="cyan")
        if state.phase == "frontier":
            line.append(f"; frontier: {state.measured} of {len(state.frontier)} measured")
        else:
            end = (
                "?" if state.ends_at is None else f"{span(state.ends_at - now)}, {clock(state.ends_at, now)}"
            )
            line.append(f"; trials through in about {end}" if state.ends_at else f"; estimated end: {end}")
    elif state.status == "finished":
        line.append(f"  finished {clock(state.at, now)}", style="green")
    else:
        line.append(
            f"  stopped, last heard of {clock(state.at, now)}; the same command resumes it", style="yellow"
        )
    return line


def _counts(state: SweepState) -> Text:
    line = _line("")
    for name, colour in COLOURS.items():
        if count := state.count(name):
            line.append(f"{' · ' if line else ''}{count} {name}", style=colour)
    for count, name in ((state.retried, "retried"), (state.rejected, "rejected proposals")):
        if count:
            line.append(f"{' · ' if line else ''}{count} {name}", style="dim")
    return line if line else _line("no trial yet", "dim")


def _bars(state: SweepState, width: int) -> RenderableType:
    """A line for each limit, and one for the hypervolume against the limit that is nearest."""
    named = [
        (NAMES[b.name], f"{_amount(b.spent)} of {_amount(b.limit)} {UNITS[b.name]}") for b in state.budgets
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    names = [name for name, _ in named] + ["hypervolume"]
    room = min(40, width - max(map(len, names)) - max(len(text) for _, text in named) - 8)
    for budget, (name, text) in zip(state.budgets, named, strict=True):
        bar = ProgressBar(total=1.0, completed=min(1.0, budget.share), width=room) if room >= 5 else ""
        grid.add_row(Text(name, "dim"), bar, text)
    if len(state.curve) > 1:
        limit = next(budget.limit for budget in state.budgets if budget.name == state.curve_of)
        line = Text(sparkline(state.curve, limit, room), "cyan")
        grid.add_row(Text("hypervolume", "dim"), line, f"{state.curve[-1][1]:.3f}")
    return grid


def _amount(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and value < 1e5 else f"{value:.3g}"


def sparkline(curve: Sequence[tuple[float, float]], end: float, width: int) -> str:
    """A rising curve of (spent, height) in ``width`` characters that stand for 0 … ``end``; blank ahead of it."""
    if width < 5 or not curve:
        return ""
    spent, heights = [x for x, _ in curve], [y for _, y in curve]
    end = max(end, spent[-1])
    low, high = min(heights), max(heights)
    cells = []
    for cell in range(width):
        left, right = end * cell / width, end * (cell + 1) / width
        reached = bisect_right(spent, right)
        if left > spent[-1] or reached == 0:
            cells.append(" ")
        else:
            share = (heights[reached - 1] - low) / (high - low) if high > low else 1.0
            cells.append(BARS[round(share * (len(BARS) - 1))])
    return "".join(cells)


def _table(columns: Sequence[tuple[str, bool]]) -> Table:
    """A table of columns, each a heading and whether it is a number; the last one takes what room is left."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for index, (name, is_number) in enumerate(columns):
        last = index == len(columns) - 1
        table.add_column(
            Text(name), justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis",
            ratio=1 if last else None,
        )  # fmt: skip
    return table


def _workers(state: SweepState, now: float, rows: int, width: int) -> RenderableType:
    busy = {t.worker: t for t in state.trials if t.state == "running" and t.worker is not None}
    wide = width >= 60
    columns = [("worker", True), ("trial", True), ("for", True)]
    columns += [("rungs", True), ("step", True)] if wide else []
    table = _table([*columns, ("runs", False)])
    numbers = sorted({*range(state.workers), *busy}, key=lambda number: (number not in busy, number))
    for number in sorted(numbers[: rows if len(numbers) <= rows else rows - 1]):
        trial = busy.get(number)
        if trial is None:
            cells = [str(number), "–", "", *(["", ""] if wide else []), "idle"]
        else:
            cells = [str(number), f"{trial.slot:03d}", span(now - trial.since) if trial.since else "?"]
            cells += [str(trial.rung), _step(trial)] if wide else []
            cells.append(trial.label)
        table.add_row(*map(Text, cells), style="dim" if trial is None else "")
    if len(numbers) > rows:
        shown = rows - 1
        table.add_row(
            Text("…"), *[Text("")] * (len(columns) - 1), Text(f"and {len(numbers) - shown} workers more")
        )
    return table


def _step(trial: TrialStatus) -> str:
    if trial.step is None:
        return ""
    return f"{trial.step}/{trial.steps}" if trial.steps else str(trial.step)


def _frontier(state: SweepState, rows: int, width: int) -> RenderableType:
    columns = [("trial", True)]
    shown = list(state.objectives.items())[: 1 if width < 50 else 2 if width < 100 else 3]
    columns += [(f"{_tail_of(key, width)} {'↑' if way == UP else '↓'}", True) for key, way in shown]
    count = len(state.frontier)
    of = sum(trial.state == "complete" for trial in state.trials)
    table = _table([*columns, (f"frontier: {count} of {of} complete trials", False)])
    cut = count > rows
    for trial in state.frontier[: rows - 1 if cut else rows]:
        figures = [human(key, trial.values[key]) for key, _ in shown]
        table.add_row(f"{trial.slot:03d}", *map(Text, figures), Text(trial.label))
    if cut:
        table.add_row("…", *[""] * len(shown), Text(f"and {count - rows + 1} more"))
    return table


def _tail_of(key: str, width: int) -> str:
    """A key, or as much of its end as a narrow terminal has room for."""
    return key if width >= 100 else key.rsplit("/", 1)[-1]


def _failures(state: SweepState, rows: int) -> RenderableType:
    table = _table([("failed", True), ("class", False), ("trial", True), ("for instance", False)])
    for failure in state.failures[:rows]:
        cells = [str(failure.count), failure.kind, f"{failure.slot:03d}", failure.message]
        table.add_row(*map(Text, cells), style="red")
    return table


def show_live(
    folder: Path,
    stop: threading.Event,
    console: Console | None = None,
    size: Callable[[], tuple[int, int]] | None = None,
    with_lines: bool = False,
    transient: bool = True,
    until_over: bool = False,
    alone: AbstractContextManager[Any] | None = None,
) -> None:
    """Draw the sweep in ``folder`` every second until ``stop`` is set.

    What cannot be read is said in place of the picture: looking at a sweep must never harm it.

    Args:
        console: Where; standard error by default.
        size: Columns and rows of the terminal, asked before each picture.
        with_lines: Whether the last lines of the workers' logs are shown, for a terminal that lacks them.
        transient: Whether the last picture is wiped away.
        until_over: Whether to end by itself when the sweep does.
        alone: Held while the picture is drawn, where others print on the same console.
    """
    console, alone = console or Console(stderr=True), alone or threading.Lock()
    reader: Reader | None = None
    state: SweepState | None = None
    with Live(console=console, auto_refresh=False, transient=transient, redirect_stdout=False,
              redirect_stderr=False) as live:  # fmt: skip
        while True:
            begin = time.monotonic()
            columns, rows = size() if size else console.size
            console.size = ConsoleDimensions(columns, rows)
            try:
                reader = reader or Reader(folder)
                state = reader.read(time.time())
                lines = latest_lines(folder, LINE_ROWS) if with_lines else []
                picture = frame(state, time.time(), columns, rows, lines)
            except Exception as error:  # whatever it is, the sweep goes on
                log.debug("the sweep in %s cannot be shown", folder, exc_info=True)
                picture = _line(f"{folder.name} cannot be shown just now: {error}", "yellow")
            with alone:
                live.update(picture, refresh=True)
            # At most a tenth of a core, also where reading is slow.
            is_over = until_over and state is not None and state.status != "running"
            if is_over or stop.wait(max(EVERY_SECONDS, 10 * (time.monotonic() - begin))):
                return


def is_shown() -> bool:
    """Whether a sweep of this process shows the live view: its standard error is a terminal that can."""
    return os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@contextlib.contextmanager
def live_view(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Show the live view of the sweep in ``folder`` at the end of the terminal while the block runs.

    Whatever this process and those that it starts meanwhile write to standard error (and to standard output,
    where that is a terminal too) appears above the view, line by line: both go through a pipe for so long.
    Without a terminal nothing changes, and no escape code is written.
    """
    if not (wanted and is_shown()):
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(2)
    through = {fd: os.dup(fd) for fd in (1, 2) if os.isatty(fd)}
    reading, writing = os.pipe()
    no_lines, no_view, alone = threading.Event(), threading.Event(), threading.Lock()
    stream = os.fdopen(terminal, "w", encoding="utf-8", errors="replace", buffering=1)
    console = Console(file=stream, force_terminal=True)
    lines = threading.Thread(
        target=_print_lines, args=(reading, console, no_lines, alone), daemon=True, name="lines-above"
    )
    view = threading.Thread(
        target=show_live, args=(folder, no_view, console, lambda: _size(terminal)), kwargs={"alone": alone},
        daemon=True, name="live-view",
    )  # fmt: skip
    for fd in through:
        os.dup2(writing, fd)
    os.close(writing)
    lines.start()
    view.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, own in through.items():
            os.dup2(own, fd)
            os.close(own)
        no_lines.set()
        lines.join()  # the last lines come before the view is wiped away
        no_view.set()
        view.join()
        os.close(reading)
        stream.close()


def _size(terminal: int) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        found = os.get_terminal_size(terminal)
        if found.columns and found.lines:
            return found.columns, found.lines
    return 80, 24


PIPE_BYTES = 65_536
"""What a pipe holds at most."""


def _print_lines(
    reading: int, console: Console, stop: threading.Event, alone: AbstractContextManager[Any]
) -> None:
    """Print what comes through a pipe, whole lines, until ``stop`` is set and what is in it by then is read.

    The other end may stay open for longer: idle workers of a launcher outlive the sweep.
    """
    import select

    rest = b""
    over = False
    while not over:
        over = stop.is_set()
        ready, _, _ = select.select([reading], [], [], 0.0 if over else 0.2)
        content = os.read(reading, PIPE_BYTES) if ready else b""
        over = over or bool(ready and not content)  # nobody writes any more
        *lines, rest = (rest + content).split(b"\n")
        for line in [*lines, rest] if over and rest else lines:
            # A progress bar draws over itself: what it shows last is what a line can show.
            shown = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")
            with alone:
                console.print(Text.from_ansi(shown), soft_wrap=True, highlight=False)
