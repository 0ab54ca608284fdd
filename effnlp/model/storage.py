"""How many bytes a model takes where it is stored, and how the deployed form is written and read."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effnlp.model import sparse


def save_whole(thing: Any, path: Path) -> None:
    """``torch.save`` beside ``path``, then rename into place: a kill or a full disk leaves the old file whole.

    Raises:
        OSError: If it cannot be written. By itself torch says of a full disk ``unexpected pos 576 vs 534``.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            torch.save(thing, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@dataclass
class Deployed:
    """What is deployed: the model with all that it needs to read texts.

    Attributes:
        model: Maps a batch to logits.
        tokenizer: Maps texts to ids.
        labels: Names of the classes.
    """

    model: nn.Module
    tokenizer: Any
    labels: Sequence[str]

    def save(self, path: Path) -> None:
        """Write one file, whole; see :func:`save_whole`."""
        save_whole(self, path)

    @classmethod
    def load(cls, path: Path) -> "Deployed":
        """Read what :meth:`save` wrote. The file holds code by reference: load only what you trust."""
        loaded = torch.load(path, weights_only=False)
        if not isinstance(loaded, cls):
            raise TypeError(f"{path} holds a {type(loaded).__name__}, not a deployed model")
        return loaded


def stored_bytes(model: nn.Module, only: frozenset[str] | None = None) -> int:
    """Bytes of the weights as they would be stored: integers as integers, sparse tensors packed.

    Args:
        only: Names of the entries of the state dict that count; None counts all.
    """
    state = {name: value for name, value in model.state_dict().items() if only is None or name in only}
    return sparse.stored_bytes(sparse.pack(state))
