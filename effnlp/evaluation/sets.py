"""Evaluation sets of the data folder, with their labels mapped onto those of a task by name.

The folder is the one that :mod:`effnlp.task.preset` reads. A set here need not be a task: it may lack a
training split, have more columns, or name its labels split by split.
"""

import fnmatch
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from effnlp.task.folder import describe, verify
from effnlp.task.reader import near, read_table
from effnlp.task.task import Task

SYNONYMS = (
    ("negative", "neg"),
    ("positive", "pos"),
    ("entailment", "entails", "entailed"),
    ("contradiction", "contradicts", "contradictory"),
    ("not_entailment", "not_entailed", "non_entailment"),
    ("equivalent", "paraphrase", "duplicate", "is_duplicate"),
    ("not_equivalent", "not_paraphrase", "not_duplicate"),
    ("toxic", "toxicity"),
    ("nontoxic", "non_toxic", "not_toxic"),
    ("sci_tech", "science_and_technology", "science_technology", "scitech"),
)
"""Names of one and the same class, once they are in lower case with ``_`` for all that is no letter or digit."""

_CLASS_OF = {name: names[0] for names in SYNONYMS for name in names}

LARGEST_LEFT_OUT = 0.5
"""Share of a set's rows that may belong to classes which the task does not have."""


@dataclass(frozen=True)
class SetSource:
    """A split of a set, found but not read.

    Attributes:
        name: Folder of the set.
        label_names: Names of its labels; None if it has no classes.
        is_pair: Whether its rows are pairs of texts.
        file: Where the rows are.
        description: What ``dataset.json`` says.
    """

    name: str
    split: str
    label_names: tuple[str, ...] | None
    is_pair: bool
    file: Path
    description: Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of one split of a set.

    Attributes:
        table: Columns as in the file, with a plain 0..n-1 index; ``label`` is an index into ``label_names``.
        label_names: Names of the labels; None if the set has no classes.
        description: What ``dataset.json`` says.
        left_out: Reason to number of rows that are not in the table for it.
    """

    table: pd.DataFrame
    label_names: tuple[str, ...] | None
    description: Mapping[str, Any]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def only(self, keep: np.ndarray, reason: str) -> "EvaluationSet":
        """The rows that ``keep`` (N,) marks; the others are counted for ``reason``."""
        gone = int((~keep).sum())
        if not gone:
            return self
        left_out = {**self.left_out, reason: self.left_out.get(reason, 0) + gone}
        return replace(self, table=self.table[keep].reset_index(drop=True), left_out=left_out)


def describe_set(root: str | None, name: str) -> dict[str, Any]:
    """What ``dataset.json`` of a set says.

    Raises:
        ValueError: If there is no data folder, or the set's description is damaged.
        FileNotFoundError: If the folder does not have the set; with what it has.
    """
    if not root:
        raise ValueError(
            f"the evaluation set {name} is read from a folder of data: set EFFNLP_DATA, or the key root"
        )
    return describe(root, name)


def find_set(root: str | None, name: str, split: str) -> SetSource:
    """A split of a set, of which no more than the first row is read.

    Raises:
        ValueError: As :func:`describe_set`, or if the set has no such split.
        FileNotFoundError: If the set or its file is not there.
    """
    described = describe_set(root, name)
    splits = described["splits"]
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}{near(split, splits)}; it has {', '.join(splits)}")
    file = Path(str(root)).expanduser() / name / splits[split]["file"]
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}, which dataset.json names")
    names = _labels_of(described, split)
    return SetSource(name, split, names, "text_pair" in _first_row(file), file, described)


def read_set(root: str | None, name: str, split: str) -> EvaluationSet:
    """Read a split of a set of the folder ``root``.

    Raises:
        ValueError: As :func:`find_set`, or if the file's SHA-256 is not the recorded one.
        FileNotFoundError: If the set or its file is not there.
    """
    return read_source(find_set(root, name, split))


def read_source(source: SetSource) -> EvaluationSet:
    """The rows of a split that was found; raises as :func:`read_set`."""
    verify(source.file, source.description["splits"][source.split]["sha256"])
    table = read_table(source.file).reset_index(drop=True)
    return EvaluationSet(table, source.label_names, source.description)


def map_labels(of: Sequence[str], onto: Sequence[str], by_number: bool = False) -> dict[int, int]:
    """Index of a set's label to index of the task's label of the same name, or of a synonym.

    Args:
        of: Label names of the set.
        onto: Label names of the task.
        by_number: Whether a task whose labels are the numbers 0, 1, … means the set's labels in their order.
            Only a user who names the set can know.

    Returns:
        At least two entries. A class of the set that the task lacks has none.

    Raises:
        ValueError: If fewer than two classes have counterparts, or two have the same; it names both lists.
    """
    if by_number and list(onto) == [str(index) for index in range(len(of))]:
        return {index: index for index in range(len(of))}
    classes = {class_of(label): index for index, label in enumerate(onto)}
    mapped = {index: classes[class_of(label)] for index, label in enumerate(of) if class_of(label) in classes}
    if len(mapped) < 2 or len(set(mapped.values())) < len(mapped):
        raise ValueError(
            f"the labels {', '.join(of)} of the set do not map onto the labels {', '.join(onto)} of the task "
            "by name: at least two of them must be the same or known synonyms"
        )
    return mapped


def class_of(label: str) -> str:
    """The name of a label's class: case, punctuation and synonyms do not matter."""
    plain = re.sub(r"[\W_]+", "_", label.casefold()).strip("_")
    return _CLASS_OF.get(plain, plain)


