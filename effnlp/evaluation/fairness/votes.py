"""Agreement with all annotators: their votes are the truth, not the class that most of them chose.

Where annotators disagree, a model that is sure takes sides.

Source: Davidson et al. (2017), https://arxiv.org/abs/1703.04009, for the votes of hate_offensive; Peterson et al.
(2019), https://arxiv.org/abs/1908.07086, for the cross-entropy against votes; Nie et al. (2020),
https://arxiv.org/abs/2010.03532, for those of chaosnli

Legend: N texts, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from effnlp.evaluation.asking import ask_tables
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.sets import SetSource, check_fit, find_set, read_source
from effnlp.evaluation.subject import Subject, probabilities
from effnlp.task.folder import sets_in
from effnlp.task.reader import near
from effnlp.task.task import Task

NAME = "fairness/votes"

SETS = {"chaosnli": "snli"}
"""Sets of the data folder with votes in ``label_counts``, and which of their splits is read."""

OWN = "votes"
"""What the task's own validation texts are called among the sets."""


def votes(
    subject: Subject,
    root: str | None,
    sets: Sequence[str] | None = None,
    columns: Sequence[str] = ("label_counts",),
    at_least: int = 20,
) -> Measured:
    """Compare the model's probabilities with the share of annotators who chose each class.

    Args:
        root: Folder of data with the sets.
        sets: Of ``votes``, the task's own validation texts, and SETS; None: all that there are for the task.
        columns: Of the task's own votes: a column of lists of C counts, or a column of counts for each class,
            in their order.
        at_least: Contested or unanimous texts that their figures must rest on.

    Returns:
        For each set (the task's own is called ``votes``) ``<set>/cross_entropy`` and ``<set>/divergence`` in
        nats: the second is the first less the entropy of the votes, 0 for a model that says what all
        annotators say. For ``unanimous`` and ``contested`` texts ``<set>/<which>/accuracy`` (the predicted
        class is one that most annotators chose) and ``<set>/<which>/agreement`` (the share of annotators who
        chose the predicted class); and ``<set>/accuracy_gap``, unanimous less contested.
    """
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    notes: dict[str, Any] = {}
    for name, voted in choose(subject.task, sets, columns, root).items():
        if name == OWN:
            chances = probabilities(subject.logits["validation"])
        else:
            chances = probabilities(ask_tables(subject, [voted.table])[0])
        found, notes[name] = against_votes(chances, torch.from_numpy(voted.shares), at_least)
        values |= found.under(name).values
        absent |= found.under(name).absent
    subject.notes[NAME] = notes
    return Measured(values, absent)


def refuse(
    task: Task,
    root: str | None,
    sets: Sequence[str] | None = None,
    columns: Sequence[str] = ("label_counts",),
    at_least: int = 20,
) -> None:
    """Say before the training that there are no votes, or not those of this task's classes.

    Raises:
        ValueError: As :func:`choose`, or if ``at_least`` is below 1.
        FileNotFoundError: If the data folder does not have a set that is named.
    """
    if at_least < 1:
        raise ValueError(f"evaluation.fairness.votes.at_least must be at least 1, got {at_least}")
    choose(task, sets, columns, root)


class Voted(NamedTuple):
    """Texts, and the share of annotators for each class, (N, C) float64."""

    table: pd.DataFrame
    shares: np.ndarray


def choose(
    task: Task, sets: Sequence[str] | None, columns: Sequence[str], root: str | None
) -> dict[str, Voted]:
    """The votes that are compared with: of the sets that are named, else of all that fit the task.

    Raises:
        ValueError: If a name or a column is unknown, a column holds no counts, a named set does not fit the
            task, or there are no votes at all.
        FileNotFoundError: If a named set is not in the folder.
    """
    table = task.splits["validation"]
    missing = [column for column in columns if column not in table.columns]
    if sets is None:
        there = set(sets_in(root)) if root else set()
        fitting = [name for name in SETS if name in there and _fits(task, name, root)]
        sets = [*([] if missing else [OWN]), *fitting]
    elif isinstance(sets, str) or not sets or len(set(sets)) < len(sets):
        raise ValueError(f"evaluation/{NAME} needs a list of different sets, or null for all, got {sets!r}")
    elif unknown := [name for name in sets if name != OWN and name not in SETS]:
        known = [OWN, *SETS]
        raise ValueError(
            f"evaluation/{NAME} has no set {unknown[0]!r}{near(unknown[0], known)}; it has {', '.join(known)}"
        )
    if missing and (OWN in sets or not sets):
        raise ValueError(
            f"evaluation/{NAME}: {task.name} has no column {missing[0]!r} of votes"
            f"{near(missing[0], map(str, table.columns))}; it has {', '.join(map(repr, table.columns))}"
            + (
                ""
                if sets
                else f", and there is no set of the data folder with its classes ({', '.join(SETS)})"
            )
            + ". task=hate_offensive has votes; leave this choice out for tasks without"
        )
    return {
        name: Voted(table, vote_shares(table, columns, len(task.labels)))
        if name == OWN
        else _read(task, name, root)
        for name in sets
    }


