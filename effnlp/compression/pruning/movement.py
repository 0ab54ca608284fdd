"""Movement pruning: keep the weights that move away from zero while they are fine-tuned.

Source: Sanh et al. (2020), https://arxiv.org/abs/2005.07683

Legend: I width in, O width out, W weight, M mask, S scores, v fraction kept, tau threshold.
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.compression.pruning.mask import (
    check_scope,
    check_sparsity,
    keep_masks,
    refuse_whole_layers,
    sparsity_of,
)
from effnlp.compression.pruning.schedule import Schedule, cubic
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note, progress
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers"),
    "during": ("float_linear_layers", "trainable_weights", "uninterrupted_training"),
    "finish": ("float_linear_layers",),
}

VARIANTS = ("hard", "soft")


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


def first_scores(weight: Tensor, magnitude_prior: float) -> Tensor:
    """(O, I), with a mean of 0: ``magnitude_prior`` times the magnitude of each weight, in units of their mean."""
    magnitude = weight.abs()
    mean = magnitude.mean().clamp_min(torch.finfo(weight.dtype).tiny)
    return magnitude_prior * (magnitude / mean - 1)


class MaskedLinear(nn.Module):
    """A linear layer that uses only the weights of its mask, and learns a score for each.

    Args:
        linear: Gives weight and bias, the very parameters.
        learning_rate_factor: Of the scores.
        magnitude_prior: See :func:`first_scores`.
    """

    mask: Tensor

    def __init__(self, linear: nn.Linear, learning_rate_factor: float, magnitude_prior: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        scores: Any = nn.Parameter(first_scores(linear.weight.detach(), magnitude_prior))  # (O, I)
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


def update_masks(layers: Mapping[str, MaskedLinear], sparsity: float, scope: str) -> None:
    """Mask the lowest scores, to exactly this sparsity (hard)."""
    masks = keep_masks({name: layer.scores for name, layer in layers.items()}, sparsity, scope)
    for name, layer in layers.items():
        layer.mask.copy_(masks[name])


def mask_below(layers: Mapping[str, MaskedLinear], threshold: float) -> None:
    """Mask the weights whose score, squashed into (0, 1), is not above the threshold (soft)."""
    for layer in layers.values():
        layer.mask.copy_(layer.scores.detach().sigmoid() > threshold)


def kept_share(layers: Mapping[str, MaskedLinear]) -> float:
    """The fraction of all weights that the masks keep."""
    kept = torch.stack([layer.mask.sum() for layer in layers.values()]).sum()
    return float(kept) / sum(layer.mask.numel() for layer in layers.values())


def mean_score(layers: Mapping[str, MaskedLinear]) -> Tensor:
    """The mean of all squashed scores, which the penalty of the soft variant lowers: a scalar."""
    sums = torch.stack([layer.scores.sigmoid().sum() for layer in layers.values()])
    return sums.sum() / sum(layer.scores.numel() for layer in layers.values())


def masked_layers(model: nn.Module) -> dict[str, MaskedLinear]:
    """The masked layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MaskedLinear)}


