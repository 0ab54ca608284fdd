"""Where the state of a sweep lies, and being alone with it.

``journal`` is a file in the sweep's folder, for one machine or a shared folder; ``postgresql://…`` a server, for
clusters; ``grpc://host:port`` Optuna's proxy, for workers that may not reach the server.
"""

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage

from effnlp.compose import ConfigError
from effnlp.menu import suggest
from effnlp.search.journal import JournalFile, held, sync

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

JOURNAL = "study.journal"
LOCK = "state.lock"
CONNECT_SECONDS = 10
"""How long a server may take to answer the first time."""
RETURN_SECONDS = 60
"""How long to wait for a server that answered before: it may have been restarted."""
DEAD_PEER = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""After about a minute the server lets go of a lock whose machine has gone."""


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
    scheme = where.partition("://")[0] if "://" in where else ""
    if scheme in ("postgresql", "postgresql+psycopg"):
        return _open_postgresql(where)
    if scheme == "grpc":
        return _open_grpc(where)
    raise ConfigError(
        "search.storage must be journal, postgresql://USER@HOST/DATABASE or grpc://HOST:PORT, "
        f"got {shown(where)!r}{suggest(scheme or where, ['journal', 'postgresql', 'grpc'])}"
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
        ConnectionError: If the server went away in between: what was done may not have been done alone.
    """
    if where.startswith("postgresql"):
        with _connection(where).locked(f"study {name}"):
            yield
    else:
        with (folder / LOCK).open("ab") as file, held(file):
            before = _size(folder / JOURNAL)
            yield
            if _size(folder / JOURNAL) != before:
                sync(folder / JOURNAL)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def shown(where: str) -> str:
    """``where`` without a password, for messages."""
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", where)


def _open_postgresql(where: str) -> BaseStorage:
    url = _without_password(where)
    connection = _connection(where)
    options = {"pool_pre_ping": True, "pool_size": 1, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
    # Two that make the tables at once would be in each other's way.
    with connection.locked("tables"):
        return optuna.storages._CachedStorage(optuna.storages.RDBStorage(url, engine_kwargs=options))


def _open_grpc(where: str) -> BaseStorage:
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise ConfigError(_missing("grpc", where, error)) from error
    parts = urlsplit(where)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.path not in ("", "/") or parts.username is not None:
        raise ConfigError(f"search.storage: a gRPC proxy is grpc://HOST:PORT, got {shown(where)!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.GrpcStorageProxy(host=f"[{host}]" if ":" in host else host, port=port)
    try:
        storage.wait_server_ready(timeout=CONNECT_SECONDS)
    except ConnectionError as error:
        storage.close()
        raise ConfigError(
            f"search.storage: no gRPC proxy answered at {host}:{port} within {CONNECT_SECONDS} s"
        ) from error
    return storage


def _without_password(where: str) -> str:
    """The URL for SQLAlchemy, with the driver that we use.

    Raises:
        ConfigError: If it is no URL or has a password in it.
    """
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(where)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise ConfigError(
            f"search.storage is no URL such as postgresql://USER@HOST/DATABASE: {shown(where)!r}"
        ) from error
    if url.password is not None or any("password" in key.lower() for key in url.query):
        raise ConfigError(
            "search.storage has a password in it, which would be written to the sweep's files: leave it out "
            "and put it into the environment variable PGPASSWORD or the file ~/.pgpass"
        )
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _missing(extra: str, where: str, error: ImportError) -> str:
    return f"search.storage={shown(where)}: {error}; install it with pip install 'effnlp[{extra}]'"


@dataclass
class _Connection:
    """One connection of this process, for the locks of a server only."""

    url: str
    where: str
    turn: threading.Lock = field(default_factory=threading.Lock)
    open: "psycopg.Connection[Any] | None" = None

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold the server's advisory lock of that name."""
        import psycopg

        key = int.from_bytes(hashlib.blake2b(f"effnlp {what}".encode(), digest_size=8).digest(), signed=True)
        # The server lets one session take a lock twice: threads of one process need one of their own.
        with self.turn:
            connection = self._acquire(key)
            try:
                yield
            finally:
                try:
                    row = connection.execute("SELECT pg_advisory_unlock(%s)", (key,)).fetchone()
                    kept = row is not None and row[0]
                except psycopg.OperationalError:
                    kept = False
                if not kept:
                    self._close()
                    raise ConnectionError(
                        f"the connection to {self.where} was lost by one that was alone with {what}: "
                        "another may have been there at the same time"
                    )

    def _acquire(self, key: int) -> "psycopg.Connection[Any]":
        """Take the lock; connect again if the server was restarted since the last time.

        Raises:
            ConfigError: If the server cannot be reached.
        """
        import psycopg

        patience = CONNECT_SECONDS if self.open is None else RETURN_SECONDS
        end, known = time.monotonic() + patience, self.open is not None
        while True:
            try:
                if self.open is None:
                    self.open = self._connect()
                self.open.execute("SELECT pg_advisory_lock(%s)", (key,))
                return self.open
            except psycopg.OperationalError as error:
                self._close()
                if not known or time.monotonic() > end:
                    reason = str(error).strip().splitlines()[-1]
                    raise ConfigError(f"search.storage: {self.where} cannot be reached: {reason}") from error
                log.warning("%s does not answer, trying again: %s", self.where, str(error).strip())
                time.sleep(0.5)

    def _connect(self) -> "psycopg.Connection[Any]":
        import psycopg

        plain = self.url.replace("postgresql+psycopg://", "postgresql://", 1)
        connection = psycopg.connect(plain, autocommit=True, connect_timeout=CONNECT_SECONDS)
        for name, value in DEAD_PEER.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
        return connection

    def _close(self) -> None:
        if self.open is not None:
            self.open.close()
            self.open = None


_connections: dict[tuple[int, str], _Connection] = {}
"""By process, so that a child never speaks on its parent's connection, and URL."""


def _connection(where: str) -> _Connection:
    """This process's connection for locks.

    Raises:
        ConfigError: If the package is missing or ``where`` is not what it must be.
    """
    if (found := _connections.get((os.getpid(), where))) is not None:
        return found
    url = _without_password(where)
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigError(_missing("postgresql", where, error)) from error
    return _connections.setdefault((os.getpid(), where), _Connection(url, shown(where)))