def vote_shares(table: pd.DataFrame, columns: Sequence[str], classes: int) -> np.ndarray:
    """The share of annotators for each class, (N, C) float64; a row without votes is NaN.

    Raises:
        ValueError: If the columns hold no counts of so many classes; it names the row.
    """
    if len(columns) == 1:
        cells = table[columns[0]].tolist()
        wrong = [i for i, cell in enumerate(cells) if not (_is_list(cell) and len(cell) == classes)]
        if wrong:
            raise ValueError(
                f"votes in column {columns[0]!r} must be lists of {classes} counts, "
                f"got {cells[wrong[0]]!r} in row {wrong[0]}"
            )
        counts = np.array([list(cell) for cell in cells], dtype=object)
    elif len(columns) == classes:
        counts = table[list(columns)].to_numpy(dtype=object)
    else:
        raise ValueError(
            f"votes are one column of lists, or one column for each of {classes} classes, got {len(columns)}: "
            f"{', '.join(map(repr, columns))}"
        )
    try:
        numbers = counts.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"votes in {', '.join(map(repr, columns))} are no counts: {error}") from error
    if not (np.isfinite(numbers).all() and (numbers >= 0).all()):
        row = int(np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)).all(axis=1))[0])
        raise ValueError(f"votes must be counts of 0 or more, got {counts[row].tolist()} in row {row}")
    total = numbers.sum(axis=1, keepdims=True)
    return np.divide(numbers, total, out=np.full_like(numbers, np.nan), where=total > 0)


def against_votes(chances: Tensor, shares: Tensor, at_least: int) -> tuple[Measured, dict[str, Any]]:
    """The figures, and how many texts they rest on.

    Args:
        chances: Probabilities (N, C).
        shares: Of the annotators, (N, C); rows of NaN have no votes and are left out.
    """
    voted = ~shares.isnan().any(dim=1)
    chances, shares = chances[voted], shares[voted]
    if not len(shares):
        keys = ["cross_entropy", "divergence", "accuracy_gap", *_keys("unanimous"), *_keys("contested")]
        return Measured({}, dict.fromkeys(keys, "no text has votes")), {
            "texts": 0,
            "without_votes": len(voted),
        }
    predicted = chances.argmax(1, keepdim=True)  # (N, 1)
    agreeing = shares.gather(1, predicted).squeeze(1)  # (N,)
    most = shares.max(1).values
    # A probability that rounds to 0 has a finite logarithm.
    cross_entropy = -(shares * chances.clamp_min(torch.finfo(chances.dtype).tiny).log()).sum(1).mean()
    values = {
        "cross_entropy": float(cross_entropy),
        "divergence": float(cross_entropy - torch.special.entr(shares).sum(1).mean()),
    }
    absent: dict[str, str] = {}
    notes: dict[str, Any] = {"texts": len(shares), "without_votes": int((~voted).sum())}
    for which, mask in {"unanimous": most == 1, "contested": most < 1}.items():
        count = int(mask.sum())
        notes[which] = {"texts": count, "largest_share": float(most[mask].mean()) if count else None}
        if count < at_least:
            absent |= dict.fromkeys(
                _keys(which), f"{count} of {len(shares)} texts are {which}, fewer than {at_least}"
            )
            continue
        right = (agreeing == most)[mask]
        values |= dict(
            zip(_keys(which), (float(right.double().mean()), float(agreeing[mask].mean())), strict=True)
        )
    if absent:
        absent["accuracy_gap"] = next(iter(absent.values()))
    else:
        values["accuracy_gap"] = values["unanimous/accuracy"] - values["contested/accuracy"]
    return Measured(values, absent), notes


def _keys(which: str) -> list[str]:
    return [f"{which}/accuracy", f"{which}/agreement"]


def _is_list(cell: object) -> bool:
    return isinstance(cell, (list, tuple, np.ndarray))


def _mapping(task: Task, name: str, root: str | None) -> tuple[SetSource, dict[int, int]]:
    """A set, and its classes in terms of the task's: all of either."""
    source = find_set(root, name, SETS[name])
    mapping = check_fit(source, task)
    if not len(mapping) == len(task.labels) == len(source.label_names or ()):
        raise ValueError(
            f"evaluation/{NAME}: the votes of {name} are for {', '.join(source.label_names or ())}, "
            f"{task.name} has {', '.join(task.labels)}: every class needs its votes"
        )
    return source, mapping


def _fits(task: Task, name: str, root: str | None) -> bool:
    try:
        _mapping(task, name, root)
    except ValueError:
        return False
    return True


def _read(task: Task, name: str, root: str | None) -> Voted:
    """The texts of a set, and their votes in the order of the task's classes."""
    source, mapping = _mapping(task, name, root)
    table = read_source(source).table
    found = vote_shares(table, ["label_counts"], len(mapping))
    shares = np.empty_like(found)
    for theirs, ours in mapping.items():
        shares[:, ours] = found[:, theirs]
    return Voted(table, shares)
