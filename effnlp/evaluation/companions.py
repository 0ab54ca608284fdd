"""What a model of several tasks is like on those beside the run's own, and what it shares among all."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from effnlp.data.prepare import Prepared
from effnlp.evaluation.evaluate import predict, score
from effnlp.evaluation.scores import Scores
from effnlp.evaluation.steps import MeterGauge
from effnlp.model.classifier import count_params


def evaluate_companions(
    model: nn.Module,
    heads: Mapping[str, nn.Linear],
    data: Prepared,
    settings: Mapping[str, Any],
    gauge: MeterGauge,
) -> Scores:
    """Quality on the validation split of each companion, with the finished encoder and the companion's head.

    A head that a method has changed (rounded, say) is changed for the run's own task alone.

    Returns:
        ``<task>/accuracy`` and all else that the chosen measures say, without the split.
    """
    scores, own = Scores({}), model.head
    device = next(model.parameters()).device
    try:
        for name, companion in data.companions.items():
            model.head = heads[name].to(device).eval()
            logits = predict(model, companion.validation, settings["batch_size"], gauge)
            labels = torch.tensor(companion.validation.labels)
            scores |= score(logits, labels, companion.task.labels, settings["quality"]).under(name)
    finally:
        model.head = own
    return scores


def shared_sizes(model: nn.Module, heads: Mapping[str, nn.Linear]) -> dict[str, float]:
    """Record keys that say what the tasks share: parameters of the encoder, of all heads, and of both a task."""
    assert isinstance(model.head, nn.Module)
    shared = count_params(model) - count_params(model.head)
    own = sum(count_params(head) for head in heads.values())
    return {
        "model/shared_params": float(shared),
        "model/head_params": float(own),
        "model/params_per_task": (shared + own) / len(heads),
    }
