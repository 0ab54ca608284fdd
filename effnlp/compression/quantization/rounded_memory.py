"""Keys and values of a layer kept in few bits, the newest of each text as they are.

A group is ``group_size`` neighbouring tokens of one text. It is rounded once, as soon as ``recent`` tokens follow it,
and never again. Numbers of a row that share a scale lie evenly from the smallest to the largest of them, which are
kept as floats, two for each row.

Legend: B texts, N of them, K heads of the keys, E width of a head, W groups, G tokens of a group, T new tokens,
R tokens kept as they are, S slots, n bytes of a packed row, b bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from effnlp.compression.quantization.packed import columns_of_group, pack, unpack
from effnlp.model.memory import Places, Slots


def round_evenly(rows: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round each row to 2^b numbers, evenly from its smallest to its largest.

    Args:
        rows: Floats (…, C).

    Returns:
        uint8 (…, C), with steps and lowest numbers (…, 1): ``number * step + lowest`` is at most half a step away.
    """
    lowest = rows.amin(-1, keepdim=True)
    step = (rows.amax(-1, keepdim=True) - lowest) / ((1 << bits) - 1)
    step = step.clamp_min(torch.finfo(rows.dtype).tiny)  # of a row of equal numbers
    return ((rows - lowest) / step).round().to(torch.uint8), step, lowest


class RoundedGroups:
    """Groups of keys, or of values, in packed form.

    Args:
        bits: b.
        group_size: G, and the most neighbouring channels that share a scale where ``by_channel`` is false.
        by_channel: Whether the tokens of a group share a scale in each channel; else the channels of each token do.
    """

    def __init__(self, bits: int, group_size: int, by_channel: bool) -> None:
        self.bits, self.group_size, self.by_channel = bits, group_size, by_channel
        self._columns = 0
        self._parts: list[Tensor] = []  # packed numbers, steps and lowest numbers, each (B, K, W, …)

    def put(self, rows: Tensor, at: int, floats: Tensor, texts: int) -> None:
        """Round ``floats`` (N, K, W G, E): of the texts ``rows`` (N,), out of ``texts``, the groups from ``at`` on.

        Raises:
            ValueError: If ``group_size`` does not divide the channels that share scales.
        """
        groups = floats.unflatten(2, (-1, self.group_size))  # (N, K, W, G, E)
        groups = groups.transpose(-2, -1) if self.by_channel else groups  # (N, K, W, rows, columns)
        self._columns = groups.shape[-1]
        sharing = columns_of_group(self._columns, self.group_size)
        numbers, *scales = round_evenly(groups.unflatten(-1, (-1, sharing)), self.bits)
        packed = pack(numbers.flatten(-2).flatten(0, -2), self.bits)  # (N K W rows, n)
        new = [packed.view(*groups.shape[:-1], -1), *scales]
        kept = self._parts or [part.new_zeros(texts, *part.shape[1:]) for part in new]
        self._parts = [_placed(of_all, rows, at, part) for of_all, part in zip(kept, new, strict=True)]

    def floats(self) -> Tensor | None:
        """(B, K, W G, E): what the numbers stand for, zeros behind the groups of a text; None without any."""
        if not self._parts:
            return None
        packed, step, lowest = self._parts
        numbers = unpack(packed, self.bits, self._columns).unflatten(-1, (step.shape[-2], -1))
        groups = (numbers * step + lowest).flatten(-2)  # (B, K, W, rows, columns)
        groups = groups.transpose(-2, -1) if self.by_channel else groups  # (B, K, W, G, E)
        return groups.flatten(2, 3)

    def select(self, rows: Tensor) -> None:
        """Keep the texts ``rows``."""
        self._parts = [part[rows.to(part.device)] for part in self._parts]

    @property
    def bytes(self) -> int:
        """Of numbers, steps and lowest numbers."""
        return sum(part.numel() * part.element_size() for part in self._parts)


