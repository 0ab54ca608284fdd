"""What leaving early saves and costs: every threshold from one pass over the validation texts, and measured time.

Source: Xin et al. (2020), https://arxiv.org/abs/2004.12993; Liu et al. (2020), https://arxiv.org/abs/2004.02178

Legend: N texts, L layers, K thresholds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import linregress, spearmanr
from torch import Tensor

from effnlp.compression.early_exit.exits import EarlyExitClassifier
from effnlp.compression.early_exit.quality_target import depths_at, thresholds_between
from effnlp.data.encodings import Batch
from effnlp.evaluation.latency import fastest_turns, pinned_threads, warm_up
from effnlp.reproduce.analyses.kept import Kept
from effnlp.reproduce.analytic.early_exit import expected_saving
from effnlp.reproduce.cells import Run, Runs, Table

PER_CENT = 100.0
LEVELS = (0.25, 0.5, 0.75)
"""Shares of the layers that are to be saved, at which accuracies are read."""

BINS = 10
"""Parts of equal size into which texts are sorted by their doubt."""


@dataclass(frozen=True)
class Passed:
    """What every exit says of texts that go through all layers.

    Attributes:
        doubts: (N, L - 1), of every exit but the last.
        correct: (N, L), whether each head is right.
    """

    doubts: Tensor
    correct: Tensor

    @property
    def whole(self) -> float:
        """Accuracy of the last head."""
        return float(self.correct[:, -1].double().mean())

    def at(self, threshold: float) -> tuple[float, float]:
        """Expected saving and accuracy, both in [0, 1], where texts leave whose doubt is below ``threshold``."""
        depth = depths_at(self.doubts, threshold)  # (N,)
        counts = torch.bincount(depth - 1, minlength=self.correct.shape[1])  # (L,)
        right = self.correct.gather(1, depth[:, None] - 1)
        return expected_saving(counts.tolist()), float(right.double().mean())

    def curve(self) -> list[tuple[float, float]]:
        """Expected saving and accuracy of every threshold, from nobody leaving to all after the first layer."""
        return [self.at(threshold) for threshold in thresholds_between(self.doubts).tolist()]


@torch.no_grad()
def pass_through(model: EarlyExitClassifier, batches: Sequence[Batch]) -> Passed:
    """Run all texts through all layers, and ask the rule at every exit."""
    doubts, correct = [], []
    for batch in batches:
        memory: Tensor | None = None
        of_batch, right = [], []
        for pooled, logits in model.along(batch, len(model.exits) + 1, are_layers_frozen=True):
            doubt, memory = model.rule(pooled, logits, memory)
            of_batch.append(doubt)
            right.append(logits.argmax(-1) == batch["labels"])
        doubts.append(torch.stack(of_batch[:-1], 1))
        correct.append(torch.stack(right, 1))
    return Passed(torch.cat(doubts), torch.cat(correct))


def traded(runs: Mapping[str, Runs], of: Sequence[str], whole: str, largest_loss: float = 1.0) -> Table:
    """What rows with exits save, at the threshold they were deployed with and at others.

    Args:
        of: Rows of runs that kept their models.
        whole: A row of the same model without exits, for the FLOPs of all layers.
        largest_loss: Points of accuracy.

    Returns:
        In per cent, one value a seed: ``last head``, the accuracy of texts that go through all layers; ``expected
        saving``, ``FLOPs saved`` and ``lost`` (points of accuracy) as deployed; ``saving at a point``, the largest
        expected saving with at most ``largest_loss`` points lost; ``at 25 %``, ``at 50 %`` and ``at 75 %``, the
        accuracy where that share is saved; and, without a unit, ``sure and right``, the rank correlation of doubt
        at the middle exit and accuracy over ten bins of texts, where doubts differ enough for so many.

    Raises:
        ValueError: If a run kept no model, its model has no exits, or ``whole`` lacks its seed.
    """
    flops = {run.seed: run.record.values["infer/fixed_batch/flops"] for run in runs[whole]}
    table = {}
    for row in of:
        columns: dict[str, dict[str, float]] = {}
        for run in runs[row]:
            if run.seed not in flops:
                raise ValueError(f"{whole} has no run with the seed {run.seed}, which {row} has")
            spent = run.record.values["infer/fixed_batch/flops"]
            found = {**_of_model(run, largest_loss), "FLOPs saved": PER_CENT * (1 - spent / flops[run.seed])}
            for column, value in found.items():
                columns.setdefault(column, {})[run.seed] = value
        table[row] = columns
    return table


def _of_model(run: Run, largest_loss: float) -> dict[str, float]:
    kept, model = model_with_exits(run)
    passed = pass_through(model, list(kept.batches("validation")))
    saving, accuracy = passed.at(model.threshold)
    curve = passed.curve()
    enough = passed.whole - largest_loss / PER_CENT - 1e-12
    found = {
        "last head": passed.whole,
        "expected saving": saving,
        "lost": passed.whole - accuracy,
        "saving at a point": max(saved for saved, right in curve if right >= enough),
    }
    for level in LEVELS:
        # Of the thresholds that save so much the smallest, so that chance chooses none.
        accuracies = [right for saved, right in curve if saved >= level]
        if accuracies:  # with two layers, no more than half can be saved
            found[f"at {PER_CENT * level:.0f} %"] = accuracies[0]
    shares = {name: PER_CENT * value for name, value in found.items()}
    correlation = sure_and_right(passed)
    return shares if correlation is None else {**shares, "sure and right": correlation}


def sure_and_right(passed: Passed) -> float | None:
    """The rank correlation of doubt and accuracy over bins of texts at the middle exit; None: too few doubts differ."""
    middle = (passed.doubts.shape[1] - 1) // 2
    doubts = passed.doubts[:, middle].numpy()
    if len(np.unique(doubts)) < 2 * BINS:
        return None
    right = passed.correct[:, middle].numpy()[np.argsort(doubts, kind="stable")]
    return float(spearmanr(range(BINS), [part.mean() for part in np.array_split(right, BINS)]).statistic)


def timed(runs: Mapping[str, Runs], of: Sequence[str], texts: int = 60, turns: int = 3) -> Table:
    """Measured time of single texts against the expected saving, at six thresholds, in one thread.

    Args:
        of: Rows of runs that kept their models.
        texts: Validation texts, timed one by one.
        turns: How often; all thresholds take turns, and of each the fastest turn counts.

    Returns:
        One value a seed: ``linear in time``, R² of the line through (expected saving, time saved); and ``time
        saved``, per cent of the time of all layers, at the deployed threshold.
    """
    table = {}
    for row in of:
        found = {run.seed: _timed(run, texts, turns) for run in runs[row]}
        table[row] = {
            "linear in time": {seed: values[0] for seed, values in found.items()},
            "time saved": {seed: values[1] for seed, values in found.items()},
        }
    return table


def _timed(run: Run, texts: int, turns: int) -> tuple[float, float]:
    kept, model = model_with_exits(run)
    singles = list(kept.batches("validation", texts, batch_size=1))
    passed = pass_through(model, singles)
    thresholds = thresholds_between(passed.doubts)
    savings = np.array([passed.at(threshold)[0] for threshold in thresholds.tolist()])
    wanted = np.linspace(0, savings.max(), 5)
    chosen = [float(thresholds[np.abs(savings - share).argmin()]) for share in wanted]
    chosen.append(model.threshold)
    seconds = seconds_at(model, singles, chosen, turns)
    saved = [1 - value / seconds[0] for value in seconds]
    line = linregress([passed.at(threshold)[0] for threshold in chosen], saved)
    return float(line.rvalue**2), PER_CENT * saved[-1]


def seconds_at(
    model: EarlyExitClassifier, batches: Sequence[Batch], thresholds: Sequence[float], turns: int
) -> list[float]:
    """Seconds of all batches at each threshold, one thread; they take turns, and the fastest turn counts.

    The model is as it was afterwards.
    """

    def read(threshold: float) -> None:
        model.threshold = threshold
        for batch in batches:
            model(batch)

    before = model.threshold
    with pinned_threads(1):
        warm_up(model, batches, 1)
        fastest = fastest_turns([partial(read, threshold) for threshold in thresholds], turns)
    model.threshold = before
    return fastest


def model_with_exits(run: Run) -> tuple[Kept, EarlyExitClassifier]:
    """What a run kept, and its model.

    Raises:
        ValueError: If it kept none, or one without exits.
    """
    kept = Kept.of(run)
    if not isinstance(kept.model, EarlyExitClassifier):
        raise ValueError(f"the model of {run.row} has no exits: it is a {type(kept.model).__name__}")
    return kept, kept.model
