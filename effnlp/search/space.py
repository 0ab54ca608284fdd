"""The space of a sweep: which overrides vary, over what, and under which choice.

A space is written in Hydra's own grammar of sweeps, in a file or on the command line::

    dimensions:
      model: bag_of_ngrams,backbone        # group choices are categorical
      compression/quantization: glob(*)    # all of a group
      finetuning.learning_rate: tag(log, interval(1e-4, 1e-3))
      model=backbone:                      # only where this choice is made
        peft: none,lora
        peft=lora:                         # and only where this one is made there
          peft.rank: tag(log, int(interval(2, 64)))
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from effnlp.compose import ConfigError
from effnlp.menu import choice_names, conf_dir, read_choice, suggest
from effnlp.search.grammar import globbed, in_grammar, key_of, meaning, parse_override

Condition = tuple[str, str]
"""A key and the value, as typed, that it must have."""


@dataclass(frozen=True)
class Dimension:
    """One thing that varies.

    Attributes:
        key: What is overridden, ``peft`` or ``peft.rank``.
        choices: The values of a categorical dimension, as they are typed; empty for a numeric one.
        low, high: Ends of a numeric dimension, both included.
        log: Whether it is drawn evenly on a logarithmic scale.
        integer: Whether it takes whole numbers.
        condition: The choice that brings this dimension; None if it is always there.
        within: The choices that bring the dimension which ``condition`` is about, the outermost first.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    condition: Condition | None = None
    within: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if self.within and self.condition is None:
            raise ValueError(f"{self.key} is within {self.within}, but has no condition")
        object.__setattr__(self, "choices", tuple(self.choices))  # lists, where it was read from JSON
        object.__setattr__(self, "within", tuple((key, value) for key, value in self.within))
        if self.condition is not None:
            object.__setattr__(self, "condition", (self.condition[0], self.condition[1]))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All choices that must be made for it to be there, the outermost first."""
        return (*self.within, self.condition) if self.condition else ()

    @property
    def name(self) -> str:
        """Its name in the study: unlike any other's, since a parameter must not change its values."""
        # A value with a slash is quoted: data=a/b/c is the key b/c under data=a, data='a/b'/c is c under data=a/b.
        shown = [f"{key}={value!r}" if "/" in value else f"{key}={value}" for key, value in self.conditions]
        return "/".join([*shown, self.key])

    @property
    def size(self) -> int | None:
        """How many values it takes; None for a continuum."""
        if self.choices:
            return len(self.choices)
        if self.low == self.high:
            return 1
        return int(self.high) - int(self.low) + 1 if self.integer else None

    @property
    def varies(self) -> bool:
        """Whether it has more than one value; one with a single value is a setting of the space."""
        return self.size != 1

    def is_there(self, values: Mapping[str, str]) -> bool:
        """Whether the choices made bring this dimension."""
        return all(values.get(key) == value for key, value in self.conditions)

    def values(self) -> Iterator[str]:
        """All its values as typed, in order.

        Raises:
            ValueError: If it is a continuum.
        """
        if self.size is None:
            raise ValueError(f"{self.key} is a continuum, its values cannot be listed")
        if self.choices:
            return iter(self.choices)
        if self.integer:
            return map(str, range(int(self.low), int(self.high) + 1))
        return iter([repr(self.low)])

    def at(self, fraction: float) -> str:
        """The value, as typed, at a fraction in [0, 1] of the way through: every value has an equal share."""
        if self.choices:
            return self.choices[min(int(fraction * len(self.choices)), len(self.choices) - 1)]
        # Whole numbers reach half a step beyond their ends, so that the first and last have as much as others.
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        if self.log:
            value = low * (high / low) ** fraction if fraction < 1 else high
        else:
            value = low + fraction * (high - low)
        value = min(max(value, self.low), self.high)
        return str(round(value)) if self.integer else repr(float(value))

    def fitting(self, value: Any) -> str | None:
        """A value, as typed or as a config holds it, in the form that it has here; None if it is outside."""
        if self.choices:
            if value in self.choices:
                return str(value)
            meant = meaning(value)
            return next((choice for choice in self.choices if meaning(choice) == meant), None)
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        if isinstance(value, bool) or not self.low <= number <= self.high:
            return None
        if self.integer:
            return str(int(number)) if number.is_integer() else None
        return repr(number)

    def parameter(self, value: str) -> str | float | int:
        """A value as typed, as the study holds it."""
        return value if self.choices else int(value) if self.integer else float(value)

    def distribution(self) -> Any:
        """What Optuna draws it from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    @property
    def extent(self) -> str:
        """Its values, for a reader: ``none,lora`` or ``0.0001..0.01 (log)``."""
        if self.choices:
            return ",".join(self.choices)
        return f"{self.low:g}..{self.high:g}" + (" (log)" if self.log else "")

    def __str__(self) -> str:
        return f"{self.name}={self.extent}"


@dataclass(frozen=True)
class Space:
    """Dimensions, those of a condition after the dimension that it is about."""

    dimensions: tuple[Dimension, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.dimensions)) or "no dimension"

    def sample(self, trial: Any) -> dict[str, str]:
        """Ask an Optuna trial for a value of each dimension that is there: key to the value as typed."""
        values: dict[str, str] = {}
        for dimension in self.dimensions:
            if dimension.is_there(values):
                values[dimension.key] = _ask(trial, dimension)
        return values

    def there(self, values: Mapping[str, str]) -> list[Dimension]:
        """The dimensions that the choices made bring."""
        return [dimension for dimension in self.dimensions if dimension.is_there(values)]

    def parameters(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The study's parameters of given values, to be tried first.

        Raises:
            ConfigError: If a key is no dimension here or a value is outside it.
        """
        settled: dict[str, str] = {}
        found: dict[str, Any] = {}
        for dimension in self.dimensions:  # in their order: what a condition is about comes before it
            if dimension.key in values and dimension.is_there(settled):
                value = settled[dimension.key] = _inside(dimension, values[dimension.key])
                found[dimension.name] = dimension.parameter(value)
        for key in values:
            if key not in settled:
                known = [d.key for d in self.there(settled)]
                raise ConfigError(f"search.first: {key} is not a dimension of the space{suggest(key, known)}")
        return found

    def combinations(self) -> int | None:
        """How many distinct points there are; None if a dimension is a continuum."""
        if any(d.size is None for d in self.dimensions):
            return None
        asked: dict[str, list[str]] = {}
        for key, value in {pair for d in self.dimensions for pair in d.conditions}:
            asked.setdefault(key, []).append(value)

        def points(index: int, values: Mapping[str, str]) -> int:
            """Points of the dimensions from ``index``. Only values that a condition asks for are told apart."""
            number = 1
            for i, d in enumerate(self.dimensions[index:], index):
                if not d.is_there(values):
                    continue
                size = d.size or 0
                named = [value for value in asked.get(d.key, ()) if d.fitting(value) is not None]
                if named:
                    of_named = sum(points(i + 1, {**values, d.key: value}) for value in named)
                    return number * (of_named + (size - len(named)) * points(i + 1, values))
                number *= size
            return number

        return points(0, {})

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
            for value in d.values():
                yield from walk(index + 1, {**values, d.key: value})

        return walk(0, {})


