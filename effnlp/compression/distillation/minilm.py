"""MiniLMv2: follow how a teacher's last layer relates tokens, by its queries, keys and values, whatever their width.

Source: Wang et al. (2021), https://arxiv.org/abs/2012.15828; relations of values: Wang et al. (2020),
https://arxiv.org/abs/2002.10957

Legend: B batch, T tokens, W width of the queries, keys or values, A relation heads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effnlp.compression.distillation.answers import Answers, check_weights
from effnlp.compression.distillation.lessons import Lessons
from effnlp.compression.distillation.lookup import Wanted
from effnlp.compression.distillation.relations import log_relations, relation_loss
from effnlp.compression.distillation.trace import Trace, depth_of
from effnlp.data.encodings import Batch
from effnlp.method import Objective
from effnlp.model.heads import split_heads
from effnlp.model.surgery import encoder_of

if TYPE_CHECKING:
    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around

REQUIRES = {
    "prepare": ("classes", "single_task", "layer_outputs", "attention_heads", "linear_layers"),
    "during": ("classes", "layer_outputs", "attention_heads"),
}

ROLES = ("query", "key", "value")


def relations(vectors: Tensor, heads: int, mask: Tensor) -> Tensor:
    """(B, A, T, T) the logarithms of how each token is related to each, softmax over the tokens of the text (eq. 6).

    Args:
        vectors: (B, T, W): the queries, or the keys, or the values of all heads.
        heads: A, a divisor of W; it need not be the number of attention heads.
        mask: (B, T), 1 for tokens.
    """
    of_head = split_heads(vectors, heads)  # (B, A, T, W / A)
    scores = of_head @ of_head.transpose(-1, -2) / of_head.shape[-1] ** 0.5  # (B, A, T, T)
    return log_relations(scores, mask)


class MiniLM:
    """(1 - alpha) × labels + alpha × logits of the teacher + beta × relations of queries, keys and values.

    Unlike the paper, it acts while the task is learned, beside labels and logits. The last layer of the student
    learns, so that depth and width of the teacher may be any.

    Args:
        teacher: Folder or record.json of a finished run that kept its model; or overrides of one that is done first, on
            the same task, once for all students. It reads the tokens that the student reads.
        alpha: Weight of the teacher's logits, in [0, 1].
        beta: Weight of the sum of the three distances, at least 0.
        temperature: T, above 0, by which logits are divided before the softmax.
        relation_heads: A, a divisor of the widths of both; more of them are finer. The paper has 48 for a width of
            768.
        teacher_layer: Which layer teaches, from 1 on; None: the last. For deep teachers the paper takes one below.
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
        relation_heads: int = 16,
        teacher_layer: int | None = None,
        pool: str | None = None,
        pool_size: int = 0,
    ) -> None:
        self.answers = Answers(alpha, temperature)
        check_weights({"beta": beta})
        if relation_heads < 1:
            raise ValueError(f"relation_heads must be at least 1, got {relation_heads}")
        if teacher_layer is not None and teacher_layer < 1:
            raise ValueError(f"teacher_layer must be at least 1, got {teacher_layer}")
        self.beta, self.relation_heads, self.teacher_layer = beta, relation_heads, teacher_layer
        self._layer = -1 if teacher_layer is None else teacher_layer - 1
        self.lessons = Lessons(teacher, pool, pool_size)

    def gather(self, data: "Prepared", around: "Around") -> "Prepared":
        """Get the teacher, and the texts of the pool."""
        return self.lessons.gather(data, around, Wanted(roles=ROLES, layer=self._layer))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check that both can be related; the student is left as it is.

        Raises:
            ValueError: If the teacher has no such layer, or the relation heads divide a width not.
        """
        depth_of(model)
        check_widths(model, self.relation_heads, "student")
        if self.lessons.model is not None:
            check_widths(self.lessons.model, self.relation_heads, "teacher")
            depth = depth_of(self.lessons.model)
            if self.teacher_layer is not None and self.teacher_layer > depth:
                raise ValueError(f"teacher_layer must be at most {depth}, got {self.teacher_layer}")
        return model

    def objective(self, base: Objective) -> Objective:
        """The loss of labels, logits and relations."""

        def taught(model: nn.Module, batch: Batch) -> Tensor:
            if self.answers.alpha == 0 and self.beta == 0:
                return base(model, batch)
            student, teacher = self.lessons.traces(model, batch, ROLES)
            answers = self.answers.loss(base, model, batch, student.logits, teacher.logits)
            return answers + self.beta * self._relations(student, teacher)

        return taught

    def _relations(self, student: Trace, teacher: Trace) -> Tensor:
        distances = []
        for role in ROLES:
            given, wanted = (
                relations(vectors, self.relation_heads, student.mask)
                for vectors in (student.given[role][-1], teacher.given[role][self._layer])
            )
            distances.append(relation_loss(given, wanted, student.mask))
        return torch.stack(distances).sum()

    def finish(self, model: nn.Module) -> nn.Module:
        """Nothing of the teacher is in the model."""
        return self.answers.note(model, self.lessons.pool_texts, {"beta": self.beta})


def check_widths(model: nn.Module, heads: int, whose: str) -> None:
    """See to it that queries, keys and values can be cut into ``heads`` of equal width.

    Raises:
        ValueError: If they cannot; names the width.
    """
    encoder: Any = encoder_of(model)
    names = encoder.linear_roles()
    for role in ROLES:
        for name in names.get(role, ()):
            width = getattr(encoder.get_submodule(name), "out_features", None)
            if width is not None and width % heads:
                raise ValueError(
                    f"relation_heads must divide the width {width} of the {role} of the {whose}, got {heads}"
                )
