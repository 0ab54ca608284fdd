"""The product of int8 by int8 that every machine has: exact, and nearly as fast as floats where nothing is faster.

``torch._int_mm`` is fast where the processor has dot products of int8. Elsewhere it takes some twenty-five times as
long as a product of floats, and on some processors its sums saturate in 16 bits. There integers are multiplied as
float32, which holds every integer up to 2^24: as many products are summed up at once as cannot pass that, and these
sums are added as integers. The answers are the same, to the bit.

Legend: I width in, O width out, R rows.
"""

import functools

import torch
from torch import Tensor

from effnlp.compression.quantization.backends import packed_products_are_exact

INPUTS_AT_ONCE = 2**24 // 128**2
"""Products of two int8 that can be summed up in float32 without rounding."""


def integer_product(left: Tensor, right: Tensor) -> Tensor:
    """int8 (R, I) and int8 (O, I) to int32 (R, O): ``left @ right.T``, exact.

    A graph that is exported or compiled has torch's operator, since it may be run elsewhere.
    """
    if left.device.type != "cpu" or torch.compiler.is_compiling() or has_dot_products():
        return torch._int_mm(left, right.t())
    product: Tensor = torch.ops.effnlp.int8_as_floats(left, right)
    return product


@functools.cache
def has_dot_products() -> bool:
    """Whether this processor sums up products of int8 in 32 bits: fbgemm, which then uses them, is exact."""
    return packed_products_are_exact("torch")


@torch.library.custom_op("effnlp::int8_as_floats", mutates_args=())
def int8_as_floats(left: Tensor, right: Tensor) -> Tensor:
    """int8 (R, I) and int8 (O, I) to int32 (R, O), as one operator, which the meter of operations knows."""
    pieces = zip(left.split(INPUTS_AT_ONCE, 1), right.split(INPUTS_AT_ONCE, 1), strict=True)
    total, *others = ((one.float() @ other.float().t()).to(torch.int32) for one, other in pieces)
    for sums in others:
        total += sums
    return total
