"""Figures with flat keys, and the reason for each one that is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """What a meter found.

    Attributes:
        values: Key, with its unit, to figure.
        absent: Key to the reason why it could not be measured. No key is in both.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        both = sorted(set(self.values) & set(self.absent))
        if both:
            raise ValueError(f"a key is either measured or absent, got both for {', '.join(both)}")

    @classmethod
    def of(cls, figures: Mapping[str, float | None], reasons: Mapping[str, str]) -> "Measured":
        """Sort figures by whether they are there; ``reasons`` says why one is None."""
        return cls(
            values={key: figure for key, figure in figures.items() if figure is not None},
            absent={
                key: reasons.get(key, "not measured") for key, figure in figures.items() if figure is None
            },
        )

    def under(self, prefix: str) -> "Measured":
        """The same with ``prefix/`` before each key."""
        return Measured(
            {f"{prefix}/{key}": figure for key, figure in self.values.items()},
            {f"{prefix}/{key}": reason for key, reason in self.absent.items()},
        )
