"""What every distillation has in common: the labels and the teacher's logits, weighed against each other.

Source: Hinton et al. (2015), https://arxiv.org/abs/1503.02531

Legend: B batch, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from effnlp.compression.distillation.soft_labels import check_soft_labels, loss_of_labels, soft_loss
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note


@dataclass(frozen=True)
class Answers:
    """(1 - alpha) × the loss of the labels + alpha × the distance from the teacher's logits.

    Attributes:
        alpha: Weight of the teacher, in [0, 1].
        temperature: T, above 0.
        kind: ``kl`` or ``mse``, see :func:`~effnlp.compression.distillation.soft_labels.soft_loss`.

    Raises:
        ValueError: If a value is outside its range.
    """

    alpha: float
    temperature: float
    kind: str = "kl"

    def __post_init__(self) -> None:
        check_soft_labels(self.alpha, self.temperature, self.kind)

    def loss(
        self, base: Objective, model: nn.Module, batch: Batch, student: Tensor, teacher: Tensor
    ) -> Tensor:
        """A scalar.

        Args:
            base: The loss of a batch in which all texts have labels.
            student: (B, C), the model's answer to ``batch``.
            teacher: (B, C).
        """
        soft = soft_loss(student, teacher, self.temperature, self.kind)
        return (1 - self.alpha) * loss_of_labels(base, model, batch, student) + self.alpha * soft

    def note(
        self, model: nn.Module, pool_texts: int, further: Mapping[str, float] | None = None
    ) -> nn.Module:
        """Write down how the model was taught; of the teacher nothing is in it."""
        said = {"alpha": self.alpha, "temperature": self.temperature, **(further or {})}
        note(model, "compression/distillation", {**said, "pool_texts": pool_texts})
        return model


def check_weights(weights: Mapping[str, float]) -> None:
    """Check the weights of what layers teach.

    Args:
        weights: Name of the parameter to its value.

    Raises:
        ValueError: If one is negative.
    """
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, got {weight}")
