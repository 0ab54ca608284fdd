"""The data stage: the task, its filters, the model's tokenizer, and the ids of every split.

Each result is cached by its content; see :mod:`effnlp.cache`.
"""

import hashlib
import importlib
import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.utils import instantiate

from effnlp.cache import code_version, key_of
from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples
from effnlp.data.table import Filtered
from effnlp.model.classifier import ModelChoice, Tokenizer
from effnlp.task.companions import companion_configs, named, refuse_companions
from effnlp.task.task import SPLITS, Task, table_fingerprint

log = logging.getLogger(__name__)

Fetch = Callable[[str, str, Callable[[Path], None]], Path]
"""``fetch(kind, key, make)``: the folder of a cached entry, its cost charged to the run."""


@dataclass(frozen=True)
class Companion:
    """A further task that is learned by the same model.

    Attributes:
        validation: Ids and labels of its validation split; its own labels, from 0 on.
    """

    task: Task
    validation: Examples


@dataclass(frozen=True)
class Prepared:
    """What the data stage makes.

    Attributes:
        task: The run's own, whose validation split selects and whose quality is the run's.
        train: The training table after all filters. With companions, theirs follow that of the run's own task, and
            their labels are counted on from those of the tasks before.
        examples: Ids and labels of each split; validation and test are those of the run's own task.
        removed: Filter to the number of training texts it removed.
        reasons: Filter to its most frequent reasons, each with a count.
        labels_seen: How many labels of training texts are looked at; None: all of them, if labels are learned.
        sizes: Rows of each task in ``train``, in their order.
        companions: Further tasks by name.
    """

    task: Task
    train: pd.DataFrame
    tokenizer: Tokenizer
    examples: Mapping[str, Examples]
    removed: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]
    sizes: Sequence[int] = ()
    companions: Mapping[str, Companion] = field(default_factory=dict)
    labels_seen: int | None = None

    @property
    def tasks(self) -> list[Task]:
        """The run's own task, then its companions."""
        return [self.task, *(companion.task for companion in self.companions.values())]

    @property
    def classes(self) -> int:
        """Outputs of a model of all tasks: their classes, or one number."""
        return sum(len(task.labels) for task in self.tasks) or 1

    def tables(self) -> list[pd.DataFrame]:
        """The training table of each task."""
        ends = np.cumsum(self.sizes)
        return [
            self.train.iloc[end - size : end].reset_index(drop=True)
            for end, size in zip(ends, self.sizes, strict=True)
        ]

    def values(self) -> dict[str, float]:
        """Record keys below ``data/``."""
        train = self.examples["train"].encodings
        labels = len(train) if self.labels_seen is None else self.labels_seen
        labels = 0 if self.task.is_language else labels
        counts = {f"data/filter/{name}/removed": float(count) for name, count in self.removed.items()}
        return counts | {
            "data/examples": float(len(train)),
            "data/labels": float(labels),
            "data/tokens": float(train.lengths.sum()),
            "data/truncated": float(train.truncated),
            "data/validation_examples": float(len(self.examples["validation"])),
            "data/test_examples": float(len(self.examples["test"])),
        }


def load_task(config: Mapping[str, Any], fetch: Fetch) -> Task:
    """The task that a config of the group ``task`` names."""
    module_name = str(config["_target_"]).rpartition(".")[0]
    module = importlib.import_module(module_name)
    parameters = {key: value for key, value in config.items() if not key.startswith("_")}
    source = module.source_version(**parameters)
    code = code_version(
        module_name, "effnlp.task.splits", "effnlp.task.task", "effnlp.task.reader", "effnlp.task.hub"
    )
    make_task = instantiate(config, _convert_="all")

    def make(folder: Path) -> None:
        make_task().save(folder)

    return Task.load(fetch("task", key_of(parameters, source, code), make))


def as_learned(task: Task, finetuning: Mapping[str, Any]) -> Task:
    """The task as a config of the group ``finetuning`` takes it: its module may have a function ``view(task)``."""
    module = importlib.import_module(str(finetuning["_target_"]).rpartition(".")[0])
    return module.view(task) if hasattr(module, "view") else task


