"""Accuracy, macro F1, cross-entropy, MCC, and precision, recall and F1 of each class.

Source: macro F1 as the mean of per-class F1, Opitz and Burst (2019), https://arxiv.org/abs/1911.03347; MCC of several
classes, Gorodkin (2004), https://doi.org/10.1016/j.compbiolchem.2004.09.006
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
    multiclass_precision,
    multiclass_recall,
    multiclass_stat_scores,
)

from effnlp.evaluation.scores import Scores, refuse_language
from effnlp.task.task import Task

MOST_CLASSES = 100
"""With more of them, scores of single classes would fill a record and say little each."""


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that there are no classes.

    Raises:
        ValueError: If the labels of the task are numbers, or texts are learned.
    """
    refuse_language("evaluation/quality=classification", task)
    if task.is_regression:
        raise ValueError(
            f"evaluation/quality=classification scores classes, and the labels of task {task.name} are numbers: "
            "give finetuning=regress 'evaluation/quality=[regression]'"
        )


def classification(logits: Tensor, labels: Tensor, names: Sequence[str]) -> Scores:
    """Scores of ``logits`` (N, C) against ``labels`` (N,) int64; ``names`` are those of the C classes.

    Returns:
        ``accuracy`` and ``macro_f1`` in [0, 1]; ``loss``, the mean cross-entropy in nats; ``mcc`` in [-1, 1], 0
        where only one class is predicted or occurs; ``class/<name>/{precision,recall,f1}`` in [0, 1]. A class
        that has neither an example nor a prediction does not enter ``macro_f1``. What is no number for a class
        (the recall of one without an example, the precision of one never predicted) is absent.

    Raises:
        ValueError: If there is no example, or not one name a class.
    """
    if len(labels) == 0:
        raise ValueError("no example to score")
    if len(names) != logits.shape[1]:
        raise ValueError(f"{logits.shape[1]} classes need as many names, got {len(names)}")
    predicted, count = logits.argmax(1), logits.shape[1]
    f1 = multiclass_f1_score(predicted, labels, num_classes=count, average="none")  # (C,)
    counts = multiclass_stat_scores(predicted, labels, num_classes=count, average="none")  # (C, 5)
    hits, false_alarms, _, _, examples = counts.unbind(1)
    predictions = hits + false_alarms  # (C,)
    has_one = bool((predictions == len(labels)).any() or (examples == len(labels)).any())
    mcc = 0.0 if has_one else float(multiclass_matthews_corrcoef(predicted, labels, num_classes=count))
    overall = {
        "accuracy": float(multiclass_accuracy(predicted, labels, num_classes=count, average="micro")),
        "macro_f1": float(f1[(predictions + examples) > 0].mean()),
        "loss": float(F.cross_entropy(logits.float(), labels)),
        "mcc": mcc,
    }
    if count > MOST_CLASSES:
        return Scores(overall, {"class": f"{count} classes: more than {MOST_CLASSES} are not scored each"})
    kinds = {
        "precision": (
            multiclass_precision(predicted, labels, num_classes=count, average="none"),
            predictions,
            "it was never predicted",
        ),
        "recall": (
            multiclass_recall(predicted, labels, num_classes=count, average="none"),
            examples,
            "it has no example",
        ),
        "f1": (f1, predictions + examples, "it has no example and was never predicted"),
    }
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for kind, (scores, basis, reason) in kinds.items():
        for name, score, number in zip(names, scores.tolist(), basis.tolist(), strict=True):
            if number:
                values[f"class/{name}/{kind}"] = score
            else:
                absent[f"class/{name}/{kind}"] = reason
    return Scores({**overall, **values}, absent)
