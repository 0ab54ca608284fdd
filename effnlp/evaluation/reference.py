"""Against a reference run: what a compressed model answers otherwise, which its accuracy may hide.

Loyalty says how closely a model mimics its reference; where changed answers fall says who pays for it.

Source: Xu et al. (2021), https://aclanthology.org/2021.emnlp-main.832, for loyalty; Hooker et al. (2020),
https://arxiv.org/abs/2010.03058, for the examples that compression changes
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, softmax

from effnlp.evaluation.measured import Measured
from effnlp.record import COMPLETED, Record

if TYPE_CHECKING:
    from effnlp.evaluation.predictions import Predictions

MOST_EXEMPLARS = 1000
"""So many changed answers are kept in a record."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def absolute_reference(config: Mapping[str, Any], here: Path) -> dict[str, Any]:
    """The config with ``evaluation.reference`` as an absolute path: a record must make sense from elsewhere.

    Args:
        here: The folder from which it was typed.
    """
    reference = config.get("evaluation", {}).get("reference")
    if not reference:
        return dict(config)
    path = (here / Path(str(reference)).expanduser()).resolve()
    return {**config, "evaluation": {**config["evaluation"], "reference": str(path)}}


def read_reference(folder: Path) -> Record:
    """The record of a run that can be a reference: completed, with its predictions beside it.

    Raises:
        ValueError: If it is not one; it names the folder and what is missing.
    """
    from effnlp.evaluation.predictions import FILE

    try:
        record = Record.load(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"evaluation.reference={folder} is not the folder of a run: it has no record.json"
        ) from error
    if record.status != COMPLETED:
        raise ValueError(
            f"evaluation.reference={folder} must be a completed run, this one is {record.status}"
        )
    if not (folder / FILE).is_file():
        raise ValueError(f"evaluation.reference={folder} has no {FILE}: its run kept no predictions")
    return record


def refuse_reference(settings: Mapping[str, Any], task_name: str, fingerprint: str) -> None:
    """Before the training: see to it that the reference of the config ``evaluation`` is there and of this task.

    Raises:
        ValueError: If it is not.
    """
    if not settings.get("reference"):
        return
    from effnlp.evaluation.predictions import load_predictions

    folder = Path(str(settings["reference"]))
    identity = read_reference(folder).identity
    if identity.get("task_fingerprint") != fingerprint:
        raise ValueError(
            f"evaluation.reference={folder} is a run on other texts or splits: task {identity.get('task')}, "
            f"fingerprint {identity.get('task_fingerprint')}; this run is on {task_name}, fingerprint {fingerprint}"
        )
    for each in load_predictions(folder).values():
        _arrays(each, each)


def add_reference(record: Record, folder: Path, reference: Path, labels: Sequence[str]) -> None:
    """Put into ``record`` what the predictions in its ``folder`` are like against those of ``reference``.

    Both are read from their files, so that a run and a later comparison say the same. Values of an earlier
    reference go. The note ``reference`` names the run, and for each split the exemplars.

    Args:
        labels: Names of the classes.

    Raises:
        ValueError: If the reference is none.
    """
    from effnlp.evaluation.predictions import load_predictions

    other = read_reference(reference)
    mine, theirs = load_predictions(folder), load_predictions(reference)
    for kept in (record.values, record.absent):
        for key in [key for key in kept if key.startswith("reference/")]:
            del kept[key]
    names = ("config_hash", "seed_init", "seed_order")
    note: dict[str, Any] = {"folder": str(reference), **{name: other.identity.get(name) for name in names}}
    for split in mine:
        if split not in theirs:
            record.put({}, {f"reference/{split}/changed": f"the reference has no predictions of {split}"})
            continue
        found = against(mine[split], theirs[split], labels).under(f"reference/{split}")
        record.put(found.values, found.absent)
        note[split] = exemplars(mine[split], theirs[split], labels)
    record.notes["reference"] = note


def compare_again(record: Record, folder: Path, labels: Sequence[str]) -> None:
    """As :func:`add_reference`, for a run that was compared before and has new predictions.

    Where its reference is gone, what was found then stays and the new splits are absent.
    """
    from effnlp.evaluation.predictions import load_predictions

    reference = record.config.get("evaluation", {}).get("reference")
    if not reference:
        return
    try:
        add_reference(record, folder, Path(reference), labels)
    except ValueError as error:
        record.put({}, {f"reference/{split}/changed": str(error) for split in load_predictions(folder)})


