"""What a teacher's layers make of the training texts, looked at once and then looked up, by any number of students.

Legend: N training texts, S tokens of all of them, B batch, T tokens of the batch, D width, L layers, W width of what a
linear layer gives, C classes.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effnlp.cache import code_version, key_of
from effnlp.compression.distillation.trace import Trace, trace
from effnlp.data.encodings import Batch
from effnlp.data.examples import Examples
from effnlp.model.classifier import Classifier

if TYPE_CHECKING:
    from effnlp.gathering import Around

LIMIT = 4 * 2**30
"""Bytes on disk beyond which a teacher reads beside its student again, in each epoch."""


@dataclass(frozen=True)
class Wanted:
    """What a student asks of its teacher beside the logits.

    Attributes:
        hidden: Whether the states of tokens.
        pooled: Whether the states of texts.
        roles: Of linear layers whose outputs are compared.
        layer: The index of the one layer whose ``roles`` these are, negative from the end; None: all.
    """

    hidden: bool = False
    pooled: bool = False
    roles: tuple[str, ...] = ()
    layer: int | None = None

    def layers(self, depth: int) -> list[int]:
        """The indices of the layers, of ``depth``, whose roles are asked for."""
        return list(range(depth)) if self.layer is None else [self.layer % depth]

    def of(self, made: Trace) -> dict[str, list[Tensor]]:
        """Name to what is kept of it, a tensor for each layer: (B, D) or (B, T, D)."""
        found = {"logits": [made.logits]}
        if self.hidden:
            found["hidden"] = list(made.hidden)
        if self.pooled:
            found["pooled"] = [made.pooled(layer) for layer in range(made.depth + 1)]
        layers = self.layers(made.depth)
        return found | {role: [made.given[role][layer] for layer in layers] for role in self.roles}


class Layers(Sequence[Tensor]):
    """Tensors of layers, each read when it is asked for.

    Args:
        read: The tensor at a place.
        kept: Which layers stand at the places 0, 1, ...
        depth: How many layers there are.
    """

    def __init__(self, read: Callable[[int], Tensor], kept: Sequence[int], depth: int) -> None:
        self.read, self.kept, self.depth = read, kept, depth

    def __len__(self) -> int:
        return self.depth

    def __getitem__(self, index: Any) -> Any:
        return self.read(self.kept.index(range(self.depth)[index]))


class Lookup:
    """What was kept in a folder, mapped into memory.

    Args:
        folder: With ``logits.npy`` (1, N, C) and, as far as they are wanted, ``pooled.npy`` (L + 1, N, D),
            ``hidden.npy`` (L + 1, S, D) and a file for each role (L or 1, S, W).
        wanted: What is in it.
        offsets: (N + 1,) where the tokens of each text begin and end.
        depth: L.
    """

    def __init__(self, folder: Path, wanted: Wanted, offsets: np.ndarray, depth: int) -> None:
        self.arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        self.wanted, self.depth = wanted, depth
        self.offsets = torch.from_numpy(offsets)

    def trace(self, batch: Batch) -> Trace | None:
        """What the teacher made of the texts of a batch; None if the batch does not hold them whole.

        What stands where a text has no token means nothing.
        """
        if "rows" not in batch:
            return None
        rows, mask = batch["rows"].cpu(), batch["attention_mask"]
        present = mask.cpu().long()
        if not torch.equal(present.sum(1), self.offsets[rows + 1] - self.offsets[rows]):
            return None
        of_token = self.offsets[rows, None] + (present.cumsum(1) - 1).clamp_min(0)  # (B, T)

        def layers(name: str, positions: Tensor, kept: Sequence[int], depth: int) -> Layers:
            array, index = self.arrays.get(name), positions.numpy()

            def read(place: int) -> Tensor:
                if array is None:
                    raise ValueError(f"{name} of the teacher was not kept")
                return torch.from_numpy(array[place][index]).to(mask.device)

            return Layers(read, kept, depth)

        states, of_roles = range(self.depth + 1), self.wanted.layers(self.depth)
        return Trace(
            hidden=layers("hidden", of_token, states, self.depth + 1),
            pooled=layers("pooled", rows, states, self.depth + 1).__getitem__,
            given={role: layers(role, of_token, of_roles, self.depth) for role in self.wanted.roles},
            logits=layers("logits", rows, [0], 1)[0],
            mask=mask,
            depth=self.depth,
        )


class _Kept(nn.Module):
    """A teacher that leaves what is wanted of each batch in arrays."""

    def __init__(
        self, model: Classifier, wanted: Wanted, arrays: Mapping[str, np.ndarray], offsets: np.ndarray
    ) -> None:
        super().__init__()
        self.model, self.wanted, self.arrays, self.offsets = model, wanted, arrays, offsets

    def forward(self, batch: Batch) -> Tensor:
        """The logits, (B, C)."""
        made = trace(self.model, batch, self.wanted.roles)
        rows, is_token = batch["rows"].cpu().numpy(), made.mask.bool()
        tokens = np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])
        for name, layers in self.wanted.of(made).items():
            for place, tensor in enumerate(layers):
                positions, found = (rows, tensor) if is_of_texts(tensor) else (tokens, tensor[is_token])
                self.arrays[name][place][positions] = found.float().cpu().numpy()
        return made.logits


def is_of_texts(tensor: Tensor) -> bool:
    """Whether it is (B, D) and not (B, T, D)."""
    return tensor.dim() == 2


def _array_on_disk(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros whose room is taken now: to write a mapped file on a full disk kills the process.

    Raises:
        OSError: If the disk has too little room.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def look(
    model: Classifier, examples: Examples, wanted: Wanted, around: "Around", *identity: Any
) -> Lookup | None:
    """Let a teacher read every text, once for all runs; None where that is more than :data:`LIMIT`.

    Args:
        model: The teacher, in evaluation mode.
        examples: The texts, in the ids that it reads; their batches say which texts they hold.
        identity: What tells the teacher from all others.
    """
    encodings = examples.encodings
    with torch.inference_mode():
        made = trace(model, examples.batch([0]), wanted.roles)
        kept = wanted.of(made)
    texts, tokens = len(examples), len(encodings.ids)
    shapes = {
        name: (len(layers), texts if is_of_texts(layers[0]) else tokens, layers[0].shape[-1])
        for name, layers in kept.items()
    }
    if sum(4 * math.prod(shape) for shape in shapes.values()) > LIMIT:
        return None

    def make(folder: Path) -> None:
        arrays = {name: _array_on_disk(folder / f"{name}.npy", shape) for name, shape in shapes.items()}
        around.predict(_Kept(model, wanted, arrays, encodings.offsets), examples)

    ids = [encodings.ids, encodings.offsets, encodings.type_ids]
    digests = [None if each is None else hashlib.sha256(each.tobytes()).hexdigest() for each in ids]
    code = code_version(__name__, trace.__module__, "effnlp.model.classifier")
    folder = around.fetch("teacher_layers", key_of(identity, digests, asdict(wanted), code), make)
    return Lookup(folder, wanted, encodings.offsets, made.depth)
