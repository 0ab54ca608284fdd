"""How many bytes a model takes where it is stored, and how the deployed form is written and read."""

import contextlib
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from effnlp.model import sparse


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path``, renamed into place in the end: a kill or a full disk leaves the old file whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def save_whole(thing: Any, path: Path, pickle_module: ModuleType = pickle) -> None:
    """``torch.save`` as :func:`written_whole`.

    Args:
        pickle_module: What turns all but the storages of tensors into bytes.

    Raises:
        OSError: If it cannot be written. By itself torch says of a full disk ``unexpected pos 576 vs 534``.
    """
    try:
        with written_whole(path) as file:
            torch.save(thing, file, pickle_module=pickle_module)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


class PackingPickler(pickle.Pickler):
    """Writes each tensor in the form that takes fewer bytes (:mod:`effnlp.model.sparse`).

    What is read back is the tensor, bit for bit; no reader needs to know that it was packed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: list[
            Any
        ] = []  # of packed tensors: written as they are, and alive, so that no id comes twice

    def reducer_override(self, thing: Any) -> Any:
        """How to make ``thing`` again, if it is a tensor that is smaller packed."""
        if not _may_be_packed(thing) or any(thing is part for part in self.parts):
            return NotImplemented
        packed = sparse.pack_tensor(thing)
        if packed is thing:
            return NotImplemented
        assert isinstance(packed, dict)
        self.parts += packed.values()
        return sparse.unpack_tensor, (packed,)


def _may_be_packed(thing: Any) -> bool:
    """Whether packing keeps all there is to know of ``thing``: a plain tensor on the CPU, in plain order."""
    return (
        type(thing) is Tensor
        and thing.layout == torch.strided
        and thing.device.type == "cpu"
        and thing.is_contiguous()
        and not (thing.requires_grad or thing.is_quantized or vars(thing))
    )


PACKING = ModuleType("packing", "The pickle module, with a pickler that packs tensors.")
vars(PACKING).update({**vars(pickle), "__name__": "packing", "Pickler": PackingPickler})


@dataclass
class Deployed:
    """What is deployed: the model with all that it needs to read texts.

    Attributes:
        model: Maps a batch to logits.
        tokenizer: Maps texts to ids.
        labels: Names of the classes; empty: it gives a number.
        is_pair: Whether it reads pairs of texts.
    """

    model: nn.Module
    tokenizer: Any
    labels: Sequence[str]
    is_pair: bool = False

    def save(self, path: Path) -> None:
        """Write one file, whole (see :func:`save_whole`), of about :func:`stored_bytes` and the tokenizer."""
        save_whole(self, path, PACKING)

    @classmethod
    def load(cls, path: Path) -> "Deployed":
        """Read what :meth:`save` wrote. The file holds code by reference: load only what you trust."""
        loaded = torch.load(path, weights_only=False)
        if not isinstance(loaded, cls):
            raise TypeError(f"{path} holds a {type(loaded).__name__}, not a deployed model")
        return loaded


def stored_bytes(model: nn.Module, only: frozenset[str] | None = None) -> int:
    """Bytes of the weights as they would be stored: integers as integers, sparse tensors packed, shared ones once.

    Args:
        only: Names of the entries of the state dict that count; None counts all.
    """
    state = model.state_dict(
        keep_vars=True
    )  # what several modules share is then one object under several names
    counted = {id(value): value for name, value in state.items() if only is None or name in only}
    return sparse.stored_bytes(sparse.pack({str(key): value for key, value in counted.items()}))