def _placed(of_all: Tensor, rows: Tensor, at: int, part: Tensor) -> Tensor:
    """``of_all`` (B, K, W, …) with ``part`` (N, K, W', …) at the texts ``rows`` and the groups from ``at`` on."""
    end = at + part.shape[2]
    if end > of_all.shape[2]:
        of_all = pad(of_all, (0, 0) * (of_all.dim() - 3) + (0, end - of_all.shape[2]))
    of_all[rows, :, at:end] = part
    return of_all


class RoundedKeysAndValues:
    """A :class:`~effnlp.model.memory.Memory` of few bits.

    What is read is what is kept, and of the new tokens what they are: rounding comes after reading.

    Args:
        bits: b.
        group_size: G.
        recent: The newest tokens that are never rounded.
        keys_by_channel: Whether keys share a scale by channel, or by token as values do.
    """

    def __init__(self, bits: int, group_size: int, recent: int, keys_by_channel: bool) -> None:
        self.group_size, self.recent = group_size, recent
        self._groups = [RoundedGroups(bits, group_size, by) for by in (keys_by_channel, False)]
        self._fresh = [Slots(), Slots()]
        self._rounded: list[int] = []  # of each text, how many of its tokens are in groups

    def append(self, keys: Tensor, values: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """As of :class:`~effnlp.model.memory.Memory`."""
        self._rounded = self._rounded or [0] * len(keys)
        behind = tuple(start - done for start, done in zip(places.starts, self._rounded, strict=True))
        new = Places(behind, places.counts, places.length)
        read_keys, read_values = (
            self._joined(groups.floats(), fresh.append(of_text, new), new.ends)
            for groups, fresh, of_text in zip(self._groups, self._fresh, (keys, values), strict=True)
        )
        self._round(list(places.ends))
        return read_keys, read_values

    def _joined(self, rounded: Tensor | None, fresh: Tensor, behind: Sequence[int]) -> Tensor:
        """Groups (B, K, W G, E), then what follows them of each text, the first ``behind`` of (B, K, R, E)."""
        if rounded is None:
            return fresh
        if len(set(self._rounded)) == 1:
            return torch.cat([rounded[:, :, : self._rounded[0]], fresh], dim=2)
        ends = [done + more for done, more in zip(self._rounded, behind, strict=True)]
        whole = fresh.new_zeros(*fresh.shape[:2], max(ends), fresh.shape[3])
        for row, (done, end) in enumerate(zip(self._rounded, ends, strict=True)):
            whole[row, :, :done] = rounded[row, :, :done]
            whole[row, :, done:end] = fresh[row, :, : end - done]
        return whole

    def _round(self, lengths: Sequence[int]) -> None:
        """Round the groups that are due, those of equally long texts together."""
        size = self.group_size
        due = [
            max(0, length - self.recent) // size * size - done
            for length, done in zip(lengths, self._rounded, strict=True)
        ]
        for done, more in sorted({pair for pair in zip(self._rounded, due, strict=True) if pair[1] > 0}):
            rows = [
                row for row, pair in enumerate(zip(self._rounded, due, strict=True)) if pair == (done, more)
            ]
            for groups, fresh in zip(self._groups, self._fresh, strict=True):
                at = torch.tensor(rows)
                groups.put(at, done // size, fresh.taken(at, more), len(lengths))
        self._rounded = [done + max(0, more) for done, more in zip(self._rounded, due, strict=True)]
        for fresh in self._fresh:
            fresh.size = max(length - done for length, done in zip(lengths, self._rounded, strict=True))

    def select(self, rows: Tensor) -> None:
        """As of :class:`~effnlp.model.memory.Memory`."""
        for groups, fresh in zip(self._groups, self._fresh, strict=True):
            groups.select(rows)
            fresh.select(rows)
        self._rounded = [self._rounded[row] for row in rows.tolist()]

    @property
    def bytes(self) -> int:
        """As of :class:`~effnlp.model.memory.Memory`."""
        return sum(groups.bytes for groups in self._groups) + sum(fresh.bytes for fresh in self._fresh)
