"""One attempt at a run: what its stages use, what it has spent, and what the next attempt takes up."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effnlp.cache import fetch
from effnlp.evaluation.meter import Meter
from effnlp.evaluation.quiet import QuietLock
from effnlp.hardware.settings import Hardware
from effnlp.record import Events, Record, write_atomically
from effnlp.search.rungs import Rung, Verdict
from effnlp.tracking.tracker import Tracker


def run_key(record: Record) -> list[Any]:
    """What makes it this very run: an attempt or a record with another key is of another."""
    names = ("config_hash", "seed_init", "seed_order", "task_fingerprint", "companions", "evaluator")
    return [record.identity.get(name) for name in names]


AMORTISED = ("seconds", "cpu_seconds", "energy_joules", "co2e_grams")
"""What an entry of the cache keeps of its cost."""


@dataclass
class Attempt:
    """What all stages of one run use.

    Attributes:
        made: Entries of the cache that this run has made, in this attempt or in one that it takes up.
        reused: Entry of the cache to the stage that fetched it and what it had cost whoever made it.
        is_taken_up: Whether what is in ``checkpoints`` is of this very run.
    """

    folder: Path
    record: Record
    meter: Meter
    quiet: QuietLock
    events: Events
    tracker: Tracker
    hardware: Hardware
    made: list[str] = field(default_factory=list)
    reused: dict[str, tuple[str, dict[str, float]]] = field(default_factory=dict)
    is_taken_up: bool = False

    def fetch(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        stage: str = "data",
        amounts: Sequence[str] = AMORTISED,
    ) -> Path:
        """A cached entry, fetched in the open ``stage``: paid by this run if it makes it, else amortised.

        Args:
            amounts: What it keeps of its cost. ``flops`` only where steps of the stage are counted one by one.
        """
        before = time.perf_counter()

        def priced(path: Path) -> dict[str, float]:
            start = self.meter.costs()[stage]
            make(path)
            spent = self.meter.costs()[stage]
            return {
                unit: now - (getattr(start, unit) or 0.0)
                for unit in amounts
                if (now := getattr(spent, unit)) is not None
            }

        entry = fetch(kind, key, priced)
        if entry.cost is None:
            self.made.append(f"{kind}/{key}")
        else:
            self.reused[f"{kind}/{key}"] = (stage, dict(entry.cost))
        self.meter.waiting(entry.waited_seconds)
        self.events.add("cache", entry=kind, made=entry.cost is None, seconds=time.perf_counter() - before)
        return entry.folder

    def reuse(self, entry: str, stage: str, cost: Mapping[str, float]) -> None:
        """Charge, as amortised, what this run takes from another.

        Args:
            entry: What it is; the same one is charged once.
        """
        self.reused[entry] = (stage, dict(cost))

    @property
    def checkpoints(self) -> Path:
        """Where an attempt leaves what the next one goes on from."""
        return self.folder / "checkpoints"

    def remember_spent(self) -> None:
        """Write down what was spent until now, for the attempt that takes this one up.

        ``values`` are those of a record: what a search charges if no attempt ever leaves one.
        """
        values = {**self.record.values, **self.meter.as_values().values}
        entry = {"of": run_key(self.record), "spent": self.meter.state(), "made": self.made, "values": values}
        write_atomically(self.checkpoints / "attempt.json", json.dumps(entry))

    def take_up(self) -> None:
        """Carry what an interrupted attempt at this very run had spent; clear away what is of another."""
        try:
            entry = json.loads((self.checkpoints / "attempt.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            entry = {"of": None}
        if entry["of"] != run_key(self.record):
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        else:
            self.meter.load_state(entry["spent"])
            self.made += entry["made"]
        self.checkpoints.mkdir(exist_ok=True)
        self.is_taken_up = True

    def end(self, kind: object, *_: object) -> None:
        """Where the run ends by an exception, an attempt that takes it up must know all that was spent."""
        if kind is not None and self.is_taken_up:
            with contextlib.suppress(OSError):
                self.remember_spent()

    def charge(self) -> None:
        """Put what was spent into the record, however the run ended."""
        measured = self.meter.as_values()
        self.record.put(measured.values, measured.absent)
        self.record.put(self.amortised())
        self.record.notes |= self.meter.conditions()
        uncounted = self.meter.total.uncounted
        if uncounted:
            self.record.notes["flops/uncounted"] = dict(uncounted)

    def amortised(self) -> dict[str, float]:
        """What others had paid for: entries of the cache that no attempt at this run made."""
        found: dict[str, float] = {}
        for entry, (stage, cost) in self.reused.items():
            for unit, amount in cost.items() if entry not in self.made else ():
                for place in (stage, "total"):
                    name = f"cost/{place}/amortised/{unit}"
                    found[name] = found.get(name, 0.0) + amount
        return found

    def report(self, values: dict[str, float], step: int) -> None:
        """A point of the training curve."""
        self.events.add("train", step=step, **values)
        self.tracker.log(values, step, "finetuning")

    def tell(self, rung: Rung, verdict: Verdict) -> None:
        """A rung and what the search said to it."""
        self.events.add(
            "rung", index=rung.index, level=rung.level, step=rung.step, steps=rung.steps,
            verdict=verdict.word, sentence=verdict.sentence, values=dict(rung.values),
        )  # fmt: skip
        self.tracker.log(rung.values, rung.step, "rung")
