"""torchao as the back-end of integer layers: its scaled product of integers, compiled together with what surrounds it.

Not compiled, it is slower than the reference. The first product of a process is compiled for some seconds, or read from
what torch keeps of an earlier one.

Legend: I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effnlp.compression.quantization.backends import PackedProduct


def missing() -> str | None:
    """What is to be installed first; None: nothing."""
    if importlib.util.find_spec("torchao") is None:
        return "torchao (pip install 'effnlp[torchao]')"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        return "a C++ compiler"
    return None


class Product(PackedProduct):
    """Weights as torchao's product wants them: (I, O)."""

    name = "torchao"

    def pack(self, integers: Tensor, scales: Tensor, bias: Tensor | None) -> Any:
        """Weights (I, O), scales (O,) and a bias, if need be of zeros, (O,)."""
        with torch.inference_mode(False):  # the compiler wants to know how often they are written to
            offsets = torch.zeros_like(scales) if bias is None else bias.detach().float().clone()
            return integers.t().clone(memory_format=torch.contiguous_format), scales.detach().clone(), offsets

    def multiply(self, numbers: Tensor, packed: Any) -> Tensor:
        """As one operator, which the meter of operations knows."""
        weights, scales, offsets = packed
        if not len(numbers):
            return numbers.new_zeros(0, weights.shape[1])
        out: Tensor = torch.ops.effnlp.int8_by_torchao(numbers, weights, scales, offsets)
        return out


@functools.cache
def compiled() -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The product, for any number of rows."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torchao tells of each kernel for a GPU that it cannot load
    try:
        from torchao.kernel import int_scaled_matmul
    finally:
        logging.disable(before)

    def product(numbers: Tensor, weights: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
        out: Tensor = int_scaled_matmul(numbers.to(torch.int8), weights, numbers.new_ones(1, 1))
        return out * scales + offsets

    return torch.compile(product, dynamic=True)


@torch.library.custom_op("effnlp::int8_by_torchao", mutates_args=())
def int8_by_torchao(numbers: Tensor, weights: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Float (R, I), integers of 8 bits, by weights (I, O), times scales (O,), and the offsets (O,)."""
    with torch.no_grad():
        return compiled()(numbers, weights, scales, offsets)
