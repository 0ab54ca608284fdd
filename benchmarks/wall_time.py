"""Where the wall time of a sweep goes.

    effnlp sweep search/space=quickstart search.name=quickstart search.trials=16 search.workers=2
    python benchmarks/wall_time.py multirun/quickstart

A sweep has wall seconds times workers at its disposal, from the start of its command to the end of its last
process. What is neither training nor evaluation is what a user waits for without getting anything. Reads
what the sweep has left: the costs of its records, and when which worker had a process.
"""

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import publish

STAGES = {
    "training": ("finetuning",),
    "evaluation": ("evaluation",),
    "compression": ("compression",),
    "loading": ("data", "pretraining"),
}
"""Row of the table to the metered stages in it."""

PHASES = ("trials", "replicates", "final")
TARGET_SHARE = 0.2


@dataclass(frozen=True)
class Process:
    """A process that ran one trial, or took the last look at one. Times in seconds since 1970."""

    phase: str
    worker: int
    start: float
    end: float


def outside_processes(
    processes: Sequence[Process], workers: int, start: float, end: float
) -> dict[str, float]:
    """Worker-seconds in which a worker had no process, by the reason.

    A phase goes from the end of the one before it to the end of its last process. With the seconds in
    processes they add up to ``workers * (end - start)``.
    """
    found = {
        "start of workers": 0.0,
        "between processes": 0.0,
        "waiting for other workers": 0.0,
        "end of the sweep": 0.0,
    }
    since = start
    for phase in PHASES:
        of_phase = [process for process in processes if process.phase == phase]
        if not of_phase:
            continue
        until = max(process.end for process in of_phase)
        for worker in range(workers):
            own = sorted((p for p in of_phase if p.worker == worker), key=lambda process: process.start)
            if not own:
                found["waiting for other workers"] += until - since
                continue
            found["start of workers"] += own[0].start - since
            found["between processes"] += sum(b.start - a.end for a, b in itertools.pairwise(own))
            found["waiting for other workers"] += until - own[-1].end
        since = until
    found["end of the sweep"] += workers * (end - since)
    return found


def inside_processes(records: Sequence[Mapping[str, float]], seconds: float) -> dict[str, float]:
    """Seconds of all processes by stage; the rest are imports, composing, and what is written at the end.

    Args:
        records: The values of each record.
        seconds: Of all processes together.
    """
    found: dict[str, float] = defaultdict(float)
    for values in records:
        for row, stages in STAGES.items():
            found[row] += sum(values.get(f"cost/{stage}/own/seconds", 0.0) for stage in stages)
        found["waiting for quiet or for the cache"] += values.get("cost/total/own/waiting_seconds", 0.0)
    found["start and end of processes"] = seconds - sum(found.values())
    return dict(found)


def read(folder: Path) -> tuple[dict[str, Any], list[Process], list[Mapping[str, float]]]:
    """The specification of a sweep with its outcome, its processes, and the values of its records.

    Raises:
        ValueError: If the sweep has not ended, was taken up by a later command, or knows no processes.
    """
    from effnlp.record import Events

    sweep = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    if "process_started" not in sweep:
        raise ValueError(f"{folder} holds a sweep that has not ended")
    processes, records = [], []
    for trial in sorted((folder / "trials").iterdir()):
        for event in Events(trial):
            if event["event"] == "process":
                start = event["time"] - event["seconds"]
                processes.append(Process(event["phase"], event["worker"], start, event["time"]))
        records.append(json.loads((trial / "record.json").read_text(encoding="utf-8"))["values"])
    if not processes:
        raise ValueError(f"no trial in {folder} says when it had a process")
    if min(process.start for process in processes) < sweep["process_started"]:
        raise ValueError(f"the sweep in {folder} was taken up by a later command: its wall time has gaps")
    return sweep, processes, records


def split(folder: Path) -> dict[str, Any]:
    """Worker-seconds by what they were spent on."""
    sweep, processes, records = read(folder)
    start, end, workers = sweep["process_started"], sweep["trials_ended"], sweep["workers"]
    seconds = inside_processes(records, sum(process.end - process.start for process in processes))
    seconds |= outside_processes(processes, workers, start, end)
    whole = workers * (end - start)
    return {
        "command": ["effnlp", "sweep", *sweep["command"]],
        "trials": sweep["trials"],
        "workers": workers,
        "threads": sweep["threads"],
        "wall_seconds": end - start,
        "worker_seconds": seconds,
        "share_of_overhead": 1 - (seconds["training"] + seconds["evaluation"]) / whole,
        "target_share": TARGET_SHARE,
    }


def main() -> None:
    """Split, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a sweep that has ended")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    publish("wall_time", split(options.folder), ("torch", "hydra-core", "optuna"), write=not options.dry)


if __name__ == "__main__":
    main()
