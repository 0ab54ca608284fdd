"""A delta: what one task adds to a base that is stored once, in a file of its own.

It is taken between training and ``finish``: the entries of the state dict that are or were trained, as the methods
settled them, those with many zeros packed (:mod:`effnlp.model.sparse`). The file is of the format safetensors, holds
no code, and says in its header of which base it is.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from effnlp.model import sparse
from effnlp.model.storage import stored_bytes, written_whole
from effnlp.model.surgery import encoder_of

log = logging.getLogger(__name__)

FILE = "delta.safetensors"
"""Its name in the folder of a run."""

VERSION = 1
"""Of the file's layout. Raised when an older effnlp could not read it."""

HEADER = "effnlp"
"""The key of the file's metadata below which, as JSON, stands what a delta is of."""


@dataclass(frozen=True)
class About:
    """What a delta is of.

    Attributes:
        base: :func:`digest` of the encoder as it was built, before any method.
        settled: :func:`digest` of the whole model with the delta in it, before any method finished it.
        config: The parts of the run's config that say how the base is built and what is done to it.
        prepare: Config groups of the methods that prepared the model, in order.
        finish: Config groups of the methods that finish it, in order.
        task: Name of the task.
        labels: Names of its classes; empty where the model gives no class.
        classes: How many outputs the head has.
        is_pair: Whether the model reads pairs of texts.
    """

    base: str
    settled: str
    config: Mapping[str, Any]
    prepare: tuple[str, ...]
    finish: tuple[str, ...]
    task: str
    labels: tuple[str, ...]
    classes: int
    is_pair: bool


@dataclass(frozen=True)
class Delta:
    """What one task adds to a base.

    Attributes:
        entries: Name in the state dict of the settled model to its value.
    """

    entries: Mapping[str, Tensor]
    about: About

    def write(self, path: Path) -> None:
        """Write one file, whole, of about ``model/delta_bytes`` and a header of a few kilobytes."""
        tensors: dict[str, Tensor] = {}
        shapes: dict[str, list[int]] = {}
        for name, entry in sparse.pack(self.entries).items():
            if isinstance(entry, Tensor):
                tensors[name] = entry.contiguous()
                continue
            shapes[name] = entry[sparse.SHAPE]
            tensors |= {_part(name, part): value for part, value in sparse.tensors_of(entry).items()}
        header = {"version": VERSION, "packed": shapes, **dataclasses.asdict(self.about)}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
        with written_whole(path) as file:
            file.write(safetensors.torch.save(tensors, {HEADER: text}))

    @classmethod
    def read(cls, path: Path) -> "Delta":
        """Read what :meth:`write` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no delta, damaged, or of a newer effnlp.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no delta {path}")
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {}).get(HEADER, "null"))
                # Copies: else they are a view of the file, and gone with it.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no dict
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if not isinstance(header, dict) or not isinstance(header.get("version"), int):
            raise ValueError(f"{path} is no delta: its header does not say of which base it is")
        if header["version"] > VERSION:
            raise ValueError(
                f"{path} has version {header['version']}, this effnlp reads up to {VERSION}: "
                "use the effnlp that wrote it"
            )
        try:
            packed = {
                name: {part: tensors.pop(_part(name, part)) for part in _parts(name, tensors)}
                | {sparse.SHAPE: shape}
                for name, shape in header.pop("packed").items()
            }
            about = About(**{key: _frozen(value) for key, value in header.items() if key != "version"})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: its header does not describe it ({error})") from error
        return cls({**tensors, **sparse.unpack(packed)}, about)

    @property
    def bytes(self) -> int:
        """Bytes of the entries as they are stored: what a run records as ``model/delta_bytes``."""
        return sparse.stored_bytes(sparse.pack(self.entries))


def _part(name: str, part: str) -> str:
    """The tensor of a packed entry; no name of a state dict has this sign."""
    return f"{name}|{part}"


def _parts(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """The parts into which an entry was packed."""
    where = sparse.PLACES if _part(name, sparse.PLACES) in tensors else sparse.MASK
    return [where, sparse.VALUES]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def digests(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Of each entry the SHA-256 over its dtype, shape and bytes: 64 hex digits."""
    return {name: _digest(tensor) for name, tensor in state.items()}


