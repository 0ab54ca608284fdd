"""Which weights to keep, by rank of their scores.

Legend: n entries of a tensor, k of them dropped.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

SCOPES = ("layer", "global")


def check_sparsity(sparsity: float) -> float:
    """``sparsity``, once it is known to be in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    return sparsity


def check_scope(scope: str) -> str:
    """``scope``, once it is known to exist."""
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    return scope


def check_texts(calibration_texts: int) -> int:
    """``calibration_texts``, once it is known to be at least 1."""
    if calibration_texts < 1:
        raise ValueError(f"calibration_texts must be at least 1, got {calibration_texts}")
    return calibration_texts


def keep_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Mark what to keep: all but the ``round(sparsity * n)`` lowest scores; of equal ones the first go.

    By rank: a threshold alone drops too many when scores are tied. Found by selection, in O(n), since sorting
    takes several times as long.

    Args:
        scores: Any shape, n entries.
        sparsity: Fraction of entries to drop, in [0, 1).

    Returns:
        Boolean, same shape as ``scores``.

    Raises:
        ValueError: If ``sparsity`` is outside [0, 1), or a score is NaN, which has no rank.
    """
    return keep_highest(scores, round(check_sparsity(sparsity) * scores.numel()))


def keep_highest(scores: Tensor, drop: int) -> Tensor:
    """:func:`keep_mask` by the number of entries to drop, in [0, n]: k."""
    flat = scores.detach().flatten()  # (n,)
    if flat.isnan().any():
        raise ValueError("scores must have a rank, got NaN")
    if drop == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    border = flat.kthvalue(drop).values
    keep = flat > border  # (n,)
    tied = (flat == border).nonzero().squeeze(1)
    kept_ties = scores.numel() - drop - int(keep.sum())
    keep[tied[len(tied) - kept_ties :]] = True
    return keep.view_as(scores)


def keep_in_rows(scores: Tensor, drop: int) -> Tensor:
    """Mark what to keep in each row: all but the ``drop`` lowest scores of the row; of equal ones the first go.

    Args:
        scores: (…, C).
        drop: In [0, C].

    Returns:
        Boolean, same shape as ``scores``.

    Raises:
        ValueError: If a score is NaN, which has no rank.
    """
    if scores.isnan().any():
        raise ValueError("scores must have a rank, got NaN")
    lowest = scores.detach().argsort(dim=-1, stable=True)[..., :drop]  # (…, drop)
    return torch.ones_like(scores, dtype=torch.bool).scatter_(-1, lowest, False)


def refuse_whole_layers(layers: Mapping[str, nn.Linear], sparsity: float) -> None:
    """Check before the training that some weight of each layer would be left.

    Raises:
        ValueError: If none would; names the first such layer.
    """
    for name, layer in layers.items():
        entries = layer.weight.numel()
        if round(check_sparsity(sparsity) * entries) == entries:
            raise ValueError(
                f"sparsity={sparsity} would leave nothing of {name}, which has {entries} weights"
            )


def refuse_whole_rows(layers: Mapping[str, nn.Linear], sparsity: float) -> None:
    """Check before the training that some weight of each row would be left.

    Raises:
        ValueError: If none would; names the first layer with such rows.
    """
    for name, layer in layers.items():
        if round(check_sparsity(sparsity) * layer.in_features) == layer.in_features:
            raise ValueError(
                f"sparsity={sparsity} would leave nothing of {name}, whose rows have {layer.in_features} weights"
            )


def keep_masks(scores: Mapping[str, Tensor], sparsity: float, scope: str) -> dict[str, Tensor]:
    """A mask for each tensor of scores.

    Args:
        scope: ``layer`` drops the same fraction of each tensor, ``global`` the lowest scores of all
            together, so that tensors end with different fractions.

    Raises:
        ValueError: If ``scope`` is neither.
    """
    if check_scope(scope) == "layer":
        return {name: keep_mask(tensor, sparsity) for name, tensor in scores.items()}
    flat = keep_mask(torch.cat([tensor.detach().flatten() for tensor in scores.values()]), sparsity)
    parts = flat.split([tensor.numel() for tensor in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def sparsity_of(tensors: Sequence[Tensor]) -> dict[str, float]:
    """What a pruning method reports: how many entries there are, how many are zero, and the fraction."""
    weights = sum(tensor.numel() for tensor in tensors)
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors)
    return {"layers": len(tensors), "weights": weights, "zeros": zeros, "sparsity": zeros / weights}
