"""Which heads and inner units to keep, by what the loss would lose without them, and the cut itself.

A mask variable xi stands before each group of a part (:mod:`effnlp.model.parts`), 1 where the group is whole. How much
the loss depends on it is the group's importance.

Source: Michel et al. (2019), https://arxiv.org/abs/1905.10650; for single units Molchanov et al. (2017),
https://arxiv.org/abs/1611.06440

Legend: B rows of a batch (texts; of layers that read tokens one by one, tokens), T tokens, G groups, W width of one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from effnlp.compression.pruning.mask import check_scope, check_sparsity, keep_masks
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.parts import Part, keep_groups
from effnlp.model.surgery import encoder_of

MOMENTS = ("prepare", "finish")


def check_moment(moment: str) -> str:
    """``moment``, once it is known to exist."""
    if moment not in MOMENTS:
        raise ValueError(f"moment must be one of {', '.join(MOMENTS)}, got {moment!r}")
    return moment


def check_at_least_one(name: str, value: int) -> int:
    """``value``, once it is known to be at least 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def refuse_whole(counts: Mapping[str, int], sparsity: float, scope: str) -> None:
    """Say before any work that too much would be removed.

    Args:
        counts: Name of a part to its number of groups.

    Raises:
        ValueError: If no group of a part would be left; names the largest sparsity allowed.
    """
    if check_scope(scope) == "global":
        total = sum(counts.values())
        most = total - len(counts)
        if round(check_sparsity(sparsity) * total) > most:
            raise ValueError(
                f"sparsity {sparsity} would remove all of a layer: {len(counts)} layers have {total} groups, of which "
                f"each keeps one; at most {most / total:.4g}"
            )
        return
    for name, count in counts.items():
        if round(check_sparsity(sparsity) * count) >= count:
            raise ValueError(
                f"sparsity {sparsity} would remove all {count} groups that {name} reads; "
                f"at most {(count - 1) / count:.4g}"
            )


def choose(scores: Mapping[str, Tensor], sparsity: float, scope: str) -> dict[str, Tensor]:
    """Which groups stay: all but the ones with the lowest scores.

    Args:
        scores: Name of a part to the scores of its groups, (G,).
        sparsity: Fraction of the groups removed, in [0, 1).
        scope: ``layer``: that fraction of each part; ``global``: of all parts together, of which each keeps its best.

    Returns:
        Name of a part to a boolean mask (G,).

    Raises:
        ValueError: If a part would keep none.
    """
    refuse_whole({name: len(tensor) for name, tensor in scores.items()}, sparsity, scope)
    protected = {name: tensor.clone() for name, tensor in scores.items()}
    for tensor in protected.values():
        tensor[tensor.argmax()] = torch.inf
    return keep_masks(protected, sparsity, scope)


