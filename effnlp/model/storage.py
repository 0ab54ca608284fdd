"""How many bytes a model takes where it is stored, and how the deployed form is written and read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effnlp.compression.pruning import storage as sparse


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
        """Write one file, whole."""
        beside = path.with_suffix(".part")
        torch.save(self, beside)
        beside.replace(path)

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
