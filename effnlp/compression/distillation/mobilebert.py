"""MobileBERT: take over a teacher's feature maps and attention one layer after the other, then its answers.

Source: Sun et al. (2020), https://arxiv.org/abs/2004.02984

The thin student of the paper is ``model=bottleneck``; any layered student learns so.

Legend: B batch, T tokens, D width, H heads, M layers of the student.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effnlp.compression.distillation.answers import Answers, check_weights
from effnlp.compression.distillation.layer_maps import check_layer_map, layer_map
from effnlp.compression.distillation.lessons import Lessons
from effnlp.compression.distillation.lookup import Wanted
from effnlp.compression.distillation.projection import PLACE, add_projections, drop_projections, project
from effnlp.compression.distillation.relations import (
    attention_scores,
    equal_directions,
    equal_heads,
    log_relations,
    relation_loss,
)
from effnlp.compression.distillation.trace import LayerTrace, depth_of, hidden_loss, trace_layer
from effnlp.data.encodings import Batch
from effnlp.method import Objective
from effnlp.model.layers import depths
from effnlp.model.surgery import encoder_of

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around

REQUIRES = {
    "prepare": (
        "classes",
        "single_task",
        "layer_outputs",
        "softmax_attention",
        "all_heads",
        "linear_layers",
        "learning_layers",
    ),
    "during": ("classes", "layer_outputs", "softmax_attention"),
}
REMOVES = {"prepare": ("uninterrupted_training",)}


def layer_at(step: int, steps: int, share: float, layers: int) -> int | None:
    """The layer, from 1 on, that takes over in the step after ``step`` of ``steps``; None: the answers are learned.

    Args:
        share: Of the steps, divided evenly among the layers, in [0, 1).
        layers: M.
    """
    ends = math.ceil(share * steps)
    return None if step >= ends else 1 + step * layers // ends


class MobileBERT:
    """Feature maps and attention of one layer after the other, from the bottom up; then labels and logits.

    While a layer takes over what its teacher's has, those below it learn slowly or not at all, and those above it do
    not act. After that the whole student learns from labels and logits alone. Unlike the paper, it acts while the
    task is learned, a student of another depth or width follows some of the layers through a learned projection for
    each, and its embeddings are learned with the first layer, not copied.

    Args:
        teacher: Folder or record.json of a finished run that kept its model; or overrides of one that is done first, on
            the same task, once for all students. It reads the tokens that the student reads, with as many heads.
        alpha: Weight of the teacher's logits, in [0, 1]; the rest is for the labels.
        temperature: T, above 0, by which logits are divided before the softmax.
        feature_weight: Weight of the distance of feature maps, at least 0.
        attention_weight: Of the divergence of attention, at least 0.
        progressive: Share of the steps in which layers take over; 0: all layers and the answers together, from the
            first step to the last. In [0, 1).
        lower_rate: By how much the step of a layer below the one that takes over is multiplied, in [0, 1].
        layer_map: ``uniform``, ``top`` or ``bottom``.
        pool: File with texts without labels.
        pool_size: Or so many rows of the training split beyond ``task.train_size``, without their labels.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        teacher: str | Sequence[str] | None = None,
        alpha: float = 0.5,
        temperature: float = 1.0,
        feature_weight: float = 1.0,
        attention_weight: float = 1.0,
        progressive: float = 0.5,
        lower_rate: float = 0.1,
        layer_map: str = "uniform",
        pool: str | None = None,
        pool_size: int = 0,
    ) -> None:
        self.answers = Answers(alpha, temperature)
        check_layer_map(layer_map)
        check_weights({"feature_weight": feature_weight, "attention_weight": attention_weight})
        if feature_weight == attention_weight == 0:
            raise ValueError("one of feature_weight and attention_weight must be above 0")
        if not 0 <= progressive < 1:
            raise ValueError(f"progressive must be in [0, 1), got {progressive}")
        if not 0 <= lower_rate <= 1:
            raise ValueError(f"lower_rate must be in [0, 1], got {lower_rate}")
        self.feature_weight, self.attention_weight = feature_weight, attention_weight
        self.progressive = self.settled_after = progressive
        self.lower_rate, self.layer_map = lower_rate, layer_map
        self.lessons = Lessons(teacher, pool, pool_size)
        self._roles = ("query", "key") if attention_weight else ()
        self.layer: int | None = None
        self.follows_layers = self.follows_answers = True
        self._heads, self._is_causal = 0, False
        self._frozen: list[nn.Parameter] = []
        self._slow: list[tuple[nn.Parameter, Tensor]] = []

    def gather(self, data: "Prepared", around: "Around") -> "Prepared":
        """Get the teacher, and the texts of the pool."""
        return self.lessons.gather(data, around, Wanted(hidden=True, roles=self._roles))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give each layer of a student of another width its projection.

        Raises:
            ValueError: If the student has more layers than the teacher, or another number of heads, or reads in other
                directions; or if nothing in some layer learns while it alone is to take over.
        """
        depth, teacher = depth_of(model), self.lessons.model
        depth_by_name = depths(model)
        learning = {depth_by_name[name] for name, p in model.named_parameters() if p.requires_grad}
        still = [layer for layer in range(1, depth + 1) if layer not in learning]
        if self.progressive and still:
            raise ValueError(
                f"in the first {self.progressive:.0%} of the steps one layer learns after the other, and all of layer "
                f"{still[0]} is frozen: set compression.distillation.progressive=0"
            )
        if teacher is not None:
            layer_map(self.layer_map, depth, depth_of(teacher))
            if self.attention_weight:
                student = encoder_of(model)
                self._heads = equal_heads(student, encoder_of(teacher))
                self._is_causal = equal_directions(student, encoder_of(teacher))
        names = [of_layer(layer) for layer in range(1, depth + 1)]
        return add_projections(model, names, teacher) if self.feature_weight else model

    def callbacks(self) -> "list[Callback]":
        """What goes from layer to layer."""
        if self.progressive == 0:
            return []
        from effnlp.compression.distillation.phases import SwitchPhase

        return [SwitchPhase(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Freeze what does not learn in the step after ``step`` of ``steps``; :meth:`rest` frees it."""
        self.rest()
        self.layer = layer_at(step, steps, self.progressive, depth_of(model))
        self.follows_answers = self.layer is None
        self.follows_layers = not self.follows_answers
        depth_by_name = depths(model)
        for name, parameter in model.named_parameters():
            rate = self._rate(name, depth_by_name[name])
            if not parameter.requires_grad or rate == 1:
                continue
            if rate == 0:
                self._frozen.append(parameter.requires_grad_(False))  # type: ignore[arg-type]
            else:
                self._slow.append((parameter, parameter.detach().clone()))

    def _rate(self, name: str, depth: int) -> float:
        """By how much a parameter's step is multiplied now."""
        if name.startswith(f"{PLACE}."):
            return float(self.layer is not None and name.startswith(f"{PLACE}.{of_layer(self.layer)}."))
        if self.layer is None or depth == self.layer or (depth == 0 and self.layer == 1):
            return 1.0
        return self.lower_rate if depth < self.layer else 0.0

    def rest(self) -> None:
        """After a step: what was to learn slowly has made a part of its step, and what was frozen is free."""
        with torch.no_grad():
            for parameter, before in self._slow:
                parameter.lerp_(before, 1 - self.lower_rate)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._slow, self._frozen = [], []

    def objective(self, base: Objective) -> Objective:
        """The loss of the layer that takes over, or of the answers."""

        def taught(model: nn.Module, batch: Batch) -> Tensor:
            if self.layer is not None:
                return self._taken_over(model, batch, self.layer)
            student, teacher = self.lessons.traces(model, batch, self._roles if self.follows_layers else ())
            loss = self.answers.loss(base, model, batch, student.logits, teacher.logits)
            if self.follows_layers:
                for layer, other in self._pairs(model):
                    loss = loss + self._distance(model, layer, student.at(layer), teacher.at(other))
            return loss

        return taught

    def _pairs(self, model: nn.Module) -> list[tuple[int, int]]:
        """Each layer of the student with the one that teaches it, from 1 on."""
        taught_by = layer_map(self.layer_map, depth_of(model), depth_of(self.lessons.model))  # type: ignore[arg-type]
        return list(enumerate(taught_by))[1:]

    def _taken_over(self, model: nn.Module, batch: Batch, layer: int) -> Tensor:
        student = trace_layer(model, batch, layer, self._roles)
        teacher = self.lessons.layer_of_teacher(batch, dict(self._pairs(model))[layer], self._roles)
        return self._distance(model, layer, student, teacher)

    def _distance(self, model: nn.Module, layer: int, student: LayerTrace, teacher: LayerTrace) -> Tensor:
        """Of one layer's feature map and attention from what teaches it: a scalar (eq. 1 and 2)."""
        distance = student.hidden.new_zeros(())
        if self.feature_weight:
            hidden = project(model, of_layer(layer), student.hidden)
            distance = distance + self.feature_weight * hidden_loss(hidden, teacher.hidden, student.mask)
        if self.attention_weight:
            own, wanted = (
                log_relations(
                    attention_scores(each.given["query"], each.given["key"], self._heads),
                    student.mask,
                    self._is_causal,
                )
                for each in (student, teacher)
            )
            distance = distance + self.attention_weight * relation_loss(own, wanted, student.mask)
        return distance

    def settle(self, model: nn.Module) -> nn.Module:
        """Leave the student alone."""
        return drop_projections(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Nothing of the teacher is in the model."""
        return self.answers.note(model, self.lessons.pool_texts, {"progressive": self.progressive})


def of_layer(layer: int) -> str:
    """The name of the projection of a layer."""
    return f"layer{layer}"
