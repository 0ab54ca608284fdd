"""A PostgreSQL server as the storage of sweeps: Optuna's tables, and a lock that the server keeps."""

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage

from effnlp.compose import ConfigError

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

SCHEMES = ("postgresql", "postgresql+psycopg")
CONNECT_SECONDS = 10
"""How long a server may take to answer."""
RETURN_SECONDS = 60
"""How long to wait for a server that answered before: it may have been restarted."""
DEAD_PEER = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""After about a minute the server lets go of a lock whose machine has gone."""


def open_postgresql(where: str) -> BaseStorage:
    """Optuna's storage in the tables of a server, made if they are not there.

    Args:
        where: ``postgresql://user@host/database``; what it leaves out is as for every program of PostgreSQL.

    Raises:
        ConfigError: If ``where`` is no such URL or has a password in it, the package is missing, or the server
            cannot be reached or lets nobody make tables.
    """
    import sqlalchemy

    connection = connection_for(where)
    # A connection is tried before it is used: the server may have been restarted during a long trial.
    options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
    # Two that make the tables at once would be in each other's way.
    with connection.locked("tables"):
        try:
            tables = optuna.storages.RDBStorage(connection.url, engine_kwargs=options)
        except sqlalchemy.exc.DBAPIError as error:
            raise ConfigError(f"search.storage: {connection.where}: {_last_line(error.orig)}") from error
    return optuna.storages._CachedStorage(tables)


@dataclass
class Connection:
    """One connection of this process, for the locks of a server only.

    Attributes:
        url: For SQLAlchemy.
        where: For messages.
        turn: Of the threads of this process: the server lets one session take a lock twice.
        session: The open connection, if there is one.
        known: Whether the server has answered before.
    """

    url: str
    where: str
    turn: threading.Lock = field(default_factory=threading.Lock)
    session: "psycopg.Connection[Any] | None" = None
    known: bool = False

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold the server's advisory lock of that name.

        Raises:
            ConfigError: If the server cannot be reached.
            ConnectionError: If the server went away in between: what was done may not have been done alone.
        """
        key = lock_key(what)
        with self.turn:
            self._acquire(key)
            try:
                yield
            except BaseException:
                self._release(key)
                raise
            if not self._release(key):
                raise ConnectionError(
                    f"the connection to {self.where} was lost by one that was alone with {what}: "
                    "another may have been there at the same time"
                )

    def _acquire(self, key: int) -> None:
        import psycopg

        end = time.monotonic() + RETURN_SECONDS
        while True:
            try:
                self._connected().execute("SELECT pg_advisory_lock(%s)", (key,))
                return
            except psycopg.OperationalError as error:
                self.close()
                if not self.known or time.monotonic() > end:
                    raise ConfigError(
                        f"search.storage: {self.where} cannot be reached: {_last_line(error)}"
                    ) from error
                log.warning("%s does not answer, trying again: %s", self.where, _last_line(error))
                time.sleep(0.5)
            except BaseException:
                self.close()  # interrupted, and nobody knows whether the lock was taken
                raise

    def _release(self, key: int) -> bool:
        """Whether the lock was held until now."""
        import psycopg

        try:
            row = self._connected().execute("SELECT pg_advisory_unlock(%s)", (key,)).fetchone()
        except psycopg.Error:
            self.close()
            return False
        return row is not None and bool(row[0])

    def _connected(self) -> "psycopg.Connection[Any]":
        import psycopg

        if self.session is None:
            plain = self.url.replace(SCHEMES[1], SCHEMES[0], 1)
            self.session = psycopg.connect(plain, autocommit=True, connect_timeout=CONNECT_SECONDS)
            for name, value in DEAD_PEER.items():
                self.session.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
            self.known = True
        return self.session

    def close(self) -> None:
        """Give the connection up; the server lets go of its locks."""
        if self.session is not None:
            self.session.close()
            self.session = None


_connections: dict[tuple[int, str], Connection] = {}
"""By process, so that a child never speaks on its parent's connection, and URL."""


def connection_for(where: str) -> Connection:
    """This process's connection for locks, not open yet.

    Raises:
        ConfigError: If ``where`` is not what it must be, or the package is missing.
    """
    if (found := _connections.get((os.getpid(), where))) is not None:
        return found
    url = checked_url(where)
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"search.storage={shown(where)} needs psycopg: pip install 'effnlp[postgresql]' ({error})"
        ) from error
    return _connections.setdefault((os.getpid(), where), Connection(url, shown(where)))


def checked_url(where: str) -> str:
    """The URL for SQLAlchemy, with the driver that we use.

    Raises:
        ConfigError: If it is no URL or has a password in it.
    """
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(where)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise ConfigError(
            f"search.storage must be a URL such as postgresql://USER@HOST/DATABASE, got {shown(where)!r}"
        ) from error
    if url.password is not None or any("password" in key.lower() for key in url.query):
        raise ConfigError(
            "search.storage has a password in it, which would be written to the sweep's files: leave it out "
            "and put it into the environment variable PGPASSWORD or the file ~/.pgpass"
        )
    return url.set(drivername=SCHEMES[1]).render_as_string(hide_password=False)


def shown(where: str) -> str:
    """``where`` without a password, for messages."""
    return re.sub(r"(://[^/@:]*:).*(?=@)|(password=)[^&]*", r"\1\2***", where)


def lock_key(what: str) -> int:
    """The number of an advisory lock: 64 bits, signed."""
    digest = hashlib.blake2b(f"effnlp {what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _last_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [""])[-1].strip()
