"""Switch Transformer: parameters and FLOPs of T5 whose feed-forward layers are, in part, choices among experts.

Source: Fedus et al. (2022), https://arxiv.org/abs/2101.03961, Table 9

Legend: D width of the model, F width of a feed-forward layer, K width of a head, H heads, L layers of the encoder and
as many of the decoder, E experts, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOCABULARY = 32_128
"""Of T5 (Raffel et al. 2020, https://arxiv.org/abs/1910.10683), with its rows of padding."""

POSITION_BUCKETS = 32
"""Of the relative positions of T5; each stack has one number for each bucket and head."""

INPUT_TOKENS, TARGET_TOKENS = 512, 114
"""Of a sequence in the pre-training of T5: what a text of 512 tokens becomes when spans are cut out of it."""

FLOPS_PER_WEIGHT = 2
GIGA = 1e9


@dataclass(frozen=True)
class Shape:
    """A row of Table 9.

    Attributes:
        gated: Whether the first matrix of a feed-forward layer is there twice (GEGLU).
        experts: E; 1 is the dense model.
        every: How many layers make one layer with experts: 2 is every other one.
    """

    width: int
    feedforward_width: int
    head_width: int
    heads: int
    layers: int
    gated: bool = True
    experts: int = 1
    every: int = 1

    @property
    def expert_layers(self) -> int:
        """In the encoder; as many in the decoder."""
        return self.layers // self.every if self.experts > 1 else 0

    @property
    def attention(self) -> int:
        """Weights of one attention: query, key, value and output."""
        return 4 * self.width * self.heads * self.head_width

    @property
    def feedforward(self) -> int:
        """Weights of one feed-forward layer, or of one expert."""
        return (3 if self.gated else 2) * self.width * self.feedforward_width

    @property
    def router(self) -> int:
        """Weights of one router."""
        return self.width * self.experts


def parameters(of: Shape) -> int:
    """All weights, with one table of tokens that the output shares; T5 has no biases."""
    attentions = 3 * of.layers * of.attention  # the decoder attends twice
    feedforwards = 2 * ((of.layers - of.expert_layers) + of.expert_layers * of.experts) * of.feedforward
    routers = 2 * of.expert_layers * of.router
    norms = of.width * ((2 + 3) * of.layers + 2)
    positions = 2 * POSITION_BUCKETS * of.heads
    return VOCABULARY * of.width + attentions + feedforwards + routers + norms + positions


def sequence_flops(of: Shape, with_routers: bool = False) -> int:
    """Of a forward pass over one sequence: two for each weight that a token meets.

    A token meets one expert, whatever E. In the decoder every weight is counted once for each token of the target.
    Scores of attention, norms and look-ups are not in it, nor are routers unless asked for.
    """
    in_encoder = of.layers * (of.attention + of.feedforward)
    in_decoder = of.layers * (2 * of.attention + of.feedforward) + VOCABULARY * of.width
    if with_routers:
        in_encoder += of.expert_layers * of.router
        in_decoder += of.expert_layers * of.router
    return FLOPS_PER_WEIGHT * (INPUT_TOKENS * in_encoder + TARGET_TOKENS * in_decoder)


def table(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Billions of parameters and of FLOPs for a sequence, without and with routers.

    Args:
        models: Row to the fields of :class:`Shape`.
    """
    shapes = {row: Shape(**fields) for row, fields in models.items()}
    return {
        row: {
            "parameters": parameters(shape) / GIGA,
            "FLOPs": sequence_flops(shape) / GIGA,
            "FLOPs with routers": sequence_flops(shape, with_routers=True) / GIGA,
        }
        for row, shape in shapes.items()
    }
