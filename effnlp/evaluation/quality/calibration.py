"""Calibration: whether a model is right as often as it is sure; ECE, Brier score, reliability diagram.

Source: Guo et al. (2017), https://arxiv.org/abs/1706.04599; Brier (1950),
https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2

Legend: N examples, C classes, M bins.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from effnlp.evaluation.scores import Scores, refuse_language
from effnlp.task.task import Task


class Bins(NamedTuple):
    """Of M equal parts of [0, 1], each (M,) float64: means are 0 where there is no example."""

    confidence: Tensor
    accuracy: Tensor
    examples: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int) -> Bins:
    """Mean confidence, accuracy and number of the examples in each bin of confidence.

    Args:
        probabilities: (N, C), rows summing to 1; the largest of a row is its confidence.
        labels: (N,) int64.
        bins: M. Bin m holds confidences from m / M on, below (m + 1) / M; the last one holds 1 too.
    """
    confidence, predicted = probabilities.double().max(1)  # (N,) each
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1], right=True)  # (N,) in 0 … M - 1
    count = torch.bincount(place, minlength=bins).double()  # (M,)

    def mean(of: Tensor) -> Tensor:
        return torch.bincount(place, weights=of.double(), minlength=bins) / count.clamp_min(1)

    return Bins(mean(confidence), mean(predicted == labels), count)


def expected_calibration_error(bins: Bins) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their examples (eq. 3): in [0, 1]."""
    return float(((bins.confidence - bins.accuracy).abs() * bins.examples).sum() / bins.examples.sum())


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Mean squared distance of ``probabilities`` (N, C) from the truth, summed over classes: in [0, 2].

    This is the original form; for two classes it is twice what is called Brier score of the one class.
    """
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])  # (N, C)
    return float((probabilities.double() - truth).square().sum(1).mean())


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that there are no probabilities.

    Raises:
        ValueError: If the labels of the task are numbers, or texts are learned.
    """
    refuse_language("evaluation/quality=calibration", task)
    if task.is_regression:
        raise ValueError(
            f"evaluation/quality=calibration scores probabilities of classes, and the labels of task {task.name} "
            "are numbers: give finetuning=regress 'evaluation/quality=[regression]'"
        )


def calibration(logits: Tensor, labels: Tensor, names: Sequence[str], bins: int = 15) -> Scores:  # noqa: ARG001
    """Calibration of ``logits`` (N, C) against ``labels`` (N,) int64.

    Returns:
        ``ece`` in [0, 1] and ``brier`` in [0, 2]; as the note ``reliability``, for each bin that is not empty
        its mean ``confidence``, its ``accuracy`` and the ``count`` of its examples.

    Raises:
        ValueError: If there is no example, or ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"evaluation.quality.calibration.bins must be at least 1, got {bins}")
    if len(labels) == 0:
        raise ValueError("no example to score")
    probabilities = logits.double().softmax(1)  # (N, C)
    found = reliability(probabilities, labels, bins)
    diagram = [
        {"confidence": confidence, "accuracy": accuracy, "count": int(count)}
        for confidence, accuracy, count in zip(*(part.tolist() for part in found), strict=True)
        if count
    ]
    scores = {"ece": expected_calibration_error(found), "brier": brier_score(probabilities, labels)}
    return Scores(scores, notes={"reliability": diagram})
