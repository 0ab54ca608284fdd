"""Length-grouped batches: texts of similar length share a batch, so that little of it is padding.

Source: Khomenko et al. (2016), https://arxiv.org/abs/1708.05604
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch


def length_grouped(
    table: pd.DataFrame,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    window: int = 32,
) -> list[list[int]]:
    """Positions of the rows of each batch of the whole training: every row once an epoch.

    Each epoch is shuffled and cut into windows; inside a window the rows are sorted by their number of words
    before they are cut into batches, and the batches of the epoch are shuffled. The last batch of an epoch
    may be smaller.

    Args:
        steps: Batches in all.
        batch_size: Rows in a batch.
        generator: Of the shuffles.
        window: Batches in a window. 1 is plain shuffling; a larger one pads less and mixes less.

    Raises:
        ValueError: If a number is below 1 or the table is empty.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if len(table) == 0:
        raise ValueError("there is no text to order")
    words = table["text"].str.count(r"\S+").to_numpy()
    if "text_pair" in table.columns:
        words = words + table["text_pair"].str.count(r"\S+").to_numpy()
    batches: list[list[int]] = []
    while len(batches) < steps:
        batches += _epoch(words, batch_size, window, generator)
    return batches[:steps]


def _epoch(
    words: np.ndarray, batch_size: int, window: int, generator: torch.Generator
) -> Iterator[list[int]]:
    order = torch.randperm(len(words), generator=generator).numpy()
    span = window * batch_size
    batches = []
    for start in range(0, len(order), span):
        rows = order[start : start + span]
        rows = rows[np.argsort(words[rows], kind="stable")]
        batches += [rows[i : i + batch_size].tolist() for i in range(0, len(rows), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]
