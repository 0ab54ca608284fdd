"""What a claim must be given: the cells and bounds of each kind, checked before anything runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effnlp.menu import suggest
from effnlp.reproduce.experiment import Column

PUBLISHED = "published"
"""In place of a cell: the published figure of the same cell."""

PLACES = ("row", "column")
BOUNDS = ("at_least", "at_most", "within", "within_relative")

Form = Callable[[Any], str | None]
"""Says what a value must be, or None if it is that."""


def names_in(value: Any) -> list[str]:
    """The names of a row or a column of a reference: one, or a list of them in order."""
    return list(value) if isinstance(value, list | tuple) else [value]


def cell(value: Any) -> str | None:
    """Of ``{row: …, column: …}``: either may be left out (every one), or be a list (each of them, in order)."""
    if not isinstance(value, Mapping):
        return "must name cells, such as {row: int8, column: SST-2}"
    for key, names in value.items():
        if key not in PLACES:
            return f"must name cells by row and column, not by {key!r}{suggest(str(key), PLACES)}"
        if names in ("", []) or not all(isinstance(name, str) for name in names_in(names)):
            return f"must have a name, or a list of names, as {key} (quote numbers)"
        if len(set(names_in(names))) < len(names_in(names)):
            return f"names a {key} twice"
    return None


def cell_or_figure(value: Any) -> str | None:
    """Of what cells are held against: other cells, a number, or what was published."""
    if isinstance(value, Mapping):
        return cell(value)
    return (
        None
        if value == PUBLISHED
        else number(value) and "must be cells, a finite number or the word published"
    )


def number(value: Any) -> str | None:
    """Of a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if is_number else "must be a finite number (YAML wants a point in 1.0e-6)"


def not_negative(value: Any) -> str | None:
    """Of a width or a tolerance."""
    return number(value) or ("must not be negative" if value < 0 else None)


def positive(value: Any) -> str | None:
    """Of a share."""
    return number(value) or ("must be above 0" if value <= 0 else None)


def tolerances(value: Any) -> str | None:
    """Of a tolerance, or one of each column that has one."""
    many = list(value.values()) if isinstance(value, Mapping) else [value]
    return next((said for said in map(not_negative, many) if said), None)


def names(value: Any) -> str | None:
    """Of a list of names."""
    is_list = isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value)
    return None if is_list else "must be a list of names"


def steps(value: Any) -> str | None:
    """Of positive numbers of which two differ, or cells that hold them."""
    if isinstance(value, Mapping):
        return cell(value)
    fits = isinstance(value, list | tuple) and not any(map(positive, value)) and len(set(value)) > 1
    return None if fits else "must be a list of positive numbers of which two differ, or cells"


def one_of(*words: str) -> Form:
    """Of one of a few words."""

    def check(value: Any) -> str | None:
        return None if value in words else f"must be {' or '.join(words)}"

    return check


