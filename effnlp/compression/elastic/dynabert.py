"""DynaBERT: one training for networks of many widths and depths, of which any can be deployed.

Source: Hou et al. (2020), https://arxiv.org/abs/2004.04037
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.distillation.soft_labels import soft_loss
from effnlp.compression.elastic.subnetworks import (
    Subnetwork,
    answer,
    carve,
    distance,
    readers_of,
    without_dropout,
)
from effnlp.compression.pruning.gated_reader import GatedReader
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note, progress
from effnlp.model.classifier import Classifier, LayeredEncoder
from effnlp.model.layers import droppable_layers
from effnlp.model.parts import heads_of, units_of
from effnlp.model.surgery import encoder_of

REQUIRES = {
    "prepare": ("layer_outputs", "linear_layers", "float_linear_layers", "attention_heads", "single_task"),
    "during": ("layer_outputs",),
    "finish": ("layer_outputs", "float_linear_layers"),
}
REMOVES = {"prepare": ("all_heads", "uninterrupted_training")}


class TakeTurns(pl.Callback):
    """Before a step: which smaller networks learn in it."""

    def __init__(self, method: "DynaBERT") -> None:
        self.method = method

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone, so that a resumed run is where it was."""
        self.method.advance(pl_module.model, *progress(trainer))


