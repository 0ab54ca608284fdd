"""What a reproduction found: cells, verdicts and what it took, as a small JSON file that is committed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effnlp.record import write_atomically

HOLDS, FAILS, UNDECIDED, NOT_TESTABLE = "holds", "fails", "undecided", "not testable here"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_TESTABLE)

SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """The value in a row and a column, of each seed.

    Attributes:
        values: Seed (``"0"``, or ``"0-1"`` where initialisation and order have different ones) to value, in the
            unit of the column.
        is_exact: It does not vary with seeds: one value is no sample but the value itself.
        interval: Ends of its 90 % interval, where whatever made it knows them; else they come from the seeds.
        examples: Seed to a score (0 or 1) of each validation example, in one order; empty if there are none.
            Not stored.
    """

    row: str
    column: str
    values: Mapping[str, float]
    is_exact: bool = False
    interval: tuple[float, float] | None = None
    examples: Mapping[str, Sequence[float]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Hole:
    """A cell that could not be filled.

    Attributes:
        reason: Why, in a sentence.
        command: What would make it, if a run is missing.
    """

    row: str
    column: str
    reason: str
    command: str | None = None


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        verdict: One of :data:`VERDICTS`.
        estimate: Of the quantity that has the bounds, such as the ratio; None if it could not be computed.
        low, high: Its interval (90 %); both the estimate where nothing is uncertain.
        n: Seeds (pairs of them) that the interval rests on; 0 for exact figures.
        why: A sentence: what was compared with what, and by which method.
    """

    verdict: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""


@dataclass(frozen=True)
class Checked:
    """A claim as it was checked: the sentence, the rule with its bounds, the finding."""

    name: str
    says: str
    kind: str
    arguments: Mapping[str, Any]
    finding: Finding
    frozen: str | None = None
    pilot: str | None = None


@dataclass(frozen=True)
class Spent:
    """What the reproduction took.

    Attributes:
        seconds: Of this command.
        runs, reused: Runs that it did, and that were there.
        run_seconds: Own seconds of all of its runs, also of those that were reused, by their records.
        energy_joules, energy_method: By their records; None where one has none.
        co2e_grams: As above.
    """

    seconds: float = 0.0
    runs: int = 0
    reused: int = 0
    run_seconds: float = 0.0
    energy_joules: float | None = None
    energy_method: str | None = None
    co2e_grams: float | None = None


@dataclass(frozen=True)
class Result:
    """One layer of one experiment, as it came out.

    Attributes:
        command: That makes it.
        finished: ISO 8601, UTC.
        machine: As in records.
        versions: Packages, ``effnlp``, ``evaluator``, ``python``.
        fingerprints: Task to the fingerprint of its texts.
        remarks: What is to be known of records that were used, a sentence each.
        said: What the layer said of itself then.
        design: The layer's, as it was then; empty where that was not kept.
    """

    experiment: str
    layer: str
    command: str
    finished: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    cells: Sequence[Cell]
    claims: Sequence[Checked]
    holes: Sequence[Hole] = ()
    spent: Spent = field(default_factory=Spent)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    said: str = ""
    design: str = ""
    schema: int = SCHEMA

    @property
    def is_whole(self) -> bool:
        """Whether no cell is missing."""
        return not self.holes

    def cell(self, row: str, column: str) -> Cell | None:
        """The cell there, or None."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)

    def save(self, path: Path) -> None:
        """Write it, whole."""
        content = asdict(self)
        for cell in content["cells"]:
            del cell["examples"]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is none, or of a newer schema.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] > SCHEMA:
                raise ValueError(f"schema {content['schema']}; this effnlp reads up to {SCHEMA}")
            claims = [
                Checked(**{**claim, "finding": Finding(**claim["finding"])}) for claim in content["claims"]
            ]
            return cls(
                **{
                    **content,
                    "cells": [_cell(cell) for cell in content["cells"]],
                    "claims": claims,
                    "holes": [Hole(**hole) for hole in content["holes"]],
                    "spent": Spent(**content["spent"]),
                    "remarks": tuple(content.get("remarks", ())),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a result of a reproduction: {error}") from error


def _cell(content: Mapping[str, Any]) -> Cell:
    interval = content.get("interval")
    return Cell(**{**content, "interval": None if interval is None else (interval[0], interval[1])})
