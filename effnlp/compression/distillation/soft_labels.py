"""Learning from what a teacher says of a text beside its label, or instead of one.

Source: Hinton et al. (2015), https://arxiv.org/abs/1503.02531

Legend: B batch, C classes, z logits, T temperature.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from effnlp.data.encodings import Batch
from effnlp.data.examples import UNLABELLED, labelled_part
from effnlp.method import Objective

LOSSES = ("kl", "mse")


class Answered(nn.Module):
    """Stands for a model whose answer to a batch is known, so that any objective can judge it; else it is the model."""

    def __init__(self, model: nn.Module, logits: Tensor) -> None:
        super().__init__()
        self.model = model
        self.logits = logits

    def __getattr__(self, name: str) -> Any:
        """What the model has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, batch: Batch) -> Tensor:  # noqa: ARG002
        """The answer, whatever the batch."""
        return self.logits


def loss_of_labels(base: Objective, model: nn.Module, batch: Batch, logits: Tensor) -> Tensor:
    """The loss of the texts with a label, as a part of the mean over all texts of the batch: a scalar.

    Args:
        base: The mean loss of a batch in which all texts have labels.
        logits: (B, C), the model's answer to ``batch``.
    """
    labelled = labelled_part(batch)
    count = len(labelled["labels"])
    if count == 0:
        return logits.sum() * 0.0
    known = logits if labelled is batch else logits[batch["labels"] != UNLABELLED]
    return base(Answered(model, known), labelled) * (count / len(logits))


def check_soft_labels(alpha: float, temperature: float, loss: str = "kl") -> None:
    """Check the values of a method that learns from soft labels.

    Raises:
        ValueError: If one is outside its range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")


def soft_loss(student: Tensor, teacher: Tensor, temperature: float, loss: str = "kl") -> Tensor:
    """How far a student is from its teacher, both logits (B, C): a scalar, 0 where they agree.

    Args:
        temperature: T. ``kl`` is the divergence of softmax(z / T) times T², so that its gradients keep their size as T
            grows; for T to infinity it is half the mean over the classes of the squared difference of logits, each
            logit taken from the mean of its text.
        loss: ``kl``, or ``mse``: the mean over the classes of the squared difference of logits, at no temperature.
    """
    if loss == "mse":
        return F.mse_loss(student, teacher)
    given = (student / temperature).log_softmax(-1)  # (B, C)
    wanted = (teacher / temperature).log_softmax(-1)  # (B, C)
    return F.kl_div(given, wanted, log_target=True, reduction="batchmean") * temperature**2
