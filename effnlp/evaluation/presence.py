"""Who is at work on this machine: one locked file for each process, in a folder that all users share.

A file counts while its process holds the lock on it, so that the death of a process, however sudden, needs
no clearing up, and a process id that is used again is not mistaken for the dead one.
"""

import json
import logging
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

HAS_LOCKS = fcntl is not None
"""Whether the operating system has advisory locks that end with their process."""


_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def lock_folder() -> Path:
    """The machine-wide folder of locks: ``EFFNLP_LOCK_DIR``, or one below the system's temporary folder."""
    named = os.environ.get("EFFNLP_LOCK_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / "effnlp-locks"


def make_shared_folder(folder: Path) -> Path:
    """Make the folder so that every user of the machine may add files to it, and return it."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        path.chmod(0o1777)
    return folder


def open_shared(path: Path) -> int:
    """A file descriptor on a lock file of all users, made if it is not there; closed in forked children.

    An existing file is opened without asking to create it: in a shared sticky folder Linux refuses that
    for files of other users (``fs.protected_regular``).
    """
    flags = _CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            return os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError:
            pass
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | flags, 0o666)
        except FileExistsError:
            continue
        os.fchmod(descriptor, 0o666)
        return descriptor


class OwnedDescriptor:
    """A file descriptor that a forked child does not keep: its copy would hold the lock past our death."""

    def __init__(self, descriptor: int) -> None:
        self.number = descriptor
        _owned.add(self)

    def close(self) -> None:
        """Close it; twice is as once."""
        _owned.discard(self)
        if self.number >= 0:
            os.close(self.number)
            self.number = -1

    def try_lock(self, exclusive: bool) -> bool:
        """Lock the file without waiting; False where others hold it."""
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(self.number, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(self) -> None:
        """Lock the file alone, waiting for those that hold it."""
        fcntl.flock(self.number, fcntl.LOCK_EX)

    def unlock(self) -> None:
        """Let the file go."""
        fcntl.flock(self.number, fcntl.LOCK_UN)


_owned: "weakref.WeakSet[OwnedDescriptor]" = weakref.WeakSet()


def _close_in_child() -> None:
    for owned in list(_owned):
        owned.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@dataclass
class _Held:
    """A file that this process holds, and how many hold it here."""

    descriptor: OwnedDescriptor
    holders: int


_held: dict[Path, _Held] = {}


class Presence:
    """The processes that are present in ``folder``; this one between :meth:`enter` and :meth:`leave`.

    A process counts once, however often it entered. Where the system has no such locks, a file counts
    while a process with its id exists.

    Args:
        folder: Shared by all processes that are to see each other.
        description: What this process does, for messages to others.
    """

    def __init__(self, folder: Path, description: str = "effnlp") -> None:
        self.folder = folder
        self.description = description
        self._path: Path | None = None

    def enter(self) -> None:
        """Be counted from now on; twice is as once."""
        path = self.folder / f"{os.getpid()}.json"
        if self._path == path:
            return
        if path in _held:
            _held[path].holders += 1
        else:
            make_shared_folder(self.folder)
            _held[path] = _Held(_hold(path, self.description), holders=1)
        self._path = path

    def leave(self) -> None:
        """Not be counted any more; twice is as once, and a forked child leaves its parent's file alone."""
        path, self._path = self._path, None
        if path is None or path not in _held:
            return
        _held[path].holders -= 1
        if _held[path].holders == 0:
            descriptor = _held.pop(path).descriptor
            if not HAS_LOCKS:
                descriptor.close()  # Windows does not remove a file that is open
            path.unlink(missing_ok=True)
            descriptor.close()

    def count(self) -> int:
        """How many processes are present, this one included if it is."""
        return len(self._all())

    def others(self) -> list[str]:
        """The other processes that are present, as "process 12 (description)"."""
        return [name for pid, name in self._all().items() if pid != os.getpid()]

    def _all(self) -> dict[int, str]:
        if not self.folder.is_dir():
            return {}
        files = [path for path in sorted(self.folder.glob("*.json")) if path.stem.isdigit()]
        found = {int(path.stem): _describe(path) for path in files}
        return {pid: name for pid, name in found.items() if name is not None}


def _hold(path: Path, description: str) -> OwnedDescriptor:
    """Make the file and lock it."""
    content = json.dumps({"pid": os.getpid(), "description": description}).encode()
    while True:
        descriptor = OwnedDescriptor(os.open(path, os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o644))
        # Another process that looks whether we are alive holds it for a moment, and may remove it.
        if (not HAS_LOCKS or descriptor.try_lock(exclusive=True)) and _leads_to(path, descriptor):
            os.ftruncate(descriptor.number, 0)
            os.write(descriptor.number, content)
            return descriptor
        descriptor.close()


def _leads_to(path: Path, descriptor: OwnedDescriptor) -> bool:
    """Whether the path still leads to the file that the descriptor is on."""
    try:
        return path.stat().st_ino == os.fstat(descriptor.number).st_ino
    except FileNotFoundError:
        return False


def _is_alive(path: Path, pid: int) -> bool:
    """Whether the process that made the file still holds it."""
    if pid == os.getpid():
        return path in _held
    return _is_locked(path) if HAS_LOCKS else psutil.pid_exists(pid)


def _describe(path: Path) -> str | None:
    """Who holds the file; None if nobody does, and then the file is removed if it may be."""
    pid = int(path.stem)
    try:
        content = path.read_text(encoding="utf-8")
        if not _is_alive(path, pid):
            return None
    except OSError:
        return None
    try:
        description = json.loads(content)["description"]
    except (ValueError, KeyError, TypeError):
        description = "starting"
    return f"process {pid} ({description})"


def _is_locked(path: Path) -> bool:
    """Whether a process holds the file. A file that nobody holds is removed while we hold it."""
    descriptor = OwnedDescriptor(os.open(path, os.O_RDONLY | _CLOEXEC))
    try:
        if not descriptor.try_lock(exclusive=False):
            return True
        try:
            path.unlink(missing_ok=True)
        except OSError:
            log.debug("cannot remove the stale file %s of another user", path)
        return False
    finally:
        descriptor.close()
