"""How well numbers are predicted: Pearson and Spearman correlation, mean squared error.

Source: Cer et al. (2017), https://aclanthology.org/S17-2001
"""

from collections.abc import Sequence
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor
from torchmetrics.functional.regression import mean_squared_error, pearson_corrcoef

from effnlp.evaluation.scores import Scores, refuse_language
from effnlp.task.task import Task


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that there are no numbers.

    Raises:
        ValueError: If the task has classes, or texts are learned.
    """
    refuse_language("evaluation/quality=regression", task)
    if not task.is_regression:
        raise ValueError(
            f"evaluation/quality=regression scores numbers, and task {task.name} has classes: "
            "give 'evaluation/quality=[classification,calibration]'"
        )


def regression(logits: Tensor, labels: Tensor, names: Sequence[str]) -> Scores:  # noqa: ARG001
    """Scores of the numbers ``logits`` (N, 1) against ``labels`` (N,).

    Returns:
        ``mse`` in squared units of the labels; ``pearson`` and ``spearman`` in [-1, 1], which are absent where
        predictions or labels are all the same.

    Raises:
        ValueError: If there is no example, or not one number a text.
    """
    if len(labels) == 0:
        raise ValueError("no example to score")
    if logits.shape[1] != 1:
        raise ValueError(f"one number a text is scored, got {logits.shape[1]}")
    given, labels = logits.squeeze(1).double(), labels.double()  # (N,) each
    error = {"mse": float(mean_squared_error(given, labels))}
    for values, what in ((given, "predictions are"), (labels, "labels are")):
        if bool((values == values[0]).all()):
            return Scores(error, dict.fromkeys(("pearson", "spearman"), f"all {what} the same"))
    # Spearman by scipy: torchmetrics 1.9 adds up the ranks of ties in 32 bits, too few from some 90,000 ties on.
    spearman = float(spearmanr(given.numpy(), labels.numpy()).statistic)
    return Scores({**error, "pearson": float(pearson_corrcoef(given, labels)), "spearman": spearman})
