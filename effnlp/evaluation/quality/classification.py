"""Accuracy, macro F1 and cross-entropy of single-label predictions.

Source: macro F1 as the mean of per-class F1, Opitz and Burst (2019), https://arxiv.org/abs/1911.03347
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score


def classification(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of ``logits`` (N, C) against ``labels`` (N,) int64.

    Returns:
        ``accuracy`` and ``macro_f1`` in [0, 1] and ``loss``, the mean cross-entropy in nats. A class that
        has neither an example nor a prediction does not enter ``macro_f1``.

    Raises:
        ValueError: If there is no example.
    """
    if len(labels) == 0:
        raise ValueError("no example to score")
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    present = torch.unique(torch.cat([labels, predicted]))
    f1 = multiclass_f1_score(predicted, labels, num_classes=classes, average="none")
    return {
        "accuracy": float(multiclass_accuracy(predicted, labels, num_classes=classes, average="micro")),
        "macro_f1": float(f1[present].mean()),
        "loss": float(F.cross_entropy(logits.float(), labels)),
    }
