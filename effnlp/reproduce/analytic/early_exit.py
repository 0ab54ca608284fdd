"""What early exit is expected to save: the layers that texts do not go through.

Source: Xin et al. (2020), https://arxiv.org/abs/2004.12993, section 4.3
"""

import dataclasses
from collections.abc import Mapping, Sequence

from effnlp.reproduce.analytic.encoders import MEGA, forward_flops, on_meta, shape


def expected_saving(exit_counts: Sequence[float]) -> float:
    """1 − Σ i · N_i / Σ n · N_i, in [0, 1 − 1/n].

    Args:
        exit_counts: N_i, how many texts left after layer i = 1 … n; at least one did.

    Raises:
        ValueError: If a count is negative or none is positive.
    """
    if any(count < 0 for count in exit_counts) or not any(exit_counts):
        raise ValueError(
            f"exit_counts must not be negative, and one must be positive, got {list(exit_counts)}"
        )
    gone_through = sum(layer * count for layer, count in enumerate(exit_counts, start=1))
    return 1 - gone_through / (len(exit_counts) * sum(exit_counts))


def speed_up(saving: float) -> float:
    """How many times cheaper it is to save that share, which must be below 1."""
    return 1 / (1 - saving)


def flops_of_exits(passed: int, width: int, classes: int = 2) -> int:
    """FLOPs of so many exits: each has a pooler, D × D, and a head, D × classes, and reads one token."""
    return passed * 2 * (width * width + width * classes)


def table(exits: Mapping[str, Sequence[float]], of: str, tokens: int) -> dict[str, dict[str, float]]:
    """By way of leaving: the expected saving, what is saved of the counted FLOPs, and the speed-up that is expected.

    Args:
        exits: Row to the texts, or their shares, that leave after each layer of the encoder.
        of: A name of :data:`effnlp.reproduce.analytic.encoders.SHAPES`.
        tokens: Of a text.

    Raises:
        ValueError: If a row does not have a count for each layer.
    """
    full = shape(of)
    for row, counts in exits.items():
        if len(counts) != full.depth:
            raise ValueError(f"{row}: {of} has {full.depth} layers, got {len(counts)} counts")
    depths = range(1, full.depth + 1)
    # The encoder of each depth has a pooler, which the last exit reads; those on the way have their own.
    to_layer = [forward_flops(on_meta(dataclasses.replace(full, depth=depth)), tokens) for depth in depths]
    whole = to_layer[-1]
    spent = [flops + flops_of_exits(passed, full.width) for passed, flops in enumerate(to_layer)]
    cells = {}
    for row, counts in exits.items():
        saving = expected_saving(counts)
        mean_flops = sum(count * flops for count, flops in zip(counts, spent, strict=True)) / sum(counts)
        cells[row] = {
            "expected saving": 100 * saving,
            "FLOPs saved": 100 * (1 - mean_flops / whole),
            "expected speed-up": speed_up(saving),
            "FLOPs": mean_flops / MEGA,
        }
    return cells
