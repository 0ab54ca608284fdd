"""How large the students of published distillations are, and what a text costs them.

Source: Jiao et al. (2020), https://arxiv.org/abs/1909.10351, table 1; Sun et al. (2020),
https://arxiv.org/abs/2004.02984
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from effnlp.menu import suggest
from effnlp.reproduce.analytic.encoders import GIGA, MEGA, Shape, count, forward_flops, on_meta

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = 30_522
POSITIONS = 512

STUDENTS = {
    "bert-base": Shape("bert", 12, 768, 12, VOCABULARY),
    "bert-small": Shape("bert", 4, 512, 8, VOCABULARY),
    "four-layers": Shape("bert", 4, 768, 12, VOCABULARY),
    "six-layers": Shape("bert", 6, 768, 12, VOCABULARY),
    "tinybert-4": Shape("bert", 4, 312, 12, VOCABULARY, feedforward_width=1200),
}
"""Those whose layers are BERT's."""

BOTTLENECKED = ("mobilebert", "mobilebert-tiny")


def table(rows: Mapping[str, str], tokens: int) -> dict[str, dict[str, float]]:
    """By row: parameters in millions, and FLOPs of one text in billions.

    Args:
        rows: Row to a name of :data:`STUDENTS` or :data:`BOTTLENECKED`.
        tokens: Of a text.

    Raises:
        ValueError: If there is no such student.
    """
    cells = {}
    for row, name in rows.items():
        if name in STUDENTS:
            model = on_meta(STUDENTS[name])
            flops = forward_flops(model, tokens)
        elif name in BOTTLENECKED:
            model = bottlenecked(name)
            flops = flops_of_bottlenecks(model, tokens)
        else:
            raise ValueError(f"{row}: no student {name!r}{suggest(name, [*STUDENTS, *BOTTLENECKED])}")
        cells[row] = {"parameters": count(model.parameters()) / MEGA, "FLOPs": flops / GIGA}
    return cells


def bottlenecked(name: str) -> "nn.Module":
    """Our encoder in a published configuration, on the meta device."""
    import torch

    from effnlp.model.bottleneck_encoder import MOBILEBERT, MOBILEBERT_TINY, BottleneckEncoder

    shape = MOBILEBERT if name == "mobilebert" else MOBILEBERT_TINY
    with torch.device("meta"):
        return BottleneckEncoder(shape, VOCABULARY, POSITIONS, norm="affine", pairs=True)


def flops_of_bottlenecks(encoder: "nn.Module", tokens: int) -> int:
    """Of one text, matrix products alone."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros(1, tokens, dtype=torch.int64, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.eval()({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return counter.get_total_flops()
