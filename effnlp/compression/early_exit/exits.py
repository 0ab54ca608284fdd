"""A classifier with a head after every layer, where a text leaves as soon as a rule has no doubt left.

What all methods of early exit share: the heads, the texts that leave in the middle of a batch and cost nothing from
there on, the histogram of exits, and a depth that can be forced. A method brings the rule and trains the exits.

Legend: B batch, K texts still inside, N texts, D width, C classes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.method import Objective, applied, note
from effnlp.model.classifier import Classifier, LayeredEncoder


def entropy(logits: Tensor) -> Tensor:
    """(K, C) to (K,): in nats, between 0 (sure) and log C (no idea)."""
    log_probabilities = logits.log_softmax(-1)  # (K, C)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


class ByEntropy(nn.Module):
    """The rule that doubts an exit by the entropy of what it predicts, in nats.

    A rule is a module. Its forward maps what the exit read (K, D), its logits (K, C) and what the rule remembers of
    these texts (a tensor whose first dimension is K; None after the first layer) to the doubt (K,) and what it
    remembers from here on. A text leaves where the doubt is below the threshold.
    """

    def forward(self, pooled: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Doubt (K,); nothing is remembered."""
        return entropy(logits), None


class EarlyExitClassifier(nn.Module):
    """A classifier with a head after every layer; the last one is the head it came with.

    Attributes:
        rule: Says how much an exit is to be doubted, see :class:`ByEntropy`.
        threshold: A text leaves where the doubt is below it; infinity: after the first layer.
        exits_in_use: Whether texts may leave early; while the exits are untrained they may not.
        exit_counts: (depth,) how many texts left after each layer since :meth:`reset_exit_counts`.
        last_depths: (B,) after how many layers each text of the last batch left.
    """

    data_dependent_compute = True
    encoder: Any  # a LayeredEncoder that is a module

    def __init__(self, classifier: Classifier, threshold: float, rule: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = classifier.encoder
        self.dropout, self.head = classifier.dropout, classifier.head
        self.exits = nn.ModuleList(
            nn.Linear(self.head.in_features, self.head.out_features) for _ in range(self.encoder.depth - 1)
        )
        self.rule = ByEntropy() if rule is None else rule
        self.threshold = threshold
        self.exits_in_use = False
        self._forced_depth: int | None = None
        self.last_depths = torch.empty(0, dtype=torch.int64)
        self.reset_exit_counts()
        self.train(classifier.training)

    def reset_exit_counts(self) -> None:
        """Start the histogram anew."""
        self.exit_counts = torch.zeros(len(self.exits) + 1, dtype=torch.int64)

    def force_depth(self, depth: int | None) -> None:
        """Let every text leave after layer ``depth`` (1-based), whatever the doubt; None undoes it.

        Raises:
            ValueError: If there is no such layer.
        """
        if depth is not None and not 1 <= depth <= self.encoder.depth:
            raise ValueError(f"depth must be in 1 … {self.encoder.depth}, got {depth}")
        self._forced_depth = depth

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        early = self._forced_depth is not None or (self.exits_in_use and not self.training)
        return self.leave_early(batch) if early else self.head(self.dropout(self.encoder(batch)))

    def leave_early(self, batch: Batch) -> Tensor:
        """Logits (B, C), each of the head where the text left; those that left cost nothing from there on."""
        state = self.encoder.embed(batch)
        inside = torch.arange(len(state.hidden), device=state.hidden.device)  # (K,) positions in the batch
        depths = torch.zeros_like(inside)  # (B,)
        logits: Tensor | None = None
        memory: Tensor | None = None
        for index, head in enumerate([*self.exits, self.head]):
            state = self.encoder.layer(index, state)
            pooled = self.encoder.pool(state)  # (K, D)
            here = head(self.dropout(pooled))  # (K, C)
            logits = here.new_empty(len(depths), here.shape[1]) if logits is None else logits  # (B, C)
            leaves, memory = self._leaves(index + 1, pooled, here, memory)  # (K,)
            leaving = leaves.nonzero().squeeze(1)
            if len(leaving) == 0:
                continue
            logits[inside[leaving]] = here[leaving]
            depths[inside[leaving]] = index + 1
            if len(leaving) == len(inside):
                break
            stay = (~leaves).nonzero().squeeze(1)
            inside, state = inside[stay], state.rows(stay)
            memory = None if memory is None else memory[stay]
        assert logits is not None
        self.last_depths = depths
        left = torch.bincount(depths.cpu() - 1, minlength=len(self.exit_counts))  # (depth,)
        self.exit_counts = self.exit_counts + left
        return logits

    def _leaves(
        self, depth: int, pooled: Tensor, logits: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Which of the texts inside leave after ``depth`` layers, (K,), and what the rule remembers of all."""
        deepest = len(self.exits) + 1
        if self._forced_depth is not None or depth == deepest:
            last = depth == (self._forced_depth or deepest)
            return torch.full_like(logits[:, 0], last, dtype=torch.bool), memory
        doubt, memory = self.rule(pooled, logits, memory)
        return doubt < self.threshold, memory

    def along(self, batch: Batch, depth: int, are_layers_frozen: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Of the first ``depth`` layers in turn, what the head there reads (B, D) and its logits (B, C).

        Nobody leaves. Where the layers are frozen, gradients reach the heads and nothing below.
        """
        learns = torch.is_grad_enabled() and not are_layers_frozen
        with torch.set_grad_enabled(learns):
            state = self.encoder.embed(batch)
        for index, head in enumerate([*self.exits, self.head][:depth]):
            with torch.set_grad_enabled(learns):
                state = self.encoder.layer(index, state)
                pooled = self.encoder.pool(state)  # (B, D)
            yield pooled, head(self.dropout(pooled))

    def exit_logits(self, batch: Batch) -> list[Tensor]:
        """Logits (B, C) of every exit but the last; gradients reach the exits and nothing below."""
        return [logits for _, logits in self.along(batch, len(self.exits), are_layers_frozen=True)]


class Given(nn.Module):
    """Stands for a model whose logits are known, so that any objective can judge them.

    Args:
        logits: (B, C).
        model: Whose they are. Objectives that look at parts of a model find them inside.
    """

    def __init__(self, logits: Tensor, model: nn.Module | None = None) -> None:
        super().__init__()
        self.logits = logits
        self.model = model
        self.training = model is None or model.training

    def forward(self, batch: Batch) -> Tensor:  # noqa: ARG002
        """The logits, whatever the batch."""
        return self.logits


def loss_of_logits(
    base: Objective,
    logits: Tensor,
    batch: Batch,
    rows: Tensor | None = None,
    model: nn.Module | None = None,
) -> Tensor:
    """What an objective makes of logits (B, C) of a model, of the texts ``rows`` (B,) alone; 0 if there is none."""
    if rows is None or bool(rows.all()):
        return base(Given(logits, model), batch)
    if not bool(rows.any()):
        return logits.sum() * 0.0
    return base(Given(logits[rows], model), {name: value[rows] for name, value in batch.items()})


def check_positive(name: str, value: float) -> float:
    """The value, which must be above 0.

    Raises:
        ValueError: If it is not.
    """
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    return value


def check_threshold(threshold: float, name: str = "threshold") -> float:
    """The threshold, by the name that its method has for it, which must be at least 0.

    Raises:
        ValueError: If it is not.
    """
    if not threshold >= 0:
        raise ValueError(f"{name} must be at least 0, got {threshold}")
    return threshold


def with_exits(
    model: nn.Module, threshold: float, learning_rate_factor: float, rule: nn.Module | None = None
) -> EarlyExitClassifier:
    """The classifier with exits, which learn at ``learning_rate_factor`` times the base rate, as the rule does.

    Raises:
        ValueError: If the encoder cannot be run layer by layer, or has a single layer.
    """
    if not isinstance(model, Classifier) or not isinstance(model.encoder, LayeredEncoder):
        kind = type(getattr(model, "encoder", model)).__name__
        raise ValueError(f"early exit needs an encoder that can be run layer by layer, got {kind}")
    if model.encoder.depth < 2:
        raise ValueError(f"early exit needs at least 2 layers, got {model.encoder.depth}")
    wrapped = EarlyExitClassifier(model, threshold, rule)
    parameter: Any
    for parameter in [*wrapped.exits.parameters(), *wrapped.rule.parameters()]:
        parameter.learning_rate_factor = learning_rate_factor
    for method, values in applied(model).items():
        note(wrapped, method, values)
    return wrapped


def use_exits(model: nn.Module, threshold: float, values: dict[str, float]) -> EarlyExitClassifier:
    """Let texts leave early from now on, at this threshold; ``values`` are noted for the record.

    Raises:
        ValueError: If the model has no exits.
    """
    if not isinstance(model, EarlyExitClassifier):
        raise ValueError(f"no exits to use: the model is a {type(model).__name__}")
    model.threshold, model.exits_in_use = threshold, True
    model.reset_exit_counts()
    note(model, "compression/early_exit", {"exits": len(model.exits), **values})
    return model
