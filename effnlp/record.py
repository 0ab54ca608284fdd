"""What a run leaves behind: ``record.json``, written once and whole, and ``events.jsonl`` while it goes.

Keys of values are flat, carry their unit and are the same in files, dashboards and reports, for instance
``val/accuracy``, ``cost/finetuning/own/seconds``, ``infer/single_stream/flops``. What could not be measured
is not among the values; ``absent`` says why.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
EVALUATOR = "2"
"""Version of what is measured and how. Raised when the same model would get other figures.

2: latency, memory and energy are measured in a process of their own, which never trained; before, memory held what
the training had left and latency was that of a process with warm caches and an old allocator.
"""

COMPLETED = "completed"
FAILED = "failed"
STOPPED = "stopped"
"""Told to end at a rung by the search; the values are those of the rung."""
PAUSED = "paused"
"""Told to wait at a rung. Never written: what waits has a checkpoint and no record."""


HEADLINES = ("val/accuracy", "val/pearson", "val/bits_per_byte")
"""By which a run is judged where nobody says by what; the first one that it has. Not all are better when higher."""


def headline(values: Iterable[str]) -> str | None:
    """The key of the figure that sums up a run best; None if it has none of :data:`HEADLINES`."""
    known = set(values)
    return next((key for key in HEADLINES if key in known), None)


@dataclass
class Record:
    """One run.

    Attributes:
        status: ``completed``, ``failed`` or ``stopped``.
        identity: Who and where: ``config_hash``, ``seed_init``, ``seed_order``, ``task``,
            ``task_fingerprint``, ``recipe``, ``effnlp``, ``evaluator``, ``git_commit``, ``python``,
            ``packages``, ``machine``, ``overrides``, ``started``, ``finished`` (ISO 8601, UTC); ``companions``, the
            fingerprints of further tasks by name, where there are some.
        choices: Config group to the choice made in it, ``{"peft": "lora", "data/filter": "a+b"}``.
        config: The resolved config.
        values: Flat keys to finite numbers.
        absent: Keys that could not be measured, with the reason.
        notes: What is said in words: ``energy/method``, operators left uncounted, what a method did.
        reason: For a failed run one of ``nan``, ``oom``, ``interrupted``, ``killed``, ``disk``, ``error``; for a
            stopped one ``stopped``.
        message: For a failed run, what happened, in a sentence or a traceback's last line; for a stopped one
            why, in a sentence.
    """

    status: str
    identity: dict[str, Any]
    choices: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    message: str | None = None
    schema: int = SCHEMA

    def put(self, values: Mapping[str, float | int | None], absent: Mapping[str, str] | None = None) -> None:
        """Add values. None goes to ``absent`` (with the reason given there, if any).

        Raises:
            ValueError: If a value is NaN or infinite; such a run has failed.
        """
        reasons = dict(absent or {})
        for key, value in values.items():
            if value is None:
                reasons.setdefault(key, "not measured")
            elif not math.isfinite(value):
                raise ValueError(f"{key} is {value}; a record holds finite numbers only")
            else:
                self.values[key] = float(value)
        reasons = {**self.absent, **reasons}
        self.absent = {key: why for key, why in reasons.items() if key not in self.values}

    def save(self, folder: Path) -> Path:
        """Write ``record.json`` so that a reader sees the old file or the new one, never a part."""
        path = folder / "record.json"
        write_atomically(path, json.dumps(asdict(self), indent=1, allow_nan=False, default=str))
        return path

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """Read ``record.json`` of ``folder``.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged or of a newer schema.
        """
        path = folder / "record.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a record: {error}") from error
        return cls.from_content(content, path)

    @classmethod
    def from_content(cls, content: Any, path: Path | str) -> "Record":
        """The record that a parsed ``record.json`` holds; ``path`` is for the message.

        Raises:
            ValueError: If something is missing or damaged, or of a newer schema.
        """
        if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
            raise ValueError(f"{path} is not a record: it has no schema")
        if content["schema"] > SCHEMA:
            raise ValueError(f"{path} has schema {content['schema']}; this effnlp reads up to {SCHEMA}")
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        mappings = [known.get(name, {}) for name in ("choices", "config", "values", "absent", "notes")]
        if not isinstance(known.get("status"), str) or not all(
            isinstance(mapping, dict) for mapping in [known.get("identity"), *mappings]
        ):
            raise ValueError(f"{path} is not a record: status, identity or values are missing or damaged")
        values = known.get("values", {})
        with contextlib.suppress(TypeError, OverflowError):
            if all(map(math.isfinite, values.values())):  # without a loop: readers have thousands of records
                return cls(**known)
        for key, value in values.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{path} is not a record: {key} is {value!r}, not a finite number")
        return cls(**known)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and rename it into place; a full disk leaves the old file whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def finite_or_none(value: Any) -> Any:
    """``value`` with None in place of every float, at any depth, that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_none(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(part) for part in value]
    return value


class Events:
    """Appends what happens during a run to ``events.jsonl``, a line each, with the time in seconds."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"

    def add(self, kind: str, **what: Any) -> None:
        """Append one event. Numbers that are not finite become None."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **finite_or_none(what)}, default=str)
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a torn line must not take this event with it
                    line = "\n" + line
            file.write(line.encode() + b"\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All whole events so far; a torn last line (a kill, a full disk) is passed over."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)
