"""One split, ready for a model: ids and labels."""

from dataclasses import dataclass

import numpy as np
import torch

from effnlp.data.encodings import Batch, Encodings

UNLABELLED = -1
"""The class of a text that has none: it is there for a teacher to label."""


@dataclass(frozen=True)
class Examples:
    """Ids of N texts and their labels, (N,) int64; float64 where labels are numbers.

    Attributes:
        with_rows: Whether batches say which texts they hold: ``rows`` (B,) int64, positions in ``encodings``.
    """

    encodings: Encodings
    labels: np.ndarray
    with_rows: bool = False

    def __len__(self) -> int:
        return len(self.encodings)

    def by_length(self, batch_size: int) -> list[list[int]]:
        """Positions in batches of texts of similar length, longest first, so that little is padded."""
        order = np.argsort(-self.encodings.lengths, kind="stable")
        return [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]

    def batch(self, positions: list[int], pad_to_multiple: int = 1, with_labels: bool = True) -> Batch:
        """The batch of these positions."""
        labels = self.labels if with_labels else None
        batch = self.encodings.batch(positions, labels, pad_to_multiple=pad_to_multiple)
        return {**batch, "rows": torch.tensor(positions)} if self.with_rows else batch

    def labelled(self) -> np.ndarray:
        """The positions of the texts that have a label, in order; a number is always one."""
        if np.issubdtype(self.labels.dtype, np.floating):
            return np.arange(len(self.labels))
        return np.flatnonzero(self.labels != UNLABELLED)


def labelled_part(batch: Batch) -> Batch:
    """The rows of a batch that have a label; the batch itself where all have one. There may be none."""
    labels = batch["labels"]
    if labels.is_floating_point() or bool((labels != UNLABELLED).all()):
        return batch
    kept = labels != UNLABELLED
    return {name: tensor[kept] for name, tensor in batch.items()}
