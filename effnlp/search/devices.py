"""Processors and GPUs for the workers of a machine: each has its own, whoever started them.

A worker holds locked files, one for each CPU and GPU that it took, in the machine-wide folder of locks. So all
workers of a machine see each other, of one sweep or of two, started by a launcher or by a scheduler that puts
several on a node, and the death of a worker, however sudden, gives its devices back.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnlp.evaluation.presence import (
    HAS_LOCKS,
    OwnedDescriptor,
    lock_folder,
    make_shared_folder,
    open_shared,
)
from effnlp.hardware import affinity

log = logging.getLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What libraries read when they are imported."""

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """What one worker has of its machine.

    Attributes:
        cpus: Numbers of its logical CPUs; empty if it has none to itself, and the system places it.
        gpus: Its GPUs as ``CUDA_VISIBLE_DEVICES`` names them.
        threads: CPU threads of its trials.
        owns_gpus: Whether nobody else has the GPUs, as far as can be told.
    """

    cpus: tuple[int, ...]
    gpus: tuple[str, ...]
    threads: int
    owns_gpus: bool = True


def occupy_share(worker: int, workers: int, threads: int) -> Share:
    """Take this process's share of the machine and bind it, and the children that it will have, to it.

    To be called before any library reads the environment. Twice is as once: a process keeps what it has.
    Where there are not enough CPUs for all, a worker that finds too few has none to itself and may run on all
    of them; GPUs are then shared in turn.

    Args:
        worker: Number of the worker, from 0.
        workers: How many there are in the sweep.
        threads: CPU threads of a trial, unless a scheduler gave this process a number of CPUs.
    """
    if _held.share is None:
        scheduled = given_threads(os.environ, ray_cpus())
        gpus = visible_gpus(os.environ.get(VISIBLE_GPUS), machine_gpus())
        assigned = scheduled is not None and VISIBLE_GPUS in os.environ
        _held.share = choose(
            worker,
            scheduled or threads,
            affinity.allowed_cpus(),
            gpus,
            lock_folder(),
            claims_gpus=not assigned,
        )
        _say(_held.share, workers)
    bind_to(_held.share)
    return _held.share


def choose(
    worker: int,
    threads: int,
    cpus: Sequence[int],
    gpus: Sequence[str],
    folder: Path,
    claims_gpus: bool = True,
) -> Share:
    """The share of a worker: so many CPUs as threads that no other process holds, and one GPU.

    Args:
        cpus, gpus: Those that this process may use.
        folder: Of the machine's locks.
        claims_gpus: If not, a scheduler gave this process the GPUs, and they are all its own.
    """
    if not claims_gpus:
        return Share(claim_cpus(threads, cpus, folder), tuple(gpus), threads)
    own = claim([f"gpu-{name}" for name in gpus], 1, folder) if gpus else []
    chosen = [name.removeprefix("gpu-") for name in own] or ([gpus[worker % len(gpus)]] if gpus else [])
    return Share(claim_cpus(threads, cpus, folder), tuple(chosen), threads, owns_gpus=len(own) == len(chosen))


def claim_cpus(wanted: int, cpus: Sequence[int], folder: Path) -> tuple[int, ...]:
    """So many CPUs that no other process holds; none if there are fewer."""
    names = claim([f"cpu-{number}" for number in cpus], wanted, folder)
    return tuple(int(name.removeprefix("cpu-")) for name in names)


def claim(names: Sequence[str], wanted: int, folder: Path) -> list[str]:
    """Take the first ``wanted`` of the names that no process holds, for as long as this process lives.

    All or none: whoever takes a part of what it needs keeps others from theirs. One process at a time
    chooses, so that neighbours are given out together.
    """
    if not HAS_LOCKS or wanted < 1:
        return []
    try:
        folder = make_shared_folder(folder / "devices")
        turn = OwnedDescriptor(open_shared(folder / "turn.lock"))
    except OSError as error:
        log.warning("cannot take devices in %s: %s; workers of this machine share all of them", folder, error)
        return []
    try:
        turn.lock()
        found: dict[str, OwnedDescriptor] = {}
        for name in names:
            descriptor = OwnedDescriptor(open_shared(folder / f"{name}.lock"))
            if descriptor.try_lock(exclusive=True):
                found[name] = descriptor
            else:
                descriptor.close()
            if len(found) == wanted:
                _held.descriptors.extend(found.values())
                return list(found)
        for descriptor in found.values():
            descriptor.close()
        return []
    finally:
        turn.close()


def bind_to(share: Share) -> None:
    """Bind this process and its future children to a share, and say so in the environment."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(share.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if share.threads > 1 else "false"
    if share.gpus:
        os.environ[VISIBLE_GPUS] = ",".join(share.gpus)
    if share.cpus:
        os.environ.setdefault(affinity.ALLOWED, ",".join(map(str, affinity.allowed_cpus())))
        affinity.bind(share.cpus)


def given_threads(environment: Mapping[str, str], ray: int | None = None) -> int | None:
    """How many CPUs a scheduler gave this process; None without a scheduler, or if it gave no number.

    Args:
        ray: What Ray gave, which is not in the environment.
    """
    if ray is not None:
        return ray
    number = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE") or ""
    return int(number) if "SLURM_JOB_ID" in environment and number.isdigit() and int(number) > 0 else None


def ray_cpus() -> int | None:
    """CPUs of the Ray task that this process runs, at least 1; None if it runs none."""
    ray: Any = sys.modules.get("ray")  # whoever runs a task has imported it
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return None
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))


def machine_gpus() -> int:
    """How many NVIDIA GPUs this machine has."""
    try:
        import pynvml  # optional

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except Exception as error:
        log.debug("no NVML: %s", error)
        return 0


def visible_gpus(visible: str | None, count: int) -> list[str]:
    """The GPUs that a process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        visible: Value of ``CUDA_VISIBLE_DEVICES``; None if it is not set.
        count: GPUs of the machine.
    """
    if visible is None:
        return [str(index) for index in range(count)]
    found: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry in ("", "-1") or (entry.isdigit() and int(entry) >= count):
            break  # CUDA ignores what follows an entry that does not exist
        found.append(entry)
    return found


@dataclass
class _Held:
    """What this process holds until it ends."""

    share: Share | None
    descriptors: list[OwnedDescriptor]


_held = _Held(None, [])


def _forget_in_child() -> None:
    """What a forked process was, its child is not; the descriptors close themselves."""
    _held.share = None
    _held.descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _say(share: Share, workers: int) -> None:
    if not share.cpus and workers > 1:
        log.warning(
            "fewer CPUs are free than the %d thread(s) of a worker need: it shares those of others; "
            "search.workers × search.threads up to the CPUs of the machine keep them apart",
            share.threads,
        )
    if not share.owns_gpus:
        log.warning("no GPU is free: GPU %s is shared with others", ", ".join(share.gpus))
