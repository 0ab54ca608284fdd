"""Batches of several tasks: how many each gets, and in which order they come.

Source: Raffel et al. (2020), https://arxiv.org/abs/1910.10683, section 3.5.2; a batch holds one task: Liu et al.
(2019), https://arxiv.org/abs/1901.11504

The task of a batch is not drawn, as in the papers: a task gets its part of all batches, exact but for rounding, and the
batches of all come in a random order.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch

SAMPLINGS = ("proportional", "equal", "temperature")

Order = Callable[..., Sequence[Sequence[int]]]
"""A choice of ``data/order``: ``order(table, steps=…, batch_size=…, generator=…)``."""


def temperature_of(sampling: str, temperature: float) -> float:
    """The temperature that stands for a way of sampling.

    Raises:
        ValueError: If there is no such way, or the temperature is not above 0.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"finetuning.sampling must be one of {', '.join(SAMPLINGS)}, got {sampling!r}")
    if not temperature > 0:
        raise ValueError(f"finetuning.temperature must be above 0, got {temperature}")
    return {"proportional": 1.0, "equal": math.inf}.get(sampling, temperature)


def shares(sizes: Sequence[int], temperature: float) -> list[float]:
    """How large a part of all batches each task gets: in proportion to ``size ** (1 / temperature)``.

    Args:
        sizes: Of each task, at least 1.
        temperature: T of the paper, above 0: 1 gives the proportions of the sizes, infinity equal parts.

    Raises:
        ValueError: If ``temperature`` is not above 0, or a size is below 1.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if min(sizes) < 1:
        raise ValueError(f"sizes must be at least 1, got {list(sizes)}")
    largest = max(sizes)  # in relation to it: no power is beyond what a float holds
    powers = [(size / largest) ** (1 / temperature) for size in sizes]
    return [power / sum(powers) for power in powers]


def quotas(parts: Sequence[float], batches: int) -> list[int]:
    """Whole numbers of sum ``batches`` nearest to the given parts of it, by largest remainders."""
    exact = [part * batches for part in parts]
    whole = [math.floor(number) for number in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: batches - sum(whole)]:
        whole[i] += 1
    return whole


def interleaved(counts: Sequence[int], generator: torch.Generator) -> list[int]:
    """The task of each batch: task k ``counts[k]`` times, every order equally likely."""
    tasks = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return tasks[torch.randperm(len(tasks), generator=generator)].tolist()


def mixed_batches(
    tables: Mapping[str, pd.DataFrame],
    order: Order,
    epochs: int,
    batch_size: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    """The rows of each batch of the whole training, in the table of all tasks one after another.

    An epoch is as many batches as the texts of all tasks make. Each task is ordered as in a training of its own.

    Args:
        tables: The training texts of each task, by name.
        order: How the texts of one task are ordered.
        temperature: See :func:`shares`.
        generator: Randomness. One task takes of it what ``order`` takes, then more.

    Raises:
        ValueError: If a task would get no batch at all.
    """
    sizes = [math.ceil(len(table) / batch_size) for table in tables.values()]
    counts = quotas(shares(sizes, temperature), epochs * sum(sizes))
    if 0 in counts:
        raise ValueError(
            f"of {sum(counts)} batches task {list(tables)[counts.index(0)]} gets none: "
            "give finetuning.sampling=equal, or more epochs"
        )
    starts = itertools.accumulate((len(table) for table in tables.values()), initial=0)
    of_task = []
    for table, count, start in zip(tables.values(), counts, starts, strict=False):
        batches = order(table, steps=count, batch_size=batch_size, generator=generator)
        of_task.append(iter([[start + row for row in rows] for rows in batches]))
    return [next(of_task[task]) for task in interleaved(counts, generator)]
