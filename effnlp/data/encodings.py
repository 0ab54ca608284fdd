"""Token ids of many texts in flat arrays, and the batches made of them.

Legend: N examples, L tokens in all, B examples in a batch, T tokens of its longest one after padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]
"""``input_ids`` (B, T) int64, ``attention_mask`` (B, T) int64 with 1 for tokens and 0 for padding,
``token_type_ids`` (B, T) int64 where texts are pairs, ``labels`` (B,) where they are known: int64, or float32
where they are numbers; ``rows`` (B,) int64, which texts these are, where something stored of them is looked up."""


@dataclass(frozen=True)
class Encodings:
    """Ragged token ids of N texts.

    Attributes:
        ids: (L,) int32, the ids of all texts one after another.
        offsets: (N + 1,) int64; text i has ``ids[offsets[i]:offsets[i + 1]]``.
        type_ids: (L,) int8, 0 for the first and 1 for the second text of a pair; None for single texts.
        pad_id: What fills a row up to T.
        truncated: How many texts were longer than the model reads and were cut.
    """

    ids: np.ndarray
    offsets: np.ndarray
    type_ids: np.ndarray | None
    pad_id: int
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each text."""
        return np.diff(self.offsets)

    def totals(self, of_id: np.ndarray) -> np.ndarray:
        """(N,) for each text the sum of ``of_id``, (V,), over its ids."""
        sums: np.ndarray = np.add.reduceat(of_id[self.ids], self.offsets[:-1])
        return sums

    @classmethod
    def from_lists(
        cls,
        ids: Sequence[Sequence[int]],
        pad_id: int,
        type_ids: Sequence[Sequence[int]] | None = None,
        truncated: int = 0,
    ) -> "Encodings":
        """Flatten lists of ids, one list a text. An empty text gets one pad token, so that T >= 1."""
        rows = [row if len(row) else [pad_id] for row in ids]
        flat_types = None
        if type_ids is not None:
            type_rows = [row if len(row) else [0] for row in type_ids]
            flat_types = np.fromiter((x for row in type_rows for x in row), dtype=np.int8)
        return cls(
            ids=np.fromiter((x for row in rows for x in row), dtype=np.int32),
            offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]),
            type_ids=flat_types,
            pad_id=pad_id,
            truncated=truncated,
        )

    @classmethod
    def joined(cls, parts: "Sequence[Encodings]") -> "Encodings":
        """The texts of all parts, one part after another; all are of one tokenizer."""
        lengths = np.concatenate([part.lengths for part in parts])
        types = [part.type_ids for part in parts if part.type_ids is not None]
        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            type_ids=np.concatenate(types) if types else None,
            pad_id=parts[0].pad_id,
            truncated=sum(part.truncated for part in parts),
        )

    def batch(
        self, indices: Sequence[int], labels: np.ndarray | None = None, pad_to_multiple: int = 1
    ) -> Batch:
        """Pad the texts ``indices`` to one length T, a multiple of ``pad_to_multiple``.

        Padding to a multiple keeps the number of distinct shapes small, so that the FLOPs of a training
        step are counted once a shape.
        """
        rows = [slice(self.offsets[i], self.offsets[i + 1]) for i in indices]
        longest = max(row.stop - row.start for row in rows)
        padded = -(-longest // pad_to_multiple) * pad_to_multiple
        ids = np.full((len(rows), padded), self.pad_id, dtype=np.int64)  # (B, T)
        mask = np.zeros((len(rows), padded), dtype=np.int64)  # (B, T)
        types = np.zeros((len(rows), padded), dtype=np.int64) if self.type_ids is not None else None
        for i, row in enumerate(rows):
            length = row.stop - row.start
            ids[i, :length] = self.ids[row]
            mask[i, :length] = 1
            if types is not None and self.type_ids is not None:
                types[i, :length] = self.type_ids[row]
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if types is not None:
            batch["token_type_ids"] = torch.from_numpy(types)
        if labels is not None:
            kind = np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int64
            batch["labels"] = torch.from_numpy(labels[list(indices)].astype(kind))
        return batch

    def save(self, path: Path) -> None:
        """Write one ``.npz`` file."""
        arrays: dict[str, np.ndarray] = {
            "ids": self.ids,
            "offsets": self.offsets,
            "pad_id": np.array(self.pad_id),
            "truncated": np.array(self.truncated),
        }
        if self.type_ids is not None:
            arrays["type_ids"] = self.type_ids
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Encodings":
        """Read what :meth:`save` wrote."""
        with np.load(path) as arrays:
            found: Mapping[str, np.ndarray] = {name: arrays[name] for name in arrays.files}
        return cls(
            ids=found["ids"],
            offsets=found["offsets"],
            type_ids=found.get("type_ids"),
            pad_id=int(found["pad_id"]),
            truncated=int(found["truncated"]),
        )
