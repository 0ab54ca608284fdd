"""GPTQ: round a weight at a time, and let those that follow make up for what it lost on calibration texts.

Source: Frantar et al. (2023), https://arxiv.org/abs/2210.17323

Legend: I width in, O width out, S columns of a group, X the inputs of a layer, H = X^T X (I, I).
"""

from functools import partial

import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments
from effnlp.compression.quantization.integer import quantize_tables
from effnlp.compression.quantization.moment import check_texts
from effnlp.compression.quantization.packed import (
    PackedLinear,
    Rounded,
    check_bits,
    check_group_size,
    check_groups,
    columns_of_group,
    find_scales,
    nearest,
    round_rows,
    weights_in,
)
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers", "embeddings")}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}

BLOCK = 128
"""Columns after which what was lost is passed on to all that follow, in one product (section 3.3)."""


def reconstruction_errors(weight: Tensor, rounded: Rounded, products: Tensor) -> Tensor:
    """Of each output (O,): the squares of what it loses over all inputs, ``products`` being H."""
    lost = (weight - rounded.values).to(products.dtype)  # (O, I)
    return (lost @ products * lost).sum(1)


def inverse_factor(products: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of H, to which ``damping`` times the mean of its diagonal is added."""
    damped = products.clone()
    damped.diagonal().add_(damping * products.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def solve(
    weight: Tensor,
    products: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    act_order: bool = True,
    damping: float = 0.01,
) -> Rounded:
    """Round the rows of ``weight`` (O, I) so that they lose little on inputs with ``products`` H.

    Unlike the paper, an output that rounding to the nearest serves better is rounded to the nearest.

    Args:
        act_order: Begin with the inputs that are largest. Scales are then those of the weights before any change;
            else those of a group are found when it is its turn.

    Raises:
        ValueError: If groups do not fill a row.
    """
    plain = round_rows(weight, bits, group_size, symmetric)
    if not products.diagonal().any():
        return plain  # nothing was seen
    size = columns_of_group(weight.shape[1], group_size)
    order = torch.arange(weight.shape[1])
    if act_order:
        order = products.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(products[order][:, order], damping).to(weight.dtype)  # (I, I)
    scales = plain.scales.clone()  # (O, G)
    zeros = None if plain.zeros is None else plain.zeros.clone()
    numbers = torch.empty_like(plain.numbers)  # (O, I)
    left = weight[:, order].clone()  # what is still to be rounded
    block = size * max(1, BLOCK // size) if size < weight.shape[1] else BLOCK  # no group is cut
    for start in range(0, left.shape[1], block):
        end = min(start + block, left.shape[1])
        lost = torch.zeros_like(left[:, start:end])
        for i in range(start, end):
            group = int(order[i]) // size
            if not act_order and i % size == 0:
                scales[:, group], zero = find_scales(left[:, i : i + size], bits, symmetric)
                if zeros is not None and zero is not None:
                    zeros[:, group] = zero
            of_group = None if zeros is None else zeros[:, group]
            numbers[:, order[i]] = q = nearest(left[:, i], scales[:, group], of_group, bits)
            zero_point = 1 << (bits - 1) if of_group is None else of_group.to(weight.dtype)
            value = (q.to(weight.dtype) - zero_point) * scales[:, group]
            error = (left[:, i] - value) / factor[i, i]  # eq. 2
            left[:, i:end] -= error.unsqueeze(1) * factor[i, i:end]  # eq. 3
            lost[:, i - start] = error
        left[:, end:] -= lost @ factor[start:end, end:]  # eq. 4
    return _better(weight, products, Rounded(numbers, scales, zeros, bits), plain)


def _better(weight: Tensor, products: Tensor, found: Rounded, plain: Rounded) -> Rounded:
    """Of each row the one that loses less."""
    errors = [reconstruction_errors(weight, rounded, products) for rounded in (found, plain)]
    is_found = (errors[0] <= errors[1]).unsqueeze(1)  # (O, 1); false for NaN
    zeros = None
    if found.zeros is not None and plain.zeros is not None:
        zeros = torch.where(is_found, found.zeros, plain.zeros)
    return Rounded(
        torch.where(is_found, found.numbers, plain.numbers),
        torch.where(is_found, found.scales, plain.scales),
        zeros,
        found.bits,
    )


class GPTQ:
    """The encoder's linear weights in few bits; its tables, for which there is nothing to solve, in int8.

    Unlike the paper, the inputs of every layer are those of the model before any layer is rounded.

    Args:
        bits: 2, 3, 4 or 8.
        group_size: Neighbours along the input that share a scale; a row of fewer is one group, and so is every row
            where it is None.
        symmetric: 2^bits - 1 numbers around zero; else 2^bits from the smallest weight to the largest.
        act_order: Begin with the inputs that are largest.
        damping: Added to the diagonal of H, as a share of its mean; above 0.
        calibration_texts: How many training texts are read.
        embeddings: Keep the embedding tables in int8.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        bits: int = 4,
        group_size: int | None = 64,
        symmetric: bool = False,
        act_order: bool = True,
        damping: float = 0.01,
        calibration_texts: int = 128,
        embeddings: bool = True,
    ) -> None:
        if damping <= 0:
            raise ValueError(f"damping must be above 0, got {damping}")
        self.bits, self.group_size = check_bits(bits), check_group_size(group_size)
        self.symmetric, self.act_order, self.damping = symmetric, act_order, damping
        self.calibration_texts, self.embeddings = check_texts(calibration_texts), embeddings
        self._products: dict[str, Tensor] | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Refuse groups that do not fill a row, before the training."""
        check_groups(encoder_layers(model, nn.Linear), self.group_size)
        return model

    def calibrate(self, model: nn.Module, batches: list[Batch]) -> None:
        """Gather H of every layer."""
        self._products = input_moments(model, encoder_layers(model, nn.Linear), batches, "outer")

    def finish(self, model: nn.Module) -> nn.Module:
        """Round, in place; a layer that no text reached is rounded to the nearest.

        Raises:
            ValueError: If it has seen no texts, or groups do not fill a row.
        """
        if self._products is None:
            raise ValueError("gptq rounds by what layers are given: it must see calibration texts first")
        linears = encoder_layers(model, nn.Linear)
        check_groups(linears, self.group_size)
        tables = quantize_tables(model) if self.embeddings else 0
        lost, lost_by_nearest = 0.0, 0.0
        for name, linear in linears.items():
            weight = linear.weight.detach()
            products = self._products.get(name, torch.zeros(weight.shape[1], weight.shape[1])).to(
                weight.device
            )
            kind = (self.bits, self.group_size, self.symmetric)
            rounded = solve(weight, products, *kind, self.act_order, self.damping)
            lost += float(reconstruction_errors(weight, rounded, products).sum())
            lost_by_nearest += float(reconstruction_errors(weight, round_rows(weight, *kind), products).sum())
            replace_layers(model, [linear], partial(PackedLinear, rounded=rounded))
        noted: dict[str, float] = {
            "layers": len(linears),
            "bits": self.bits,
            "packed_weights": weights_in(linears.values()),
        }
        noted |= {"int8_weights": tables, "layers_without_inputs": len(linears) - len(self._products)}
        if lost_by_nearest:
            noted["error_to_nearest"] = lost / lost_by_nearest
        note(model, "compression/quantization", noted)
        self._products = None
        return model