def normalised(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores divided by the L2 norm of those of their part, so that parts can be compared (section 4.1)."""
    tiny = torch.finfo(torch.float32).tiny
    return {name: tensor / tensor.norm().clamp_min(tiny) for name, tensor in scores.items()}


def multiplied(x: Tensor, gates: Tensor) -> Tensor:
    """What a layer reads, each group times its gate: ``x`` (B, …, G · W) and ``gates`` (G,) or (B, G)."""
    groups = gates.shape[-1]
    if gates.dim() == 2:
        gates = gates.view(len(gates), *[1] * (x.dim() - 2), groups)  # (B, …, G)
    return (x.unflatten(-1, (groups, -1)) * gates.unsqueeze(-1)).flatten(-2)


@contextmanager
def gated(model: nn.Module, parts: Sequence[Part], gate: Any) -> Iterator[None]:
    """Within it, each part's reader reads its input times ``gate(name, x)``, of the shape (G,) or (B, G)."""
    encoder = encoder_of(model)

    def hook_of(part: Part) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (multiplied(args[0], gate(part, args[0])), *args[1:])

        return hook

    handles = [encoder.get_submodule(p.reader).register_forward_pre_hook(hook_of(p)) for p in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def masked(model: nn.Module, parts: Sequence[Part], masks: Mapping[str, Tensor]) -> Any:
    """Within it, the groups that the masks drop are zero; parts without a mask are whole."""
    known = [part for part in parts if part.reader in masks]
    return gated(model, known, lambda part, x: masks[part.reader].to(x.device, x.dtype))


def importances(
    model: nn.Module, parts: Sequence[Part], batches: Sequence[Batch], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """How much the loss of a text depends on each group: the mean over the texts of |dL/dxi|, at xi = mask (eq. 2).

    Args:
        model: In evaluation mode; it is left as it is.
        batches: With labels.
        masks: Name of a part to its groups that are still there, (G,); parts without one are whole.

    Returns:
        Name of a part to (G,), on the CPU, in float64; 0 where no text gets there.

    Raises:
        ValueError: If the texts have no labels.
    """
    sums = {part.reader: torch.zeros(part.count, dtype=torch.float64) for part in parts}
    texts = 0
    for batch in batches:
        found: dict[str, list[Tensor]] = {part.reader: [] for part in parts}

        def variable(part: Part, x: Tensor, found: dict[str, list[Tensor]] = found) -> Tensor:
            used = found[part.reader]
            # What a layer reads is read by each that shares the layer, with one xi.
            if not used or used[-1].shape[0] != x.shape[0]:
                mask = masks.get(part.reader, torch.ones(part.count))
                used.append(mask.to(x.device, x.dtype).expand(x.shape[0], -1).clone().requires_grad_())
            return used[-1]

        with torch.enable_grad(), gated(model, parts, variable):
            loss = summed_loss(model, batch)
            every = [(name, xi) for name, used in found.items() for xi in used]
            gradients = torch.autograd.grad(loss, [xi for _, xi in every], allow_unused=True)
        for (name, _), gradient in zip(every, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.detach().abs().sum(0).double().cpu()
        texts += len(batch["input_ids"])
    return {name: total / texts for name, total in sums.items()}


def summed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of the task, summed over the texts: of one text it has the gradient of that text alone.

    Cross-entropy for classes, squared error for numbers. Texts with a class that the model does not know (of another
    task, learned beside its own) have none.

    Raises:
        ValueError: If the batch has no labels, or the model gives no answer to compare with them.
    """
    if "labels" not in batch:
        raise ValueError(
            "the importance of heads and units is measured by a loss, and the texts have no labels"
        )
    labels: Tensor = batch["labels"]
    logits = _answers(model, batch)  # (B, C)
    if labels.is_floating_point():
        if logits.numel() != labels.numel():
            raise ValueError(f"{type(model).__name__} does not answer with one number for each text")
        return mse_loss(logits.flatten(), labels.to(logits.dtype), reduction="sum")
    is_known = labels < logits.shape[1]
    return cross_entropy(logits[is_known], labels[is_known], reduction="sum")


def _answers(model: Any, batch: Batch) -> Tensor:
    """Logits; of a model that texts leave early, those of the last layer for all."""
    if getattr(model, "data_dependent_compute", False):
        logits: Tensor = model.head(model.encoder(batch))
    else:
        logits = model(batch)
    return logits


def choose_by_importance(
    model: nn.Module,
    parts: Sequence[Part],
    batches: Sequence[Batch],
    sparsity: float,
    scope: str,
    rounds: int,
) -> dict[str, Tensor]:
    """Masks of the groups to keep, (G,), after equal steps in each of which the importance is estimated anew."""
    masks: dict[str, Tensor] = {}
    for step in range(1, rounds + 1):
        found = importances(model, parts, batches, masks)
        scores = normalised({name: f.where(masks[name], 0.0) if masks else f for name, f in found.items()})
        for name, mask in masks.items():
            scores[name][~mask] = -torch.inf  # what is gone does not come back
        masks = choose(scores, sparsity * step / rounds, scope)
    return masks


def cut(model: nn.Module, parts: Sequence[Part], masks: Mapping[str, Tensor]) -> None:
    """Rebuild the layers without the groups that the masks drop, in place."""
    for part in parts:
        kept = masks[part.reader].nonzero().squeeze(1)
        if len(kept) < part.count:
            keep_groups(model, part, kept)


def tell(model: nn.Module, removed: Mapping[str, tuple[int, int]]) -> None:
    """Write down for each kind of group how many there were and how many of them were removed.

    A method that was told to remove nothing of any kind has removed 0 groups.
    """
    said: dict[str, float] = {} if removed else {"groups_removed": 0}
    for kind, (before, gone) in removed.items():
        said |= {kind: before, f"{kind}_removed": gone, f"{kind}_sparsity": gone / before}
    note(model, "compression/pruning", said)


def removed_by(masks: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many groups masks are about, and how many they drop."""
    return sum(mask.numel() for mask in masks.values()), sum(int((~mask).sum()) for mask in masks.values())
