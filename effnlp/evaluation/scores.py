"""What a choice of ``evaluation/quality`` says of the predictions of one split, and which tasks have none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from effnlp.task.task import Task


@dataclass(frozen=True)
class Scores:
    """Figures without their split: ``accuracy`` becomes ``val/accuracy`` in the record.

    Attributes:
        values: Key to figure.
        absent: Key to the reason why there is no figure. No key is in both.
        notes: Key to what is no single number (the bins of a reliability diagram), as JSON has it.
    """

    values: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, other: "Scores") -> "Scores":
        """Both; of a key that both have, the other's."""
        return Scores(
            {**self.values, **other.values}, {**self.absent, **other.absent}, {**self.notes, **other.notes}
        )

    def under(self, prefix: str) -> "Scores":
        """The same with ``prefix/`` before each key."""

        def placed(part: Mapping[str, Any]) -> dict[str, Any]:
            return {f"{prefix}/{key}": entry for key, entry in part.items()}

        return Scores(placed(self.values), placed(self.absent), placed(self.notes))


def refuse_language(choice: str, task: Task) -> None:
    """Say before the training that there are no answers to look at.

    Args:
        choice: As a user types it, ``evaluation/quality=classification``.

    Raises:
        ValueError: If texts are learned, and not labels.
    """
    if task.is_language:
        raise ValueError(
            f"{choice} looks at answers, and a model that predicts next tokens gives none: leave it out; "
            "'evaluation/quality=[language]' scores what texts cost"
        )
