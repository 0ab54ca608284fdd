"""The space of a sweep: which overrides vary, over what, and under which choice.

A space is written in Hydra's own grammar of sweeps, in a file or on the command line::

    dimensions:
      model: bag_of_ngrams,backbone        # group choices are categorical
      finetuning.learning_rate: tag(log, interval(1e-4, 1e-3))
      model=backbone:                      # only where this choice is made
        model.size: tiny,small
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from effnlp.compose import ConfigError
from effnlp.menu import suggest


@dataclass(frozen=True)
class Dimension:
    """One thing that varies.

    Attributes:
        key: What is overridden, ``peft`` or ``peft.rank``.
        choices: The values of a categorical dimension, as they are typed; empty for a numeric one.
        low, high: Ends of a numeric dimension, both included.
        log: Whether it is drawn evenly on a logarithmic scale.
        integer: Whether it takes whole numbers.
        condition: ``(key, value)`` of the choice that brings this dimension; None if it is always there.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    condition: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """Its name in the study: unlike any other's, since a parameter must not change its values."""
        return f"{self.condition[0]}={self.condition[1]}/{self.key}" if self.condition else self.key

    @property
    def varies(self) -> bool:
        """Whether it has more than one value; one with a single value is a setting of the space."""
        return len(self.choices) != 1

    def is_there(self, values: Mapping[str, str]) -> bool:
        """Whether the choices made bring this dimension."""
        return self.condition is None or values.get(self.condition[0]) == self.condition[1]


