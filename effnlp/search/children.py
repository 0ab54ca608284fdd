"""Trials in child processes: each alone, with the heavy imports already made, and none outliving its parent."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

log = logging.getLogger(__name__)

PRELOAD = ["effnlp.run", "effnlp.search.trial", "effnlp.search.final", "joblib.externals.loky"]
"""Modules that the server of children imports once; a child then starts in some 50 ms."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def limit_threads(threads: int) -> None:
    """Set the CPU threads of this process's future children, before any library reads them."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def context() -> Any:
    """The way children are started: a server forks them where that exists, else they start anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOAD)
    with _deaf_to_interrupts():
        forkserver.ensure_running()
    return chosen


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which reaches all processes of a terminal: workers end them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def call_in_child(
    processes: Any, function: Callable[..., None], arguments: Sequence[Any], go_on: Callable[[], bool]
) -> int | None:
    """Run ``function`` in a child and wait for it.

    Args:
        processes: What :func:`context` gave.
        go_on: Asked every second; if it says no, the child is ended.

    Returns:
        The child's exit code; None if it was ended because ``go_on`` said no.
    """
    child = processes.Process(target=function, args=tuple(arguments), daemon=False)
    child.start()
    try:
        while child.is_alive():
            child.join(1.0)
            if child.is_alive() and not go_on():
                return None
        return int(child.exitcode or 0)
    finally:
        if child.is_alive():
            child.terminate()
            child.join(10)
            if child.is_alive():
                child.kill()
                child.join()
