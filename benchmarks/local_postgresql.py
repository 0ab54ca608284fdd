"""A PostgreSQL server of one's own for a while: on loopback, in a temporary folder, with a password.

Tests use it too. It needs the server's programs: Debian's package ``postgresql`` has them.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

USER = "effnlp"
START_SECONDS = 60


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, the newest if there are several; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    on_path = shutil.which("initdb")
    candidates = [*reversed(found), *([Path(on_path).resolve()] if on_path else [])]
    return next((p.parent for p in candidates if p.with_name("postgres").exists()), None)


def unprivileged() -> str | None:
    """Whom the server is to run as: it refuses to run as root. None for who we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@dataclass
class Server:
    """A server in ``folder``; ``url`` has no password, ``password`` is for PGPASSWORD."""

    programs: Path
    folder: Path
    user: str | None
    port: int
    password: str
    settings: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Of the database that every server has."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        """Make the files of the server."""
        password = self.folder / "password"
        password.write_text(self.password)
        if self.user is not None:
            shutil.chown(self.folder, self.user)
            shutil.chown(password, self.user)
        command = [str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-U", USER, "--no-sync"]
        command += ["-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8", "--no-locale"]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd=self.folder)

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: If it does not; with the end of its log.
        """
        settings = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        settings |= self.settings
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, user=self.user, cwd=self.folder, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether one can connect."""
        import psycopg

        try:
            psycopg.connect(self.url, password=self.password, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def make_database(self, name: str) -> str:
        """Make an empty database; its URL."""
        self.command(f"CREATE DATABASE {name}")
        return self.url.removesuffix("postgres") + name

    def command(self, text: str) -> list[tuple[object, ...]]:
        """Have it do something; the rows of its answer, if it has any."""
        import psycopg

        with psycopg.connect(self.url, password=self.password, autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def version(self) -> str:
        """Of the server."""
        return str(self.command("SHOW server_version")[0][0]).split()[0]

    def stop(self, at_once: bool = False) -> None:
        """End it: its sessions are ended first, or all ends as in a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self.process.wait(START_SECONDS)
        self.process = None


@contextlib.contextmanager
def local_postgresql(settings: dict[str, str] | None = None) -> Iterator[Server]:
    """A fresh server with the given settings, gone at the end.

    Raises:
        FileNotFoundError: If the programs of the server are not installed.
    """
    found = programs()
    if found is None:
        raise FileNotFoundError("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="effnlp-postgresql-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(found, folder, unprivileged(), port, secrets.token_hex(8), settings or {})
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