def _digest(tensor: Tensor) -> str:
    tensor = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names in their order and the :func:`digests`: 64 hex digits."""
    lines = (f"{name} {value}\n" for name, value in sorted(digests(state).items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of_base(model: nn.Module) -> str:
    """:func:`digest` of the encoder; the head is the task's own."""
    return digest(encoder_of(model).state_dict())


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are trained now."""
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def delta_bytes(model: nn.Module, trainable: frozenset[str]) -> dict[str, float]:
    """What must be kept of a settled model beside its base: what was trained at first, or is now."""
    return {"model/delta_bytes": float(stored_bytes(model, only=trainable | trainable_names(model)))}


def entries_of(model: nn.Module, trainable: frozenset[str]) -> dict[str, Tensor]:
    """Copies of what :func:`delta_bytes` counts, on the CPU."""
    names = trainable | trainable_names(model)
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items() if name in names}


@dataclass
class Taker:
    """Follows a model through a run and takes its delta, where it has one.

    A delta describes a model only if what it leaves out is as it was before the training; that is watched.

    Attributes:
        is_wanted: Without it nothing is done.
    """

    is_wanted: bool
    base: str = ""
    trainable: frozenset[str] = frozenset()
    frozen: Mapping[str, str] = field(default_factory=dict)

    def built(self, model: nn.Module) -> None:
        """Before any method: this is the base."""
        if self.is_wanted:
            self.base = digest_of_base(model)

    def prepared(self, model: nn.Module) -> None:
        """Before the training."""
        self.trainable = trainable_names(model)
        self.is_wanted &= len(self.trainable) < len(list(model.parameters()))
        if self.is_wanted:
            self.frozen = digests(left_out(model, self.trainable))

    def trained(self, model: nn.Module) -> None:
        """After the training, before the methods settle."""
        if not self.is_wanted:
            return
        names = self.trainable | trainable_names(model)
        self.is_wanted = any(name not in names for name, _ in model.named_parameters())
        now = digests(left_out(model, names))
        changed = sorted(name for name, value in now.items() if self.frozen.get(name) != value)
        if self.is_wanted and changed:
            log.warning("no delta is written: the training changed what is frozen, %s first", changed[0])
            self.is_wanted = False

    def take(self, model: nn.Module, **about: Any) -> Delta | None:
        """The delta of the settled model; None where it has none.

        Args:
            about: What :class:`About` needs besides the digests.
        """
        if not self.is_wanted:
            return None
        settled = digest(model.state_dict())
        return Delta(entries_of(model, self.trainable), About(base=self.base, settled=settled, **about))


def left_out(model: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    """The entries of the state dict that are not among ``names``, not even under another name."""
    state = model.state_dict(
        keep_vars=True
    )  # what several modules share is then one object under several names
    known = {id(value) for name, value in state.items() if name in names}
    return {name: value.detach() for name, value in state.items() if id(value) not in known}


def put(model: nn.Module, delta: Delta, is_checked: bool = True) -> None:
    """Put a delta into a model that was built, prepared and settled as the delta's was; in place.

    Args:
        is_checked: Whether the model is then compared, to the byte, with the one that the delta was taken from.

    Raises:
        ValueError: If names or shapes are not the model's, or it is another model then than the delta was taken from.
    """
    state = model.state_dict()
    wanted = trainable_names(model)
    what = f"the delta of {delta.about.task}"
    if missing := sorted(wanted - set(delta.entries)):
        raise ValueError(f"{what} lacks {len(missing)} entries that are trained, {missing[0]} first")
    if unexpected := sorted(set(delta.entries) - set(state)):
        raise ValueError(
            f"{what} has {len(unexpected)} entries that are not the model's, {unexpected[0]} first"
        )
    for name, value in delta.entries.items():
        there = state[name]
        if there.shape != value.shape or there.dtype != value.dtype:
            raise ValueError(f"{what}: {name} is {_kind(value)}, that of the model {_kind(there)}")
    with torch.no_grad():
        for name, value in delta.entries.items():
            state[name].copy_(value)
    if is_checked and digest(model.state_dict()) != delta.about.settled:
        raise ValueError(
            f"{what} does not make the model that it was taken from: something that is frozen differs "
            "(another version of a package, or a method with frozen random weights on a base that was not built for it)"
        )


def _kind(tensor: Tensor) -> str:
    shape = " × ".join(map(str, tensor.shape)) or "a number"
    return f"{shape} ({str(tensor.dtype).removeprefix('torch.')})"