@dataclass(frozen=True)
class Space:
    """Dimensions, those of a condition after the dimension that it is about."""

    dimensions: tuple[Dimension, ...]

    def sample(self, trial: Any) -> dict[str, str]:
        """Ask an Optuna trial for a value of each dimension that is there: key to the value as typed."""
        values: dict[str, str] = {}
        for dimension in self.dimensions:
            if dimension.is_there(values):
                values[dimension.key] = _ask(trial, dimension)
        return values

    def parameters(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The study's parameters of given values, to be tried first.

        Raises:
            ConfigError: If a key is no dimension here or a value is outside it.
        """
        found: dict[str, Any] = {}
        for key, value in values.items():
            dimension = next((d for d in self.dimensions if d.key == key and d.is_there(values)), None)
            if dimension is None:
                known = [d.key for d in self.dimensions if d.is_there(values)]
                raise ConfigError(f"search.first: {key} is not a dimension of the space{suggest(key, known)}")
            if dimension.choices and value not in dimension.choices:
                raise ConfigError(
                    f"search.first: {key}={value} is not in the space{suggest(value, dimension.choices)}"
                )
            found[dimension.name] = value if dimension.choices else _number(dimension, value)
        return found

    def combinations(self) -> int | None:
        """How many distinct points there are; None if a dimension is a continuum."""
        if any(not d.choices and not d.integer for d in self.dimensions):
            return None

        def count(index: int, values: dict[str, str]) -> int:
            if index == len(self.dimensions):
                return 1
            d = self.dimensions[index]
            if not d.is_there(values):
                return count(index + 1, values)
            if not d.choices:
                return (int(d.high) - int(d.low) + 1) * count(index + 1, values)
            return sum(count(index + 1, {**values, d.key: choice}) for choice in d.choices)

        return count(0, {})

    def points(self) -> Iterator[dict[str, str]]:
        """Every point of a space without a continuum: dimension key to the value as typed."""

        def walk(index: int, values: dict[str, str]) -> Iterator[dict[str, str]]:
            if index == len(self.dimensions):
                yield values
                return
            d = self.dimensions[index]
            if not d.is_there(values):
                yield from walk(index + 1, values)
                return
            for choice in d.choices or map(str, range(int(d.low), int(d.high) + 1)):
                yield from walk(index + 1, {**values, d.key: choice})

        return walk(0, {})


def _number(dimension: Dimension, text: str) -> float | int:
    try:
        value = int(text) if dimension.integer else float(text)
    except ValueError:
        value = math.nan
    if not dimension.low <= value <= dimension.high:
        kind = "a whole number" if dimension.integer else "a number"
        raise ConfigError(
            f"search.first: {dimension.key} takes {kind} from {dimension.low:g} to {dimension.high:g}, got {text}"
        )
    return value


def _ask(trial: Any, dimension: Dimension) -> str:
    if dimension.choices:
        return str(trial.suggest_categorical(dimension.name, list(dimension.choices)))
    if dimension.integer:
        value = trial.suggest_int(dimension.name, int(dimension.low), int(dimension.high), log=dimension.log)
        return str(value)
    return repr(float(trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)))


def parse(dimensions: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Space, list[str]]:
    """The space of a file and a command line, and the overrides that are fixed in every trial.

    A plain override fixes a dimension of the file; a comma list, ``interval()`` or ``range()`` replaces it.

    Args:
        dimensions: The key ``dimensions`` of a config of the group ``search/space``.
        overrides: What was typed, without the keys of the search itself.

    Raises:
        ConfigError: If something does not parse, or a condition is about no dimension or none of its values.
    """
    parsed = [_override(text) for text in overrides]
    typed = {_key(o): o for o in parsed}
    twice = [key for key, count in Counter(map(_key, parsed)).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice; a dimension is fixed or varied, once")
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    from_file = list(_file_dimensions(dimensions, None))
    kept: list[Dimension] = []
    values = {_key(o): str(o.input_line).partition("=")[2] for o in parsed if not o.is_sweep_override()}
    for dimension in from_file:
        if dimension.key in typed:
            continue
        if dimension.condition and dimension.condition[0] in values:
            if values[dimension.condition[0]] != dimension.condition[1]:
                continue
            dimension = Dimension(**{**dimension.__dict__, "condition": None})
        kept.append(dimension)
    swept = [_dimension(o, None) for o in parsed if o.is_sweep_override()]
    offered = {d.key: d.choices for d in swept if d.choices}
    # A sub-space of a choice that the command line does not offer is not part of this sweep.
    kept = [d for d in kept if not d.condition or d.condition[1] in offered.get(d.condition[0], d.condition)]
    ordered = [*swept, *kept]
    ordered.sort(key=lambda d: d.condition is not None)  # stable: conditions after what they are about
    _check_conditions(ordered)
    return Space(tuple(ordered)), fixed


def _file_dimensions(node: Mapping[str, Any], condition: tuple[str, str] | None) -> Iterator[Dimension]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            about, equals, choice = str(key).partition("=")
            if not equals or condition:
                raise ConfigError(
                    f"search.space.dimensions: {key!r} holds dimensions, so it must be KEY=VALUE at the top level"
                )
            yield from _file_dimensions(value, (about, choice))
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield _dimension(_override(f"{key}={text}"), condition)


def _override(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"{text!r} does not parse: {str(error).strip().splitlines()[0]}") from error


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _dimension(override: Override, condition: tuple[str, str] | None) -> Dimension:
    key = _key(override)
    if not override.is_sweep_override():
        return Dimension(key, (str(override.input_line).partition("=")[2],), condition=condition)
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        log = "log" in value.tags
        if not low < high or (log and low <= 0):
            raise ConfigError(f"{override.input_line}: an interval rises, and a logarithmic one is above 0")
        integer = isinstance(low, int) and isinstance(high, int)
        return Dimension(key, low=float(low), high=float(high), log=log, integer=integer, condition=condition)
    if isinstance(value, RangeSweep) and value.step == 1 and isinstance(value.start, int):
        high = int(value.stop or 0) - 1
        return Dimension(
            key,
            low=float(value.start),
            high=float(high),
            integer=True,
            log="log" in value.tags,
            condition=condition,
        )
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    return Dimension(key, choices, condition=condition)


def _check_conditions(dimensions: Sequence[Dimension]) -> None:
    by_key = {d.key: d for d in dimensions if d.condition is None}
    for dimension in dimensions:
        if dimension.condition is None:
            continue
        about, value = dimension.condition
        if about not in by_key:
            raise ConfigError(
                f"{dimension.key} is there when {about}={value}, but {about} is no dimension"
                f"{suggest(about, list(by_key))}"
            )
        if by_key[about].choices and value not in by_key[about].choices:
            raise ConfigError(
                f"{dimension.key} is there when {about}={value}, but {about} takes {', '.join(by_key[about].choices)}"
            )
