"""The report on a terminal: the frontier as a table, what was left out and why, what was spent."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from effnlp.record import Record
from effnlp.report.candidates import Candidate
from effnlp.report.conflicts import summary_in_words as conflicts_in_words
from effnlp.report.course import budget_rows, ends_in_words, failure_classes, transfer_in_words
from effnlp.report.expected import in_words as leads_in_words
from effnlp.report.importance import in_words as importance_in_words
from effnlp.report.insights import Insights
from effnlp.report.summary import Section, Summary, label, within_noise
from effnlp.report.units import UP, human

INVERSIONS = 2
"""So many pairs that two costs order differently are named; the page has more."""

ROWS = 30
"""So many members of a frontier are shown; all are in the CSV file."""

EXAMPLES = 3
"""So many of the runs that were stopped are shown; all are in the CSV file and on the page."""

FOLDER_FROM_WIDTH = 110
"""From so many columns on, the table has room for the folders."""


IN_SHORT = {
    "quality": {
        "val/accuracy": "accuracy on validation",
        "val/macro_f1": "macro F1",
        "val/pearson": "Pearson on validation",
        "val/spearman": "Spearman",
        "val/bits_per_byte": "bits per byte",
        "val/perplexity": "perplexity",
        "test/accuracy": "accuracy on test",
        "test/pearson": "Pearson on test",
        "test/bits_per_byte": "bits per byte on test",
    },
    "model": {
        "model/params": "parameters",
        "model/trainable_params": "of them trained",
        "model/bytes": "stored in",
    },
    "one text": {
        "infer/single_stream/flops": "work",
        "infer/single_stream/latency_seconds_p50": "median latency",
    },
    "this run": {
        "cost/total/own/seconds": "time",
        "cost/total/own/flops": "work",
        "cost/total/own/energy_joules": "energy",
    },
}
"""What a person wants to see of a single run that just ended; the record has the rest."""


def in_short(record: Record) -> str:
    """A few lines on one run: its quality, its model, what one text costs, and what it cost itself."""
    lines = []
    for title, names in IN_SHORT.items():
        shown = [
            f"{name} {human(key, record.values[key])}" for key, name in names.items() if key in record.values
        ]
        if "cost/total/own/energy_joules" in names and "cost/total/own/energy_joules" in record.values:
            shown[-1] += f" ({record.notes.get('energy/method', 'unknown')})"
        lines.append(f"  {title:<9} {', '.join(shown) or '-'}")
    return "\n".join(lines)


def show(summary: Summary, console: Console, found_also: Insights | None = None) -> None:
    """Write the report to ``console``, fitting its width; with what was found beyond the frontier, if given."""
    for note in summary.notes:
        console.print(Text(note, style="yellow"))
    for number, section in enumerate(summary.sections):
        _show_section(section, console, named=len(summary.sections) > 1)
        if found_also and (moved := found_also.importance[number]):
            for sentence in importance_in_words(moved):
                console.print(Text(sentence))
        if found_also and (conflicts := found_also.conflicts[number]):
            for sentence in conflicts_in_words(conflicts, section, INVERSIONS):
                console.print(Text(sentence, style="dim"))
    if not summary.sections:
        console.print(Text("No run was completed: there is nothing to rank."))
    _show_stopped(summary, console)
    _show_failures(summary, console)
    for folder, sweep in summary.reading.sweeps.items():
        _show_sweep(folder, sweep, console, named=len(summary.reading.sweeps) > 1)
        for curves in found_also.expected if found_also else ():
            if curves.folder == folder:
                console.print(Text(f"Expected to be the best: {'; '.join(leads_in_words(curves))}"))
    console.print(Text(spent_in_words(summary)))


def _show_section(section: Section, console: Console, named: bool) -> None:
    ranked = len(section.ranked)
    aims = " · ".join(f"{key} {'↑' if way == UP else '↓'}" for key, way in section.objectives.items())
    count = f"{len(section.frontier)} of {ranked} configurations are on the frontier of {aims}"
    console.print(Text(f"{section.task} ({section.fingerprint}): {count}" if named else count, style="bold"))
    if section.frontier:
        console.print(_table(section, with_folder=console.width >= FOLDER_FROM_WIDTH))
    if len(section.frontier) > ROWS:
        console.print(Text(f"… and {len(section.frontier) - ROWS} more in frontier.csv", style="dim"))
    for sentence in noise_in_words(section):
        console.print(Text(sentence, style="yellow"))
    for constraint, many in Counter(c for _, violated in section.infeasible for c in violated).most_common():
        console.print(Text(f"{many} not ranked, they violate {constraint}", style="yellow"))
    for reason, many in Counter(
        f"{key}: {why}" for _, missing in section.lacking for key, why in missing.items()
    ).most_common():
        console.print(Text(f"{many} not ranked, without {reason}", style="yellow"))


def _table(section: Section, with_folder: bool) -> Table:
    replicated = any(len(candidate.runs) > 1 for candidate in section.frontier)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("configuration", ratio=3, overflow="fold", min_width=24)
    shown = section.frontier[:ROWS]
    for key, way in section.objectives.items():
        widest = max(len(value_text(candidate, key)) for candidate in shown)
        name = Text(f"{key} {'↑' if way == UP else '↓'}")
        table.add_column(name, justify="right", overflow="fold", min_width=widest)
    if replicated:
        table.add_column("n", justify="right")
    if with_folder:
        table.add_column("folder", ratio=2, overflow="fold", style="dim")
    for candidate in shown:
        row = [label(candidate, section), *(value_text(candidate, key) for key in section.objectives)]
        row += [str(len(candidate.runs))] if replicated else []
        row += [str(candidate.runs[0].folder)] if with_folder else []
        table.add_row(*(Text(cell) for cell in row))
    return table


def value_text(candidate: Candidate, key: str) -> str:
    """The candidate's value for ``key`` in human units, with its interval where there are replicates."""
    found = candidate.values.get(key)
    return human(key, found.mean, found.half_width) if found else "–"


