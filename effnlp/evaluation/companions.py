"""What a model of several tasks is like on those beside the run's own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from effnlp.data.prepare import Prepared
from effnlp.evaluation.evaluate import predict, score
from effnlp.evaluation.scores import Scores
from effnlp.evaluation.steps import MeterGauge


def evaluate_companions(
    answering: Callable[[str], nn.Module], data: Prepared, settings: Mapping[str, Any], gauge: MeterGauge
) -> Scores:
    """Quality on the validation split of each companion.

    Args:
        answering: From the name of a task to the finished model that answers it.

    Returns:
        ``<task>/accuracy`` and all else that the chosen measures say, without the split.
    """
    scores = Scores({})
    for name, companion in data.companions.items():
        logits = predict(answering(name), companion.validation, settings["batch_size"], gauge)
        labels = torch.tensor(companion.validation.labels)
        scores |= score(logits, labels, companion.task.labels, settings["quality"]).under(name)
    return scores
