"""A worker of ``effnlp reproduce``: one Hydra job that takes runs of a session and does each in a child process."""

import contextlib
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from effnlp.compose import Composed
from effnlp.record import COMPLETED, EVALUATOR, FAILED, Record
from effnlp.reproduce.session import Ending, Job, Session
from effnlp.search.children import Ended, call_in_child, context, end_after
from effnlp.search.devices import occupy_share
from effnlp.search.trial import BUSY, run_trial

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.2
"""Between two looks whether there is something to do."""

WAIT_FOR_OTHERS_SECONDS = 3.0
"""Before a run is looked at again that a process outside of the session does."""

TRIES = 2
"""How often a run is begun that is killed each time."""

LOST = "its worker was gone each of the {} times that it was begun"


def job(config: Any) -> None:
    """What Hydra runs."""
    from hydra.core.hydra_config import HydraConfig

    from effnlp.launch import heard_by_slurm

    os.chdir(HydraConfig.get().runtime.cwd)  # paths in overrides are meant from there
    with heard_by_slurm():
        work(int(config.worker), Path(str(config.session)))


def work(worker: int, folder: Path) -> None:
    """Do runs until none is left that nobody does.

    Args:
        worker: Its number, from 0.
        folder: Of the session.

    Raises:
        KeyboardInterrupt: If the command is gone; what was begun can be gone on with.
    """
    if not (folder / "session.json").exists():
        return  # started late: the command has ended
    session = Session.open(folder)
    occupy_share(worker, session.workers, session.threads)  # first: children inherit it
    if session.host == socket.gethostname():
        end_after(session.pid)
    processes = context()
    others: dict[int, float] = {}
    while session.goes_on():
        later = {number for number, until in others.items() if until > time.monotonic()}
        with session.take(passed_over=later) as number:
            if number is not None:
                if not _do(session, number, processes):
                    others[number] = time.monotonic() + WAIT_FOR_OTHERS_SECONDS
                continue
        if all(map(session.is_over, later)) and not any(map(session.waits, session.open_numbers)):
            return  # what is left has a worker
        time.sleep(WAIT_SECONDS)
    raise KeyboardInterrupt


def _do(session: Session, number: int, processes: Any) -> bool:
    """Do one run and note how it ended; False if another process does it."""
    wanted = session.jobs[number]
    start = time.monotonic()
    while True:
        begun = session.begin_run(number)
        if begun > TRIES:
            _end(session, wanted, Ending(number, time.monotonic() - start, "killed", LOST.format(TRIES)))
            return True
        before = _stamp(Path(wanted.folder))
        try:
            ended = _in_child(session, wanted, processes)
        except KeyboardInterrupt:
            session.forget_begun(number)
            raise
        if ended.why == "stopped" or ended.code == BUSY:
            session.forget_begun(number)
            if ended.why == "stopped":
                raise KeyboardInterrupt
            return False
        seconds = time.monotonic() - start
        record = _record_in(Path(wanted.folder))
        if ended.code != 0 and _stamp(Path(wanted.folder)) == before:
            record = None  # of another attempt: this one left none
        reason, message = what_went_wrong(ended, record)
        if reason != "killed" or begun >= TRIES:
            _end(session, wanted, Ending(number, seconds, reason, message))
            return True
        log.warning("%s: %s; it is begun once more", wanted.name, message)


def _in_child(session: Session, wanted: Job, processes: Any) -> Ended:
    """One run in a process of its own, which leaves its record."""
    composed = Composed(dict(wanted.config), dict(wanted.chosen), wanted.folder)
    arguments = (list(wanted.overrides), Path(wanted.folder), None, composed)
    return call_in_child(processes, run_trial, arguments, session.goes_on)


def what_went_wrong(ended: Ended, record: Record | None) -> tuple[str | None, str | None]:
    """The class of a failure, as records have it, and a sentence; None and None if there is none.

    Args:
        ended: How the child ended that did the run, by itself.
        record: That it left, if it did.
    """
    code = ended.code or 0
    if code < 0:
        return "killed", f"its process ended with signal {-code}"
    if code == 0 and record is not None and record.status == COMPLETED:
        return None, None
    if code == 1 and record is not None and record.status == FAILED:
        if record.reason == "interrupted":
            return "killed", "a signal from outside ended it"
        return record.reason or "error", record.message or "no word of why"
    return "error", f"its process ended with exit code {code}; see output.log in its folder"


def _end(session: Session, wanted: Job, ending: Ending) -> None:
    """Note how a run ended, also in its folder if its process could not."""
    if ending.reason is not None:
        folder = Path(wanted.folder)
        record = _record_in(folder)
        # A completed one is of other texts or of another evaluator; it is somebody's result all the same.
        if record is None or (record.status == FAILED and record.reason != ending.reason):
            record = record or Record(FAILED, identity_of(wanted), dict(wanted.chosen), dict(wanted.config))
            record.reason, record.message = ending.reason, ending.message
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                record.save(folder)
    session.end_run(ending)


def identity_of(wanted: Job) -> dict[str, Any]:
    """Of a run that could not say itself what it was."""
    from effnlp.identity import config_hash

    seeds = wanted.config["seed"]
    return {
        "config_hash": config_hash(wanted.config),
        "seed_init": int(seeds["init"]),
        "seed_order": int(seeds["order"]),
        "evaluator": EVALUATOR,
        "overrides": list(wanted.overrides),
    }


def _record_in(folder: Path) -> Record | None:
    try:
        return Record.load(folder)
    except (FileNotFoundError, ValueError):
        return None


def _stamp(folder: Path) -> int | None:
    """When a record was written there."""
    try:
        return (folder / "record.json").stat().st_mtime_ns
    except OSError:
        return None