def load_companions(finetuning: Mapping[str, Any], task: Task, fetch: Fetch) -> list[Task]:
    """The tasks that a config of the group ``finetuning`` names beside the run's own, if it does.

    Raises:
        ValueError: If they are not there, or cannot be learned together (:mod:`effnlp.task.companions`).
    """
    configs = companion_configs(finetuning.get("with_tasks"))
    companions = [named(load_task(config, fetch), name) for name, config in configs.items()]
    module = importlib.import_module(str(finetuning["_target_"]).rpartition(".")[0])
    if hasattr(module, "companion_view"):
        companions = [module.companion_view(companion) for companion in companions]
    refuse_companions(task, companions)
    return companions


def prepare_data(
    task: Task,
    filters: Mapping[str, Mapping[str, Any]],
    model_config: Mapping[str, Any],
    model: ModelChoice,
    fetch: Fetch,
    companions: Sequence[Task] = (),
    tokenizer: Tokenizer | None = None,
) -> Prepared:
    """Filter the training split, learn or load the tokenizer, turn every split into ids.

    Args:
        filters: The stack ``data.filter``: name to config, in the order in which they apply. Each task is filtered
            by itself: a text that two of them share is in both.
        model_config: The config of the group ``model``, for the cache key.
        companions: Tasks that are learned beside it. The tokenizer is learned from the training texts of all.
        tokenizer: One that is there already, in place of that of ``model``.

    Raises:
        ValueError: If the filters leave no training text, or not one of some class that is to be learned.
    """
    tasks = [task, *companions]
    filtered = [_filtered(one, filters, fetch) for one in tasks]
    tables = [table for table, _ in filtered]
    train = _joined(tables, [len(one.labels) for one in tasks])
    tokenizer, encodings, further = _encode(task, train, companions, model_config, model, fetch, tokenizer)
    own = {"train": train, "validation": task.splits["validation"], "test": task.splits["test"]}
    return Prepared(
        task=task,
        train=train,
        tokenizer=tokenizer,
        examples={
            split: Examples(encodings[split], _labels(task, own[split], tokenizer, encodings[split]))
            for split in SPLITS
        },
        removed={name: sum(said[name]["removed"] for _, said in filtered) for name in filters},
        reasons={
            name: dict(sum((Counter(said[name]["reasons"]) for _, said in filtered), Counter()))
            for name in filters
        },
        sizes=[len(table) for table in tables],
        companions={
            one.name: Companion(one, Examples(ids, _labels(one, one.splits["validation"], tokenizer, ids)))
            for one, ids in zip(companions, further, strict=True)
        },
    )


def encoded_by(data: Prepared, tokenizer: Tokenizer) -> Prepared:
    """The same data with the ids of another tokenizer."""
    tables = {split: data.train if split == "train" else data.task.splits[split] for split in SPLITS}
    examples = {}
    for split, table in tables.items():
        pairs = table["text_pair"].tolist() if data.task.is_pair else None
        encodings = tokenizer.encode(table["text"].tolist(), pairs)
        examples[split] = Examples(encodings, _labels(data.task, table, tokenizer, encodings))
    return replace(data, tokenizer=tokenizer, examples=examples)


