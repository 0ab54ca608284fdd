"""Counterfactual swaps: how often an answer changes when only the person or identity that is named does.

It needs no labels. Unlike Garg et al., who compare each text with its original, all texts of a group are compared
with one another: templates have no original.

Source: Garg et al. (2019), https://arxiv.org/abs/1809.10610; Dixon et al. (2018),
https://doi.org/10.1145/3278721.3278729

Legend: N texts, C classes, K groups, V variants.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from effnlp.evaluation.asking import ask_tables
from effnlp.evaluation.counterfactuals import PROBES, Probe, thin
from effnlp.evaluation.intervals import bootstrap
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.sets import describe_set
from effnlp.evaluation.subject import Subject, probabilities
from effnlp.task.folder import sets_in
from effnlp.task.reader import near
from effnlp.task.task import Task

NAME = "fairness/swaps"

SHOWN = 3
"""Variants that the notes name at either end."""


def swaps(
    subject: Subject, root: str | None, sets: Sequence[str] | None = None, limit: int | None = 1000
) -> Measured:
    """Ask for the texts of the sets and compare the answers within each group of texts.

    Args:
        root: Folder of data.
        sets: Names out of PROBES; None: all of the data folder that fit the task.
        limit: Rows of a set, in whole groups by a fixed hash; None: all.

    Returns:
        For each set ``<set>/flip_rate``, the share of pairs of texts of one group whose predicted classes
        differ, and ``<set>/score_shift``, the mean total variation distance of their probabilities; both are
        averaged within a group, then over groups, and in [0, 1]. ``…_low`` and ``…_high`` are intervals over
        groups.
    """
    chosen = choose(subject.task, sets, root)
    tables = {}
    for name, probe in chosen.items():
        make = probe.table_of(subject.task.is_pair)
        assert make is not None  # or it would not have been chosen
        tables[name] = thin(make(str(root)), limit)
    answers = ask_tables(subject, list(tables.values()))
    values: dict[str, float] = {}
    notes: dict[str, Any] = {}
    for (name, table), logits in zip(tables.items(), answers, strict=True):
        chances = probabilities(logits)
        by_group = compare_groups(chances, table["group"])
        for key in ("flip_rate", "score_shift"):
            values[f"{name}/{key}"] = float(by_group[key].mean())
            interval = bootstrap(lambda drawn: drawn.mean(axis=1), by_group[key].to_numpy())
            if interval is not None:
                values[f"{name}/{key}_low"], values[f"{name}/{key}_high"] = interval
        notes[name] = {
            "texts": len(table),
            "groups": len(by_group),
            **leaning(chances, table, subject.task.labels),
        }
    subject.notes[NAME] = notes
    return Measured(values)


def refuse(task: Task, root: str | None, sets: Sequence[str] | None = None, limit: int | None = 1000) -> None:
    """Raise a ValueError if no set, or not one that was named, fits the task, or ``limit`` is too small."""
    if limit is not None and limit < 2:
        raise ValueError(f"evaluation.fairness.swaps.limit must be at least 2 (a pair), got {limit}")
    choose(task, sets, root)


def choose(task: Task, sets: Sequence[str] | None, root: str | None) -> dict[str, Probe]:
    """The sets that are asked for: those that are named, else all of the data folder that fit the task.

    Raises:
        ValueError: If there is no data folder, a name is unknown, a named set does not fit, or none does.
        FileNotFoundError: If a named set is not in the folder.
    """
    kind = "pairs of texts" if task.is_pair else "single texts"
    if sets is None:
        if not root:
            describe_set(root, f"of evaluation/{NAME}")
        there = set(sets_in(str(root)))
        found = {
            name: probe
            for name, probe in PROBES.items()
            if probe.folder in there and probe.table_of(task.is_pair) is not None
        }
        if not found:
            fitting = [name for name, probe in PROBES.items() if probe.table_of(task.is_pair) is not None]
            raise ValueError(
                f"evaluation/{NAME} has no set for the task {task.name}: of those for {kind} "
                f"({', '.join(fitting)}) the data folder {root} has none"
            )
        return found
    if isinstance(sets, str) or not sets or len(set(sets)) < len(sets):
        raise ValueError(f"evaluation/{NAME} needs a list of different sets, or null for all, got {sets!r}")
    for name in sets:
        if name not in PROBES:
            raise ValueError(
                f"evaluation/{NAME} has no set {name!r}{near(name, PROBES)}; it has {', '.join(PROBES)}"
            )
        if PROBES[name].table_of(task.is_pair) is None:
            raise ValueError(
                f"evaluation/{NAME} cannot use {name} for the task {task.name}, which has {kind}"
            )
        describe_set(root, PROBES[name].folder)
    return {name: PROBES[name] for name in sets}


def compare_groups(chances: Tensor, group: Sequence[Any] | pd.Series) -> pd.DataFrame:
    """``flip_rate`` and ``score_shift`` of each group of at least two texts: means over its pairs of texts.

    The score shift of a pair is the total variation distance of its two distributions: half the sum of the
    absolute differences, for two classes the change of the probability of either.

    Args:
        chances: Probabilities (N, C).
        group: (N,) which group a text is in.
    """
    predicted = chances.argmax(1).numpy()
    rows = {}
    for name, positions in pd.Series(range(len(chances))).groupby(np.asarray(group), sort=False):
        size = len(positions)
        if size < 2:
            continue
        pairs = size * (size - 1) / 2
        alike = sum(n * (n - 1) / 2 for n in np.bincount(predicted[positions]))
        ordered, _ = chances[torch.tensor(positions.tolist())].sort(0)  # (size, C)
        # The sum of |a - b| over all pairs: the k-th smallest is the larger one k times, the smaller one else.
        weight = 2 * torch.arange(size, dtype=ordered.dtype) - (size - 1)  # (size,)
        distances = max(0.0, 0.5 * float((weight[:, None] * ordered).sum()))  # rounding may go below 0
        rows[name] = {"flip_rate": 1 - alike / pairs, "score_shift": distances / pairs}
    return pd.DataFrame.from_dict(rows, orient="index")


def leaning(chances: Tensor, table: pd.DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    """How far variants lie from the mean of their groups, in the probability of one class.

    Of two classes it is the second, of more the one that depends most on the variant.

    Returns:
        ``class``; ``most`` and ``least``, variant to the mean difference of the probability of the class, for
        at most SHOWN variants of either end.
    """
    frame = pd.DataFrame(chances.numpy())  # (N, C)
    group, variant = table["group"].to_numpy(), table["variant"].to_numpy()
    apart = (frame - frame.groupby(group).transform("mean")).groupby(variant).mean()  # (V, C)
    widest = 1 if len(labels) == 2 else int((apart.max() - apart.min()).to_numpy().argmax())
    ranked = apart[widest].sort_values(ascending=False)
    ends = min(SHOWN, len(ranked) // 2)
    shown: Mapping[str, pd.Series] = {"most": ranked[:ends], "least": ranked[::-1][:ends]}
    return {"class": labels[widest], **{end: part.round(6).to_dict() for end, part in shown.items()}}