def noise_in_words(section: Section) -> list[str]:
    """Who is not shown to be better than whom, a sentence each."""
    pairs = within_noise(section)
    if not pairs:
        return []
    key = next(iter(section.objectives))
    return [
        f"Not distinguishable in {key}, their 90 % intervals overlap: {label(one, section)} "
        f"({value_text(one, key)}) and {label(other, section)} ({value_text(other, key)})"
        for one, other in pairs
    ]


def _show_stopped(summary: Summary, console: Console) -> None:
    if not summary.stopped:
        return
    many = len(summary.stopped)
    console.print(Text(f"{many} run{'s were' if many > 1 else ' was'} stopped at a rung, for instance:"))
    for run in summary.stopped[:EXAMPLES]:
        console.print(Text(f"  {run.folder.name}  {run.record.message or 'without a reason'}", style="dim"))


def _show_failures(summary: Summary, console: Console) -> None:
    if summary.failures:
        reasons = failure_classes(summary.failures)
        why = ", ".join(f"{found.count} {found.reason}" for found in reasons)
        console.print(Text(f"{len(summary.failures)} runs are without a result: {why}", style="yellow"))
        for found in reasons:
            console.print(
                Text(
                    f"  {found.count:3d} x {found.reason:11}  {found.folder.name}: {found.message}",
                    style="dim",
                )
            )
    damaged = summary.reading.damaged
    if damaged:
        console.print(Text(f"{len(damaged)} damaged: {_some(list(damaged))}", style="red"))


def _show_sweep(folder: Path, sweep: Mapping[str, Any], console: Console, named: bool) -> None:
    name = f"{folder}: " if named else ""
    if ends := ends_in_words(sweep):
        console.print(Text(f"{name}Trials: {ends}"))
    budget = [
        f"{what} {spent} of {limit}" for what, spent, limit, share in budget_rows(sweep) if share is not None
    ]
    if budget:
        console.print(Text(f"{name}Budget: {', '.join(budget)}"))
    if transfer := transfer_in_words(sweep):
        console.print(Text(f"{name}{transfer}"))


def _some(folders: list[Path]) -> str:
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    return ", ".join(map(str, folders[:3])) + more


def spent_in_words(summary: Summary) -> str:
    """What all runs spent together, in one line."""
    total = [entry for entry in summary.spent if entry.stage == "total"]
    names = {"seconds": "of runs", "cpu_seconds": "of CPU time", "flops": ""}
    parts = []
    for entry in total:
        if entry.quantity in names or entry.quantity.startswith("energy_joules"):
            name = names.get(entry.quantity, entry.quantity.partition(" ")[2].strip("[]"))
            parts.append(f"{human(entry.quantity, entry.amount)} {name}".strip())
    many = len(summary.reading.loaded)
    spent = ", ".join(parts) or "no cost was recorded"
    return f"Spent by {many} run{'s' if many != 1 else ''}: {spent}"
