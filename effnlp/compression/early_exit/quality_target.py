"""Choose the threshold of early exit by the accuracy that it may cost.

It is measured on training texts from which the exits did not learn: a share of them, told by a hash of their tokens,
is left out of the exits' losses. The layers and the last head did learn from them, so that the whole model is at its
best there and the loss of leaving early is rather measured too large than too small.

Legend: B batch, N texts, L layers, K thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effnlp.compression.early_exit.exits import EarlyExitClassifier
from effnlp.data.encodings import Batch

HELD_OUT = 5
"""One text in so many is left out of the exits' losses."""

MOST_THRESHOLDS = 500
"""How many thresholds are tried at most."""


@dataclass(frozen=True)
class Calibrated:
    """A threshold and what it does to the texts on which it was chosen.

    Attributes:
        loss: Points of accuracy, in [0, 1], below the whole model; negative where leaving early is better.
        mean_depth: Layers through which a text passes.
        texts: How many there were.
    """

    threshold: float
    loss: float
    mean_depth: float
    texts: int

    def values(self) -> dict[str, float]:
        """For the record."""
        return {
            "calibration_texts": self.texts,
            "calibration_loss": self.loss,
            "calibration_mean_depth": self.mean_depth,
        }


def held_out(batch: Batch) -> Tensor:
    """(B,): which texts are left out of the exits' losses; it depends on the tokens of a text alone."""
    ids = batch["input_ids"] * batch["attention_mask"]  # (B, T): padding is 0 and adds nothing
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)  # (T,)
    mixed = ((ids * 2654435761) ^ (ids * places * 40503)).remainder(1_000_003)  # (B, T)
    return mixed.sum(1).remainder(HELD_OUT) == 0


@torch.no_grad()
def calibrate_threshold(
    model: EarlyExitClassifier,
    batches: Sequence[Batch],
    largest_loss: float,
    candidates: Sequence[float] | None = None,
) -> Calibrated:
    """The largest threshold up to which none loses more accuracy than ``largest_loss`` on the held-out texts.

    Args:
        model: In evaluation mode.
        batches: Training texts with labels; those that are not held out are passed over.
        candidates: Thresholds to choose among, ascending, the first of them cheap in accuracy; None: the
            midpoints between the doubts that the texts raise.

    Raises:
        ValueError: If no text is held out.
    """
    doubts, correct = doubts_of(model, batches)
    if len(correct) == 0:
        raise ValueError("no text of these is held out of the exits' training: raise calibration_texts")
    tried = torch.tensor(candidates) if candidates is not None else thresholds_between(doubts)  # (K,)
    best = None
    whole = correct[:, -1].double().mean()
    for threshold in tried.tolist():
        depth = depths_at(doubts, threshold)  # (N,)
        loss = float(whole - correct.gather(1, depth[:, None] - 1).double().mean())
        if best is not None and loss > largest_loss + 1e-12:
            break
        best = Calibrated(threshold, loss, float(depth.double().mean()), len(correct))
    assert best is not None
    return best