def _inside(dimension: Dimension, value: str) -> str:
    found = dimension.fitting(value)
    if found is not None:
        return found
    if dimension.choices:
        raise ConfigError(
            f"search.first: {dimension.key}={value} is not in the space{suggest(value, dimension.choices)}"
        )
    kind = "a whole number" if dimension.integer else "a number"
    raise ConfigError(
        f"search.first: {dimension.key} takes {kind} from {dimension.low:g} to {dimension.high:g}, got {value}"
    )


def _ask(trial: Any, dimension: Dimension) -> str:
    if dimension.choices:
        return str(trial.suggest_categorical(dimension.name, list(dimension.choices)))
    if dimension.integer:
        low, high = int(dimension.low), int(dimension.high)
        return str(trial.suggest_int(dimension.name, low, high, log=dimension.log))
    return repr(float(trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)))


# From text


def parse(
    dimensions: Mapping[str, Any], overrides: Sequence[str], folders: Sequence[Path] | None = None
) -> tuple[Space, list[str]]:
    """The space of a file and a command line, and the overrides that are fixed in every trial.

    A plain override fixes a dimension of the file; a comma list, ``interval()``, ``range()`` or ``glob()``
    replaces it. One of a key that only some of the choices of a dimension have is a setting of these choices
    (``compression/distillation=none,logits compression.distillation.teacher=DIR``).

    Args:
        dimensions: The key ``dimensions`` of a config of the group ``search/space``.
        overrides: What was typed, without the keys of the search itself.
        folders: Where the configs lie that ``glob()`` is about; the project's own by default.

    Raises:
        ConfigError: If something does not parse, or a condition is about no dimension or none of its values.
    """
    parsed = [parse_override(text) for text in overrides]
    typed = {key_of(o) for o in parsed}
    twice = [key for key, number in Counter(map(key_of, parsed)).items() if number > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice; a dimension is fixed or varied, once")
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    values = {key_of(o): str(o.input_line).partition("=")[2] for o in parsed if not o.is_sweep_override()}
    where = list(folders) if folders is not None else [conf_dir()]
    swept = [_dimension(o, (), where) for o in parsed if o.is_sweep_override()]
    offered = {d.key: d for d in swept}
    kept = []
    for dimension in _file_dimensions(dimensions, (), where):
        left = _conditions_left(dimension.conditions, values, offered)
        if dimension.key not in typed and left is not None:
            kept.append(_under(dimension, left))
    settings = {
        text: _settings(text.partition("=")[0], text.partition("=")[2], [*swept, *kept], where)
        for text in fixed
    }
    fixed = [text for text in fixed if not settings[text]]
    # Stable: what a condition is about comes before it.
    ordered = sorted([*swept, *kept, *chain(*settings.values())], key=lambda d: len(d.conditions))
    ordered = [_with_conditions_as_typed(d, ordered) for d in ordered]
    _check_names(ordered)
    return Space(tuple(ordered)), fixed


def _settings(
    key: str, value: str, dimensions: Sequence[Dimension], folders: Sequence[Path]
) -> list[Dimension]:
    """The settings that a fixed value is, where only some of the choices of a dimension have such a key; else none."""
    for dimension in dimensions:
        prefix = dimension.key.replace("/", ".") + "."
        names = choice_names(dimension.key, folders)
        if dimension.conditions or not key.startswith(prefix) or not names:
            continue
        first = key.removeprefix(prefix).partition(".")[0]
        choices = [choice for choice in dimension.choices if choice in names]
        having = [choice for choice in choices if first in read_choice(dimension.key, choice, folders).keys]
        if 0 < len(having) < len(dimension.choices):
            return [Dimension(key, (value,), condition=(dimension.key, choice)) for choice in having]
    return []


def _conditions_left(
    conditions: Sequence[Condition], values: Mapping[str, str], offered: Mapping[str, Dimension]
) -> list[Condition] | None:
    """The conditions that the command line leaves open; None if it rules one of them out."""
    left = []
    for key, value in conditions:
        if key in values:
            if meaning(values[key]) != meaning(value):
                return None
        elif key in offered and offered[key].fitting(value) is None:
            return None
        else:
            left.append((key, value))
    return left


def _under(dimension: Dimension, conditions: Sequence[Condition]) -> Dimension:
    return replace(dimension, condition=conditions[-1] if conditions else None, within=tuple(conditions[:-1]))


def _file_dimensions(
    node: Mapping[str, Any], conditions: tuple[Condition, ...], folders: Sequence[Path]
) -> Iterator[Dimension]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            about, equals, choice = str(key).partition("=")
            if not equals or not about or not choice:
                raise ConfigError(
                    f"search.space.dimensions: {key!r} holds dimensions, so it must be KEY=VALUE, the choice "
                    "that brings them"
                )
            yield from _file_dimensions(value, (*conditions, (about, choice)), folders)
        else:
            yield _dimension(parse_override(f"{key}={in_grammar(value)}"), conditions, folders)


def _dimension(override: Override, conditions: Sequence[Condition], folders: Sequence[Path]) -> Dimension:
    key = key_of(override)
    line = str(override.input_line)
    if not override.is_sweep_override():
        return _under(Dimension(key, (line.partition("=")[2],)), conditions)
    if override.is_add() or override.is_delete() or override.is_force_add():
        raise ConfigError(f"{line}: a dimension varies what is there, so it begins with neither + nor ~")
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        log = "log" in value.tags
        if not low < high or (log and low <= 0) or not math.isfinite(high - low):
            raise ConfigError(f"{line}: an interval rises, and a logarithmic one is above 0")
        integer = isinstance(low, int) and isinstance(high, int)
        return _under(Dimension(key, (), float(low), float(high), log, integer), conditions)
    if isinstance(value, RangeSweep) and value.step == 1 and all(map(_is_int, (value.start, value.stop))):
        low, high = int(value.start or 0), int(value.stop or 0) - 1
        log = "log" in value.tags
        if low > high or (log and low < 1):
            raise ConfigError(
                f"{line}: a range has a number in it (its end is not), and a logarithmic one is above 0"
            )
        return _under(Dimension(key, (), float(low), float(high), log, integer=True), conditions)
    if isinstance(value, ChoiceSweep | RangeSweep):
        value.shuffle = False  # the order is the sampler's, and a study must find the same choices again
    choices = globbed(value, key, folders) if isinstance(value, Glob) else override.sweep_string_iterator()
    found: dict[str, str] = {}
    for choice in choices:
        found.setdefault(meaning(choice), choice)
    if not found:
        raise ConfigError(f"{line}: nothing is in it")
    return _under(Dimension(key, tuple(found.values())), conditions)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _with_conditions_as_typed(dimension: Dimension, dimensions: Sequence[Dimension]) -> Dimension:
    """The dimension, the values in its conditions written as in the dimensions that they are about.

    Raises:
        ConfigError: If a condition is about no dimension, or none of its values.
    """
    outer: list[Condition] = []
    for about, value in dimension.conditions:
        named = [d for d in dimensions if d.key == about]
        there = [
            d
            for d in named
            if {(k, meaning(v)) for k, v in d.conditions} <= {(k, meaning(v)) for k, v in outer}
        ]
        if not named:
            every = sorted({d.key for d in dimensions if d.key != dimension.key})
            raise ConfigError(
                f"{dimension.key} is there when {about}={value}, but {about} is no dimension{suggest(about, every)}"
            )
        if not there:
            where = " or ".join(" and ".join(f"{k}={v}" for k, v in d.conditions) for d in named)
            raise ConfigError(
                f"{dimension.key} is there when {about}={value}, but {about} is a dimension only when {where}: "
                f"put {about}={value} inside of that"
            )
        if there[0].size is None:
            raise ConfigError(
                f"{dimension.key} is there when {about}={value}, but {about} is a continuum, which is never "
                "exactly that"
            )
        found = there[0].fitting(value)
        if found is None:
            raise ConfigError(
                f"{dimension.key} is there when {about}={value}, but {about} takes "
                f"{there[0].extent.replace(',', ', ')}{_near(value, there[0].choices)}"
            )
        outer.append((about, found))
    return _under(dimension, outer)


def _near(value: str, known: Sequence[str]) -> str:
    said = suggest(value, known)
    return said if "did you mean" in said else ""


def _check_names(dimensions: Sequence[Dimension]) -> None:
    """No key may be there twice at once, and no name of the study stand for two dimensions."""
    for one, other in combinations(dimensions, 2):
        mine, theirs = dict(one.conditions), dict(other.conditions)
        if one.key == other.key and all(mine[key] == theirs[key] for key in mine.keys() & theirs.keys()):
            when = " and ".join(f"{key}={value}" for key, value in {**mine, **theirs}.items())
            raise ConfigError(f"{one.key} is a dimension twice{f' when {when}' if when else ''}")
        if one.name == other.name:
            raise ConfigError(f"two dimensions would be called {one.name} in the study")
