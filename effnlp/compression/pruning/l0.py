"""L0 regularisation: every weight has a random gate, and a penalty on how many are expected to be open.

Source: Louizos et al. (2018), https://arxiv.org/abs/1712.01312

Legend: I width in, O width out, W weight, z gate in [0, 1], alpha its location.
"""

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.compression.pruning.hard_concrete import certain_gate, noise_like, open_probability, sampled_gate
from effnlp.compression.pruning.mask import (
    check_scope,
    check_sparsity,
    keep_masks,
    refuse_whole_layers,
    sparsity_of,
)
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note, progress
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers"),
    "during": ("float_linear_layers", "trainable_weights", "uninterrupted_training"),
    "finish": ("float_linear_layers",),
}

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""Gamma, zeta and beta of the paper."""

OPEN_ALPHA = 2.5
"""Where alpha begins: a gate without noise is 1, and a drawn one is not zero at 98 of 100 times."""


class GatedLinear(nn.Module):
    """A linear layer whose weights are ``z W``: gates are drawn in training and certain in evaluation.

    Fixed, each gate is 0 or 1 for good, its alpha being infinite, so that the state dict tells.

    Args:
        linear: Gives weight and bias, the very parameters.
        learning_rate_factor: Of alpha.
    """

    def __init__(self, linear: nn.Linear, learning_rate_factor: float) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        alpha: Any = nn.Parameter(torch.full_like(linear.weight, OPEN_ALPHA))  # (O, I)
        alpha.learning_rate_factor = learning_rate_factor
        alpha.weight_decay_factor = 0.0  # towards 0 would be towards half-open gates
        self.alpha = alpha
        self.is_fixed = False

    def gated(self) -> Tensor:
        """z W: (O, I)."""
        if self.is_fixed:
            return self.weight.where(self.alpha > 0, 0.0)
        if self.training:
            return self.weight * sampled_gate(self.alpha, noise_like(self.alpha), LOW, HIGH, TEMPERATURE)
        return self.weight * certain_gate(self.alpha, LOW, HIGH)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        return linear(x, self.gated(), self.bias)

    @torch.no_grad()
    def certain(self) -> Tensor:
        """z W without noise, (O, I)."""
        if self.is_fixed:
            return self.gated()
        return self.weight * certain_gate(self.alpha, LOW, HIGH)

    @torch.no_grad()
    def fix(self, keep: Tensor) -> None:
        """Let each gate be 1 where ``keep`` says so, else 0, and W what it was under its gate."""
        self.weight.copy_(self.certain())
        self.alpha.fill_(-math.inf).masked_fill_(keep, math.inf)
        self.notice()

    def notice(self) -> None:
        """Learn from the gates whether they are fixed: a state that was loaded does not say it otherwise."""
        self.is_fixed = bool(self.alpha.isinf().any())
        self.alpha.requires_grad_(not self.is_fixed)

    def to_linear(self) -> nn.Linear:
        """A plain layer, whose weights under closed gates are zero for good."""
        plain = nn.Linear(self.weight.shape[1], self.weight.shape[0], self.bias is not None, device="meta")
        with torch.no_grad():
            self.weight.copy_(self.certain())
        plain.weight, plain.bias = self.weight, self.bias
        return plain


def gated_layers(model: nn.Module) -> dict[str, GatedLinear]:
    """The gated layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GatedLinear)}


def expected_open(layers: Mapping[str, GatedLinear]) -> Tensor:
    """The expected L0 norm of the gates, as a share of all of them (eq. 12): a scalar."""
    sums = [open_probability(layer.alpha, LOW, HIGH, TEMPERATURE).sum() for layer in layers.values()]
    return torch.stack(sums).sum() / sum(layer.alpha.numel() for layer in layers.values())


def project(layers: Mapping[str, GatedLinear], sparsity: float, scope: str) -> None:
    """Fix the gates: open for the largest of the weights under their gates, so many that ``sparsity`` is exact."""
    masks = keep_masks({name: layer.certain().abs() for name, layer in layers.items()}, sparsity, scope)
    for name, layer in layers.items():
        layer.fix(masks[name])