def _filtered(
    task: Task, filters: Mapping[str, Mapping[str, Any]], fetch: Fetch
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The training table of one task after all filters, and what each of them said."""
    if task.is_left_out:
        return task.splits["train"].iloc[:0], {name: {"removed": 0, "reasons": {}} for name in filters}
    folder = fetch("filtered", _filter_key(task, filters), lambda path: _filter(task, filters, path))
    train = pd.read_parquet(folder / "train.parquet")
    said = json.loads((folder / "removed.json").read_text(encoding="utf-8"))
    gone = [name for i, name in enumerate(task.labels) if not (train["label"] == i).any()]
    if gone and not task.is_language:
        raise ValueError(
            f"after data/filter={'+'.join(filters)} no training text is left of class {gone[0]!r}"
            f" ({len(train)} texts in all)"
        )
    return train, said


def _joined(tables: Sequence[pd.DataFrame], classes: Sequence[int]) -> pd.DataFrame:
    """All tables one after another, labels counted on; further columns are those of the first."""
    if len(tables) == 1:
        return tables[0]
    starts = np.cumsum([0, *classes])
    columns = [name for name in ("text", "text_pair", "label") if name in tables[0].columns]
    later = [
        table[columns].assign(label=table["label"] + start)
        for table, start in zip(tables[1:], starts[1:], strict=False)
    ]
    return pd.concat([tables[0], *later], ignore_index=True)


def _labels(task: Task, table: pd.DataFrame, tokenizer: Any, encodings: Encodings) -> np.ndarray:
    """(N,) what the answers of a model are held against; of texts, how many of their bytes are read."""
    if task.is_language:
        lengths = tokenizer.byte_lengths()
        given = encodings.ids[encodings.offsets[:-1]]  # (N,) the first token of each text is not predicted
        return (encodings.totals(lengths) - lengths[given]).astype(np.float64)
    return table["label"].to_numpy(np.float64 if task.is_regression else np.int64)


def _filter_key(task: Task, filters: Mapping[str, Mapping[str, Any]]) -> str:
    modules = [str(config["_target_"]).rpartition(".")[0] for config in filters.values()]
    return key_of(
        task.fingerprint,
        list(filters.items()),
        code_version(*modules, "effnlp.data.table", "effnlp.data.duplicates"),
    )


def _filter(task: Task, filters: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    table = task.splits["train"]
    said: dict[str, Any] = {}
    for name, config in filters.items():
        outcome: Filtered = instantiate(config, _convert_="all")(table)
        kinds = Counter(str(reason).split(" row ")[0] for reason in outcome.reasons)
        said[name] = {"removed": outcome.removed, "reasons": dict(kinds.most_common(5))}
        table = outcome.table
        if len(table) == 0:
            raise ValueError(f"data/filter={name} removed every training text")
    table.reset_index(drop=True).to_parquet(folder / "train.parquet", index=False)
    (folder / "removed.json").write_text(json.dumps(said), encoding="utf-8")


def _encode(
    task: Task,
    train: pd.DataFrame,
    companions: Sequence[Task],
    model_config: Mapping[str, Any],
    model: ModelChoice,
    fetch: Fetch,
    ready: Tokenizer | None,
) -> tuple[Tokenizer, dict[str, Encodings], list[Encodings]]:
    """The tokenizer, the ids of each split, and those of the validation split of each companion."""
    module = type(ready).__module__ if ready else str(model_config["_target_"]).rpartition(".")[0]
    settings: Any = {name: model_config.get(name) for name in model.tokenizer_keys}
    if ready is not None:
        settings = hashlib.sha256(pickle.dumps(ready)).hexdigest()
    code = code_version(module, "effnlp.data.encodings", "effnlp.model.subwords", "effnlp.model.ngrams")
    tables = {split: train if split == "train" else task.splits[split] for split in SPLITS}
    tables |= {f"companion-{i}": one.splits["validation"] for i, one in enumerate(companions)}
    others = [table_fingerprint(table) for name, table in tables.items() if name != "train"]

    def make(folder: Path) -> None:
        tokenizer = ready or model.tokenizer(train)
        for name, table in tables.items():
            pairs = table["text_pair"].tolist() if task.is_pair else None
            tokenizer.encode(table["text"].tolist(), pairs).save(folder / f"{name}.npz")
        (folder / "tokenizer.pickle").write_bytes(pickle.dumps(tokenizer))

    folder = fetch("encoded", key_of(module, settings, table_fingerprint(train), others, code), make)
    tokenizer = pickle.loads((folder / "tokenizer.pickle").read_bytes())
    ids = {name: Encodings.load(folder / f"{name}.npz") for name in tables}
    return tokenizer, {split: ids.pop(split) for split in SPLITS}, list(ids.values())
