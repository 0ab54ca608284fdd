"""Competence-based curriculum: begin with easy texts and admit harder ones as training goes on.

Source: Platanios et al. (2019), https://arxiv.org/abs/1903.09848
"""

import math
from collections import Counter

import numpy as np
import pandas as pd
import torch

DIFFICULTIES = ("length", "rarity")


def competence(
    table: pd.DataFrame,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    difficulty: str = "length",
    initial: float = 0.01,
    duration: float = 0.5,
) -> list[list[int]]:
    """The rows of each batch of the whole training.

    The batch of step t is drawn uniformly, without repetition, from the texts of difficulty at most c(t). It
    has fewer than ``batch_size`` rows where fewer texts are admitted, and is never empty: the easiest texts
    have difficulty 0.

    Args:
        table: The training texts, n rows.
        steps: Number of batches.
        batch_size: Rows in a batch.
        generator: Randomness; an equal state gives equal batches.
        difficulty: ``length`` (words) or ``rarity`` (sum over the words of minus log of their frequency).
        initial: c0, the competence of step 0, in (0, 1].
        duration: T as a fraction of ``steps``, in (0, 1]: from then on, all texts are admitted.

    Returns:
        ``steps`` lists of positions of rows, 0-based.
    """
    if table.empty:
        raise ValueError("nothing to order: the table has no rows")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 < duration <= 1:
        raise ValueError(f"duration must be in (0, 1], got {duration}")
    hardness = cumulative(raw_difficulty(table, difficulty))  # (n,)
    by_hardness = torch.from_numpy(np.argsort(hardness, kind="stable"))  # (n,)
    ascending = np.sort(hardness)  # (n,)
    end = max(1, round(duration * steps))
    batches = []
    for step in range(steps):
        admitted = int(np.searchsorted(ascending, competence_at(step, end, initial), side="right"))
        drawn = torch.randperm(admitted, generator=generator)[:batch_size]
        batches.append(by_hardness[drawn].tolist())
    return batches


def competence_at(step: int, end: int, initial: float) -> float:
    """c(t), the paper's square-root schedule: ``initial`` (c0) at step 0, and 1 from ``end`` (T) on."""
    if not 0 < initial <= 1:
        raise ValueError(f"initial must be in (0, 1], got {initial}")
    if step >= end:
        return 1.0  # exactly: the root may fall short by a rounding error
    return math.sqrt(step * (1 - initial**2) / end + initial**2)


def raw_difficulty(table: pd.DataFrame, difficulty: str) -> np.ndarray:
    """(n,) the difficulty of each text in its own unit; words are what white space separates."""
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    columns = [table[column] for column in ("text", "text_pair") if column in table.columns]
    words = [[word for text in row for word in text.split()] for row in zip(*columns, strict=True)]
    if difficulty == "length":
        return np.array([len(row) for row in words], dtype=np.float64)
    counts = Counter(word for row in words for word in row)
    total = counts.total()
    surprise = {word: -math.log(count / total) for word, count in counts.items()}
    # fsum: the same for any order of the words, so that texts of the same words are equally difficult.
    return np.array([math.fsum(surprise[word] for word in row) for row in words])


def cumulative(values: np.ndarray) -> np.ndarray:
    """(n,) for each value the fraction of values below it, in [0, 1).

    Unlike the paper's cumulative density, equal values do not count: the easiest texts have difficulty 0
    however many they are, so that some text is always admitted.
    """
    return np.searchsorted(np.sort(values), values, side="left") / len(values)
