"""The model that a run kept, with the texts of its task."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from effnlp.cache import fetch
from effnlp.data.encodings import Batch, Encodings
from effnlp.data.prepare import as_learned, load_task
from effnlp.model.storage import Deployed
from effnlp.reproduce.cells import Run
from effnlp.task.task import Task

FILE = "deployed.pt"


@dataclass(frozen=True)
class Kept:
    """What a run deployed, and what it was made for.

    Attributes:
        task: As it was learned.
    """

    deployed: Deployed
    task: Task

    @classmethod
    def of(cls, run: Run) -> "Kept":
        """Of a completed run.

        Raises:
            ValueError: If its model was not kept.
        """
        path = run.folder / FILE
        if not path.is_file():
            raise ValueError(f"{run.folder} has no {FILE}: its row must be run with keep_model=true")
        task = load_task(run.record.config["task"], from_cache)
        return cls(Deployed.load(path), as_learned(task, run.record.config["finetuning"]))

    @property
    def model(self) -> nn.Module:
        """In evaluation mode."""
        model: nn.Module = self.deployed.model.eval()
        return model

    def batches(
        self, split: str, most: int | None = None, batch_size: int = 32, by_length: bool = True
    ) -> Iterator[Batch]:
        """The first ``most`` texts of a split (None: all) with their labels.

        Args:
            by_length: Those of like length together, the longest first; else as they come.
        """
        table = self.task.splits[split][:most]
        pairs = table["text_pair"].tolist() if self.task.is_pair else None
        ids: Encodings = self.deployed.tokenizer.encode(table["text"].tolist(), pairs)
        order = np.argsort(-ids.lengths, kind="stable") if by_length else np.arange(len(ids))
        labels = table["label"].to_numpy()
        for start in range(0, len(order), batch_size):
            yield ids.batch(order[start : start + batch_size].tolist(), labels)


def from_cache(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """A cached entry, charged to nobody."""

    def free(path: Path) -> Mapping[str, float]:
        make(path)
        return {}

    return fetch(kind, key, free).folder
