"""How good a model in training is on the validation split, as one figure by which a checkpoint is chosen."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _examples(_: Tensor, labels: Tensor) -> float:
    return len(labels)


UNSETTLED = 1e30
"""Beyond every score that a model could have; small enough for float32."""


@dataclass(frozen=True)
class Judge:
    """A mean over examples, or over what they are made of.

    Attributes:
        name: What a curve calls it, below ``val/``.
        is_better_when_higher: Else a lower mean is better.
        of_batch: From outputs (B, C) and labels (B,) to the sum of the scores of the batch.
        weight_of_batch: From the same to how much the batch weighs: the number of its examples.
    """

    name: str
    is_better_when_higher: bool
    of_batch: Callable[[Tensor, Tensor], Tensor]
    weight_of_batch: Callable[[Tensor, Tensor], Tensor | float] = _examples

    def preference(self, mean: float) -> float:
        """A number that is higher for a better model; twice applied, it is the mean again."""
        return mean if self.is_better_when_higher else -mean


def unsettled(progress: float) -> float:
    """The preference of a model that is not yet what it will be, after a share of its training.

    Less than that of any settled one, and more than that of an earlier one.
    """
    return (progress - 2.0) * UNSETTLED


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).sum()


ACCURACY = Judge("accuracy", True, _right)
