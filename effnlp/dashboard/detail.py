"""Selected runs side by side: what differs, how they went, what they cost, where their predictions part."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effnlp.dashboard.index import events_of
from effnlp.record import Record
from effnlp.report.summary import STAGES, described

UNTOLD = ("_target_", "_partial_")
SPLITS = ("val", "test")
BINS = 15


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A nested config as dotted keys to texts; keys of instantiation are left out, choices say the same."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        elif key not in UNTOLD:
            found[f"{before}{key}"] = "null" if value is None else described(value)
    return found


def differences(records: Sequence[Record]) -> dict[str, list[str]]:
    """Choices, then keys of the config, in which the records differ, to the text of each; ``–`` where one has none."""
    told = [
        {**{f"{group}": str(choice) for group, choice in record.choices.items()}, **flat(record.config)}
        for record in records
    ]
    keys = dict.fromkeys(key for each in told for key in each)
    return {key: texts for key in keys if len(set(texts := [each.get(key, "–") for each in told])) > 1}


def curves(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """What a run reported while it trained: key to steps and values. Empty if it reported nothing."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    try:
        events = list(events_of(folder))
    except OSError:
        return found
    for event in events:
        step = event.get("step")
        if event.get("event") != "train" or not isinstance(step, int | float):
            continue
        for key, value in event.items():
            if "/" in key and isinstance(value, int | float):
                steps, values = found.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    return found


def stage_costs(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Quantity to stage to what a run spent there itself, in the order of stages, without the total."""
    found: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        parts = key.split("/", 3)
        if len(parts) == 4 and parts[0] == "cost" and parts[1] != "total" and parts[2] == "own":
            found.setdefault(parts[3], {})[parts[1]] = value
    order = {stage: place for place, stage in enumerate(STAGES)}
    return {
        quantity: dict(sorted(stages.items(), key=lambda part: order.get(part[0], len(order))))
        for quantity, stages in found.items()
    }


@dataclass(frozen=True)
class Reliability:
    """Per bin of confidence that holds a text: mean confidence, accuracy, number of texts; and their ECE."""

    confidence: list[float]
    accuracy: list[float]
    count: list[int]
    ece: float


@dataclass(frozen=True)
class Answers:
    """Predictions of one run on one split of N texts.

    Attributes:
        labels: (N,) the true classes.
        chosen: (N,) the predicted classes.
        sure: (N,) their probabilities.
        classes: How many there are.
    """

    labels: np.ndarray
    chosen: np.ndarray
    sure: np.ndarray
    classes: int
    reliability: Reliability


def answers(folder: Path) -> dict[str, Answers]:
    """Split to the predictions that a run kept.

    Raises:
        FileNotFoundError: If it kept none.
        ValueError: If the file is damaged, or its task has no classes.
    """
    import torch  # which no list needs

    from effnlp.evaluation.predictions import load_predictions
    from effnlp.evaluation.quality.calibration import expected_calibration_error, reliability

    found = {}
    for split, kept in load_predictions(folder).items():
        if kept.are_numbers or kept.logits.ndim != 2 or kept.logits.shape[1] < 2:
            raise ValueError(f"{folder} predicts numbers, which have no confusion")
        shares = torch.from_numpy(kept.logits).softmax(dim=1)  # (N, C)
        bins = reliability(shares, torch.from_numpy(kept.labels), BINS)
        held = bins.examples > 0
        confidence, accuracy, count = (part[held].tolist() for part in bins)
        reliable = Reliability(confidence, accuracy, [*map(int, count)], expected_calibration_error(bins))
        sure, chosen = shares.max(dim=1)
        found[split] = Answers(kept.labels, chosen.numpy(), sure.numpy(), int(shares.shape[1]), reliable)
    return found


def confusion(given: Answers) -> np.ndarray:
    """(C, C) counts: row the true class, column the predicted one."""
    table = np.zeros((given.classes, given.classes), dtype=np.int64)
    np.add.at(table, (given.labels, given.chosen), 1)
    return table


@dataclass(frozen=True)
class Changed:
    """Where two runs answer differently on one split of N texts.

    Attributes:
        index: Positions in the split, those that only the first answers rightly at first.
        broken: How many only the first answers rightly.
        mended: How many only the second answers rightly.
        astray: How many both answer wrongly, and differently.
        total: N.
    """

    index: np.ndarray
    broken: int
    mended: int
    astray: int
    total: int


def changed(first: Answers, second: Answers) -> Changed:
    """Where the answers of two runs differ; inside a kind by position.

    Raises:
        ValueError: If they are not of the same texts.
    """
    if len(first.labels) != len(second.labels) or not np.array_equal(first.labels, second.labels):
        raise ValueError("the two runs answered different texts: their labels differ")
    different = first.chosen != second.chosen
    right_first, right_second = first.chosen == first.labels, second.chosen == second.labels
    kinds = [different & right_first, different & right_second, different & ~right_first & ~right_second]
    index = np.concatenate([np.flatnonzero(kind) for kind in kinds])
    broken, mended, astray = (int(kind.sum()) for kind in kinds)
    return Changed(index, broken, mended, astray, len(first.labels))


def class_names(records: Sequence[Record], classes: int) -> list[str]:
    """Names of the classes, in their order, as a record notes them; else their numbers."""
    for record in records:
        names = record.notes.get("labels")
        if isinstance(names, list) and len(names) == classes:
            return [str(name) for name in names]
    return [str(number) for number in range(classes)]


def shared_splits(found: Sequence[Mapping[str, Answers]]) -> list[str]:
    """Splits that all runs have predictions of: ``val``, ``test``, then others."""
    every = dict.fromkeys(itertools.chain(SPLITS, *found))
    return [split for split in every if all(split in each for each in found)] if found else []
