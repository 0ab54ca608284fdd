"""A journal file for Optuna's ``JournalStorage`` that survives killed writers and full disks.

One JSON object a line, as Optuna's own file back-end writes it. Unlike that one, a line that was never finished
is cut back before the next is appended, an append that fails leaves the file as it was, the lock dies with its
process, and a snapshot beside the journal (``study.journal.snapshot``) spares replaying what it has seen.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._base import BaseJournalSnapshot

log = logging.getLogger(__name__)

BLOCK_BYTES = 4096


@contextlib.contextmanager
def held(file: IO[bytes], shared: bool = False) -> Iterator[None]:
    """Alone with an open file (or only with others that share it), across processes, threads and machines.

    The lock is the kernel's (``flock``): it ends with the process that holds it, whatever way that ends, so
    that a file which is left over locks nobody out. Waiting is the kernel's as well, and in turn.

    Raises:
        OSError: If the file system has no such locks.
    """
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


@dataclass
class _Position:
    """How far the journal was read: whole lines, bytes, and the digest of these bytes."""

    lines: int = 0
    end: int = 0
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def advance(self, line: bytes) -> None:
        """Past one line, with its newline."""
        self.lines += 1
        self.end += len(line)
        self.digest.update(line)


class JournalFile(BaseJournalBackend, BaseJournalSnapshot):
    """Optuna's logs in one file, appended under the file's own lock.

    Args:
        path: Of the journal; an empty one is made if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snapshot_path = path.with_name(path.name + ".snapshot")
        self._read = _Position()
        path.touch()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all of ``logs``, or leave the journal as it was. Every reader sees them from now on.

        They survive the end of any process at once, and that of the machine from the next ``sync`` on.

        Raises:
            OSError: If they cannot be written: a full disk, say.
        """
        content = b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in logs)
        # Always at the end, wherever that is then: Optuna's own back-end, in a dashboard say, has another lock.
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        with open(descriptor, "r+b", buffering=0) as file, held(file):
            start, size = whole_end(file), os.fstat(file.fileno()).st_size
            if start < size:
                log.warning(
                    "%s: cut back %d bytes of a line that was never finished", self.path, size - start
                )
                file.truncate(start)
            try:
                write_all(file, content)
                hand_over(file)
            except BaseException:
                file.truncate(start)
                raise

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The logs from the given one on; a last line that was never finished is none.

        Raises:
            ValueError: If a line before the last is no JSON, or the journal has lost lines that were read.
        """
        if log_number_from < self._read.lines:
            self._read = _Position()
        # What lies before the size that was found under the lock is never cut back: no append is under way.
        with self.path.open("rb") as file:
            with held(file, shared=True):
                size = os.fstat(file.fileno()).st_size
            if size < self._read.end:
                raise ValueError(
                    f"{self.path} has {size} bytes, {self._read.end} were read from it: "
                    "it was replaced or cut while it was in use"
                )
            file.seek(self._read.end)
            content = file.read(size - self._read.end)
        lines = content.split(b"\n")[:-1]
        for index, line in enumerate(lines):
            try:
                entry = json.loads(line)
            except ValueError as error:
                if index == len(lines) - 1:
                    return
                raise ValueError(f"{self.path}, line {self._read.lines + 1} is no JSON: {error}") from None
            self._read.advance(line + b"\n")
            if self._read.lines > log_number_from:
                yield entry

    def save_snapshot(self, snapshot: bytes) -> None:
        """Keep what Optuna has made of all lines read so far; without room for it, go on without it."""
        header = {
            **_versions(),
            "lines": self._read.lines,
            "bytes": self._read.end,
            "journal": self._read.digest.hexdigest(),
            "content": _digest(snapshot),
        }
        beside = self.snapshot_path.with_name(f".{self.snapshot_path.name}.{uuid.uuid4().hex}")
        try:
            beside.write_bytes(json.dumps(header).encode() + b"\n" + snapshot)
            os.replace(beside, self.snapshot_path)
        except OSError as error:
            log.warning("no snapshot of %s could be saved: %s", self.path, error)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    def load_snapshot(self) -> bytes | None:
        """The snapshot if it is whole, of this journal, and of these versions of Optuna and Python."""
        try:
            head, _, snapshot = self.snapshot_path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        try:
            header = json.loads(head)
            seen = self._seen(header, snapshot)
        except (ValueError, KeyError, TypeError) as error:
            log.info("%s is left out: %s", self.snapshot_path, error)
            return None
        self._read = seen
        return snapshot

    def _seen(self, header: dict[str, Any], snapshot: bytes) -> _Position:
        """The position in the journal that a snapshot stands for.

        Raises:
            ValueError: If it is damaged, or of another journal or version.
        """
        if any(header[name] != version for name, version in _versions().items()):
            raise ValueError("it was made by another version")
        if header["content"] != _digest(snapshot):
            raise ValueError("it is damaged")
        with self.path.open("rb") as file:
            content = file.read(header["bytes"])
        position = _Position(header["lines"], len(content))
        position.digest.update(content)
        if position.end != header["bytes"] or position.digest.hexdigest() != header["journal"]:
            raise ValueError("it is of another journal")
        return position


def whole_end(file: IO[bytes]) -> int:
    """Where the last line ends that was written as a whole; what follows never was.

    A line was if it ends with a newline and is JSON: after a power failure blocks in front of its end can be
    missing.
    """
    start = size = file.seek(0, os.SEEK_END)
    tail, block = b"", BLOCK_BYTES
    while start > 0 and tail.count(b"\n") < 2:
        start = max(0, size - block)
        file.seek(start)
        tail, block = file.read(size - start), block * 4
    end = tail.rfind(b"\n") + 1
    begin = tail.rfind(b"\n", 0, end - 1) + 1 if end else 0
    try:
        json.loads(tail[begin:end])
    except ValueError:
        return start + begin
    return start + end


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write to an unbuffered file, which may take less at once."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def hand_over(file: IO[bytes]) -> None:
    """Have a network file system send what was written; only then does it find that there is no room.

    It does so when any descriptor of the file is closed. On a local disk this costs nothing.
    """
    os.close(os.dup(file.fileno()))


def sync(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())


def _versions() -> dict[str, str]:
    return {"optuna": optuna.__version__, "python": platform.python_version()}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