class UpdateMasks(pl.Callback):
    """After each step, and so before a validation or a checkpoint: move the masks along the schedule."""

    def __init__(self, method: "Movement") -> None:
        self.method = method

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """The penalty of a step depends on the steps done alone."""
        self.method.weigh(*progress(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the scores alone."""
        self.method.advance(pl_module.model, *progress(trainer))


class Movement:
    """Movement pruning of the encoder's linear layers.

    ``hard`` keeps the highest scores, as many as the schedule says. ``soft`` keeps the scores above a threshold, which
    rises with the schedule as does a penalty on all scores: so the task decides how many weights each layer keeps.

    Unlike the paper, scores begin with the magnitudes of their weights and move from there (``magnitude_prior``). Where
    all begin alike, the first masks follow the gradients of a few steps: in the 252 steps of the experiment
    ``movement_pruning`` a model never recovers from them. The longer the training, the less the beginning counts.

    Unlike the paper, masks are computed anew every ``update_every`` steps and not at each one: to find the
    borders in the 10.6 million scores of MiniLM takes a tenth of a training step (32 × 64 tokens, one core).
    Unlike the paper, ``soft``, too, ends with the sparsity that is asked for: the penalty acts only while more is kept,
    and in the cool-down the highest scores of all layers together are kept, exactly as many.
    Embeddings, biases, norms and the head are not pruned.

    Args:
        sparsity: Final fraction of the linear weights that are zero, in [0, 1); counts are exact.
        variant: ``hard`` or ``soft``.
        schedule: ``gradual`` (the paper's), ``iterative`` or ``one_shot``, which scores all the training long and
            masks after it. See :class:`~effnlp.compression.pruning.schedule.Schedule`.
        warmup: Share of the steps without pruning (t_i in the paper).
        cooldown: Share of the steps at the final sparsity (t_f).
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together, as ``soft`` always does.
        update_every: Steps from one update of the masks to the next.
        rounds: See :class:`~effnlp.compression.pruning.schedule.Schedule`.
        threshold: The final tau of ``soft``, in (0, 1): squashed scores begin around 0.5.
        penalty: The final weight of the mean squashed score in the loss of ``soft``, at least 0: lambda.
        learning_rate_factor: Multiplies the base rate for the scores. Only their order counts in ``hard``: the higher,
            the sooner movement outweighs the magnitudes that they began with; the paper's rate is 1e-2.
        magnitude_prior: How many times the magnitude of a weight, in units of the mean of its layer, its score begins
            with, at least 0; 0: all alike, as in the paper.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        variant: str = "hard",
        schedule: str = "gradual",
        warmup: float = 0.1,
        cooldown: float = 0.3,
        scope: str = "layer",
        update_every: int = 4,
        rounds: int = 3,
        threshold: float = 0.1,
        penalty: float = 100.0,
        learning_rate_factor: float = 20.0,
        magnitude_prior: float = 1.0,
    ) -> None:
        self.sparsity = check_sparsity(sparsity)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.variant = variant
        self.schedule = Schedule(schedule, warmup, cooldown, update_every, rounds)
        self.scope = check_scope(scope) if variant == "hard" else "global"
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), got {threshold}")
        if not penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        if not magnitude_prior >= 0:
            raise ValueError(f"magnitude_prior must be at least 0, got {magnitude_prior}")
        self.threshold, self.penalty = threshold, penalty
        self.magnitude_prior = magnitude_prior
        self.learning_rate_factor = learning_rate_factor
        self._penalty_now = 0.0

    @property
    def settled_after(self) -> float:
        """From here on every mask has the final sparsity."""
        return self.schedule.settled_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give every linear layer of the encoder scores and a mask that keeps all, in place.

        Raises:
            ValueError: If nothing would be left of a layer.
        """
        linears = encoder_layers(model, nn.Linear)
        refuse_whole_layers(linears, self.sparsity)
        return replace_layers(
            model,
            linears.values(),
            lambda layer: MaskedLinear(layer, self.learning_rate_factor, self.magnitude_prior),
        )

    def callbacks(self) -> list[pl.Callback]:
        """What moves the masks."""
        return [UpdateMasks(self)]

    def weigh(self, step: int, steps: int) -> None:
        """Set the penalty of the step that comes after ``step`` of ``steps``."""
        if self.variant == "soft" and self.schedule.acts_in_training:
            risen = self.schedule.risen(step, steps)
            self._penalty_now = self.penalty * cubic(risen) if risen < 1 else 0.0

    def objective(self, base: Objective) -> Objective:
        """The loss and, while masks of ``soft`` keep more than they shall, the penalty on the scores."""

        def with_penalty(model: nn.Module, batch: Batch) -> Tensor:
            loss = base(model, batch)
            if self._penalty_now == 0 or not model.training:
                return loss
            layers = masked_layers(model)
            if kept_share(layers) <= 1 - self.sparsity:
                return loss
            return loss + self._penalty_now * mean_score(layers)

        return with_penalty if self.variant == "soft" else base

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Bring the masks to where they are after ``step`` of ``steps``, if they are due."""
        if not self.schedule.is_due(step, steps):
            return
        layers, risen = masked_layers(model), self.schedule.risen(step, steps)
        if self.variant == "soft" and risen < 1:
            mask_below(layers, self.threshold * cubic(risen))
            return
        sparsity = self.schedule.sparsity_at(step, steps, self.sparsity)
        if sparsity > 0:
            update_masks(layers, sparsity, self.scope)

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
