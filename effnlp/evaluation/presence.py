"""Who is at work on this machine: one locked file for each process, in a folder that all users share.

A file counts while its process holds the lock on it, so that the death of a process, however sudden, needs
no clearing up, and a process id that is used again is not mistaken for the dead one.
"""

import json
import logging
import os
import tempfile
import weakref
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

HAS_LOCKS = fcntl is not None
"""Whether the operating system has advisory locks that end with their process."""


def lock_folder() -> Path:
    """The machine-wide folder of locks: ``EFFNLP_LOCK_DIR``, or one below the system's temporary folder."""
    named = os.environ.get("EFFNLP_LOCK_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / "effnlp-locks"


def make_shared_folder(folder: Path) -> Path:
    """Make the folder so that every user of the machine may add files to it, and return it."""
    for path in [*reversed(folder.parents), folder]:
        if not path.exists():
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
    return folder


def open_shared(path: Path) -> int:
    """A file descriptor on a lock file of all users, made if it is not there; closed in forked children.

    An existing file is opened without asking to create it: in a shared sticky folder Linux refuses that
    for files of other users (``fs.protected_regular``).
    """
    flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
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

    def unlock(self) -> None:
        """Let the file go."""
        fcntl.flock(self.number, fcntl.LOCK_UN)


_owned: "weakref.WeakSet[OwnedDescriptor]" = weakref.WeakSet()


def _close_in_child() -> None:
    for owned in list(_owned):
        owned.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class Presence:
    """The processes that are present in ``folder``; this one between :meth:`enter` and :meth:`leave`.

    Where the system has no such locks, a file counts while a process with its id exists.

    Args:
        folder: Shared by all processes that are to see each other.
        description: What this process does, for messages to others.
    """

    def __init__(self, folder: Path, description: str = "effnlp") -> None:
        self.folder = folder
        self.description = description
        self._descriptor: OwnedDescriptor | None = None

    @property
    def path(self) -> Path:
        """The file of this process."""
        return self.folder / f"{os.getpid()}.json"

    def enter(self) -> None:
        """Be counted from now on; twice is as once."""
        if self._descriptor is not None and self._descriptor.number >= 0:
            return
        make_shared_folder(self.folder)
        content = json.dumps({"pid": os.getpid(), "description": self.description}).encode()
        while True:
            descriptor = OwnedDescriptor(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            if HAS_LOCKS and not descriptor.try_lock(exclusive=True):
                descriptor.close()  # somebody is looking whether we are alive, or we are here twice
                if self._is_ours():
                    raise RuntimeError(f"process {os.getpid()} is present in {self.folder} already")
                continue
            if self._names(descriptor):
                os.ftruncate(descriptor.number, 0)
                os.write(descriptor.number, content)
                self._descriptor = descriptor
                _present.add(self)
                return
            descriptor.close()  # dropped as stale between opening and locking

    def leave(self) -> None:
        """Not be counted any more; twice is as once."""
        if self._descriptor is None:
            return
        _present.discard(self)
        if self._descriptor.number >= 0:
            self.path.unlink(missing_ok=True)
        self._descriptor.close()
        self._descriptor = None

    def others(self) -> list[str]:
        """The other processes that are present, as "process 12 (description)"."""
        return [name for path, name in self._present_files() if path != self.path]

    def count(self) -> int:
        """How many processes are present, this one included if it is."""
        return len(self._present_files())

    def _is_ours(self) -> bool:
        return any(other.folder == self.folder for other in _present)

    def _names(self, descriptor: OwnedDescriptor) -> bool:
        """Whether the path still leads to the file that the descriptor is on."""
        try:
            return os.path.sameopenfile(descriptor.number, descriptor.number) and (
                os.stat(self.path).st_ino == os.fstat(descriptor.number).st_ino
            )
        except FileNotFoundError:
            return False

    def _present_files(self) -> list[tuple[Path, str]]:
        if not self.folder.is_dir():
            return []
        found = [(path, _describe(path)) for path in sorted(self.folder.glob("*.json"))]
        return [(path, name) for path, name in found if name is not None]


_present: "weakref.WeakSet[Presence]" = weakref.WeakSet()


def _describe(path: Path) -> str | None:
    """Who holds the file; None if nobody does, and then the file is removed if it may be."""
    pid = path.stem
    if not pid.isdigit():
        return None
    try:
        content = path.read_text(encoding="utf-8")
        if int(pid) == os.getpid():
            is_alive = any(other.path == path for other in _present)
        elif HAS_LOCKS:
            is_alive = _is_locked(path)
        else:
            is_alive = psutil.pid_exists(int(pid))
    except OSError:
        return None
    if not is_alive:
        return None
    try:
        description = json.loads(content)["description"]
    except (ValueError, KeyError, TypeError):
        description = "starting"
    return f"process {pid} ({description})"


def _is_locked(path: Path) -> bool:
    """Whether a process holds the file. A file that nobody holds is removed while we hold it."""
    descriptor = OwnedDescriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
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