def check_fit(source: SetSource, task: Task, by_number: bool = False) -> dict[int, int]:
    """The mapping of a set's labels onto a task's that has the same form.

    Raises:
        ValueError: If one has pairs of texts and the other single ones, or the labels do not map.
    """
    if source.is_pair != task.is_pair:
        kinds = {True: "pairs of texts", False: "single texts"}
        raise ValueError(f"{source.name} has {kinds[source.is_pair]}, {task.name} has {kinds[task.is_pair]}")
    if source.label_names is None:
        raise ValueError(f"{source.name} has no classes")
    return map_labels(source.label_names, task.labels, by_number)


def read_for_task(source: SetSource, task: Task, by_number: bool = False) -> EvaluationSet:
    """The rows of a set with the task's labels: columns ``label`` and ``label_changed`` are indices into them.

    Rows of classes that the task lacks are left out.

    Raises:
        ValueError: As :func:`check_fit` and :func:`read_source`, or if most rows would be left out.
    """
    mapping = check_fit(source, task, by_number)
    found = read_source(source)
    table = found.table.copy()
    for column in table.columns.intersection(["label", "label_changed"]):
        table[column] = table[column].map(mapping)
    labels = table[table.columns.intersection(["label", "label_changed"])]
    known = labels.notna().all(axis=1).to_numpy()
    if (~known).mean() > LARGEST_LEFT_OUT:
        raise ValueError(
            f"{(~known).sum()} of the {len(known)} rows of {source.name} have labels that {task.name} lacks: "
            f"the set has {', '.join(source.label_names or ())}, the task has {', '.join(task.labels)}"
        )
    fitted = replace(found, table=table, label_names=task.labels).only(known, "of a class the task lacks")
    return replace(fitted, table=fitted.table.astype(dict.fromkeys(labels.columns, "int64")))


TRAINED_ON = "in the task's training split"
"""Why a row is left out that a model may have seen."""


def without_training_texts(
    found: EvaluationSet, task: Task, together: str | None = None, columns: Sequence[Sequence[str]] = ()
) -> EvaluationSet:
    """Leave out rows with a text (for pairs, a pair) that the task's training split has.

    Texts are the same if their letters and digits are, in any case: sets differ in how they cut tokens.

    Args:
        together: Column whose equal values hold rows together: if one row goes, all go. An edit of a text
            that was trained on measures memory, too.
        columns: Which columns make a text; each entry is looked up. By default ``text``, or ``text`` and
            ``text_pair``.
    """
    kinds = columns or [["text", "text_pair"] if task.is_pair else ["text"]]
    train = task.splits["train"]
    seen = set(_plain(train[column] for column in (["text", "text_pair"] if task.is_pair else ["text"])))
    known = np.zeros(len(found.table), dtype=bool)
    for kind in kinds:
        known |= np.array([key in seen for key in _plain(found.table[column] for column in kind)], dtype=bool)
    if together is not None:
        known |= found.table[together].isin(found.table.loc[known, together].dropna()).to_numpy()
    return found.only(~known, TRAINED_ON)


def _plain(columns: Iterable[Iterable[Any]]) -> list[str]:
    """One key a row. A text without a letter or digit is itself."""
    return [
        "\0".join(re.sub(r"[\W_]+", "", str(text).casefold()) or str(text) for text in row)
        for row in zip(*columns, strict=True)
    ]


def _labels_of(described: Mapping[str, Any], split: str) -> tuple[str, ...] | None:
    """Label names of a split: a list for all, or a mapping from splits or patterns of them to lists."""
    names = described.get("label_names")
    if isinstance(names, Mapping):
        names = next((names[key] for key in names if fnmatch.fnmatchcase(split, key)), None)
    return tuple(str(name) for name in names) if names else None


def _first_row(file: Path) -> dict[str, Any]:
    """The first row of a JSONL file."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open() as lines:
            row: dict[str, Any] = json.loads(next(lines))
    except (OSError, EOFError, ValueError, StopIteration) as error:
        raise ValueError(f"{file} is damaged: its first line cannot be read ({error})") from error
    return row
