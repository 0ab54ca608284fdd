"""Shuffled epochs: every training text once an epoch, in a new random order.

Source: Bottou (2009), https://leon.bottou.org/papers/bottou-slds-open-problem-2009
"""

import pandas as pd
import torch


def shuffle(
    table: pd.DataFrame, *, steps: int, batch_size: int, generator: torch.Generator
) -> list[list[int]]:
    """The rows of each batch of the whole training.

    Args:
        table: The training texts, n rows.
        steps: Number of batches; may span epochs and end within one.
        batch_size: Rows in a batch; the last batch of an epoch may be smaller.
        generator: Randomness; an equal state gives equal batches.

    Returns:
        ``steps`` lists of positions of rows, 0-based.
    """
    if table.empty:
        raise ValueError("nothing to order: the table has no rows")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches: list[list[int]] = []
    while len(batches) < steps:
        epoch = torch.randperm(len(table), generator=generator)  # (n,)
        batches += [batch.tolist() for batch in epoch.split(batch_size)]
    return batches[:steps]
