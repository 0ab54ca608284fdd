"""Trials in child processes: each alone, with the heavy imports already made, and none outliving its parent."""

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

log = logging.getLogger(__name__)

PRELOAD = ["effnlp.run", "effnlp.search.trial", "effnlp.search.final", "joblib.externals.loky"]
"""Modules that the server of children imports once; a child then starts in some 50 ms."""


def context() -> Any:
    """The way children are started: a server forks them where that exists, else they start anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOAD)
    with _deaf_to_interrupts():
        forkserver.ensure_running()
    return chosen


_SAID_TO_ALL = [getattr(signal, name) for name in ("SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore what is said to all at once: workers end them.

    A terminal says Ctrl-C to all its processes, SLURM a user's signal to all processes of a job whose time is
    nearly over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SAID_TO_ALL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(113)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


GRACE_SECONDS = 5.0


def end_after(pid: int) -> None:
    """End this process soon after process ``pid`` of this machine is gone, whatever it does or waits for.

    A launcher's worker that is idle waits for more work, minutes long, also where nobody is left to give any.
    One that has a child gets some seconds to end it in order.
    """
    if pid == os.getpid() or any(thread.name == f"end-after-{pid}" for thread in threading.enumerate()):
        return

    def watch() -> None:
        while alive(pid):
            time.sleep(1.0)
        time.sleep(GRACE_SECONDS)
        os._exit(113)

    threading.Thread(target=watch, daemon=True, name=f"end-after-{pid}").start()


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Its exit code, negative for a signal; None if it was ended from here.
        why: ``itself``; ``timeout``; ``refused``: it asked and got no answer; ``stopped``: ``go_on`` said no.
    """

    code: int | None
    why: str = "itself"


def call_in_child(
    processes: Any,
    function: Callable[..., None],
    arguments: Sequence[Any],
    go_on: Callable[[], bool],
    answer: Callable[[Any], Any] | None = None,
    limit_seconds: float | None = None,
) -> Ended:
    """Run ``function`` in a child and wait for it.

    Args:
        processes: What :func:`context` gave.
        go_on: Asked every second; if it says no, the child is ended.
        answer: Answers what the child asks: then ``function`` gets one more argument, a connection to send
            questions to and to receive answers from. If the answer is None, the child is ended.
        limit_seconds: After so long the child is ended; None is no limit.
    """
    here, there = processes.Pipe() if answer else (None, None)
    more = (there,) if answer else ()
    child = processes.Process(target=function, args=(*arguments, *more), daemon=False)
    child.start()
    if there is not None:
        there.close()
    end = math.inf if limit_seconds is None else time.monotonic() + limit_seconds
    try:
        while True:
            patience = max(0.0, min(1.0, end - time.monotonic()))
            ready = wait([child.sentinel] if here is None else [child.sentinel, here], timeout=patience)
            if here is not None and here in ready:
                try:
                    asked = here.recv()
                except (EOFError, OSError):
                    here = None
                    continue
                assert answer is not None
                if (found := answer(asked)) is None:
                    return Ended(None, "refused")
                with contextlib.suppress(OSError):  # the child is gone: its sentinel will say so
                    here.send(found)
            elif child.sentinel in ready:
                child.join()
                return Ended(int(child.exitcode or 0))
            if time.monotonic() >= end:
                return Ended(None, "timeout")
            if not go_on():
                return Ended(None, "stopped")
    finally:
        if child.is_alive():
            child.terminate()
            child.join(2 * GRACE_SECONDS)
            if child.is_alive():
                child.kill()
                child.join()
