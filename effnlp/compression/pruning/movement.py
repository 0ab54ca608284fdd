"""Movement pruning: keep the weights that move away from zero while they are fine-tuned.

Source: Sanh et al. (2020), https://arxiv.org/abs/2005.07683

Legend: I width in, O width out, W weight, M mask, S scores, v fraction kept.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.compression.pruning.mask import check_scope, check_sparsity, keep_masks, sparsity_of
from effnlp.method import note, progress
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers"),
    "during": ("float_linear_layers", "trainable_weights", "uninterrupted_training"),
    "finish": ("float_linear_layers",),
}


class StraightThrough(torch.autograd.Function):
    """``W' = W * M``, with a gradient for the scores as if the mask were the scores themselves (eq. 4)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG004
        """All of shape (O, I); the mask is boolean."""
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """dL/dW = dL/dW' * M and dL/dS = dL/dW' * W: the score also moves where the weight is masked."""
        weight, mask = ctx.saved_tensors
        return gradient * mask, gradient * weight, None


class MaskedLinear(nn.Module):
    """A linear layer that uses only the weights of its mask, and learns a score for each.

    Args:
        linear: Gives weight and bias, the very parameters.
        learning_rate_factor: Of the scores.
    """

    mask: Tensor

    def __init__(self, linear: nn.Linear, learning_rate_factor: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        scores: Any = nn.Parameter(torch.zeros_like(linear.weight))  # (O, I)
        scores.learning_rate_factor = learning_rate_factor
        scores.weight_decay_factor = 0.0
        self.scores = scores
        # Part of the state: between two updates of the masks, a resumed run must find the one it had.
        self.register_buffer("mask", torch.ones_like(linear.weight, dtype=torch.bool))  # (O, I)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        return linear(x, StraightThrough.apply(self.weight, self.scores, self.mask), self.bias)

    def to_linear(self) -> nn.Linear:
        """A plain layer, whose masked weights are zero for good."""
        plain = nn.Linear(self.weight.shape[1], self.weight.shape[0], self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        with torch.no_grad():
            plain.weight.masked_fill_(~self.mask, 0.0)
        return plain


def sparsity_at(step: int, steps: int, sparsity: float, warmup: float, cooldown: float) -> float:
    """The cubic schedule (eq. 2): 0 in the warm-up, ``sparsity`` in the cool-down, steep then flat between.

    Args:
        step: How many steps were done.
        steps: Of the whole training.
        sparsity: The final one.
        warmup: Share of the steps before the rise.
        cooldown: Share of the steps after it.
    """
    start, end = warmup * steps, (1 - cooldown) * steps
    if step >= end:
        return sparsity
    if step <= start:
        return 0.0
    return sparsity * (1 - (1 - (step - start) / (end - start)) ** 3)


def update_masks(layers: dict[str, MaskedLinear], sparsity: float, scope: str) -> None:
    """Mask the lowest scores, to exactly this sparsity."""
    masks = keep_masks({name: layer.scores for name, layer in layers.items()}, sparsity, scope)
    for name, layer in layers.items():
        layer.mask.copy_(masks[name])


def masked_layers(model: nn.Module) -> dict[str, MaskedLinear]:
    """The masked layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MaskedLinear)}


class UpdateMasks(pl.Callback):
    """After each step, and so before a validation or a checkpoint: move the masks along the schedule."""

    def __init__(self, method: "Movement") -> None:
        self.method = method

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the scores alone."""
        self.method.advance(pl_module.model, *progress(trainer))


class Movement:
    """Hard movement pruning of the encoder's linear layers.

    Unlike the paper, masks are computed anew every ``update_every`` steps and not at each one: to find the
    borders in the 10.6 million scores of MiniLM takes a tenth of a training step (32 × 64 tokens, one core).
    Embeddings, biases, norms and the head are not pruned.

    Args:
        sparsity: Final fraction of the linear weights that are zero, in [0, 1); counts are exact.
        warmup: Share of the steps without pruning (t_i in the paper).
        cooldown: Share of the steps at the final sparsity (t_f).
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together.
        update_every: Steps from one update of the masks to the next.
        learning_rate_factor: Multiplies the base rate for the scores. Only their order counts, so that it
            matters little under Adam; the paper's rate is 1e-2.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        warmup: float = 0.1,
        cooldown: float = 0.3,
        scope: str = "layer",
        update_every: int = 4,
        learning_rate_factor: float = 20.0,
    ) -> None:
        self.sparsity = check_sparsity(sparsity)
        self.scope = check_scope(scope)
        if warmup < 0 or cooldown < 0 or warmup + cooldown >= 1:
            raise ValueError(
                "warmup and cooldown must be at least 0 and leave steps between them, "
                f"got {warmup} and {cooldown}"
            )
        if update_every < 1:
            raise ValueError(f"update_every must be at least 1, got {update_every}")
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.warmup, self.cooldown = warmup, cooldown
        self.update_every, self.learning_rate_factor = update_every, learning_rate_factor

    @property
    def settled_after(self) -> float:
        """From here on every mask has the final sparsity."""
        return 1 - self.cooldown

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give every linear layer of the encoder scores and a mask that keeps all, in place."""
        linears = encoder_layers(model, nn.Linear)
        return replace_layers(
            model, linears.values(), lambda layer: MaskedLinear(layer, self.learning_rate_factor)
        )

    def callbacks(self) -> list[pl.Callback]:
        """What moves the masks."""
        return [UpdateMasks(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Bring the masks to where they are after ``step`` of ``steps``, if they are due."""
        begins_cooldown = step == math.ceil((1 - self.cooldown) * steps)
        if step % self.update_every == 0 or begins_cooldown:
            sparsity = sparsity_at(step, steps, self.sparsity, self.warmup, self.cooldown)
            if sparsity > 0:
                update_masks(masked_layers(model), sparsity, self.scope)

    def finish(self, model: nn.Module) -> nn.Module:
        """Make the masks permanent: plain linear layers again, with exactly ``sparsity`` of zeros.

        A mask of the final sparsity stays as it was validated; from one that was still on its way, the step
        to the final sparsity is taken now.

        Raises:
            ValueError: If the model was not prepared.
        """
        layers = masked_layers(model)
        if not layers:
            raise ValueError(f"nothing to prune: {type(model).__name__} has no masked layer")
        if not has_sparsity([layer.mask for layer in layers.values()], self.sparsity, self.scope):
            update_masks(layers, self.sparsity, self.scope)
        replace_layers(model, layers.values(), lambda layer: layer.to_linear())
        note(model, "compression/pruning", sparsity_of([layer.weight for layer in layers.values()]))
        return model


def has_sparsity(masks: list[Tensor], sparsity: float, scope: str) -> bool:
    """Whether masks drop exactly as many entries as :func:`keep_masks` would."""
    groups = [masks] if scope == "global" else [[mask] for mask in masks]
    sizes = [sum(mask.numel() for mask in group) for group in groups]
    dropped = [sum(int((~mask).sum()) for mask in group) for group in groups]
    return dropped == [round(sparsity * size) for size in sizes]
