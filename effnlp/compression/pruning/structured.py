"""Structured pruning: remove heads and inner units together while the model is fine-tuned, and make layers smaller.

Source: importances: Michel et al. (2019), https://arxiv.org/abs/1905.10650; schedule: Zhu and Gupta (2017),
https://arxiv.org/abs/1710.01878
"""

import math
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from effnlp.compression.pruning.gated_reader import GatedReader, gates_of
from effnlp.compression.pruning.groups import (
    choose,
    cut,
    normalised,
    refuse_whole,
    removed_by,
    tell,
)
from effnlp.compression.pruning.mask import check_scope, check_sparsity
from effnlp.compression.pruning.schedule import Schedule
from effnlp.method import progress
from effnlp.model.parts import Part, heads_of, units_of
from effnlp.model.surgery import encoder_of

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers", "attention_heads"),
    "during": ("uninterrupted_training",),
    "finish": ("float_linear_layers",),
}


class MoveGates(pl.Callback):
    """After each step, and so before a validation or a checkpoint: remove what the schedule says."""

    def __init__(self, method: "Structured") -> None:
        self.method = method

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the importances alone."""
        self.method.advance(pl_module.model, *progress(trainer))


class Structured:
    """Heads and inner units of the feed-forward layers, each to a fraction of its own.

    Unlike in the paper, importances are a running mean over the batches of the fine-tuning, so that no further text is
    looked at; and the model learns to do without what goes, while it goes. What is masked in training is cut out at the
    end: query, key and value lose the rows of a head, the output layer its columns, and so on. No layer loses its last
    head or unit.

    Args:
        heads: Fraction of the heads removed, in [0, 1); 0 leaves them alone. Counts are exact.
        feedforward: Fraction of the inner units removed, likewise.
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together, of which each keeps its best.
        schedule: ``gradual``, ``iterative`` or ``one_shot``
            (:class:`~effnlp.compression.pruning.schedule.Schedule`); the last cuts the trained model.
        warmup: Share of the steps before anything is removed.
        cooldown: Share of the steps after everything is.
        update_every: Steps from one removal to the next (gradual).
        rounds: How many removals there are (iterative).

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        heads: float = 0.5,
        feedforward: float = 0.5,
        scope: str = "layer",
        schedule: str = "gradual",
        warmup: float = 0.1,
        cooldown: float = 0.3,
        update_every: int = 4,
        rounds: int = 3,
    ) -> None:
        self.sparsities = {}
        for kind, name, sparsity in (("heads", "heads", heads), ("units", "feedforward", feedforward)):
            try:
                self.sparsities[kind] = check_sparsity(sparsity)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        self.scope = check_scope(scope)
        self.schedule = Schedule(schedule, warmup, cooldown, update_every, rounds)

    @property
    def settled_after(self) -> float:
        """From here on everything is removed."""
        return self.schedule.settled_after

    def _parts(self, model: nn.Module) -> dict[str, list[Part]]:
        """Of each kind that is to be removed, the parts of the model."""
        found = {"heads": heads_of, "units": units_of}
        return {kind: parts_of(model) for kind, parts_of in found.items() if self.sparsities[kind] > 0}

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put a gate before every head and unit that may go, in place.

        Raises:
            ValueError: If the model has none that could be removed, or nothing would be left of a layer.
        """
        encoder = encoder_of(model)
        for kind, parts in self._parts(model).items():
            refuse_whole({part.reader: part.count for part in parts}, self.sparsities[kind], self.scope)
            for part in parts:
                layer = encoder.get_submodule(part.reader)
                gated = GatedReader(layer, part.count).train(layer.training)
                encoder.set_submodule(part.reader, gated.to(next(layer.parameters()).device))
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What removes."""
        return [MoveGates(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Remove what is to be gone after ``step`` of ``steps``, if that is due."""
        if not self.schedule.is_due(step, steps):
            return
        for kind, parts in self._parts(model).items():
            sparsity = self.schedule.sparsity_at(step, steps, self.sparsities[kind])
            self._remove(gates_of(model, parts), sparsity)

    def _remove(self, gates: dict[str, GatedReader], sparsity: float) -> dict[str, Tensor]:
        """Close gates up to a sparsity: where it is reached already, none. The masks."""
        scores = normalised({name: gate.scores() for name, gate in gates.items()})
        still = {name: scores[name].masked_fill(~gate.mask, -math.inf) for name, gate in gates.items()}
        masks = choose(still, sparsity, self.scope)
        for name, gate in gates.items():
            gate.mask.copy_(masks[name])
        return masks

    def finish(self, model: nn.Module) -> nn.Module:
        """Cut out what the gates keep closed; what was still to be removed is removed now.

        Raises:
            ValueError: If the model was not prepared.
        """
        encoder, removed = encoder_of(model), {}
        for kind, parts in self._parts(model).items():
            gates = gates_of(model, parts)
            if len(gates) < len(parts):
                raise ValueError(f"nothing to prune: {type(model).__name__} has {kind} without gates")
            masks = self._remove(gates, self.sparsities[kind])
            for name, gate in gates.items():
                encoder.set_submodule(name, gate.layer)
            cut(model, parts, masks)
            removed[kind] = removed_by(masks)
        tell(model, removed)
        return model