def against(predictions: "Predictions", reference: "Predictions", labels: Sequence[str]) -> Measured:
    """How the predictions of a split compare with those of a reference run on the same examples.

    Args:
        labels: Names of the C classes.

    Returns:
        ``label_loyalty``, the share of equal answers, and ``changed``, that of others; ``probability_loyalty``,
        the mean of ``1 - sqrt(JS)`` with the Jensen-Shannon divergence in bits, so that it is in [0, 1];
        ``changed/<where>``, the share of changed answers there (see :func:`places`); and
        ``changed_ratio/<where>``, that share over the overall one, which is absent where no answer changed.

    Raises:
        ValueError: If the examples are not the same, or what was predicted is not one of several classes.
    """
    mine, theirs, truth = _arrays(predictions, reference)
    answers, before = mine.argmax(axis=1), theirs.argmax(axis=1)
    changed = answers != before
    overall = float(changed.mean())
    values = {
        "label_loyalty": 1 - overall,
        "probability_loyalty": float(
            probability_loyalty(softmax(mine, axis=1), softmax(theirs, axis=1)).mean()
        ),
        "changed": overall,
    }
    absent: dict[str, str] = {}
    masks, reasons = places(theirs, truth, labels)
    for where, mask in masks.items():
        values[f"changed/{where}"] = float(changed[mask].mean())
        if overall:
            values[f"changed_ratio/{where}"] = float(changed[mask].mean()) / overall
        else:
            absent[f"changed_ratio/{where}"] = "no answer changed"
    for where, reason in reasons.items():
        absent |= {f"changed/{where}": reason, f"changed_ratio/{where}": reason}
    return Measured(values, absent)


def probability_loyalty(p: ArrayLike, q: ArrayLike) -> Floats:
    """``1 - sqrt(JS(p, q))`` of each row, in [0, 1]: 1 for equal distributions, 0 for disjoint ones.

    ``JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2`` with ``m = (p + q) / 2``, to the base 2; its root is a metric.

    Args:
        p, q: (N, C) probabilities.
    """
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (first + second) / 2
    nats = (rel_entr(first, middle) + rel_entr(second, middle)).sum(axis=1) / 2  # (N,)
    loyalty: Floats = 1 - np.sqrt(np.clip(nats / np.log(2), 0, 1))
    return loyalty


def places(
    reference: Floats, truth: NDArray[np.int64], labels: Sequence[str]
) -> tuple[dict[str, Mask], dict[str, str]]:
    """Where answers may have changed, as masks over the examples, and the places that there are not, with reasons.

    ``class/<label>`` for each true class; ``rarest_class``, the one with the fewest examples in the split, or
    all that have so few; ``least_sure_quartile``, the quarter of the examples to whose true class the reference
    gives the lowest probability; ``reference_right`` and ``reference_wrong``.

    Args:
        reference: (N, C) logits of the reference.
        truth: (N,) true classes.
    """
    counts = np.bincount(truth, minlength=reference.shape[1])  # (C,)
    names = [labels[i] if i < len(labels) else str(i) for i in range(len(counts))]
    masks = {f"class/{name}": truth == i for i, name in enumerate(names)}
    fewest = counts[counts > 0].min()
    masks["rarest_class"] = np.isin(truth, np.flatnonzero(counts == fewest))
    sure = softmax(reference, axis=1)[np.arange(len(truth)), truth]  # (N,)
    least = np.zeros(len(truth), dtype=bool)
    least[np.argsort(sure, kind="stable")[: max(1, len(truth) // 4)]] = True
    masks["least_sure_quartile"] = least
    right = reference.argmax(axis=1) == truth
    masks |= {"reference_right": right, "reference_wrong": ~right}
    reasons = {where: "it has no example" for where, mask in masks.items() if not mask.any()}
    if (counts[counts > 0] == fewest).all():
        reasons["rarest_class"] = "all classes have the same number of examples"
    return {where: mask for where, mask in masks.items() if where not in reasons}, reasons


def exemplars(
    predictions: "Predictions", reference: "Predictions", labels: Sequence[str], most: int = MOST_EXEMPLARS
) -> dict[str, Any]:
    """Which answers changed, those first of which the reference was surest.

    Returns:
        ``count`` of all, and columns of at most ``most``: ``position`` in the table of the split, ``was`` (the
        reference's answer), ``is``, and ``true``, as names of classes.
    """
    mine, theirs, truth = _arrays(predictions, reference)
    answers, before = mine.argmax(axis=1), theirs.argmax(axis=1)
    changed = np.flatnonzero(answers != before)
    surest = np.argsort(-softmax(theirs, axis=1)[changed].max(axis=1, initial=0.0), kind="stable")
    kept = changed[surest][:most]

    def named(classes: NDArray[np.int64]) -> list[str]:
        return [labels[i] if i < len(labels) else str(i) for i in classes.tolist()]

    return {
        "count": len(changed), "position": kept.tolist(), "was": named(before[kept]), "is": named(answers[kept]),
        "true": named(truth[kept]),
    }  # fmt: skip


def _arrays(predictions: "Predictions", reference: "Predictions") -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Logits (N, C) of both, and the true classes (N,)."""
    if predictions.are_numbers:
        raise ValueError("a reference is for answers that are one of several classes, got numbers")
    mine, theirs = (each.logits.astype(np.float64) for each in (predictions, reference))
    if mine.ndim != 2 or mine.shape[1] < 2 or len(mine) == 0:
        raise ValueError(
            f"a reference is for answers that are one of several classes, got logits {mine.shape}"
        )
    truth = predictions.labels
    if mine.shape != theirs.shape or not np.array_equal(truth, reference.labels):
        raise ValueError(
            f"predictions are not of the same examples: {mine.shape[0]} of {mine.shape[1]} classes, the reference "
            f"has {theirs.shape[0]} of {theirs.shape[1]}{'' if mine.shape != theirs.shape else ' with other labels'}"
        )
    return mine, theirs, truth