@dataclass(frozen=True)
class Kind:
    """A rule that a claim can name.

    Attributes:
        says: What it claims, in a line.
        required, optional: Argument to what it must be.
        bounds: Of these, one at least must be there.
        along: Which places of ``of`` are lists: each entry is a possibility. Empty: the rule checks each cell by
            itself, and places that are lists, or left out, mean several of them.
        points: The fewest names in such a list.
        at_most_points: And the most; None for any number.
        divides: Whether ``to`` must not be 0.
        by_merit: Whether each column of ``of`` must say what is better.
    """

    says: str
    required: Mapping[str, Form]
    optional: Mapping[str, Form]
    bounds: Sequence[str] = ()
    along: Sequence[Sequence[str]] = ()
    points: int = 2
    at_most_points: int | None = None
    divides: bool = False
    by_merit: bool = False

    def problems(
        self, arguments: Mapping[str, Any], columns: Mapping[str, Column] | None = None
    ) -> list[str]:
        """What is wrong with the arguments of a claim, a sentence each; empty if nothing is.

        Args:
            columns: Of the experiment, by name.
        """
        forms = {**self.required, **self.optional}
        found = [
            f"does not know {key!r}{suggest(str(key), list(forms))}" for key in arguments if key not in forms
        ]
        found += [f"needs {key!r}" for key in self.required if key not in arguments]
        if self.bounds and not any(key in arguments for key in self.bounds):
            found.append(f"needs {' or '.join(self.bounds)}")
        for key, value in arguments.items():
            said = forms[key](value) if key in forms else None
            if said:
                found.append(f"{key} {said}, got {value!r}")
        return found or [*self._misses(arguments["of"]), *self._contradictions(arguments, columns or {})]

    def _misses(self, of: Mapping[str, Any]) -> Iterator[str]:
        """What ``of`` lacks to be a sequence of cells."""
        if not self.along:
            return
        lists = [place for place in PLACES if isinstance(of.get(place), list | tuple)]
        if len(of) < len(PLACES) or lists not in [list(places) for places in self.along]:
            wanted = " or ".join(
                ", ".join(f"{'a list' if place in places else 'one name'} as {place}" for place in PLACES)
                for places in self.along
            )
            yield f"of must have {wanted}, got {dict(of)!r}"
            return
        for place in lists:
            if not self.points <= len(of[place]) <= (self.at_most_points or len(of[place])):
                number = "exactly" if self.at_most_points == self.points else "at least"
                yield f"of must have {number} {self.points} names as {place}, got {of[place]!r}"

    def _contradictions(self, arguments: Mapping[str, Any], columns: Mapping[str, Column]) -> Iterator[str]:
        """What is wrong with arguments that are right one by one."""
        of, to, x = (arguments.get(key) for key in ("of", "to", "x"))
        of = dict(of or {})
        at_least, at_most = arguments.get("at_least", -math.inf), arguments.get("at_most", math.inf)
        if at_least > at_most:
            yield f"at_least {at_least} is above at_most {at_most}"
        for bound in ("within", "within_relative"):
            others = [other for other in BOUNDS if other != bound and other in arguments]
            if bound in arguments and others:
                yield f"{bound} cannot stand beside {' or '.join(others)}"
        if to == 0 and (self.divides or "within_relative" in arguments):
            yield "to must not be 0, since nothing has a ratio to it"
        if isinstance(to, Mapping) and {**of, **to} == of:
            yield f"compares {of!r} with itself"
        elif isinstance(to, Mapping) and not all(isinstance(name, str) for name in to.values()):
            yield f"to must have one name as a place, and inherits lists from of; got {dict(to)!r}"
        elif (
            isinstance(to, Mapping) and self.along and [isinstance(of[place], str) for place in to] != [True]
        ):
            single = next(place for place in PLACES if isinstance(of[place], str))
            yield f"to must name another {single} and nothing else, got {dict(to)!r}"
        if isinstance(x, list | tuple):
            cells = max(len(names_in(value)) for value in of.values())
            if cells != len(x):
                yield f"x has {len(x)} numbers for {cells} cells"
        measured = names_in(of.get("column"))
        strays = [name for name in _mapping(arguments.get("tolerance")) if name not in measured]
        if strays:
            yield f"tolerance names {', '.join(strays)}, which is no column of the claim"
        for name in measured if self.by_merit else ():
            if name in columns and columns[name].better is None:
                yield f"column {name!r} does not say which direction is better (better: max or min)"

    def references(self, arguments: Mapping[str, Any]) -> list[dict[str, str]]:
        """The rows and columns that a claim names: ``{row, column}``, or only one of the two for every cell there.

        A reference whose lists have several names becomes several ones. What ``to`` and ``x`` leave out is as in
        ``of``. Of arguments with problems, those that can be read.
        """
        of = _mapping(arguments.get("of"))
        found = list(expanded(of))
        for key in ("to", "x"):
            if _mapping(arguments.get(key)):
                found += expanded({**of, **arguments[key]})
        place = "column" if isinstance(of.get("row"), str) else "row"
        left_out = arguments.get("except", ())
        found += [{place: name} for name in (left_out if names(left_out) is None else ())]
        return [reference for at, reference in enumerate(found) if reference and reference not in found[:at]]


def expanded(reference: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One reference for each pair of names that a reference with lists stands for, in their order."""
    for row in names_in(reference.get("row")):
        for column in names_in(reference.get("column")):
            pair = {"row": row, "column": column}
            yield {place: name for place, name in pair.items() if isinstance(name, str)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
