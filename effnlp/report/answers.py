"""Answers of two configurations, example by example: scores to pair, and which answers changed."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from effnlp.evaluation.predictions import Predictions
from effnlp.evaluation.reference import against
from effnlp.report.sides import Side
from effnlp.statistics import Seeds

ROUNDING = 0.005
"""How far a score of the stored predictions, which are rounded, may be from the one in the record."""

MOST_PAIRS = 50
"""Of so many pairs of runs at most the answers are compared: their mean is known well enough."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """How the answers of B differ from those of A on one split, mean over pairs of runs.

    Attributes:
        pairs: How many pairs of runs: of the same seeds, if there are any.
        values: Keys of :func:`effnlp.evaluation.reference.against`.
        among_a: Share of answers that differ between runs of A: what seeds alone change. None for a single run.
    """

    split: str
    pairs: int
    values: dict[str, float]
    among_a: float | None


def example_scores(predictions: Predictions) -> dict[str, Floats]:
    """Score of each example, (N,), by the name of the key that is its mean."""
    logits = predictions.logits.astype(np.float64)
    labels = predictions.labels
    if predictions.are_of_language:
        nats, tokens = logits.T  # (N,) each
        # Shares of a ratio of sums, so that the mean over texts is what the record has.
        return {"loss": nats / tokens.mean(), "bits_per_byte": nats / np.log(2) / labels.mean()}
    if logits.shape[1] == 1:
        return {"mse": (logits[:, 0] - labels) ** 2}
    loss = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return {"accuracy": (logits.argmax(axis=1) == labels).astype(np.float64), "loss": loss}


def scores_of(key: str, side: Side, wanted: Mapping[Seeds, float]) -> Floats | None:
    """(S, N) scores of the examples in the runs ``wanted``; None where they do not make up ``key``."""
    split, _, name = key.partition("/")
    if name not in ("accuracy", "loss", "mse", "bits_per_byte"):
        return None
    by_seeds = dict(zip(side.seeds, side.predictions, strict=False))
    rows = []
    for pair, value in wanted.items():
        predicted = by_seeds.get(pair, {}).get(split)
        scores = example_scores(predicted).get(name) if predicted is not None else None
        if scores is None or abs(float(scores.mean()) - value) > ROUNDING * max(1.0, abs(value)):
            return None
        rows.append(scores)
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else None


def answers_of(a: Side, b: Side) -> list[Answers]:
    """How answers changed from A to B, for each split of which both have predictions of the same examples."""
    by_seeds = [dict(zip(side.seeds, side.predictions, strict=False)) for side in (a, b)]
    common = sorted(set(by_seeds[0]) & set(by_seeds[1]))
    pairs = [(by_seeds[0][pair], by_seeds[1][pair]) for pair in common]
    pairs = (pairs or list(zip(a.predictions, b.predictions, strict=False)))[:MOST_PAIRS]
    found = []
    for split in ("val", "test"):
        both = [(x[split], y[split]) for x, y in pairs if split in x and split in y]
        if not both or not all(_are_of_the_same(x, y) for x, y in both):
            continue
        labels = a.candidate.runs[0].record.notes.get("labels", ())
        measured = [against(after, before, labels).values for before, after in both]
        keys = [key for key in measured[0] if all(key in values for values in measured)]
        values = {key: math.fsum(values[key] for values in measured) / len(measured) for key in keys}
        own = [each[split] for each in a.predictions[:MOST_PAIRS] if split in each]
        among = [float((x.logits.argmax(1) != y.logits.argmax(1)).mean())
                 for x, y in itertools.pairwise(own) if _are_of_the_same(x, y)]  # fmt: skip
        found.append(Answers(split, len(both), values, math.fsum(among) / len(among) if among else None))
    return found


def _are_of_the_same(x: Predictions, y: Predictions) -> bool:
    if x.are_of_language or y.are_of_language:
        return False
    return x.logits.shape == y.logits.shape and x.logits.shape[1] > 1 and np.array_equal(x.labels, y.labels)
