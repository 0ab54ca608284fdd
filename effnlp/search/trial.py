"""One trial in a process of its own: run it, leave the record in its folder."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnlp.compose import Composed
from effnlp.search.children import end_with_parent
from effnlp.search.rungs import Rung, Rungs, Verdict

BUSY = 75
"""Exit code of a child whose trial another process still runs."""


@dataclass(frozen=True)
class Levels:
    """Where a trial is looked at; what :class:`effnlp.search.rungs.Rungs` needs, less whom to ask."""

    levels: tuple[int, ...]
    max_resource: int
    known: int


def run_trial(
    overrides: Sequence[str],
    folder: Path,
    config_dir: Path | None,
    composed: Composed,
    levels: Levels | None = None,
    memory_limit_bytes: int | None = None,
    connection: Any = None,
) -> None:
    """What a child process does. What it says goes to ``output.log`` of its folder.

    Args:
        composed: Of the overrides: the worker had to compose them, and it takes time.
        levels: Where the worker is asked whether to go on; None is nowhere.
        memory_limit_bytes: Of the address space of this process.
        connection: To the worker: takes a rung, gives a verdict.
    """
    from effnlp.run import RunInUseError, run  # not above: a worker only names this function

    end_with_parent()
    folder.mkdir(parents=True, exist_ok=True)
    with speaking_to(folder / "output.log"):
        _limit_memory(memory_limit_bytes)

        def report(rung: Rung) -> Verdict:
            connection.send(rung)
            verdict: Verdict = connection.recv()
            return verdict

        rungs = None
        if levels is not None:
            rungs = Rungs(levels.levels, levels.max_resource, levels.known, report)
        try:
            record = run(composed.config, composed.chosen, folder, overrides, config_dir, rungs)
        except RunInUseError:
            sys.exit(BUSY)
    sys.exit(1 if record.status == "failed" else 0)


@contextmanager
def speaking_to(path: Path) -> Iterator[None]:
    """All that this process says, in whatever way and by whatever library, goes to the end of a file."""
    with path.open("a", encoding="utf-8", buffering=1) as file:
        if multiprocessing.parent_process() is not None:  # else these are another's
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        yield


def _limit_memory(limit_bytes: int | None) -> None:
    if limit_bytes is None:
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
