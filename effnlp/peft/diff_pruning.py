"""Diff pruning: train a change of every weight of the encoder, most of it gated to zero, and keep a sparse one.

Source: Guo et al. (2021), https://arxiv.org/abs/2012.07463; the gates are those of Louizos et al. (2018),
https://arxiv.org/abs/1712.01312

Legend: n entries of the encoder, w change, z gate in [0, 1], alpha its location.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from effnlp.compression.pruning.hard_concrete import certain_gate, noise_like, open_probability, sampled_gate
from effnlp.compression.pruning.mask import keep_masks
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note, progress
from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import freeze_all_but_head

# Needed still when all have prepared, so that it is combined with no method that leaves weights frozen, in any order.
REQUIRES = {"prepare": ("trainable_weights",), "during": ("trainable_weights", "uninterrupted_training")}
REMOVES = {"during": ("trainable_weights",)}

OPEN_ALPHA = 5.0
"""Where alpha begins: almost every gate is 1."""


class SparseChange(nn.Module):
    """``base + z w``: a parametrization of one parameter, whose base is frozen.

    It is in one of three states. Open: gates are drawn in training and certain in evaluation. Fixed: each gate is 0
    or 1 for good, its alpha being infinite, so that the state dict tells. Settled: there are no gates, and w is zero
    where they were 0.

    Args:
        base: The parameter; w has its shape and its rate.
        gate_learning_rate_factor: Of alpha.
        structured: Whether there is also one gate for the parameter as a whole, by which all others are multiplied.
    """

    def __init__(self, base: nn.Parameter, gate_learning_rate_factor: float, structured: bool) -> None:
        super().__init__()
        self.change = _parameter(torch.zeros_like(base), getattr(base, "learning_rate_factor", 1.0))
        open_alpha = torch.full_like(base, OPEN_ALPHA, requires_grad=False)
        self.alpha: nn.Parameter | None = _gate(open_alpha, gate_learning_rate_factor)
        self.group_alpha: nn.Parameter | None = None
        if structured:
            self.group_alpha = _gate(open_alpha.flatten()[:1].clone(), gate_learning_rate_factor)
        self.is_fixed = False

    def difference(self, is_drawn: bool) -> Tensor:
        """z w, of the shape of the base; gates are drawn, or certain."""
        if self.alpha is None:
            return self.change
        if self.is_fixed:
            return self.change.where(self.alpha > 0, 0.0)
        difference: Tensor = self.change
        for alpha in self.gates():
            gate = sampled_gate(alpha, noise_like(alpha)) if is_drawn else certain_gate(alpha)
            difference = gate * difference
        return difference

    def forward(self, base: Tensor) -> Tensor:
        """The parameter as its module sees it."""
        return base + self.difference(is_drawn=self.training)

    def expected_kept(self) -> Tensor:
        """How many entries are expected not to be gated to zero: a scalar."""
        if self.alpha is None:
            return torch.zeros(())
        expected = open_probability(self.alpha).sum()
        return expected if self.group_alpha is None else expected * open_probability(self.group_alpha).sum()

    @torch.no_grad()
    def fix(self, keep: Tensor) -> None:
        """Let each gate be 1 where ``keep`` says so, else 0, and w what it was under its gate."""
        assert self.alpha is not None
        self.change.copy_(self.difference(is_drawn=False))
        self.alpha.fill_(-math.inf).masked_fill_(keep, math.inf)
        if self.group_alpha is not None:
            self.group_alpha.fill_(math.inf)
        self.notice()

    def notice(self) -> None:
        """Learn from the gates whether they are fixed: a state that was loaded does not say it otherwise."""
        if self.alpha is not None and bool(self.alpha.isinf().any()):
            self.is_fixed = True
            for gate in self.gates():
                gate.requires_grad_(False)

    @torch.no_grad()
    def settle(self) -> None:
        """Leave w, zero where it is gated to zero, and no gates."""
        self.change.copy_(self.difference(is_drawn=False))
        self.alpha = self.group_alpha = None

    def gates(self) -> list[nn.Parameter]:
        """The parameters of the gates."""
        return [gate for gate in (self.alpha, self.group_alpha) if gate is not None]


def _parameter(value: Tensor, learning_rate_factor: float) -> nn.Parameter:
    made: Any = nn.Parameter(value)
    made.learning_rate_factor = learning_rate_factor
    return made


def _gate(value: Tensor, learning_rate_factor: float) -> nn.Parameter:
    made: Any = _parameter(value, learning_rate_factor)
    made.weight_decay_factor = 0.0  # towards 0 would be towards half-open gates
    return made


def changes_of(model: nn.Module) -> list[SparseChange]:
    """The changes of a model, each once."""
    return [module for module in model.modules() if isinstance(module, SparseChange)]


def project(changes: list[SparseChange], kept: float) -> None:
    """Fix the gates: open for the share ``kept`` of all entries together that change most, exactly."""
    with torch.no_grad():
        moved = {str(i): change.difference(is_drawn=False).abs() for i, change in enumerate(changes)}
    for change, keep in zip(changes, keep_masks(moved, 1 - kept, "global").values(), strict=True):
        change.fix(keep)


class FixGates(pl.Callback):
    """Says when the gates are fixed: after a step, and so before a validation or a checkpoint."""

    def __init__(self, method: "DiffPruning") -> None:
        self.method = method

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """A training that is taken up may be past it."""
        for change in changes_of(pl_module.model):
            change.notice()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and the weights alone."""
        self.method.advance(pl_module.model, *progress(trainer))


