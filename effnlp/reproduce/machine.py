"""What a layer needs of the machine, and what of it is not here."""

from collections.abc import Callable, Mapping


def _gpus() -> float:
    import torch

    return torch.cuda.device_count()


def _gpu_memory_bytes() -> float:
    import torch

    found = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(found, default=0)


def _memory_bytes() -> float:
    import psutil

    return float(psutil.virtual_memory().total)


def _cores() -> float:
    import psutil

    return psutil.cpu_count(logical=True) or 1


NEEDS: Mapping[str, tuple[str, Callable[[], float]]] = {
    "gpus": ("GPUs", _gpus),
    "gpu_memory_bytes": ("GB of memory on each GPU", _gpu_memory_bytes),
    "memory_bytes": ("GB of memory", _memory_bytes),
    "cores": ("processor cores", _cores),
}
"""What can be needed: its words, and how much of it is here."""


def lacking(needs: Mapping[str, float], here: Mapping[str, float] | None = None) -> str | None:
    """What this machine lacks, in a sentence; None if it has everything.

    Args:
        here: How much there is of what is needed; None: of this machine.
    """
    said = []
    for name, amount in needs.items():
        words, count = NEEDS[name]
        there = here.get(name, 0.0) if here is not None else count()
        if there < amount:
            scale = 1e-9 if name.endswith("_bytes") else 1
            said.append(
                f"{amount * scale:g} {words if amount != 1 else words[:-1]} (here {there * scale:.3g})"
            )
    return f"needs {' and '.join(said)}" if said else None
