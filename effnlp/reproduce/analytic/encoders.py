"""Encoders of published shapes on the meta device, where a weight has a shape and no values.

Parameters and FLOPs are counted on the real modules of transformers, not looked up. Nothing is downloaded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effnlp.menu import suggest

if TYPE_CHECKING:
    from torch import nn

MEGA, GIGA = 1e6, 1e9
"""What a count is divided by to be in millions or billions."""


@dataclass(frozen=True)
class Shape:
    """What fixes the number of weights of an encoder.

    Attributes:
        family: The ``model_type`` of transformers.
        depth, width, heads: L, H and A in the papers.
        vocabulary_size, positions: Rows of the tables of tokens and of positions.
        embedding_width: E of ALBERT; None is ``width``.
        feedforward_width: None is four times ``width``.
    """

    family: str
    depth: int
    width: int
    heads: int
    vocabulary_size: int
    positions: int = 512
    embedding_width: int | None = None
    feedforward_width: int | None = None


ROBERTA_VOCABULARY, ROBERTA_POSITIONS = 50_265, 514
DEBERTA_VOCABULARY = 128_100
LAN_VOCABULARY = 30_000
"""Lan et al. (2020), section 4.1: all of their models, their BERT too, have this vocabulary."""

SHAPES = {
    # Lan et al. (2020), Table 1.
    "bert-base": Shape("bert", 12, 768, 12, LAN_VOCABULARY),
    "bert-large": Shape("bert", 24, 1024, 16, LAN_VOCABULARY),
    "albert-base": Shape("albert", 12, 768, 12, LAN_VOCABULARY, embedding_width=128),
    "albert-large": Shape("albert", 24, 1024, 16, LAN_VOCABULARY, embedding_width=128),
    "albert-xlarge": Shape("albert", 24, 2048, 16, LAN_VOCABULARY, embedding_width=128),
    "albert-xxlarge": Shape("albert", 12, 4096, 64, LAN_VOCABULARY, embedding_width=128),
    # Liu et al. (2019), https://arxiv.org/abs/1907.11692; He et al. (2021), https://arxiv.org/abs/2006.03654.
    "roberta-base": Shape("roberta", 12, 768, 12, ROBERTA_VOCABULARY, ROBERTA_POSITIONS),
    "roberta-large": Shape("roberta", 24, 1024, 16, ROBERTA_VOCABULARY, ROBERTA_POSITIONS),
    "deberta-xxlarge": Shape("deberta-v2", 48, 1536, 24, DEBERTA_VOCABULARY),
}

OWN_KEYS: dict[str, dict[str, Any]] = {
    "bert": {"type_vocab_size": 2},
    "albert": {"type_vocab_size": 2},
    "roberta": {"type_vocab_size": 1},
    # As version 2 of DeBERTa was released: relative positions in place of absolute ones, and a convolution.
    "deberta-v2": {
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 256,
        "share_att_key": True,
        "conv_kernel_size": 3,
        "norm_rel_ebd": "layer_norm",
    },
}


def shape(name: str) -> Shape:
    """The shape of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in SHAPES:
        raise ValueError(f"no shape {name!r}{suggest(name, [*SHAPES])}")
    return SHAPES[name]


def on_meta(of: Shape, groups: int = 1) -> "nn.Module":
    """The encoder, with the pooler that its family has.

    Args:
        of: Its shape.
        groups: Of layers that have weights of their own; ALBERT only, where 1 shares all.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    keys = dict(OWN_KEYS[of.family])
    if of.family == "albert":
        keys |= {"embedding_size": of.embedding_width or of.width, "num_hidden_groups": groups}
    config = AutoConfig.for_model(
        of.family,
        num_hidden_layers=of.depth,
        hidden_size=of.width,
        num_attention_heads=of.heads,
        intermediate_size=of.feedforward_width or 4 * of.width,
        vocab_size=of.vocabulary_size,
        max_position_embeddings=of.positions,
        **keys,
    )
    with torch.device("meta"):
        return AutoModel.from_config(config, attn_implementation="eager")


def count(parameters: "Iterable[nn.Parameter]") -> int:
    """How many numbers they are."""
    return sum(parameter.numel() for parameter in parameters)


def forward_flops(model: "nn.Module", tokens: int) -> int:
    """Of one forward pass over one text of ``tokens`` tokens: 2 for each multiplication with its addition.

    Matrix products are counted; norms, activations and look-ups, which are none, are not.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros(1, tokens, dtype=torch.int64, device="meta")
    # A mask of four dimensions is added to the scores as it is; one of two would be looked into, which has no values.
    mask = torch.zeros(1, 1, tokens, tokens, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(input_ids=ids, attention_mask=mask)
    return counter.get_total_flops()
