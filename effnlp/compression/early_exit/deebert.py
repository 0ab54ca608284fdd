"""DeeBERT: a text leaves after the first layer whose own head is sure of its label.

Source: Xin et al. (2020), https://arxiv.org/abs/2004.12993

Legend: B batch, K texts still inside, D width, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnlp.data.encodings import Batch
from effnlp.method import Objective, applied, note, progress
from effnlp.model.classifier import Classifier, LayeredEncoder

REQUIRES = {"prepare": ("layer_outputs", "classes", "single_task")}
REMOVES = {"prepare": ("layer_outputs", "uninterrupted_training")}


def entropy(logits: Tensor) -> Tensor:
    """(K, C) to (K,): in nats, between 0 (sure) and log C (no idea)."""
    log_probabilities = logits.log_softmax(-1)  # (K, C)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


class EarlyExitClassifier(nn.Module):
    """A classifier with a head after every layer; the last one is the head it came with.

    Attributes:
        threshold: A text leaves where the entropy is below it: 0 is never, infinity after the first layer.
        exits_in_use: Whether texts may leave early; until the exits are trained they may not.
        exit_counts: (depth,) how many texts left after each layer since :meth:`reset_exit_counts`.
        last_depths: (B,) after how many layers each text of the last batch left.
    """

    data_dependent_compute = True
    encoder: Any  # a LayeredEncoder that is a module

    def __init__(self, classifier: Classifier, threshold: float) -> None:
        super().__init__()
        self.encoder = classifier.encoder
        self.dropout, self.head = classifier.dropout, classifier.head
        self.exits = nn.ModuleList(
            nn.Linear(self.head.in_features, self.head.out_features) for _ in range(self.encoder.depth - 1)
        )
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
        """Let every text leave after layer ``depth`` (1-based), whatever the entropy; None undoes it.

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
        for index, head in enumerate([*self.exits, self.head]):
            state = self.encoder.layer(index, state)
            here = head(self.dropout(self.encoder.pool(state)))  # (K, C)
            logits = here.new_empty(len(depths), here.shape[1]) if logits is None else logits  # (B, C)
            leaves = self._leaves(index + 1, here)  # (K,)
            logits[inside[leaves]] = here[leaves]
            depths[inside[leaves]] = index + 1
            stay = (~leaves).nonzero().squeeze(1)
            if len(stay) == 0:
                break
            if len(stay) < len(inside):
                inside, state = inside[stay], state.rows(stay)
        assert logits is not None
        self.last_depths = depths
        left = torch.bincount(depths.cpu() - 1, minlength=len(self.exit_counts))  # (depth,)
        self.exit_counts = self.exit_counts + left
        return logits

    def _leaves(self, depth: int, logits: Tensor) -> Tensor:
        """Which of the texts inside leave after ``depth`` layers: (K,)."""
        deepest = len(self.exits) + 1
        if self._forced_depth is not None or depth == deepest:
            return torch.full_like(logits[:, 0], depth == (self._forced_depth or deepest), dtype=torch.bool)
        return entropy(logits) < self.threshold

    def exit_logits(self, batch: Batch) -> list[Tensor]:
        """Logits (B, C) of every exit but the last; gradients reach the exits and nothing below."""
        logits = []
        with torch.no_grad():
            state = self.encoder.embed(batch)
        for index, head in enumerate(self.exits):
            with torch.no_grad():
                state = self.encoder.layer(index, state)
                pooled = self.encoder.pool(state)  # (B, D)
            logits.append(head(self.dropout(pooled)))
        return logits


PREVIEW_RATE = 1e-2
"""Highest learning rate of exits in a preview: what the default rate gives times the default factor of the exits."""

PREVIEW_PASSES = 4
"""How often a preview goes through its batches, at most."""


