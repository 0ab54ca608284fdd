"""What an evaluation is given: a deployed model, the texts that it was made from, and a metered way to ask it."""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from effnlp.cache import code_version, key_of
from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.meter import Meter
from effnlp.model.storage import Deployed
from effnlp.task.task import Task

Fetch = Callable[[str, str, Callable[[Path], None]], Path]
"""``fetch(kind, key, make)``: the folder of a cached entry."""

PRICED = ("seconds", "flops", "energy_joules")
"""What a part of the evaluation stage is charged by itself."""


@dataclass
class Price:
    """What something inside the evaluation stage cost, once it is over."""

    amounts: dict[str, float | None] = field(default_factory=dict)

    def measured(self) -> Measured:
        """Seconds, FLOPs and joules; what the stage lacks is absent."""
        return Measured.of(self.amounts, dict.fromkeys(PRICED, "the stage lacks it, too"))


@dataclass
class Subject:
    """A deployed model under evaluation.

    Attributes:
        deployed: The model, in evaluation mode and on its device, its tokenizer, labels, and whether it reads
            pairs.
        task: What it was trained for, with the texts of all splits.
        train: The training table after all filters.
        logits: Split (``validation`` always, ``test`` if it is evaluated) to logits (N, C), in the order of the
            task's table.
        predict: Examples to logits (N, C), counted into the meter.
        meter: Of the run; the stage ``evaluation`` is open.
        fetch: Of cached entries of this stage.
        notes: What is said in words goes here and into the record's notes.
    """

    deployed: Deployed
    task: Task
    train: pd.DataFrame
    logits: Mapping[str, Tensor]
    predict: Callable[[Examples], Tensor]
    meter: Meter
    fetch: Fetch
    notes: dict[str, Any] = field(default_factory=dict)

    def ask(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Logits (N, C) in float32 of texts that are in no split, or of pairs of them.

        Ids are cached by the content of the texts and of the tokenizer.

        Raises:
            ValueError: If the model reads pairs and gets single texts, or the other way round.
        """
        if (pairs is not None) != self.deployed.is_pair:
            kinds = (
                ("pairs of texts", "single texts")
                if self.deployed.is_pair
                else ("single texts", "pairs of texts")
            )
            raise ValueError(f"the model reads {kinds[0]}, the set has {kinds[1]}")
        encodings = self.encode(texts, pairs)
        return self.predict(Examples(encodings, np.zeros(len(encodings), dtype=np.int64)))

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of texts, from the cache if they were asked for before."""
        tokenizer = self.deployed.tokenizer
        digest = hashlib.sha256(pickle.dumps(tokenizer))
        for text in (*texts, *(pairs or ())):
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        code = code_version(type(tokenizer).__module__, "effnlp.data.encodings")
        key = key_of(digest.hexdigest(), len(texts), code)

        def make(folder: Path) -> None:
            tokenizer.encode(list(texts), list(pairs) if pairs is not None else None).save(folder / "set.npz")

        return Encodings.load(self.fetch("encoded_set", key, make) / "set.npz")

    def priced(self) -> AbstractContextManager[Price]:
        """What runs inside, as the open stage is charged for it."""
        return priced(self.meter)


@contextmanager
def priced(meter: Meter) -> Iterator[Price]:
    """What runs inside, as the stage ``evaluation``, which is open, is charged for it."""
    price, before = Price(), meter.costs()["evaluation"]
    yield price
    after = meter.costs()["evaluation"]
    for name in PRICED:
        now, then = getattr(after, name), getattr(before, name)
        price.amounts[name] = None if now is None else now - (then or 0.0)


def probabilities(logits: Tensor) -> Tensor:
    """(N, C) logits to probabilities, in float64."""
    return torch.softmax(logits.double(), dim=1)
