"""Distillation of logits: learn what a teacher says of a text, beside its label or without one.

Source: Hinton et al. (2015), https://arxiv.org/abs/1503.02531
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from effnlp.compression.distillation.answers import Answers
from effnlp.compression.distillation.lessons import Lessons
from effnlp.data.encodings import Batch
from effnlp.method import Objective

if TYPE_CHECKING:
    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around

REQUIRES = {"prepare": ("classes", "single_task"), "during": ("classes",)}


class Logits:
    """(1 - alpha) times the loss of the labels plus alpha times the distance from the teacher's logits.

    The teacher is asked once for each text, by its own tokenizer, so that it may be of any kind. A text without a
    label has the second part alone.

    Args:
        teacher: Folder or record.json of a finished run that kept its model; or overrides of one that is done first, on
            the same task, once for all students.
        alpha: Weight of the teacher, in [0, 1]; 0 is the training without one.
        temperature: T, above 0, by which logits are divided before the softmax.
        loss: ``kl`` or ``mse``, see :func:`~effnlp.compression.distillation.soft_labels.soft_loss`.
        pool: File with texts without labels.
        pool_size: Or so many rows of the training split beyond ``task.train_size``, without their labels.

    Raises:
        ValueError: If a value is outside its range, or there is a pool and the teacher has no weight.
    """

    def __init__(
        self,
        teacher: str | Sequence[str] | None = None,
        alpha: float = 0.5,
        temperature: float = 2.0,
        loss: str = "kl",
        pool: str | None = None,
        pool_size: int = 0,
    ) -> None:
        self.answers = Answers(alpha, temperature, loss)
        self.lessons = Lessons(teacher, pool, pool_size)
        if self.lessons.has_pool and alpha == 0:
            raise ValueError("a pool needs alpha above 0: its texts have no labels but the teacher's")

    def gather(self, data: "Prepared", around: "Around") -> "Prepared":
        """Ask the teacher about every text, and add those of the pool."""
        return self.lessons.gather(data, around)

    def objective(self, base: Objective) -> Objective:
        """The loss of labels and teacher."""

        def taught(model: nn.Module, batch: Batch) -> Tensor:
            if self.answers.alpha == 0:
                return base(model, batch)
            return self.answers.loss(base, model, batch, model(batch), self.lessons.logits_on(batch))

        return taught

    def finish(self, model: nn.Module) -> nn.Module:
        """Nothing of the teacher is in the model."""
        return self.answers.note(model, self.lessons.pool_texts)