def fit_exits(model: EarlyExitClassifier, batches: Sequence[Batch], steps: int) -> None:
    """Train the exits, in place and with labels, on what the frozen model makes of a few batches.

    The layers are run once a batch; after that a step is a product with a matrix of D × C. Nothing is random.

    Args:
        batches: With labels; taken in turn.
        steps: Of AdamW, the rate falling linearly to zero.
    """
    model.eval()
    pooled = []  # of each batch, of each exit: (B, D)
    with torch.no_grad():
        for batch in batches:
            state, of_batch = model.encoder.embed(batch), []
            for index in range(len(model.exits)):
                state = model.encoder.layer(index, state)
                of_batch.append(model.encoder.pool(state))
            pooled.append(of_batch)
    model.exits.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.exits.parameters(), lr=PREVIEW_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = PREVIEW_RATE * (1 - step / steps)
        index = step % len(pooled)
        labels = batches[index]["labels"]
        with torch.enable_grad():
            logits = [head(features) for head, features in zip(model.exits, pooled[index], strict=True)]
            loss = torch.stack([F.cross_entropy(of_one, labels) for of_one in logits]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.exits.requires_grad_(False)


class Given(nn.Module):
    """Stands for a model whose logits are known, so that any objective can judge them."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, batch: Batch) -> Tensor:  # noqa: ARG002
        """The logits, whatever the batch."""
        return self.logits


class SwitchPhase(pl.Callback):
    """Before a step: be in the phase that the steps done call for."""

    def __init__(self, method: "DeeBERT") -> None:
        self.method = method

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done alone, so that a resumed run is in the right phase."""
        self.method.advance(pl_module.model, *progress(trainer))


class DeeBERT:
    """Two phases: first the model with its last head, then, with all of that frozen, the exits.

    Unlike the paper, both phases share one learning-rate schedule, and an exit pools as the model does.

    Args:
        threshold: Entropy in nats below which a text leaves (S in the paper), at least 0.
        first_phase: Share of the training steps for the model, in (0, 1); the rest is for the exits.
        learning_rate_factor: Multiplies the base rate for the exits: single layers on frozen features bear far
            more than a model does, and their phase is the falling end of the schedule. On SST-2 with MiniLM,
            100 steps at factor 1 leave exits near chance; between 10 and 30 they have learnt.

    Raises:
        ValueError: If a value is outside its range.
    """

    data_dependent_compute = True

    settled_after = 1.0
    """Only the last checkpoint counts: before it, exits that are less trained are less sure, so that texts
    stay longer; by accuracy alone such a checkpoint would win and leave the model without early exits."""

    def __init__(
        self, threshold: float = 0.3, first_phase: float = 0.6, learning_rate_factor: float = 20.0
    ) -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        if not 0 < first_phase < 1:
            raise ValueError(f"first_phase must be in (0, 1), got {first_phase}")
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.threshold, self.first_phase = threshold, first_phase
        self.learning_rate_factor = learning_rate_factor
        self._of_first_phase: list[nn.Parameter] = []

    def prepare(self, model: nn.Module) -> EarlyExitClassifier:
        """Give the classifier its exits.

        Raises:
            ValueError: If the encoder cannot be run layer by layer, or has a single layer.
        """
        if not isinstance(model, Classifier) or not isinstance(model.encoder, LayeredEncoder):
            kind = type(getattr(model, "encoder", model)).__name__
            raise ValueError(f"early exit needs an encoder that can be run layer by layer, got {kind}")
        if model.encoder.depth < 2:
            raise ValueError(f"early exit needs at least 2 layers, got {model.encoder.depth}")
        self._of_first_phase = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wrapped = EarlyExitClassifier(model, self.threshold)
        for parameter in wrapped.exits.parameters():
            exit_parameter: Any = parameter
            exit_parameter.learning_rate_factor = self.learning_rate_factor
        for method, values in applied(model).items():
            note(wrapped, method, values)
        return wrapped

    def callbacks(self) -> list[pl.Callback]:
        """What switches the phase."""
        return [SwitchPhase(self)]

    def advance(self, model: EarlyExitClassifier, step: int, steps: int) -> None:
        """Freeze and free what the phase after ``step`` of ``steps`` asks for."""
        trains_exits = step >= math.ceil(self.first_phase * steps)
        model.exits_in_use = trains_exits
        model.exits.requires_grad_(trains_exits)
        for parameter in self._of_first_phase:
            parameter.requires_grad_(not trains_exits)

    def objective(self, base: Objective) -> Objective:
        """The loss of the phase: of the last head, or the sum over the exits (eq. 2)."""

        def of_the_phase(model: nn.Module, batch: Batch) -> Tensor:
            if not model.exits_in_use:
                return base(model, batch)
            logits = model.exit_logits(batch)  # type: ignore[operator]
            return torch.stack([base(Given(of_one), batch) for of_one in logits]).sum()

        return of_the_phase

    def preview(
        self, model: EarlyExitClassifier, step: int, steps: int, batches: Sequence[Batch]
    ) -> nn.Module:
        """Train the exits as the second phase would, shorter and on the last batches alone, and finish.

        Untrained exits are unsure of every text: the model would be judged as one that nobody leaves early, as
        good as the model without exits and dearer.
        """
        left = steps - max(step, math.ceil(self.first_phase * steps))
        if batches:
            fit_exits(model, batches, min(left, PREVIEW_PASSES * len(batches)))
        return self.finish(model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Let texts leave early from now on.

        Raises:
            ValueError: If the model was not prepared.
        """
        if not isinstance(model, EarlyExitClassifier):
            raise ValueError(f"no exits to use: the model is a {type(model).__name__}")
        model.exits_in_use = True
        model.reset_exit_counts()
        note(model, "compression/early_exit", {"exits": len(model.exits), "threshold": self.threshold})
        return model
