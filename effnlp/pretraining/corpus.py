"""The texts that a model is pre-trained on, and what tells them from others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from effnlp.data.prepare import Fetch, load_task
from effnlp.task.folder import describe, verify
from effnlp.task.reader import read_table
from effnlp.task.task import Task, table_fingerprint

DOCSTRINGS = "docstrings"
OWN_TASK = "task"
MIN_TEXTS = 20
"""Fewer documents than this leave nothing to hold out."""


@dataclass(frozen=True)
class Corpus:
    """Documents of one or several sources, only ever of their training splits.

    Attributes:
        texts: One document each; sources in the order in which they were named.
        fingerprints: Source to what changes when its documents do.
    """

    texts: Sequence[str]
    fingerprints: Mapping[str, str]


def read_corpus(names: Sequence[str], root: str | None, task: Task, fetch: Fetch) -> Corpus:
    """The training texts of all sources.

    Args:
        names: ``docstrings`` (the documentation of the installed Python), ``task`` (the texts of the run's own task,
            of pairs both, before any filter), or folders of data below ``root``.
        root: Folder of data.

    Raises:
        ValueError: If no source is named, one twice, one that needs ``root`` without it, or if all together have
            fewer than MIN_TEXTS documents.
        FileNotFoundError: If ``root`` does not have a source.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"pretraining.corpus must be a list with at least one source, got {names!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"pretraining.corpus names a source twice: {', '.join(names)}")
    tables = {name: _table(name, root, task, fetch) for name in names}
    texts = [
        text
        for table in tables.values()
        for column in ("text", "text_pair")
        if column in table.columns
        for text in table[column]
        if text.strip()
    ]
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"pretraining.corpus={list(names)} has {len(texts)} documents; it needs at least {MIN_TEXTS}"
        )
    return Corpus(texts, {name: table_fingerprint(table) for name, table in tables.items()})


def _table(name: str, root: str | None, task: Task, fetch: Fetch) -> pd.DataFrame:
    if name == OWN_TASK:
        return task.splits["train"]
    if name == DOCSTRINGS:
        target = {"_target_": "effnlp.task.docstrings.docstrings", "_partial_": True}
        return load_task(target, fetch).splits["train"]
    if not root:
        raise ValueError(
            f"pretraining.corpus names the folder {name!r}, and no folder of data is known: set EFFNLP_DATA, "
            f"or name {DOCSTRINGS} or {OWN_TASK}"
        )
    described = describe(root, name, f"; or name {DOCSTRINGS} or {OWN_TASK}")
    if "train" not in described["splits"]:
        raise ValueError(
            f"pretraining.corpus={name} has no split train; it has {', '.join(described['splits'])}"
        )
    file = Path(root).expanduser() / name / described["splits"]["train"]["file"]
    verify(file, described["splits"]["train"]["sha256"])
    rows = read_table(file)
    return rows[[column for column in ("text", "text_pair") if column in rows.columns]]
