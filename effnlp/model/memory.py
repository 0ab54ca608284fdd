"""What a causal model keeps of the tokens it has read, so that the next ones cost no second reading.

A layer of attention keeps its keys and values, each text's own from slot 0 on without gaps: a text keeps the same
numbers at the same slots whatever is beside it and however it was padded. What keeps keys and values has the
attribute ``remember``, which makes an empty :class:`Memory`; a method may put another kind there.

Legend: B texts, T new tokens of each (padding behind them), S slots, K heads of the keys, E width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Places:
    """Where new tokens belong among those that are kept.

    Attributes:
        starts: How many tokens are kept of each text.
        counts: How many of the T new ones are tokens of it; those behind them are padding.
        length: T.
    """

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    length: int

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """How many tokens each text has with the new ones."""
        return tuple(start + count for start, count in zip(self.starts, self.counts, strict=True))

    @cached_property
    def is_even(self) -> bool:
        """Whether all texts are equally long, and nothing is padding."""
        return len(set(self.starts)) == 1 and set(self.counts) == {self.length}

    @property
    def is_first(self) -> bool:
        """Whether nothing was kept before: each new token then reads those up to itself."""
        return not any(self.starts)

    def positions(self, device: torch.device) -> Tensor:
        """(B, T) int64: the slot of each new token; that of padding is one of its text."""
        starts, counts = (torch.tensor(each, device=device)[:, None] for each in (self.starts, self.counts))
        steps = torch.arange(self.length, device=device)  # (T,)
        return (starts + torch.minimum(steps, counts - 1)).clamp_min(0)

    def read(self, device: torch.device) -> Tensor:
        """(B, 1, T, S) boolean: which slots each new token reads. Padding reads some, so that it stays finite."""
        slots = torch.arange(max(self.ends), device=device)  # (S,)
        return (slots <= self.positions(device).unsqueeze(-1)).unsqueeze(1)


class Memory(Protocol):
    """The keys and values of one layer."""

    def append(self, keys: Tensor, values: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Take up new ones (B, K, T, E); all of them (B, K, S, E), finite behind the end of a text."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep the texts ``rows``, (N,) int64, in this order; one may come several times."""
        ...

    @property
    def bytes(self) -> int:
        """Of all that is kept, room that is not used yet left out."""
        ...


class Slots:
    """A tensor (B, K, S, E) that grows along S; its room doubles, so that most tokens are written in place."""

    def __init__(self) -> None:
        self._room: Tensor | None = None
        self.size = 0

    def append(self, new: Tensor, places: Places) -> Tensor:
        """``new`` (B, K, T, E) to all up to the longest text."""
        room, self.size = self._with_room(new, max(places.ends)), max(places.ends)
        if places.is_even:
            room[:, :, places.starts[0] : self.size] = new
        elif set(places.counts) == {1} == {places.length}:
            at = torch.tensor(places.starts, device=new.device)
            room[torch.arange(len(at), device=new.device), :, at] = new[:, :, 0]
        else:
            for row, (start, end) in enumerate(zip(places.starts, places.ends, strict=True)):
                room[row, :, start:end] = new[row, :, : end - start]
        return room[:, :, : self.size]

    def taken(self, rows: Tensor, count: int) -> Tensor:
        """The first ``count`` slots (N, K, count, E) of the texts ``rows``; what follows moves up to slot 0."""
        assert self._room is not None
        self._room = self._room.clone()  # what was given out before is still to be read
        whole = self._room[rows]  # (N, K, slots, E), a copy
        self._room[rows, :, : whole.shape[2] - count] = whole[:, :, count:]
        return whole[:, :, :count]

    def _with_room(self, new: Tensor, size: int) -> Tensor:
        if self._room is None:
            batch, heads, _, width = new.shape
            self._room = new.new_zeros(batch, heads, size, width)
        elif (has := self._room.shape[2]) < size:
            self._room = pad(self._room, (0, 0, 0, max(size, 2 * has) - has))
        return self._room

    def select(self, rows: Tensor) -> None:
        """As of :class:`Memory`."""
        if self._room is not None:
            self._room = self._room[rows.to(self._room.device)]

    @property
    def width(self) -> int:
        """E; 0 before the first token."""
        return 0 if self._room is None else self._room.shape[3]

    @property
    def bytes(self) -> int:
        """B · K · S · E numbers."""
        if self._room is None:
            return 0
        return self._room[:, :, : self.size].numel() * self._room.element_size()