def doubts_of(model: EarlyExitClassifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Of the held-out texts: the doubt at every exit (N, L - 1), and whether each head is right (N, L)."""
    doubts, correct = [], []
    for batch in batches:
        rows = held_out(batch)
        if not bool(rows.any()):
            continue
        kept = {name: value[rows] for name, value in batch.items()}
        memory: Tensor | None = None
        of_batch, right = [], []
        for pooled, logits in model.along(kept, len(model.exits) + 1, are_layers_frozen=True):
            doubt, memory = model.rule(pooled, logits, memory)
            of_batch.append(doubt)
            right.append(logits.argmax(-1) == kept["labels"])
        doubts.append(torch.stack(of_batch[:-1], 1).cpu())
        correct.append(torch.stack(right, 1).cpu())
    layers = len(model.exits) + 1
    if not doubts:
        return torch.empty(0, layers - 1), torch.empty(0, layers, dtype=torch.bool)
    return torch.cat(doubts), torch.cat(correct)


def depths_at(doubts: Tensor, threshold: float) -> Tensor:
    """(N, L - 1) to (N,): after how many layers each text leaves."""
    leaves = torch.cat([doubts < threshold, torch.ones_like(doubts[:, :1], dtype=torch.bool)], 1)  # (N, L)
    return leaves.int().argmax(1) + 1


def thresholds_between(doubts: Tensor) -> Tensor:
    """(K,) ascending: from one at which nobody leaves to one at which all leave after the first layer."""
    values = doubts.double().unique()  # ascending
    middle = (values[1:] + values[:-1]) / 2
    tried = torch.cat([values[:1], middle, values[-1:] * 1.01 + 1e-6])
    if len(tried) > MOST_THRESHOLDS:
        tried = tried[torch.linspace(0, len(tried) - 1, MOST_THRESHOLDS).round().long()]
    return tried


class QualityTarget:
    """What a method of early exit says about the accuracy that leaving early may cost, and what came of it.

    Args:
        largest_loss: Points of accuracy, in [0, 1); None: there is no target, and nothing is held out.
        calibration_texts: How many training texts are looked at, of which those that are held out count.
        candidates: Maps the number of layers to the thresholds to choose among, see :func:`calibrate_threshold`.

    Attributes:
        calibrated: What was chosen; None before that.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        largest_loss: float | None,
        calibration_texts: int,
        candidates: Callable[[int], Sequence[float]] | None = None,
    ) -> None:
        if largest_loss is not None and not 0 <= largest_loss < 1:
            raise ValueError(f"largest_loss must be in [0, 1), or null, got {largest_loss}")
        if calibration_texts < 1:
            raise ValueError(f"calibration_texts must be at least 1, got {calibration_texts}")
        self.largest_loss = largest_loss
        self.calibration_texts = calibration_texts if largest_loss is not None else 0
        self.candidates = candidates
        self.calibrated: Calibrated | None = None

    @property
    def calibrates_at(self) -> str:
        """When the method calibrates: at no moment where there is no target."""
        return "never" if self.largest_loss is None else "finish"

    def learning_rows(self, batch: Batch) -> Tensor | None:
        """Which texts the exits learn from, (B,); None: from all."""
        return None if self.largest_loss is None else ~held_out(batch)

    def calibrate(self, model: EarlyExitClassifier, batches: Sequence[Batch]) -> None:
        """Choose the threshold.

        Raises:
            ValueError: If there is no target, or no text is held out.
        """
        if self.largest_loss is None:
            raise ValueError("largest_loss is null: there is nothing to choose a threshold by")
        candidates = None if self.candidates is None else self.candidates(len(model.exits) + 1)
        self.calibrated = calibrate_threshold(model, batches, self.largest_loss, candidates)

    def calibrate_preview(self, model: EarlyExitClassifier, batches: Sequence[Batch]) -> None:
        """Choose it for a look at a model in training, if there is a target and a text to go by."""
        if self.largest_loss is not None and any(bool(held_out(batch).any()) for batch in batches):
            self.calibrate(model.eval(), batches)

    def threshold_or(self, given: float) -> float:
        """The threshold that was chosen; the given one where none was."""
        return given if self.calibrated is None else self.calibrated.threshold

    def values(self) -> dict[str, float]:
        """What was found, for the record."""
        return {} if self.calibrated is None else self.calibrated.values()


class Targeted:
    """A method of early exit with a target: it wants to see texts where there is one, and chooses by them."""

    target: QualityTarget

    @property
    def calibration_texts(self) -> int:
        """How many training texts it wants to see."""
        return self.target.calibration_texts

    @property
    def calibrates_at(self) -> str:
        """When it wants to see them."""
        return self.target.calibrates_at

    def calibrate(self, model: EarlyExitClassifier, batches: Sequence[Batch]) -> None:
        """Choose what decides who leaves, by the accuracy that it costs."""
        self.target.calibrate(model, batches)
