"""A known data set by its name: from your data folder where EFFNLP_DATA names one, else from the hub.

A folder of data holds one folder a data set, with ``dataset.json`` (``label_names``, and for each of
``splits`` its ``file`` and ``sha256``) and one JSONL file a split, with ``text``, ``label`` (an index into
``label_names``, or a number where they are null) and, for pairs, ``text_pair``. Further columns that it describes
are kept, for groups of texts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from effnlp.task import hub as hub_task
from effnlp.task.folder import describe, sha256, verify
from effnlp.task.reader import pick_columns, read_table
from effnlp.task.splits import build_task
from effnlp.task.task import SPLITS, Task

ROLES = ("text", "text_pair", "label")
"""Columns that every task calls so."""

OR_FROM_THE_HUB = ". Set EFFNLP_DATA to another folder, or unset it to load from the hub"


def preset(
    name: str,
    root: str | None,
    hub: Mapping[str, Any],
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
) -> Task:
    """Load the data set ``name``.

    Args:
        name: Folder below ``root``, and name of the task.
        root: Folder of data; None or empty: load from the hub.
        hub: Parameters of :func:`effnlp.task.hub.hub`.
        train_size, validation_size, test_size: Rows to take by a fixed hash; None takes all.

    Raises:
        FileNotFoundError: If ``root`` does not have the data set; with what it has.
        ValueError: If a file is damaged (its SHA-256 is not the recorded one), or the rows make no task.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    if not root:
        chosen = {f"{split}_size": size for split, size in sizes.items()}
        return hub_task.hub(**{**hub, **chosen, "name": name})
    folder, description = Path(root).expanduser() / name, describe(root, name, OR_FROM_THE_HUB)
    names = description["label_names"]
    if not isinstance(names, list | None):
        raise ValueError(
            f"{name} below {root} is neither one classification task nor one of numbers: "
            f"its label_names are {names!r}"
        )
    tables, recipe = {}, {}
    for split in SPLITS:
        if split not in description["splits"]:
            continue
        file = folder / description["splits"][split]["file"]
        verify(file, description["splits"][split]["sha256"])
        pair = "text_pair" if "text_pair" in description["columns"] else None
        rows = read_table(file)
        further = [c for c in description["columns"] if c in rows.columns and c not in ROLES]
        table = pick_columns(rows, str(file), "text", pair, "label", further)
        tables[split] = table if names is None else _named(table, names, str(file))
        recipe[split] = f"split {split} of the local folder {name}"
    if "train" not in tables:
        raise ValueError(f"{folder} has no split train; it has {', '.join(description['splits'])}")
    return build_task(name, tables, recipe, sizes, labels=names, number=names is None)


def _named(table: pd.DataFrame, names: Sequence[str], where: str) -> pd.DataFrame:
    """The table with label names in place of indices.

    Raises:
        ValueError: If a label is no index.
    """
    wrong = table.index[~table["label"].isin(range(len(names)))]
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} of {where} has the label {table['label'].loc[wrong[0]]!r}, "
            f"which is no index into its {len(names)} label_names"
        )
    return table.assign(label=table["label"].map(lambda index: names[int(index)]).astype(object))


def source_version(name: str, root: str | None, hub: Mapping[str, Any], **_: object) -> str:
    """The recorded SHA-256 of the local files, or the version on the hub. Takes what :func:`preset` takes."""
    if not root:
        return hub_task.source_version(**hub)
    describe(root, name, OR_FROM_THE_HUB)
    folder = Path(root).expanduser() / name
    sizes = sorted((file.name, file.stat().st_size) for file in folder.iterdir())
    return f"local {sha256(folder / 'dataset.json')} {sizes}"
