"""TinyBERT: follow a teacher's embeddings, hidden states and attention scores, layer by layer, then its logits.

Source: Jiao et al. (2020), https://arxiv.org/abs/1909.10351

Legend: B batch, T tokens, D width, H heads, E width of a head, M layers of the student.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effnlp.compression.distillation.answers import Answers, check_weights
from effnlp.compression.distillation.layer_maps import check_layer_map, layer_map
from effnlp.compression.distillation.lessons import Lessons
from effnlp.compression.distillation.lookup import Wanted
from effnlp.compression.distillation.projection import PLACE, add_projections, drop_projections, project
from effnlp.compression.distillation.relations import attention_scores, equal_heads
from effnlp.compression.distillation.trace import Trace, depth_of, head_count, hidden_loss, mean_over_tokens
from effnlp.data.encodings import Batch
from effnlp.method import Objective
from effnlp.model.surgery import encoder_of

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around

REQUIRES = {
    "prepare": ("classes", "single_task", "layer_outputs", "softmax_attention", "all_heads", "linear_layers"),
    "during": ("classes", "layer_outputs", "softmax_attention"),
}


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The mean squared difference of scores (B, H, T, T) over the pairs of tokens and over H: a scalar (eq. 7)."""
    pairs = mask.unsqueeze(1) * mask.unsqueeze(2)  # (B, T, T)
    return mean_over_tokens((student - teacher).square().mean(1).flatten(1), pairs.flatten(1))


class TinyBERT:
    """The distances of embeddings, hidden states and attention scores, with those of labels and logits.

    Unlike the paper, one learning-rate schedule serves both phases, there is no general distillation before (a
    pre-training of the student takes its place) nor augmentation (a pool does), and padding counts nowhere.

    Args:
        teacher: Folder or record.json of a finished run that kept its model; or overrides of one that is done first, on
            the same task, once for all students. It reads the tokens that the student reads, with as many heads.
        alpha: Weight of the teacher's logits, in [0, 1]; the rest is for the labels. The paper's is 1.
        temperature: T, above 0, by which logits are divided before the softmax.
        embedding_weight: Weight of the distance of embeddings, at least 0.
        hidden_weight: Of the sum over the layers of those of hidden states, at least 0.
        attention_weight: Of the sum over the layers of those of attention scores, at least 0.
        first_phase: Share of the steps in which the student follows layers alone, after which it follows labels and
            logits alone; 0: all together from the first step to the last. In [0, 1).
        layer_map: ``uniform``, ``top`` or ``bottom``.
        pool: File with texts without labels.
        pool_size: Or so many rows of the training split beyond ``task.train_size``, without their labels.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        teacher: str | Sequence[str] | None = None,
        alpha: float = 1.0,
        temperature: float = 1.0,
        embedding_weight: float = 1.0,
        hidden_weight: float = 1.0,
        attention_weight: float = 1.0,
        first_phase: float = 0.0,
        layer_map: str = "uniform",
        pool: str | None = None,
        pool_size: int = 0,
    ) -> None:
        self.answers = Answers(alpha, temperature)
        check_layer_map(layer_map)
        weights = {"embedding": embedding_weight, "hidden": hidden_weight, "attention": attention_weight}
        check_weights({f"{name}_weight": weight for name, weight in weights.items()})
        if sum(weights.values()) == 0:
            raise ValueError("one of embedding_weight, hidden_weight and attention_weight must be above 0")
        if not 0 <= first_phase < 1:
            raise ValueError(f"first_phase must be in [0, 1), got {first_phase}")
        self.weights, self.layer_map = weights, layer_map
        self.first_phase = self.settled_after = first_phase
        self.follows_layers = self.follows_answers = True
        self.lessons = Lessons(teacher, pool, pool_size)
        self._roles = ("query", "key") if attention_weight else ()
        self._of_head: list[nn.Parameter] = []

    def gather(self, data: "Prepared", around: "Around") -> "Prepared":
        """Get the teacher, and the texts of the pool."""
        return self.lessons.gather(data, around, Wanted(hidden=True, roles=self._roles))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give a student of another width its two projections, W_e and W_h.

        Raises:
            ValueError: If the student has more layers than the teacher, or another number of heads; or if nothing of
                its layers learns while they alone are to follow.
        """
        teacher = self.lessons.model
        if self.first_phase and not any(p.requires_grad for p in encoder_of(model).parameters()):
            raise ValueError(
                f"in the first {self.first_phase:.0%} of the steps layers alone learn, and all of them are frozen: "
                "set compression.distillation.first_phase=0"
            )
        if teacher is not None:
            layer_map(self.layer_map, depth_of(model), depth_of(teacher))
            if self.weights["attention"]:
                equal_heads(encoder_of(model), encoder_of(teacher))
        head: Any = model.head
        self._of_head = [parameter for parameter in head.parameters() if parameter.requires_grad]
        return add_projections(model, ["embeddings", "layers"], teacher)

    def callbacks(self) -> "list[Callback]":
        """What switches the phase, if there are two."""
        if self.first_phase == 0:
            return []
        from effnlp.compression.distillation.phases import SwitchPhase

        return [SwitchPhase(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Be in the phase that ``step`` of ``steps`` asks for; what it does not train is frozen."""
        self.follows_layers = step < math.ceil(self.first_phase * steps)
        self.follows_answers = not self.follows_layers
        for parameter in self._of_head:
            parameter.requires_grad_(self.follows_answers)
        projections = getattr(model, PLACE, None)
        if projections is not None:
            projections.requires_grad_(self.follows_layers)

    def objective(self, base: Objective) -> Objective:
        """The loss of the phase."""

        def taught(model: nn.Module, batch: Batch) -> Tensor:
            student, teacher = self.lessons.traces(model, batch, self._roles if self.follows_layers else ())
            parts = []
            if self.follows_layers:
                parts.append(self._layers(model, student, teacher))
            if self.follows_answers:
                parts.append(self.answers.loss(base, model, batch, student.logits, teacher.logits))
            return torch.stack(parts).sum()

        return taught

    def _layers(self, model: nn.Module, student: Trace, teacher: Trace) -> Tensor:
        taught_by = layer_map(self.layer_map, student.depth, teacher.depth)
        mask = student.mask
        distances = [
            self.weights["embedding" if m == 0 else "hidden"]
            * hidden_loss(
                project(model, "layers" if m else "embeddings", hidden), teacher.hidden[taught_by[m]], mask
            )
            for m, hidden in enumerate(student.hidden)
        ]
        if self.weights["attention"]:
            heads = [head_count(encoder_of(each)) for each in (model, self.lessons.model)]  # type: ignore[arg-type]
            for m in range(1, len(student.hidden)):
                own, wanted = (
                    attention_scores(of.given["query"][layer - 1], of.given["key"][layer - 1], count)
                    for of, layer, count in zip((student, teacher), (m, taught_by[m]), heads, strict=True)
                )
                distances.append(self.weights["attention"] * attention_loss(own, wanted, mask))
        return torch.stack(distances).sum()

    def settle(self, model: nn.Module) -> nn.Module:
        """Leave the student alone."""
        return drop_projections(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Nothing of the teacher is in the model."""
        return self.answers.note(model, self.lessons.pool_texts, {"first_phase": self.first_phase})
