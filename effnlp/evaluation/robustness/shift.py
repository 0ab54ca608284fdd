"""Shift: how well a model does on another task with the same labels, from another source of texts.

Source: Hendrycks et al. (2020), https://arxiv.org/abs/2004.06100
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from effnlp.evaluation.asking import ask_tables, right, share_interval, validation_accuracy
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.offers import ADVERSARIAL, CONSISTENCY, CONTRAST, Offer, choose_sets
from effnlp.evaluation.sets import SetSource, describe_set, read_for_task, without_training_texts
from effnlp.evaluation.subject import Subject
from effnlp.task.folder import sets_in
from effnlp.task.splits import subset
from effnlp.task.task import Task

NAME = "robustness/shift"

NOT_TASKS = {
    offer.name: choice
    for choice, offers in (("contrast", CONTRAST), ("adversarial", ADVERSARIAL), ("consistency", CONSISTENCY))
    for offer in offers.values()
}
"""Set to the other choice that evaluates it, as what it is."""


def shift(
    subject: Subject, root: str | None, tasks: Sequence[str] | None = None, limit: int = 2000
) -> Measured:
    """Accuracy on the test texts of other tasks, and what is lost to the task's own validation texts.

    Args:
        root: Folder of data.
        tasks: Data sets of the folder; None: all whose labels map onto those of the task.
        limit: Largest number of texts of each, taken by a fixed hash.

    Returns:
        For each data set ``<set>/accuracy`` and ``<set>/drop``: accuracy on validation less accuracy there.
    """
    found = {}
    for key, source in _choose(subject.task, tasks, limit, root).items():
        whole = read_for_task(source, subject.task, by_number=tasks is not None)
        some = replace(whole, table=subset(whole.table, limit).reset_index(drop=True))
        found[key] = without_training_texts(some, subject.task)
    own = validation_accuracy(subject)
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    notes = subject.notes.setdefault(NAME, {})
    answers = ask_tables(subject, [each.table for each in found.values()])
    for (key, each), logits in zip(found.items(), answers, strict=True):
        notes[key] = {"examples": len(each.table), "left_out": dict(each.left_out)}
        if each.table.empty:
            why = "every text is in the task's training split"
            absent |= {f"{key}/accuracy": why, f"{key}/drop": why}
            continue
        is_right = right(logits, each.table["label"])
        notes[key]["accuracy_interval"] = share_interval(is_right)
        there = float(is_right.mean())
        values |= {f"{key}/accuracy": there, f"{key}/drop": own - there}
    return Measured(values, absent)


def offered_tasks(root: str | None, besides: str) -> Mapping[str, Offer]:
    """Classification sets with a test or validation split, besides the named one and those of other choices."""
    offers = {}
    for name in sets_in(root) if root else []:
        described = describe_set(root, name)
        if not isinstance(described.get("label_names"), list) or not {"text", "label"} <= set(
            described["columns"]
        ):
            continue
        splits = described["splits"]
        split = next((one for one in splits if one == "test"), None) or next(
            (one for one in splits if one.startswith("validation")), None
        )
        if split and name != besides and name not in NOT_TASKS:
            offers[name] = Offer(name, split)
    return offers


def _choose(task: Task, tasks: Sequence[str] | None, limit: int, root: str | None) -> dict[str, SetSource]:
    if limit < 1:
        raise ValueError(f"limit of evaluation/{NAME} must be at least 1, got {limit}")
    others = [name for name in tasks or () if name in NOT_TASKS]
    if others:
        choice = NOT_TASKS[others[0]]
        raise ValueError(
            f"{others[0]} is no other task but a set of evaluation/robustness/{choice}: choose that"
        )
    return choose_sets(NAME, offered_tasks(root, task.name), tasks, task, root)


def refuse(task: Task, root: str | None, tasks: Sequence[str] | None = None, limit: int = 2000) -> None:
    """Raise a ValueError if no other task, or not one that was named, has the labels of the task."""
    _choose(task, tasks, limit, root)
