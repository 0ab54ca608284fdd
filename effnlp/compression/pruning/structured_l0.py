"""Structured L0: random gates on heads, inner units and layers, drawn to a share of the parameters while it is trained.

Source: Xia et al. (2022), https://arxiv.org/abs/2204.00408

Legend: s the expected sparsity, t its target, lambda the multipliers of the Lagrangian.
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.pruning.groups import cut
from effnlp.compression.pruning.mask import check_sparsity
from effnlp.compression.pruning.structured_gates import (
    GatedLayer,
    Gates,
    choose_gates,
    expected_sparsity,
    gated_layers,
    most_sparse,
    with_gates,
    without_gates,
)
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note, progress
from effnlp.model.layers import droppable_layers, keep_layers
from effnlp.model.surgery import encoder_of

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers", "attention_heads", "layer_outputs"),
    "during": ("float_linear_layers", "trainable_weights", "uninterrupted_training"),
    "finish": ("float_linear_layers", "layer_outputs"),
}
REMOVES = {"prepare": ("all_heads",)}


class Ascending(torch.autograd.Function):
    """The identity, whose gradient has the other sign: what is minimised is maximised over what goes in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        """``x``."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        """Minus the gradient."""
        return -gradient


def lagrangian(sparsity: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """lambda_1 (s - t) + lambda_2 (s - t)², minimised over s and maximised over ``multipliers`` (2,): a scalar."""
    first, second = Ascending.apply(multipliers).unbind()
    return first * (sparsity - target) + second * (sparsity - target).square()


def all_gates(layers: list[GatedLayer]) -> list[Gates]:
    """Every gate of some layers."""
    wholes = [layer.whole for layer in layers if layer.whole is not None]
    return [*wholes, *(gates for layer in layers for gates in layer.gates)]


class FixGates(pl.Callback):
    """Before a step: the target. After it, and so before a validation or a checkpoint: fix the gates."""

    def __init__(self, method: "StructuredL0") -> None:
        self.method = method

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """A training that is taken up may be past it."""
        for gates in all_gates(gated_layers(pl_module.model)):
            gates.notice()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """Depends on the steps done alone."""
        self.method.aim(*progress(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the gates alone."""
        self.method.advance(pl_module.model, *progress(trainer))


