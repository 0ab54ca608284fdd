"""What a model that is put to use takes on this machine: the scenarios of a run, on what is really deployed.

Legend: N texts.
"""

import importlib
import inspect
import json
import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.evaluation import scenarios as package
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.quiet import QuietLock
from effnlp.evaluation.requests import spread
from effnlp.menu import suggest
from effnlp.model.packaged import Packaged
from effnlp.record import Record

log = logging.getLogger(__name__)

Scenario = Callable[..., Measured]

TEXTS = 512
"""How many texts are drawn from those that there are."""


class Answering(nn.Module):
    """Anything that answers batches as a module, which the scenarios take."""

    def __init__(self, answer: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self._answer = answer

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        return self._answer(batch)


@dataclass(frozen=True)
class Read:
    """The texts that are timed.

    Attributes:
        words: Where they are from.
    """

    encodings: Encodings
    words: str

    @property
    def said(self) -> str:
        """How many and how long, in words."""
        lengths = self.encodings.lengths
        return (
            f"{len(lengths)} {self.words}, {int(np.median(lengths))} tokens (median), {lengths.max()} at most"
        )


def scenario_names() -> list[str]:
    """The scenarios in which texts are answered; those that want a task of a certain kind (``refuse``) are not."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [name for name in names if not hasattr(_module(name), "refuse")]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{package.__name__}.{name}")


def scenario(name: str) -> Scenario:
    """A scenario by its name.

    Raises:
        ValueError: If there is none; names a near match.
    """
    if name not in scenario_names():
        raise ValueError(f"there is no scenario {name!r}{suggest(name, scenario_names())}")
    found: Scenario = getattr(_module(name), name)
    return found


def measure(
    model: Packaged, read: Read, names: Sequence[str], settings: Mapping[str, Any], quiet: QuietLock | None
) -> dict[str, Measured]:
    """What each scenario measures; FLOPs are not counted again.

    Args:
        settings: Parameters of the scenarios; one that has no such parameter goes without.
    """
    answering = model.answer if isinstance(model.answer, nn.Module) else Answering(model.answer)
    found = {}
    for name in names:
        method = scenario(name)
        known = inspect.signature(method).parameters
        given = {key: value for key, value in settings.items() if key in known}
        found[name] = method(answering, read.encodings, flops=False, latency=True, quiet=quiet, **given)
    return found


def made_up(lengths: Sequence[int], model: Packaged) -> Encodings:
    """Texts of these lengths in tokens, at most the longest that the model reads, of random ids."""
    tokenizer = model.tokenizer
    sample = tokenizer.encode(["a text"], ["a text"] if model.is_pair else None)
    draw = np.random.default_rng(0)
    cut = [min(max(int(length), 1), int(tokenizer.max_length)) for length in lengths]
    rows = [draw.integers(0, int(tokenizer.vocabulary_size), length).tolist() for length in cut]
    types = None if sample.type_ids is None else [[int(2 * i >= n) for i in range(n)] for n in cut]
    return Encodings.from_lists(rows, sample.pad_id, types)


def encoded(model: Packaged, texts: Sequence[str], pairs: Sequence[str] | None) -> Encodings:
    """At most :data:`TEXTS` of these texts, evenly spread, as the model reads them.

    Raises:
        ValueError: If there are none.
    """
    if not len(texts):
        raise ValueError("there is no text to time")
    chosen = spread(len(texts), TEXTS)
    partners = None if pairs is None else [pairs[i] for i in chosen]
    found: Encodings = model.tokenizer.encode([texts[i] for i in chosen], partners)
    return found


def versions(model: Packaged) -> dict[str, str]:
    """What computes the answers, with its version."""
    if model.runtime == "onnxruntime":
        import onnxruntime

        return {"onnxruntime": str(onnxruntime.__version__)}
    return {"torch": str(torch.__version__)}


def stored_bytes(folder: Path) -> int:
    """Bytes of the files that the model of a folder is read from."""
    names = ("deployed.pt", "delta.safetensors")
    if (folder / "model.json").is_file():
        names = tuple(json.loads((folder / "model.json").read_text(encoding="utf-8"))["files"])
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file())


def own_texts(folder: Path) -> tuple[list[str], list[str] | None] | None:
    """The texts of the validation split of the task that the record of a folder names; None if they are not here."""
    config = _config(folder)
    if "task" not in config:
        return None
    from effnlp.cache import fetch
    from effnlp.data.prepare import as_learned, load_task

    def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
        def priced(path: Path) -> dict[str, float]:
            make(path)
            return {}

        return fetch(kind, key, priced).folder

    try:
        task = as_learned(load_task(config["task"], cached), config["finetuning"])
    except Exception as error:  # data that are gone, changed or unreadable: other texts can be named
        log.warning("the texts of the task cannot be read: %s", error)
        return None
    table = task.splits["validation"]
    return table["text"].tolist(), table["text_pair"].tolist() if task.is_pair else None


def _config(folder: Path) -> Mapping[str, Any]:
    """The config of the run that a folder is of or from; empty where it is not known."""
    if (folder / "record.json").is_file():
        return Record.load(folder).config
    if (folder / "model.json").is_file():
        record = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("record") or {}
        config: Mapping[str, Any] = record.get("config", {})
        return config
    return {}
