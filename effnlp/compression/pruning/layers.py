"""Layer pruning: drop whole layers, by their place or by how little they change a text.

Source: Sajjad et al. (2023), https://arxiv.org/abs/2004.03844

Legend: L layers, k of them dropped, B texts, T tokens, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from effnlp.compression.pruning.groups import check_at_least_one, check_moment
from effnlp.compression.pruning.mask import check_sparsity
from effnlp.data.encodings import Batch
from effnlp.menu import suggest
from effnlp.method import note
from effnlp.model.classifier import LayeredEncoder, mean_pool
from effnlp.model.layers import droppable_layers, keep_layers
from effnlp.model.surgery import encoder_of

REQUIRES = {"prepare": ("layer_outputs",), "finish": ("layer_outputs",)}

STRATEGIES = ("top", "bottom", "alternate", "symmetric", "contribution")
"""Which layers go first: the last ones; the first ones; every other one from the last down; those in the middle; those
that change a text least."""


def in_order(strategy: str, depth: int) -> list[int]:
    """The layers in the order in which a strategy drops them.

    Args:
        strategy: One of :data:`STRATEGIES`, but for ``contribution``, which asks the model.
        depth: L.
    """
    if strategy == "top":
        return list(range(depth))[::-1]
    if strategy == "bottom":
        return list(range(depth))
    if strategy == "alternate":
        return [*range(depth - 1, -1, -2), *range(depth - 2, -1, -2)]
    # From the middle outwards, of two equally far ones the upper: the first and the last L - k halves stay.
    return sorted(range(depth), key=lambda index: (abs(2 * index - (depth - 1)), -index))


def similarities(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """(L,) the cosine between a text before and after each layer, a mean over the texts; near 1: it changes little.

    Unlike the paper, which looks at the first token, a text is the mean of its tokens: not every model pools the first.
    """
    encoder: Any = encoder_of(model)
    totals, texts = torch.zeros(encoder.depth, dtype=torch.float64), 0
    with torch.no_grad():
        for batch in batches:
            state = encoder.embed(batch)
            before = mean_pool(state.hidden, state.mask)  # (B, D)
            for index in range(encoder.depth):
                state = encoder.layer(index, state)
                after = mean_pool(state.hidden, state.mask)  # (B, D)
                totals[index] += cosine_similarity(before, after).double().sum().cpu()
                before = after
            texts += len(before)
    return totals / texts


class Layers:
    """The layers that stay are run one after another, as if there had been no others.

    Unlike the paper's threshold on the contribution, a fraction says how many layers go.

    Args:
        sparsity: Fraction of the layers dropped, in [0, 1); of L layers k = round(sparsity · L), fewer than L.
        strategy: ``top``: the last k; ``bottom``: the first k; ``alternate``: every other one, from the last down;
            ``symmetric``: the k in the middle; ``contribution``: the k that change training texts least.
        calibration_texts: How many texts ``contribution`` looks at; the others look at none.
        moment: ``prepare`` drops layers of the base, which then is fine-tuned without them, as in the paper;
            ``finish`` those of the trained model.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        strategy: str = "top",
        calibration_texts: int = 256,
        moment: str = "prepare",
    ) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"there is no strategy {strategy!r}{suggest(strategy, STRATEGIES)}")
        self.sparsity, self.strategy, self.moment = check_sparsity(sparsity), strategy, check_moment(moment)
        looks = strategy == "contribution"
        self.calibration_texts = check_at_least_one("calibration_texts", calibration_texts) if looks else 0
        self.calibrates_at = self.moment if looks else None
        self._order: list[int] = []

    def check(self, model: nn.Module) -> None:
        """Refuse a model, before it is trained, that cannot do without a layer, or would have none left."""
        self._count(model)

    def _count(self, model: nn.Module) -> int:
        """How many layers are dropped."""
        encoder = encoder_of(model)
        if not isinstance(encoder, LayeredEncoder):
            raise ValueError(f"nothing to prune: {type(encoder).__name__} has no layers")
        depth = len(droppable_layers(encoder))
        count = round(self.sparsity * depth)
        if count >= depth:
            raise ValueError(
                f"sparsity {self.sparsity} would drop all {depth} layers; at most {(depth - 1) / depth:.4g}"
            )
        return count

    def calibrate(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Order the layers by how little they change these texts."""
        self._order = similarities(model, batches).argsort(descending=True, stable=True).tolist()

    def prepare(self, model: nn.Module) -> nn.Module:
        """Drop layers of the base, in place, if that is the moment."""
        return self._drop(model) if self.moment == "prepare" else model

    def finish(self, model: nn.Module) -> nn.Module:
        """Drop layers of the trained model, in place, if that is the moment."""
        return self._drop(model) if self.moment == "finish" else model

    def _drop(self, model: nn.Module) -> nn.Module:
        count, encoder = self._count(model), encoder_of(model)
        depth = len(droppable_layers(encoder))
        order = self._order if self.strategy == "contribution" else in_order(self.strategy, depth)
        dropped = set(order[:count])
        if dropped:
            keep_layers(encoder, [index for index in range(depth) if index not in dropped])
        note(
            model,
            "compression/pruning",
            {"layers": depth, "layers_dropped": count, "sparsity": count / depth},
        )
        return model
