"""Work that several runs share, made once and found again by its content.

The key of an entry is a digest of everything that can change it: the settings of the stage, the key of what
it was made from, and the source code that makes it. One process makes an entry, others wait for it. What it
cost stands beside it, so that a run that reuses it can say what was saved.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from platformdirs import user_cache_dir

from effnlp.menu import module_path
from effnlp.record import write_atomically


def cache_dir() -> Path:
    """``EFFNLP_CACHE`` if it is set, else the user's cache folder."""
    return Path(os.environ.get("EFFNLP_CACHE") or user_cache_dir("effnlp"))


def key_of(*parts: Any) -> str:
    """SHA-256 of the parts as canonical JSON, 20 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def code_version(*modules: str) -> str:
    """Digest of the source of modules, by dotted name: an entry made by other code is not found."""
    digest = hashlib.sha256()
    for module in modules:
        path = module_path(module)
        digest.update(path.read_bytes() if path else module.encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    Attributes:
        folder: What was made, whole.
        cost: What making it cost (flat keys without a stage), or None if this process made it just now.
        waited_seconds: How long another process was awaited that was making it.
    """

    folder: Path
    cost: Mapping[str, float] | None
    waited_seconds: float


def fetch(
    kind: str, key: str, make: Callable[[Path], Mapping[str, float]], root: Path | None = None
) -> Entry:
    """The entry ``kind/key``, made now if it is not there.

    Args:
        make: Fills an empty folder and returns what that cost.

    A maker that fails or is killed leaves nothing behind that another run would find.
    """
    folder = (root or cache_dir()) / kind / key
    if (folder / "cost.json").exists():
        return Entry(folder, json.loads((folder / "cost.json").read_text()), 0.0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with filelock.FileLock(folder.with_name(f"{key}.lock")):
        waited = time.monotonic() - start
        if (folder / "cost.json").exists():
            return Entry(folder, json.loads((folder / "cost.json").read_text()), waited)
        beside = folder.with_name(f"{key}.making")
        for unfinished in (folder, beside):  # of a maker that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        beside.mkdir()
        try:
            cost = make(beside)
            os.replace(beside, folder)
            write_atomically(folder / "cost.json", json.dumps(dict(cost)))
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return Entry(folder, None, waited)
