"""What an experiment is: one file below ``experiments/``, read and checked before anything runs.

An experiment has published figures, up to three layers that make figures of our own, and claims about these. A layer
makes *cells*: the value in a row and a column of the table, of one seed or of several, in the unit of the column.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LAYERS = ("analytic", "small", "full")
"""Counts and formulae in seconds; a version for two processor cores; the setting of the paper."""

SEEN = {
    "official": "on the publisher's page or in the authors' repository",
    "full_text": "in the full text of the paper",
    "other_source": "in another paper or in notes about it",
    "abstract": "in the abstract only",
    "memory": "from memory",
    "calculated": "computed from figures or formulae of the paper",
}
"""How a published figure was seen."""

CITABLE = ("official", "full_text", "other_source", "calculated")
"""What may stand in a published cell; the others may be the reason for a claim."""

VERIFIED = ("official", "full_text", "calculated")
"""Figures seen in another way are shown as *unverified*."""


@dataclass(frozen=True)
class Published:
    """A figure as a paper prints it.

    Attributes:
        value: In the unit of the column.
        spread: The ± beside it, if any.
        where: ``Table 2``, ``section 6.2``.
        seen: One of :data:`CITABLE`.
        paper: If it is not the one that the experiment cites.
    """

    row: str
    column: str
    value: float
    where: str
    seen: str
    spread: float | None = None
    paper: str | None = None
    note: str | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the figure was seen where it was published."""
        return self.seen in VERIFIED


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        key: Of a record; None where a function gives its cells.
        unit: As shown: ``%``, ``MB``, ``s``; empty for a number without one.
        scale: By which a figure of a record is multiplied to be in ``unit``; functions give them in it.
        digits: After the point.
        exact: Whether its figures do not vary with seeds: a single one is no sample then.
        better: ``max`` or ``min``, where one direction is.
    """

    name: str
    key: str | None = None
    unit: str = ""
    scale: float = 1.0
    digits: int = 3
    exact: bool = False
    better: str | None = None


@dataclass(frozen=True)
class Computed:
    """Cells that a function gives.

    Attributes:
        function: Its dotted name. If its first parameter is called ``runs``, it gets the runs of the layer, a
            mapping of row to :class:`effnlp.reproduce.cells.Runs`; else it depends on ``arguments`` alone.
        row, column: Of the one cell that it gives: a number, or one a seed (a sequence, or a mapping of seed to
            number). Without them it gives a table: row to column to such values.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    row: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Layer:
    """One way to make the cells.

    Attributes:
        common: Overrides of ``effnlp run`` that all its rows have.
        rows: Row to the overrides of its own.
        seeds: Pairs of ``seed.init`` and ``seed.order``: each row is run with each of them.
        seeds_of: Row to other pairs, for rows that have their own.
        computed: Functions, after the runs.
        needs: What the machine must have, ``{"gpus": 8, "gpu_memory_bytes": 8e10}``; empty for any.
        said: What is to be known of it, in a sentence or two.
    """

    name: str
    common: Sequence[str] = ()
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeds: Sequence[tuple[int, int]] = ()
    seeds_of: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    computed: Sequence[Computed] = ()
    needs: Mapping[str, float] = field(default_factory=dict)
    said: str = ""

    @property
    def design(self) -> str:
        """Twelve digits that name what is run and computed: equal for layers that make the same cells."""
        made = {key: value for key, value in asdict(self).items() if key not in ("name", "needs", "said")}
        return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Claim:
    """A sentence about the cells of one layer, and the rule by which it holds or fails.

    Attributes:
        name: Short, in snake_case, unique in its experiment.
        says: The sentence.
        layer: Whose cells it is about.
        kind: A name of :data:`effnlp.reproduce.claims.VOCABULARY`.
        arguments: What that kind needs: cells (``of``, ``to`` …) and bounds (``at_least`` …).
        frozen: The day on which its bounds were set; needed beyond the analytic layer.
        pilot: What they were set by.
        not_testable: Why it cannot be checked here; nothing is computed then.
    """

    name: str
    says: str
    layer: str
    kind: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    frozen: datetime.date | None = None
    pilot: str | None = None
    not_testable: str | None = None


@dataclass(frozen=True)
class Experiment:
    """One file.

    Attributes:
        name: Of the file; unique over all chapters.
        chapter: The folder it lies in, a config group or ``selection``: ``peft``, ``compression``, ``evaluation``.
        notes: Traps and deviations from the paper, a sentence each.
        rows: The order of the rows of the table; those that are not named come after.
        figure: How its figure is drawn; None is none (:mod:`effnlp.reproduce.figure`).
    """

    name: str
    chapter: str
    title: str
    citation: str
    question: str
    columns: Sequence[Column]
    layers: Mapping[str, Layer]
    claims: Sequence[Claim]
    published: Sequence[Published] = ()
    rows: Sequence[str] = ()
    notes: Sequence[str] = ()
    figure: Mapping[str, Any] | None = None

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            ValueError: If there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise ValueError(f"{self.name}: no column {name!r}; there are {[c.name for c in self.columns]}")