class DynaBERT:
    """The whole model learns the labels; smaller networks inside it learn what it answers and its states of tokens.

    In the first part of the training the whole model is alone, and it is seen how much the loss depends on each head
    and inner unit. From then on that order holds: a width has the most important ones of each layer. Then networks of
    all widths learn, and in the last part those of all widths and depths. What is left out of a smaller network is
    masked, so that a step costs what the whole model would, times the networks.

    Unlike in the paper, heads and units stay in their places, with an order beside them, which is the same network;
    all happens in one fine-tuning, of which the paper makes three, so that the teacher is the whole model as it is at
    each step, without dropout, and not one from before; embeddings are the teacher's own, so that they have no loss;
    and no texts are made up. A width has round(m_w · G) of G heads or units, at least one, and likewise a depth layers.

    Only the last checkpoint counts, since a validation during the training sees the whole model.

    Args:
        width: m_w of the network that is deployed, one of ``widths``.
        depth: m_d of it, one of ``depths``.
        widths: m_w of all networks, in (0, 1].
        depths: m_d of all networks, in (0, 1].
        full_phase: Share of the training steps for the whole model alone, above 0.
        width_phase: Share of the steps for widths; what the two leave is for widths and depths.
        networks_per_step: How many smaller networks learn in a step, in turns; None: all, as in the paper.
        hidden_weight: Lambda of the distance between states, at least 0; that of the answers is 1.
        grid: Whether each network of the grid is evaluated on the validation texts, at the cost of that.

    Raises:
        ValueError: If a value is outside its range, or the network to be deployed is not in the grid.
    """

    settled_after = 1.0

    def __init__(
        self,
        width: float = 0.5,
        depth: float = 1.0,
        widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        depths: Sequence[float] = (0.5, 0.75, 1.0),
        full_phase: float = 0.3,
        width_phase: float = 0.3,
        networks_per_step: int | None = 2,
        hidden_weight: float = 0.1,
        grid: bool = True,
    ) -> None:
        for name, one, several in (("width", width, widths), ("depth", depth, depths)):
            if not several or not all(0 < share <= 1 for share in several):
                raise ValueError(f"{name}s must be shares in (0, 1], got {list(several)}")
            if one not in several:
                raise ValueError(f"{name} must be one of {name}s={list(several)}, got {one}")
        if not (full_phase > 0 and width_phase >= 0 and full_phase + width_phase < 1):
            raise ValueError(
                "full_phase must be above 0 and width_phase at least 0, and they must leave steps for depths, "
                f"got {full_phase} and {width_phase}"
            )
        if networks_per_step is not None and networks_per_step < 1:
            raise ValueError(f"networks_per_step must be at least 1, got {networks_per_step}")
        if not hidden_weight >= 0:
            raise ValueError(f"hidden_weight must be at least 0, got {hidden_weight}")
        self.deployed = Subnetwork(width, depth)
        pairs = [Subnetwork(m_w, m_d) for m_d in sorted(set(depths)) for m_w in sorted(set(widths))]
        self.networks = pairs[::-1]
        self.full_phase, self.width_phase = full_phase, width_phase
        self.networks_per_step, self.hidden_weight, self.grid = networks_per_step, hidden_weight, grid
        self._learning: list[Subnetwork] = []

    def check(self, model: nn.Module) -> None:
        """Refuse a model that has no heads, units or layers which could be left out."""
        encoder = getattr(model, "encoder", None)
        if not isinstance(model, Classifier) or not isinstance(encoder, LayeredEncoder):
            kind = type(model if encoder is None else encoder).__name__
            raise ValueError(f"DynaBERT needs a classifier that can be run layer by layer, got {kind}")
        droppable_layers(encoder_of(model))
        heads_of(model)
        units_of(model)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put a gate before every head and inner unit, all open, in place.

        Raises:
            ValueError: If the model has none that could be left out.
        """
        self.check(model)
        encoder: Any = model.encoder
        for part in [*heads_of(model), *units_of(model)]:
            layer = encoder.get_submodule(part.reader)
            gated = GatedReader(layer, part.count).train(layer.training)
            encoder.set_submodule(part.reader, gated.to(next(layer.parameters()).device))
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What says whose turn it is."""
        return [TakeTurns(self)]

    def turns(self, step: int, steps: int) -> list[Subnetwork]:
        """The smaller networks that learn in the step after ``step`` of ``steps``."""
        first, second = (
            math.ceil(part * steps) for part in (self.full_phase, self.full_phase + self.width_phase)
        )
        if step < first:
            return []
        waiting = [n for n in self.networks if not n.is_whole and (step >= second or n.depth == 1)]
        if self.networks_per_step is None or self.networks_per_step >= len(waiting):
            return waiting
        start = (step - (second if step >= second else first)) * self.networks_per_step
        return [waiting[(start + index) % len(waiting)] for index in range(self.networks_per_step)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Be where the training is after ``step`` of ``steps``."""
        self._learning = self.turns(step, steps)
        for reader in readers_of(model).values():
            reader.remembers = step < math.ceil(self.full_phase * steps)
        model.step_kind = ",".join(f"{network.depth:g}" for network in self._learning)  # type: ignore[assignment]

    def objective(self, base: Objective) -> Objective:
        """The loss of the whole model and, once others learn, the mean of theirs."""

        def elastic(model: nn.Module, batch: Batch) -> Tensor:
            loss = base(model, batch)
            if not model.training or not self._learning:
                return loss
            with torch.no_grad(), without_dropout(model):
                teacher = answer(model, batch, Subnetwork(1.0, 1.0))
            kind = "mse" if batch["labels"].is_floating_point() else "kl"
            losses = []
            for network in self._learning:
                student = answer(model, batch, network)
                soft = soft_loss(student.logits, teacher.logits, 1.0, kind)
                losses.append(soft + self.hidden_weight * distance(student, teacher, network.depth))
            return loss + torch.stack(losses).mean()

        return elastic

    def variants(self, model: nn.Module) -> "Iterator[tuple[str, nn.Module]]":
        """Each network of the grid by its name, made of a copy of the trained model."""
        for network in self.networks if self.grid else ():
            small = copy.deepcopy(model)
            carve(small, network)
            yield f"elastic/{network.name}", small.eval()

    def finish(self, model: nn.Module) -> nn.Module:
        """Leave the network that is deployed.

        Raises:
            ValueError: If the model was not prepared.
        """
        said = carve(model, self.deployed)
        vars(model).pop("step_kind", None)
        note(model, "compression/elastic", said)
        return model
