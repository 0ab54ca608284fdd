"""The pool: texts without labels, which a teacher labels for its student."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from effnlp.data.encodings import Encodings
from effnlp.data.examples import UNLABELLED, Examples
from effnlp.data.prepare import Prepared, load_task
from effnlp.task.reader import read_table
from effnlp.task.splits import check_texts, subset
from effnlp.task.task import Task

if TYPE_CHECKING:
    from effnlp.gathering import Around

KEY = "compression.distillation"


def pool_of(path: str | None, size: int, task: Task, around: "Around") -> pd.DataFrame | None:
    """The texts of the pool, without those that are in a split of the task; None where no pool is wanted.

    Args:
        path: A file with a column ``text`` (of pairs also ``text_pair``).
        size: Rows of the task's training split that ``task.train_size`` left out: those of smallest fixed hash, so
            that a smaller pool lies inside a larger one.

    Raises:
        ValueError: If there are too few such rows, or no text is left.
    """
    if path is None and size == 0:
        return None
    columns = ["text", "text_pair"] if task.is_pair else ["text"]
    rows = from_file(Path(path), columns) if path is not None else left_out(size, task, around)[columns]
    known = pd.concat([split[columns] for split in task.splits.values()])
    seen = set(known.itertuples(index=False, name=None))
    kept = [row not in seen for row in rows.itertuples(index=False, name=None)]
    if not any(kept):
        raise ValueError(f"{KEY}.pool: no text is left, all {len(rows)} are in a split of task {task.name}")
    return rows[kept].reset_index(drop=True)


def from_file(path: Path, columns: list[str]) -> pd.DataFrame:
    """The texts of a file.

    Raises:
        FileNotFoundError: If it is not there.
        TypeError: If a text is not text.
        ValueError: If it cannot be read, or lacks a column.
    """
    table = read_table(path)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"{KEY}.pool={path} has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}"
        )
    check_texts(table[columns], "the pool")
    return table[columns]


def left_out(size: int, task: Task, around: "Around") -> pd.DataFrame:
    """``size`` rows of the training split beyond ``task.train_size``.

    Raises:
        ValueError: If the task takes all of its rows, or too few are left.
    """
    taken = around.task.get("train_size")
    if taken is None:
        raise ValueError(
            f"{KEY}.pool_size={size} takes rows that task.train_size leaves out, and task {task.name} takes all"
        )
    whole = load_task({**around.task, "train_size": None}, around.fetch).splits["train"]
    if len(whole) < taken + size:
        raise ValueError(
            f"{KEY}.pool_size must be at most {len(whole) - taken}, the rows of train beyond "
            f"task.train_size={taken}, got {size}"
        )
    return subset(whole, taken + size).drop(index=subset(whole, taken).index)


def with_pool(data: Prepared, pool: pd.DataFrame | None) -> Prepared:
    """The data with the pool at the end of the training texts; from now on batches say which texts they hold."""
    train = data.examples["train"]
    if pool is None:
        return replace(data, examples={**data.examples, "train": replace(train, with_rows=True)})
    pairs = pool["text_pair"].tolist() if "text_pair" in pool.columns else None
    further = data.tokenizer.encode(pool["text"].tolist(), pairs)
    labels = np.concatenate([train.labels, np.full(len(pool), UNLABELLED)])
    table = pd.concat([data.train, pool.assign(label=UNLABELLED)], ignore_index=True)
    joined = Examples(Encodings.joined([train.encodings, further]), labels, with_rows=True)
    return replace(
        data,
        train=table,
        examples={**data.examples, "train": joined},
        sizes=[len(table)],
        labels_seen=len(train) if data.labels_seen is None else data.labels_seen,
    )
