"""What is to be learned: labelled texts in three splits, and how the splits came about."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Task:
    """A task: to tell the class of a text (or of a pair of texts), or to give it a number.

    Attributes:
        name: What the user calls it; two tasks of one name may still differ in ``fingerprint``.
        labels: Label names; a label in a table is an index into them. Empty: labels are numbers to be learned.
        splits: ``train``, ``validation`` and ``test``; each a table with the columns ``text`` (str),
            ``label`` (int64; float64 where labels are numbers) and, for pairs, ``text_pair`` (str), with a
            plain 0..n-1 index. Further columns are there to group texts by (annotators, topics, votes);
            nothing is learned from them, and they are no part of the fingerprint.
        recipe: For each split, in words, where it comes from ("validation: the tenth of train whose
            hash is lowest"). The recipe is part of the task's identity.
        is_language: Whether the texts themselves are learned, and labels are ignored. A view of the same task, and
            no part of the fingerprint.
        is_left_out: Whether nothing of its training split is learned; it is there to be evaluated. Such a view, too.
    """

    name: str
    labels: tuple[str, ...]
    splits: Mapping[str, pd.DataFrame]
    recipe: Mapping[str, str] = field(default_factory=dict)
    is_language: bool = False
    is_left_out: bool = False

    @property
    def is_pair(self) -> bool:
        """Whether examples are pairs of texts."""
        return "text_pair" in self.splits["train"].columns

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers to be learned, and not classes."""
        return not self.labels and not self.is_language

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the labels, the recipe and every text and label of every split, 16 hex digits."""
        digest = hashlib.sha256(json.dumps([list(self.labels), dict(self.recipe)], sort_keys=True).encode())
        for split in SPLITS:
            digest.update(split.encode())
            digest.update(table_fingerprint(self.splits[split]).encode())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the task below ``folder``: ``task.json`` and one Parquet file a split."""
        for split in SPLITS:
            self.splits[split].to_parquet(folder / f"{split}.parquet", index=False)
        description = {"name": self.name, "labels": list(self.labels), "recipe": dict(self.recipe)}
        (folder / "task.json").write_text(json.dumps(description, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Task":
        """Read what :meth:`save` wrote."""
        description = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        return cls(
            name=description["name"],
            labels=tuple(description["labels"]),
            splits={split: pd.read_parquet(folder / f"{split}.parquet") for split in SPLITS},
            recipe=description["recipe"],
        )


def table_fingerprint(table: pd.DataFrame) -> str:
    """SHA-256 of the texts and labels of a table, row by row, 64 hex digits."""
    digest = hashlib.sha256()
    columns = [column for column in ("text", "text_pair", "label") if column in table.columns]
    for row in table[columns].itertuples(index=False):
        digest.update(json.dumps([str(cell) for cell in row], ensure_ascii=False).encode())
    return digest.hexdigest()
