"""The predictions of a run, kept beside its record: whoever compares two runs needs no model."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FILE = "predictions.npz"


class Predictions(NamedTuple):
    """Of one split, in the order of the task's table: ``logits`` (N, C) float32 and ``labels`` (N,) int64.

    Where a number is predicted, C is 1 and ``labels`` are floats. Where next tokens are, C is 2, nats and tokens of
    each text, and ``labels`` are floats, the bytes of it that were read.
    """

    logits: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, logits: "Tensor", labels: "Tensor | np.ndarray") -> "Predictions":
        """From what a model gave, wherever it lies."""
        return cls(logits.detach().float().cpu().numpy(), _widened(np.asarray(labels)))

    @property
    def are_numbers(self) -> bool:
        """Whether what is predicted is no class."""
        return bool(np.issubdtype(self.labels.dtype, np.floating))

    @property
    def are_of_language(self) -> bool:
        """Whether they say what texts cost."""
        return self.are_numbers and self.logits.shape[1] == 2


def save_predictions(folder: Path, splits: Mapping[str, Predictions]) -> None:
    """Write ``predictions.npz``, whole. Logits of classes are rounded to half precision, larger
    ones than it has to its end; predicted numbers are kept in float32.

    What the file has of other splits stays.

    Args:
        splits: ``val`` or ``test``, as record keys begin.
    """
    arrays: dict[str, np.ndarray] = {}
    if (folder / FILE).exists():
        arrays |= {
            key: array
            for name, split in load_predictions(folder).items()
            for key, array in _arrays(name, split)
        }
    arrays |= {key: array for name, split in splits.items() for key, array in _arrays(name, split)}
    beside = folder / f".{FILE}.{os.getpid()}"
    try:
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(beside, folder / FILE)
    finally:
        beside.unlink(missing_ok=True)


def load_predictions(folder: Path) -> dict[str, Predictions]:
    """Split to predictions.

    Raises:
        FileNotFoundError: If the run left none: it did not end, or was made by an effnlp that kept none.
        ValueError: If the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {FILE}: its run has not ended, or kept no predictions")
    try:
        with np.load(path) as arrays:
            names = sorted({key.partition("/")[0] for key in arrays.files})
            return {
                name: Predictions(
                    arrays[f"{name}/logits"].astype(np.float32), _widened(arrays[f"{name}/labels"])
                )
                for name in names
            }
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


LARGEST = float(np.finfo(np.float16).max)


def _arrays(name: str, split: Predictions) -> list[tuple[str, np.ndarray]]:
    logits, labels = split
    if split.are_numbers:
        labels = labels.astype(np.float32)
    else:
        logits = logits.clip(-LARGEST, LARGEST).astype(np.float16)
        labels = labels.astype(np.int32)
    return [(f"{name}/logits", logits), (f"{name}/labels", labels)]


def _widened(labels: np.ndarray) -> np.ndarray:
    return labels if np.issubdtype(labels.dtype, np.floating) else labels.astype(np.int64)
