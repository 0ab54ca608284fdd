"""The logical CPUs on which this process may run, and those it might if it were alone."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

ALLOWED = "EFFNLP_ALLOWED_CPUS"
"""In the environment of a process that was bound to a share of the machine: what it could run on before."""


def allowed_cpus() -> list[int]:
    """The CPUs on which this thread may run, as a scheduler, ``taskset``, a container or :func:`bind` said."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def bind(cpus: Iterable[int]) -> None:
    """Have all threads of this process, and what they start from now on, run on these CPUs only."""
    wanted = set(cpus)
    if sys.platform != "linux" or not wanted:
        return
    for task in os.listdir("/proc/self/task"):  # a mask is one thread's
        try:
            os.sched_setaffinity(int(task), wanted)
        except OSError as error:  # the thread has ended, or these CPUs are no longer ours
            log.debug("thread %s is not bound: %s", task, error)


@contextmanager
def unbound() -> Iterator[None]:
    """On all CPUs that this process had before it was bound to a share, and as before afterwards."""
    said = os.environ.get(ALLOWED)
    if not said:
        yield
        return
    before = allowed_cpus()
    bind(int(number) for number in said.split(","))
    try:
        yield
    finally:
        bind(before)
