"""The stage ``evaluation`` of a run: quality, robustness, fairness, loyalty, and cost at inference."""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effnlp import method
from effnlp.attempt import Attempt
from effnlp.data.prepare import Prepared
from effnlp.evaluation.evaluate import (
    evaluate_scenarios,
    evaluate_sets,
    predict,
    score,
)
from effnlp.evaluation.isolated import measure_use
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.predictions import Predictions, save_predictions
from effnlp.evaluation.reference import add_reference
from effnlp.evaluation.steps import MeterGauge
from effnlp.evaluation.subject import Subject
from effnlp.finetuning.loop import DivergedError
from effnlp.model.classifier import count_params
from effnlp.model.storage import Deployed, stored_bytes

log = logging.getLogger(__name__)

SPLITS = {"val": "validation", "test": "test"}
"""How keys begin, to the split of the task."""


def evaluate(deployed: Deployed, data: Prepared, config: Mapping[str, Any], attempt: Attempt) -> None:
    """Quality on validation (and on test, if asked), robustness, fairness, and cost at inference, into the record."""
    record, settings = attempt.record, config["evaluation"]
    splits = ["val", "test"] if settings["test"] else ["val"]
    step = int(record.values["train/steps"])
    found, predicted = measure(deployed.model, data, config, attempt, splits, step)
    record.put(found.values, found.absent)
    save_predictions(attempt.folder, predicted)
    gauge = gauge_of(deployed.model, attempt)
    subject = Subject(
        deployed=deployed,
        task=data.task,
        train=data.train.iloc[data.examples["train"].labelled()],
        logits={SPLITS[prefix]: torch.from_numpy(split.logits) for prefix, split in predicted.items()},
        predict=lambda examples: predict(deployed.model, examples, settings["batch_size"], gauge),
        meter=attempt.meter,
        fetch=functools.partial(attempt.fetch, stage="evaluation"),
        notes=record.notes,
    )
    sets = evaluate_sets(subject, settings)
    record.put(sets.values, sets.absent)
    record.notes["labels"] = list(data.task.labels)
    if settings.get("reference"):
        add_reference(record, attempt.folder, Path(settings["reference"]), data.task.labels)
    if settings["latency"]:
        use = measure_use(
            deployed, data.examples["validation"].encodings, settings["scenarios"], attempt.quiet, attempt.meter,
            isolate=bool(settings["isolate"]), within=attempt.checkpoints,
        )  # fmt: skip
        record.put(use.values, use.absent)
    record.notes["applied"] = method.applied(deployed.model)
    record.notes["changed_nothing"] = method.without_effect(deployed.model)
    for name in record.notes["changed_nothing"]:
        log.warning("%s=%s was applied and changed nothing", name, record.choices.get(name))


def gauge_of(model: nn.Module, attempt: Attempt) -> MeterGauge:
    """What meters the steps of ``model`` in this attempt."""
    return MeterGauge(attempt.meter, attempt.quiet, getattr(model, "data_dependent_compute", False))


def measure(
    model: nn.Module,
    data: Prepared,
    config: Mapping[str, Any],
    attempt: Attempt,
    splits: Sequence[str],
    step: int,
) -> tuple[Measured, dict[str, Predictions]]:
    """What a finished model is like: quality on ``splits``, FLOPs, sizes; and what it predicted.

    Raises:
        DivergedError: If a score is not finite; it names ``step``.
    """
    settings = config["evaluation"]
    model = model.to(attempt.hardware.torch_device()).eval()
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    predicted: dict[str, Predictions] = {}
    gauge = gauge_of(model, attempt)
    for prefix in splits:
        examples = data.examples[SPLITS[prefix]]
        logits = predict(model, examples, settings["batch_size"], gauge)
        predicted[prefix] = Predictions.of(logits, examples.labels)
        scores = score(logits, torch.tensor(examples.labels), data.task.labels, settings["quality"])
        if any(not math.isfinite(value) for value in scores.values.values()):
            raise DivergedError(scores.values.get("loss", math.nan), step, SPLITS[prefix])
        placed = scores.under(prefix)
        values |= placed.values
        absent |= placed.absent
        attempt.record.notes |= placed.notes
    found = evaluate_scenarios(model, data.examples["validation"].encodings, settings["scenarios"])
    sizes = {
        "model/params": count_params(model),
        "model/active_params": count_params(model),
        "model/bytes": stored_bytes(model),
    }
    return Measured({**values, **found.values, **sizes}, {**absent, **found.absent}), predicted
