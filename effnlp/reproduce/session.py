"""What a command and its workers tell each other: a folder with a small file for each fact.

session.json     the runs to do, longest expected first, and who wants them
taken/3.lock     held by the worker that does run 3; the system frees it however the worker goes
begun/3          a line for each time that run 3 was begun
ended/3.json     how run 3 ended
heartbeat        touched while the command runs
"""

import contextlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from effnlp.record import write_atomically
from effnlp.search.children import alive

SILENT_SECONDS = 60.0
"""A command on another machine that says nothing for so long is gone."""


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        name: For a reader.
        folder: Of the run, absolute.
        config, chosen: As :class:`effnlp.compose.Composed` has them.
        after: Numbers of runs that it reads: it waits until they have ended.
    """

    name: str
    overrides: Sequence[str]
    folder: str
    config: Mapping[str, Any]
    chosen: Mapping[str, str]
    after: Sequence[int] = field(default_factory=list)


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        number: Of the run in the session.
        reason, message: None if it is completed.
        seconds: That it took here.
    """

    number: int
    seconds: float
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Session:
    """The folder, opened.

    Attributes:
        pid, host: Of the command.
        threads: CPU threads of a worker.
    """

    folder: Path
    jobs: Sequence[Job]
    workers: int
    threads: int
    pid: int
    host: str

    @classmethod
    def open(cls, folder: Path) -> "Session":
        """Read what :func:`begin` wrote."""
        content = json.loads((folder / "session.json").read_text(encoding="utf-8"))
        return cls(folder, **{**content, "jobs": [Job(**job) for job in content["jobs"]]})

    def goes_on(self) -> bool:
        """Whether the command that wants the runs is still there."""
        if self.host == socket.gethostname():
            return alive(self.pid)
        probe = self.folder / f".now-{uuid.uuid4().hex[:8]}"
        try:
            probe.touch()  # by the clock of the folder: those of machines need not agree
            age = probe.stat().st_mtime - (self.folder / "heartbeat").stat().st_mtime
            probe.unlink()
        except OSError:
            return self.folder.exists()
        return age <= SILENT_SECONDS

    def is_over(self, number: int) -> bool:
        """Whether a run has ended."""
        return (self.folder / "ended" / f"{number}.json").exists()

    @property
    def open_numbers(self) -> list[int]:
        """Runs that have not ended, in the order in which they are to be begun."""
        return [number for number in range(len(self.jobs)) if not self.is_over(number)]

    def waits(self, number: int) -> bool:
        """Whether a run reads another one that has not ended."""
        return not all(map(self.is_over, self.jobs[number].after))

    @contextmanager
    def take(self, passed_over: Collection[int] = ()) -> Iterator[int | None]:
        """The first run that nobody does, this worker's alone while the block runs; None if there is none.

        Args:
            passed_over: Runs that are not wanted now.
        """
        for number in self.open_numbers:
            if number in passed_over or self.waits(number):
                continue
            lock = filelock.FileLock(self.folder / "taken" / f"{number}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                if not self.is_over(number):  # it may have ended since it was listed
                    yield number
                    return
            finally:
                lock.release()
        yield None

    def begin_run(self, number: int) -> int:
        """Note that a run is begun; how often it was, with this time."""
        path = self.folder / "begun" / str(number)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{socket.gethostname()} {os.getpid()}\n")
        return len(path.read_text(encoding="utf-8").splitlines())

    def forget_begun(self, number: int) -> None:
        """A run was given back in order, which is no failure of it."""
        (self.folder / "begun" / str(number)).unlink(missing_ok=True)

    def end_run(self, ending: Ending) -> None:
        """Note how a run ended."""
        write_atomically(self.folder / "ended" / f"{ending.number}.json", json.dumps(asdict(ending)))

    def endings(self, known: Collection[int] = ()) -> list[Ending]:
        """How runs ended, in the order in which they did, less those that are known."""
        found = []
        for path in (self.folder / "ended").glob("[0-9]*.json"):
            if int(path.stem) not in known:
                with contextlib.suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime, path))
        return [Ending(**json.loads(path.read_text(encoding="utf-8"))) for _, path in sorted(found)]

    def beat(self) -> None:
        """Say that the command is still there."""
        with contextlib.suppress(OSError):
            (self.folder / "heartbeat").touch()

    def remove(self) -> None:
        """Clear it away."""
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(sessions: Path, jobs: Sequence[Job], workers: int, threads: int) -> Session:
    """Make the folder of a new session below ``sessions``; clears away those whose command is gone."""
    for earlier in sessions.glob("*/session.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            if not (left := Session.open(earlier.parent)).goes_on():
                left.remove()
    folder = (sessions / uuid.uuid4().hex[:12]).absolute()
    for part in ("taken", "begun", "ended"):
        (folder / part).mkdir(parents=True)
    session = Session(folder, jobs, workers, threads, os.getpid(), socket.gethostname())
    content = {**asdict(session), "jobs": [asdict(job) for job in jobs]}
    del content["folder"]
    (folder / "session.json").write_text(json.dumps(content), encoding="utf-8")
    session.beat()
    return session
