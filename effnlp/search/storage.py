"""Where the state of a sweep lies, and being alone with it.

``journal`` is a file in the sweep's folder, for one machine or a shared folder; ``postgresql://…`` a server, for
clusters; ``grpc://host:port`` Optuna's proxy, for workers that may not reach the server.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage

from effnlp.compose import ConfigError
from effnlp.menu import suggest
from effnlp.search.journal import JournalFile, held, sync
from effnlp.search.postgresql import SCHEMES, connection_for, open_postgresql, shown

JOURNAL = "study.journal"
LOCK = "state.lock"


def open_storage(where: str, folder: Path) -> BaseStorage:
    """The storage of a sweep.

    Args:
        where: ``journal``, ``postgresql://user@host/database`` or ``grpc://host:port``.
        folder: Of the sweep; it is there.

    Raises:
        ConfigError: If ``where`` is none of these or has a password in it, a package is missing, or the
            server cannot be reached.
    """
    if where == "journal":
        return JournalStorage(JournalFile(folder / JOURNAL))
    scheme, separator, _ = where.partition("://")
    if separator and scheme in SCHEMES:
        return open_postgresql(where)
    if separator and scheme == "grpc":
        from effnlp.search.proxy import open_proxy

        return open_proxy(where)
    raise ConfigError(
        "search.storage must be journal, postgresql://USER@HOST/DATABASE or grpc://HOST:PORT, "
        f"got {shown(where)!r}{suggest(scheme, ['journal', 'postgresql', 'grpc'])}"
    )


@contextlib.contextmanager
def locked(where: str, folder: Path, name: str) -> Iterator[None]:
    """Alone with the state of a sweep, across processes and machines; not to be entered twice.

    Args:
        where: As for ``open_storage``. With PostgreSQL the lock is an advisory one of the server, otherwise
            it is the kernel's on ``state.lock`` in the folder. Either ends with the process that holds it.
            A journal is on the disk when its lock is given back: once for all that was done in between.
        folder: Of the sweep.
        name: Of the study.

    Raises:
        ConfigError: If the server cannot be reached.
        ConnectionError: If the server went away in between: what was done may not have been done alone.
    """
    if where.partition("://")[0] in SCHEMES:
        with connection_for(where).locked(f"study {name}"):
            yield
    else:
        with (folder / LOCK).open("ab") as file, held(file):
            before = _size(folder / JOURNAL)
            yield
            if _size(folder / JOURNAL) != before:
                sync(folder / JOURNAL)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
