"""The cells that a claim names, as samples."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from effnlp.reproduce.claims.grammar import PUBLISHED, names_in
from effnlp.reproduce.claims.samples import Sample, UndecidableError, exact
from effnlp.reproduce.experiment import Column, Published
from effnlp.reproduce.result import Cell

Place = tuple[str, str]
"""A row and a column."""


@dataclass(frozen=True)
class Figures:
    """What a rule may look at.

    Attributes:
        holes: Places that should have a cell and do not.
    """

    cells: Mapping[Place, Cell]
    published: Mapping[Place, Published]
    columns: Mapping[str, Column]
    holes: Collection[Place] = ()

    def sample(self, place: Place) -> Sample:
        """The figures of a cell.

        Raises:
            UndecidableError: If there is no such cell, or one of its figures is not finite.
            ValueError: If it is said to be exact and differs between seeds.
        """
        cell, name = self.cells.get(place), called(place)
        if cell is None or not cell.values:
            raise UndecidableError(f"there is no figure of {name}")
        if broken := [seed for seed, value in cell.values.items() if not math.isfinite(value)]:
            raise UndecidableError(f"{name} is not finite with seed {', '.join(broken)}")
        if cell.is_exact and len(set(cell.values.values())) > 1:
            raise ValueError(f"{name} is said to be exact, but differs between seeds: {dict(cell.values)}")
        return Sample(
            name, cell.values, cell.is_exact, cell.interval, examples=self._examples(cell), asked=place[1]
        )

    def _examples(self, cell: Cell) -> dict[str, np.ndarray]:
        """In the unit of the column; none if they are not what the figures are the mean of."""
        column = self.columns.get(cell.column)
        scale = column.scale if column else 1.0
        found = {seed: scale * np.asarray(scores, dtype=float) for seed, scores in cell.examples.items()}
        fits = all(
            seed in found and found[seed].size and math.isclose(found[seed].mean(), value, rel_tol=1e-4)
            for seed, value in cell.values.items()
        )
        return found if fits else {}

    def to(self, place: Place, to: Any) -> Sample:
        """What the cell at ``place`` is held against: another cell, the published figure, or a number.

        Raises:
            UndecidableError: If there is none.
        """
        if isinstance(to, Mapping):
            return self.sample(beside(place, to))
        if to != PUBLISHED:
            return exact(float(to))
        if place not in self.published:
            raise UndecidableError(f"no figure of {called(place)} was published")
        return exact(self.published[place].value, "the published figure")

    def compared(self, place: Place, to: Any) -> str:
        """As a sentence calls the two, with their means: ``int8 against fp32 in SST-2 (90.4 against 90.7)``."""
        (row, column), said = place, called(place)
        if not isinstance(to, Mapping):
            said += " against the published figure" if to == PUBLISHED else f" against {to:g}"
        elif beside(place, to)[1] == column:
            said = f"{row} against {beside(place, to)[0]} in {column}"
        elif beside(place, to)[0] == row:
            said = f"{column} against {beside(place, to)[1]} of {row}"
        else:
            said += f" against {called(beside(place, to))}"
        try:
            return f"{said} ({self.sample(place).mean:.5g} against {self.to(place, to).mean:.5g})"
        except UndecidableError:
            return said

    def places(self, arguments: Mapping[str, Any]) -> list[Place]:
        """The cells that ``of`` stands for, each of which is checked.

        Of a row or a column that it leaves out, these are the cells that have a figure and something to be held
        against, or should have; of a name or a list, all of them, there or not. None is held against itself.
        """
        of, left_out = arguments["of"], set(arguments.get("except", ()))
        rows, columns = (
            names_in(of[key]) if key in of else list(dict.fromkeys(p[at] for p in (*self.cells, *self.holes)))
            for at, key in enumerate(("row", "column"))
        )
        found = [
            (row, column) for row in rows for column in columns
            if not {row, column} & (left_out - {name for name in of.values() if isinstance(name, str)})
        ]  # fmt: skip
        to = arguments.get("to")
        if isinstance(to, Mapping):
            found = [place for place in found if beside(place, to) != place]
        return (
            found if {"row", "column"} <= set(of) else [place for place in found if self._is_whole(place, to)]
        )

    def _is_whole(self, place: Place, to: Any) -> bool:
        there = {*self.cells, *self.holes}
        if place not in there or (to == PUBLISHED and place not in self.published):
            return False
        return not isinstance(to, Mapping) or beside(place, to) in there

    def left_out(self, arguments: Mapping[str, Any]) -> list[str]:
        """Published figures that a claim about every row or column would be about, had they a cell."""
        of, excepted = arguments["of"], set(arguments.get("except", ()))
        if arguments.get("to") != PUBLISHED or {"row", "column"} <= set(of):
            return []
        return [
            called(place) for place in self.published
            if place not in {*self.cells, *self.holes} and not set(place) & excepted
            and all(place[at] in names_in(of[key]) for at, key in enumerate(("row", "column")) if key in of)
        ]  # fmt: skip


def beside(place: Place, other: Mapping[str, str]) -> Place:
    """The place that ``other`` names; the row or column that it leaves out is the same."""
    return other.get("row", place[0]), other.get("column", place[1])


def sequence(of: Mapping[str, Any]) -> Iterator[Place]:
    """The places along the one list of a reference."""
    for row in names_in(of["row"]):
        for column in names_in(of["column"]):
            yield row, column


def called(place: Place) -> str:
    """As a sentence calls it."""
    return f"{place[0]} in {place[1]}"