class KeysAndValues:
    """Keys and values as they are: 2 · B · K · S · E numbers."""

    def __init__(self) -> None:
        self._keys, self._values = Slots(), Slots()

    def append(self, keys: Tensor, values: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """As of :class:`Memory`."""
        return self._keys.append(keys, places), self._values.append(values, places)

    def select(self, rows: Tensor) -> None:
        """As of :class:`Memory`."""
        self._keys.select(rows)
        self._values.select(rows)

    @property
    def bytes(self) -> int:
        """As of :class:`Memory`."""
        return self._keys.bytes + self._values.bytes

    @property
    def width(self) -> int:
        """E; 0 before the first token."""
        return self._keys.width


@dataclass(frozen=True)
class Recall:
    """What a layer that reads on is given: its memory, and where the new tokens belong."""

    memory: Memory
    places: Places

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values (B, K, T, E) to all of them (B, K, S, E)."""
        return self.memory.append(keys, values, self.places)

    def read(self, device: torch.device) -> Tensor | None:
        """(B, 1, T, S) boolean: which slots each new token reads; None where it reads them all."""
        is_all = self.places.is_even and self.places.length == 1
        return None if is_all else self.places.read(device)


@dataclass
class Past:
    """What a causal encoder keeps of a batch of texts.

    Attributes:
        lengths: Tokens that are kept of each text, those of a prompt included; empty before the first reading.
        memories: Number of a layer to its memory.
    """

    lengths: tuple[int, ...] = ()
    memories: dict[int, Memory] = field(default_factory=dict)

    def places(self, mask: Tensor, before: int, most: int) -> Places:
        """Where new tokens belong.

        Args:
            mask: (B, T), 1 for tokens, padding behind them.
            before: How many tokens that are no text come first, in every text.
            most: How many tokens the model has positions for.

        Raises:
            ValueError: If a text would exceed ``most``, or padding is not behind the text.
        """
        counts: list[int] = mask.sum(1).tolist()
        if counts != mask.cumprod(1).sum(1).tolist():
            raise ValueError("what is read on must have its padding behind the text")
        starts = self.lengths or (0,) * len(counts)
        found = Places(starts, tuple(count + before for count in counts), mask.shape[1] + before)
        if max(found.ends) > most:
            raise ValueError(f"a text of {max(found.ends)} tokens does not fit: the model reads {most}")
        return found

    def recall(self, layer: int, remember: Callable[[], Memory], places: Places) -> Recall:
        """What layer number ``layer`` is given; its memory is made when it is first asked for."""
        if layer not in self.memories:
            self.memories[layer] = remember()
        return Recall(self.memories[layer], places)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the texts ``rows``, in this order; one may come several times."""
        kept = torch.tensor(rows, dtype=torch.int64)
        for memory in self.memories.values():
            memory.select(kept)
        self.lengths = tuple(self.lengths[row] for row in rows)

    @property
    def bytes(self) -> int:
        """Of all memories."""
        return sum(memory.bytes for memory in self.memories.values())


def as_added(read: Tensor, like: Tensor) -> Tensor:
    """The mask of :meth:`Places.read` as numbers that are added to scores: 0, or the lowest of the type of ``like``."""
    return like.new_zeros(read.shape).masked_fill(~read, torch.finfo(like.dtype).min)
