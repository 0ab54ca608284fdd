"""Leases: how a worker shows that it is there, and how others see that one is gone.

A worker keeps a file in the sweep's folder young; all machines of a sweep see that folder. Ages are taken
between files of the same folder, so that clocks of machines need not agree.
"""

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effnlp.search.children import alive

RENEWALS = 6
"""How often a lease is renewed in the time that it is good for."""


@contextmanager
def lease(folder: Path, token: str, seconds: float) -> Iterator[None]:
    """Keep the lease of ``token`` while the block runs."""
    path = _path(folder, token)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    over = threading.Event()

    def renew() -> None:
        while not over.wait(seconds / RENEWALS):
            with contextlib.suppress(OSError):
                path.touch()

    thread = threading.Thread(target=renew, daemon=True, name=f"lease-{token}")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def whether_lost(folder: Path, owner: Mapping[str, Any], seconds: float, host: str) -> str:
    """``no``, ``yes``, or ``silent`` if the owner's lease is not renewed in time but not over yet.

    Args:
        owner: As in the study: ``token``, ``host``, ``pid``.
        host: This machine, where a process that is gone need not be waited for.
    """
    path = _path(folder, owner["token"])
    try:
        age = _now(folder) - path.stat().st_mtime
    except FileNotFoundError:
        return "yes"
    if owner.get("host") == host and not alive(int(owner.get("pid", 0))):
        return "yes"
    if age > seconds:
        return "yes"
    return "silent" if age > 2 * seconds / RENEWALS else "no"


def sweep_goes_on(folder: Path, session: str, seconds: float) -> bool:
    """Whether the start of the sweep that a worker belongs to still runs, for workers on other machines.

    It does not if a later start has written what it is, or if its parent has not kept account of its time for
    ``seconds``. Where neither can be told, the folder being away for a moment, it does.
    """
    try:
        if json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["session"] != session:
            return False
        return _now(folder) - (folder / "starts" / f"{session}.json").stat().st_mtime <= seconds
    except (OSError, ValueError, KeyError):
        return True


def _now(folder: Path) -> float:
    """The time as the folder's file system has it."""
    probe = _path(folder, f".now-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _path(folder: Path, token: str) -> Path:
    return folder / "leases" / token