class DiffPruning:
    """Every weight of the encoder, embeddings and norms included, has a change; few of them are kept.

    It saves what is stored for a task, not what training takes: beside the frozen weights there are a change and a
    gate for each entry, with their gradients and the optimizer's state, and the weights that are made of them at every
    step. That is twice what full fine-tuning holds and more, and noise is drawn for each entry at every step.

    Args:
        kept: Share of the encoder's entries that may change in the end, in (0, 1]; the count is exact.
        fixed_after: Share of the steps after which all but those are fixed to zero and the rest is trained on, in
            (0, 1].
        penalty: Times the expected share of entries that change is added to the loss. Lambda of the paper times n:
            1.25e-7 × 335 million.
        structured: Whether each weight matrix and each vector also has a gate as a whole.
        gate_learning_rate_factor: Multiplies the base rate for the gates. The paper's rate is 0.1 for them.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        kept: float = 0.005,
        fixed_after: float = 0.5,
        penalty: float = 42.0,
        structured: bool = True,
        gate_learning_rate_factor: float = 200.0,
    ) -> None:
        for name, value in (("kept", kept), ("fixed_after", fixed_after)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value}")
        if penalty < 0:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if gate_learning_rate_factor <= 0:
            raise ValueError(f"gate_learning_rate_factor must be above 0, got {gate_learning_rate_factor}")
        self.kept, self.fixed_after, self.penalty, self.structured = kept, fixed_after, penalty, structured
        self.gate_learning_rate_factor = gate_learning_rate_factor

    @property
    def settled_after(self) -> float:
        """From here on no more than ``kept`` changes."""
        return self.fixed_after

    def prepare(self, model: nn.Module) -> nn.Module:
        """Give each parameter of the encoder a change, in place; only changes, gates and the head are trained.

        Raises:
            ValueError: If some parameters are frozen (another method trains others in their stead), or ``kept`` is
                less than one entry.
        """
        encoder = encoder_of(model)
        frozen = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
        if 0 < len(frozen) < len(list(encoder.parameters())):
            raise ValueError(
                f"diff pruning changes every weight, and {frozen[0]} is frozen by another method"
            )
        entries = sum(parameter.numel() for parameter in encoder.parameters())
        if round(self.kept * entries) < 1:
            raise ValueError(f"kept must be at least 1 of {entries} entries, got {self.kept}")
        freeze_all_but_head(model)
        made: dict[int, SparseChange] = {}
        for module in list(encoder.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) not in made:
                    change = SparseChange(parameter, self.gate_learning_rate_factor, self.structured)
                    made[id(parameter)] = change.train(module.training)
                parametrize.register_parametrization(module, name, made[id(parameter)], unsafe=True)
        return model

    def objective(self, base: Objective) -> Objective:
        """The loss and, until the gates are fixed, the penalty on what they are expected to let change."""

        def with_penalty(model: nn.Module, batch: Batch) -> Tensor:
            loss = base(model, batch)
            changes = changes_of(model)
            if any(change.is_fixed for change in changes) or not model.training:
                return loss
            expected = torch.stack([change.expected_kept() for change in changes]).sum()
            return loss + self.penalty * expected / sum(change.change.numel() for change in changes)

        return with_penalty

    def callbacks(self) -> list[pl.Callback]:
        """What fixes the gates."""
        return [FixGates(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Fix the gates after ``step`` of ``steps``, if it is time and they are not."""
        if step / steps >= self.fixed_after:
            self._fix(model)

    def _fix(self, model: nn.Module) -> None:
        changes = changes_of(model)
        for change in changes:
            change.notice()
        if any(change.alpha is not None and not change.is_fixed for change in changes):
            project(changes, self.kept)

    def settle(self, model: nn.Module) -> nn.Module:
        """Leave of each change what is kept: zeros elsewhere, and no gates."""
        self._fix(model)
        for change in changes_of(model):
            change.settle()
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Add the changes to the weights, which are plain parameters again.

        Raises:
            ValueError: If the model was not prepared.
        """
        changes = changes_of(model)
        if not changes:
            raise ValueError(f"nothing to add: {type(model).__name__} has no change of diff pruning")
        self.settle(model)
        entries = sum(change.change.numel() for change in changes)
        changed = sum(int(change.change.count_nonzero()) for change in changes)
        note(model, "peft", {"entries": entries, "changed": changed, "changed_share": changed / entries})
        added: set[int] = set()
        for module in list(model.modules()):
            if parametrize.is_parametrized(module) and any(
                isinstance(m, SparseChange) for m in module.modules()
            ):
                _make_plain(module, added)
        return model


def _make_plain(module: nn.Module, added: set[int]) -> None:
    """Put the parameters with their changes back where they were.

    Not by the function of torch, which takes the parametrization from the class: copies of a module share it.

    Args:
        added: Ids of the parameters, possibly shared with other modules, that have their change already.
    """
    lists: Any = module.parametrizations
    originals = {name: lists[name].original for name in lists}
    with torch.no_grad():
        for name, original in originals.items():
            if id(original) not in added:
                original.copy_(getattr(module, name))
                added.add(id(original))
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, original in originals.items():
        module.register_parameter(name, original)
