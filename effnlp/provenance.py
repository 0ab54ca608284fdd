"""Who ran what where: the identity part of a record."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from effnlp import __version__
from effnlp.identity import config_hash
from effnlp.record import EVALUATOR

PACKAGES = (
    "torch", "pytorch-lightning", "hydra-core", "omegaconf", "optuna", "wandb", "codecarbon", "transformers",
    "tokenizers", "datasets", "torchmetrics", "numpy", "scipy", "scikit-learn", "pandas",
    "peft", "onnxruntime", "torchao",
)  # fmt: skip


def describe_run(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Identity of a run that starts now; the task is added once it is loaded."""
    return {
        "config_hash": config_hash(config),
        "seed_init": int(config["seed"]["init"]),
        "seed_order": int(config["seed"]["order"]),
        "overrides": list(overrides),
        "effnlp": __version__,
        "evaluator": EVALUATOR,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": versions(),
        "machine": machine(),
        "started": now(),
    }


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Commit of the checkout that effnlp runs from, with ``+changes`` if it has any; None outside one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


@cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPUs."""
    import psutil
    import torch

    return {
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
