"""Patient distillation: follow what the layers of a teacher make of a text, beside its logits.

Source: Sun et al. (2019), https://arxiv.org/abs/1908.09355

Legend: B batch, D width, M layers of the student.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from effnlp.compression.distillation.answers import Answers, check_weights
from effnlp.compression.distillation.layer_maps import check_layer_map, layer_map
from effnlp.compression.distillation.lessons import Lessons
from effnlp.compression.distillation.lookup import Wanted
from effnlp.compression.distillation.projection import add_projections, drop_projections, project
from effnlp.compression.distillation.trace import Trace, depth_of
from effnlp.data.encodings import Batch
from effnlp.method import Objective

if TYPE_CHECKING:
    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around

REQUIRES = {
    "prepare": ("classes", "single_task", "layer_outputs"),
    "during": ("classes", "layer_outputs"),
}


def patient_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean over the texts of the squared distance of normalised vectors, summed over the layers: a scalar (eq. 7).

    Args:
        student: (B, D) of each layer that learns.
        teacher: (B, D) of the layers that teach them.
    """
    distances = [
        (normalize(one, dim=-1) - normalize(other, dim=-1)).square().sum(-1).mean()
        for one, other in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).sum()


class Hidden:
    """(1 - alpha) × labels + alpha × logits of the teacher + beta × its layers.

    The last layer is left to the logits, as in the paper. Unlike there, a text's vector is what the model pools of a
    layer (the first token only where the model itself pools so), and a student of another width has one learned
    projection for all layers.

    Args:
        teacher: Folder or record.json of a finished run that kept its model; or overrides of one that is done first, on
            the same task, once for all students. It reads the tokens that the student reads.
        alpha: Weight of the teacher's logits, in [0, 1].
        beta: Weight of its layers, at least 0.
        temperature: T, above 0, by which logits are divided before the softmax.
        layer_map: ``uniform`` (the paper's skip), ``top`` (its last) or ``bottom``.
        pool: File with texts without labels.
        pool_size: Or so many rows of the training split beyond ``task.train_size``, without their labels.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        teacher: str | Sequence[str] | None = None,
        alpha: float = 0.5,
        beta: float = 1.0,
        temperature: float = 2.0,
        layer_map: str = "uniform",
        pool: str | None = None,
        pool_size: int = 0,
    ) -> None:
        self.answers = Answers(alpha, temperature)
        check_layer_map(layer_map)
        check_weights({"beta": beta})
        self.beta, self.layer_map = beta, layer_map
        self.lessons = Lessons(teacher, pool, pool_size)

    def gather(self, data: "Prepared", around: "Around") -> "Prepared":
        """Get the teacher, and the texts of the pool."""
        return self.lessons.gather(data, around, Wanted(pooled=True))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give a student of another width its projection.

        Raises:
            ValueError: If the student has a single layer, or more layers than the teacher.
        """
        depth = depth_of(model)
        if depth < 2:
            raise ValueError(
                f"patient distillation leaves out the last layer: it needs at least 2, got {depth}"
            )
        if self.lessons.model is not None:
            layer_map(self.layer_map, depth, depth_of(self.lessons.model))
        return add_projections(model, ["layers"], self.lessons.model)

    def objective(self, base: Objective) -> Objective:
        """The loss of labels, logits and layers."""

        def taught(model: nn.Module, batch: Batch) -> Tensor:
            if self.answers.alpha == 0 and self.beta == 0:
                return base(model, batch)
            student, teacher = self.lessons.traces(model, batch)
            answers = self.answers.loss(base, model, batch, student.logits, teacher.logits)
            return answers + self.beta * self._patient(model, student, teacher)

        return taught

    def _patient(self, model: nn.Module, student: Trace, teacher: Trace) -> Tensor:
        taught_by = layer_map(self.layer_map, student.depth, teacher.depth)
        inner = range(1, student.depth)
        return patient_loss(
            [project(model, "layers", student.pooled(m)) for m in inner],
            [teacher.pooled(taught_by[m]) for m in inner],
        )

    def settle(self, model: nn.Module) -> nn.Module:
        """Leave the student alone."""
        return drop_projections(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Nothing of the teacher is in the model."""
        return self.answers.note(model, self.lessons.pool_texts, {"beta": self.beta})