class StructuredL0:
    """Gates on heads, inner units and whole layers, all open at first, learn with the weights what can go.

    The expected share of parameters behind closed gates is held to a target, which rises from 0, by a Lagrangian whose
    multipliers climb while it is missed. At ``fixed_after`` the gates are fixed, each 0 or 1, so that the share is the
    one that is asked for, but for half a unit; the rest of the training goes on without what is closed, which is cut
    out at the end. Sparsity is counted in the parameters of heads and inner units; embeddings, norms and biases of what
    reads them are not among them.

    Unlike in the paper, there are gates on whole layers, and none on their two halves and on the width of the states: a
    layer that stays keeps its best head and its best unit. There is no distillation: choose one beside it
    (compression/distillation). Parameters behind a closed layer gate are all gone, whatever their own gates say.

    Args:
        sparsity: Final share of the parameters of heads and units that are gone, in [0, 1).
        layers: Whether whole layers may go.
        warmup: Share of the steps in which the target rises, linearly, in [0, 1].
        fixed_after: Share of the steps after which the gates are fixed, in (0, 1].
        learning_rate_factor: Multiplies the base rate for the gates and the multipliers.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        layers: bool = True,
        warmup: float = 0.3,
        fixed_after: float = 0.6,
        learning_rate_factor: float = 100.0,
    ) -> None:
        self.sparsity, self.layers = check_sparsity(sparsity), layers
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], got {warmup}")
        if not 0 < fixed_after <= 1:
            raise ValueError(f"fixed_after must be in (0, 1], got {fixed_after}")
        if not learning_rate_factor > 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.warmup, self.fixed_after = warmup, fixed_after
        self.learning_rate_factor = learning_rate_factor
        self.target = 0.0

    @property
    def settled_after(self) -> float:
        """From here on the gates are fixed."""
        return self.fixed_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put the gates into the model, in place, with the multipliers beside them.

        Raises:
            ValueError: If it has no heads, units or layers that could go, or too much would.
        """
        with_gates(model, self.layers, self.learning_rate_factor)
        most = most_sparse(gated_layers(model))
        if self.sparsity > most:
            without_gates(model)
            stays = (
                "one layer, with one head and one unit" if self.layers else "a head and a unit of each layer"
            )
            raise ValueError(
                f"sparsity {self.sparsity} is more than can go: {stays} must stay; at most {most:.4g}"
            )
        multipliers: Any = nn.Parameter(torch.zeros(2, device=next(model.parameters()).device))
        multipliers.learning_rate_factor = self.learning_rate_factor
        multipliers.weight_decay_factor = 0.0
        model.sparsity_multipliers = multipliers
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What raises the target and fixes the gates."""
        return [FixGates(self)]

    def aim(self, step: int, steps: int) -> None:
        """Hold the sparsity to the target of the step after ``step`` of ``steps``."""
        end = self.warmup * steps
        self.target = self.sparsity if step >= end else self.sparsity * step / end

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Fix the gates after ``step`` of ``steps``, if it is time and they are not."""
        layers = gated_layers(model)
        if step / steps >= self.fixed_after and not all(gates.is_fixed for gates in all_gates(layers)):
            self._fix(model, layers)

    def _fix(self, model: Any, layers: list[GatedLayer]) -> None:
        stays, masks = choose_gates(layers, self.sparsity)
        for layer, stay, of_parts in zip(layers, stays, masks, strict=True):
            if layer.whole is not None:
                layer.whole.fix(torch.tensor([stay]))
            for gates, mask in zip(layer.gates, of_parts, strict=True):
                gates.fix(mask)
        model.sparsity_multipliers.requires_grad_(False)

    def objective(self, base: Objective) -> Objective:
        """The loss and, until the gates are fixed, the Lagrangian."""

        def held(model: Any, batch: Batch) -> Tensor:
            loss = base(model, batch)
            if not model.training:
                return loss
            layers = gated_layers(model)
            if any(gates.is_fixed for gates in all_gates(layers)):
                return loss
            return loss + lagrangian(expected_sparsity(layers), self.target, model.sparsity_multipliers)

        return held

    def finish(self, model: nn.Module) -> nn.Module:
        """Cut out what is behind closed gates; gates that were not fixed are fixed now.

        Raises:
            ValueError: If the model was not prepared.
        """
        layers, encoder = gated_layers(model), encoder_of(model)
        for gates in all_gates(layers):
            gates.notice()
        if not all(gates.is_fixed for gates in all_gates(layers)):
            self._fix(model, layers)
        stays = [layer.whole is None or bool(layer.whole.alpha > 0) for layer in layers]
        said = _said(layers, stays)
        without_gates(model)
        del model.sparsity_multipliers
        for layer in (layer for layer, stay in zip(layers, stays, strict=True) if stay):
            masks = {
                part.reader: gates.alpha > 0 for part, gates in zip(layer.parts, layer.gates, strict=True)
            }
            cut(model, layer.parts, masks)
        if not all(stays):
            assert len(droppable_layers(encoder)) == len(stays)
            keep_layers(encoder, [index for index, stay in enumerate(stays) if stay])
        note(model, "compression/pruning", said)
        return model


def _said(layers: list[GatedLayer], stays: list[bool]) -> Mapping[str, float]:
    """How many layers, heads, units and parameters there were, and how many went."""
    said = {"layers": len(layers), "layers_dropped": stays.count(False)}
    said |= dict.fromkeys(("heads", "heads_removed", "units", "units_removed"), 0)
    gone = 0
    for layer, stay in zip(layers, stays, strict=True):
        for part, gates, size in zip(layer.parts, layer.gates, layer.sizes, strict=True):
            kind = "heads" if part.holder else "units"
            removed = int((gates.alpha < 0).sum()) if stay else part.count
            said[kind] += part.count
            said[f"{kind}_removed"] += removed
            gone += removed * size
    size_before = sum(layer.size for layer in layers)
    return {**said, "weights": size_before, "weights_removed": gone, "sparsity": gone / size_before}