class FixGates(pl.Callback):
    """Says when the gates are fixed: after a step, and so before a validation or a checkpoint."""

    def __init__(self, method: "L0") -> None:
        self.method = method

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """A training that is taken up may be past it."""
        for layer in gated_layers(pl_module.model).values():
            layer.notice()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the weights alone."""
        self.method.advance(pl_module.model, *progress(trainer))


class L0:
    """Hard-concrete gates for every weight of the encoder's linear layers, closed by a penalty while it is trained.

    Unlike the paper, the sparsity is the one that is asked for: the penalty acts only while more gates are expected to
    be open, and at ``fixed_after`` the largest weights under their gates are kept, exactly as many; then the rest is
    trained on without gates. Unlike the paper, too, a gate is drawn once a batch and not once an example, there are no
    gates for whole units, and all begin open, since what is fine-tuned knows something already. Noise is drawn for each
    weight at every step. Embeddings, biases, norms and the head are not pruned.

    Args:
        sparsity: Final fraction of the linear weights that are zero, in [0, 1).
        penalty: Times the expected share of open gates is added to the loss: lambda times the number of gates.
        fixed_after: Share of the steps after which the gates are fixed, in (0, 1].
        scope: ``global``: that fraction of all layers together; ``layer``: of each.
        learning_rate_factor: Multiplies the base rate for the gates.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        penalty: float = 100.0,
        fixed_after: float = 0.7,
        scope: str = "global",
        learning_rate_factor: float = 200.0,
    ) -> None:
        self.sparsity, self.scope = check_sparsity(sparsity), check_scope(scope)
        if not penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if not 0 < fixed_after <= 1:
            raise ValueError(f"fixed_after must be in (0, 1], got {fixed_after}")
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.penalty, self.fixed_after = penalty, fixed_after
        self.learning_rate_factor = learning_rate_factor

    @property
    def settled_after(self) -> float:
        """From here on the gates are fixed."""
        return self.fixed_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give every linear layer of the encoder gates, all open, in place.

        Raises:
            ValueError: If nothing would be left of a layer.
        """
        linears = encoder_layers(model, nn.Linear)
        refuse_whole_layers(linears, self.sparsity)
        return replace_layers(
            model, linears.values(), lambda layer: GatedLinear(layer, self.learning_rate_factor)
        )

    def objective(self, base: Objective) -> Objective:
        """The loss and, while more gates are expected to be open than shall be, the penalty."""

        def with_penalty(model: nn.Module, batch: Batch) -> Tensor:
            loss = base(model, batch)
            layers = gated_layers(model)
            if not model.training or any(layer.is_fixed for layer in layers.values()):
                return loss
            expected = expected_open(layers)
            return loss + self.penalty * expected if expected > 1 - self.sparsity else loss

        return with_penalty

    def callbacks(self) -> list[pl.Callback]:
        """What fixes the gates."""
        return [FixGates(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Fix the gates after ``step`` of ``steps``, if it is time and they are not."""
        layers = gated_layers(model)
        if step / steps >= self.fixed_after and not all(layer.is_fixed for layer in layers.values()):
            project(layers, self.sparsity, self.scope)

    def finish(self, model: nn.Module) -> nn.Module:
        """Make the gates permanent: plain linear layers again; gates that were not fixed are fixed now.

        Raises:
            ValueError: If the model was not prepared.
        """
        layers = gated_layers(model)
        if not layers:
            raise ValueError(f"nothing to prune: {type(model).__name__} has no gated layer")
        for layer in layers.values():
            layer.notice()
        if not all(layer.is_fixed for layer in layers.values()):
            project(layers, self.sparsity, self.scope)
        replace_layers(model, layers.values(), lambda layer: layer.to_linear())
        note(model, "compression/pruning", sparsity_of([layer.weight for layer in layers.values()]))
        return model
