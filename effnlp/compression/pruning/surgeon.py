"""Optimal brain surgery, column by column: weights that stay make good what those that go did to the output.

Source: Frantar and Alistarh (2023), https://arxiv.org/abs/2301.00774

Legend: I width in, O width out of a layer, W (O, I) weights, X (N, I) inputs, H = X^T X, U upper triangular with
U^T U = H^-1, b columns of a block.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Choose = Callable[[Tensor, int], Tensor]
"""From the scores of a block (O, b) and its first column to what is kept of it: boolean (O, b)."""


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U for H with ``damping`` times the mean of its diagonal added to the diagonal: (I, I) float64.

    Inputs that are always zero get a diagonal of one: their weights do not matter.
    """
    hessian = hessian.double().clone()  # (I, I)
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def prune_columns(weight: Tensor, hessian: Tensor, choose: Choose, block: int, damping: float) -> Tensor:
    """The pruned weights, the rest of each row updated so that ``||(W - W') X^T||`` stays small.

    Blocks of columns are taken from left to right; what goes of a block is chosen by ``w² / U_jj²``, the loss that
    the removal would cost (eq. 4). Each removal moves the weights to its right (eq. 3 for the inverse of the rest
    of H, which rows of U give for every column).

    Args:
        weight: (O, I) float.
        hessian: (I, I), up to a factor.
        choose: What is kept of a block.
        block: b.
        damping: See :func:`inverse_factor`.

    Returns:
        (O, I) in the type of ``weight``, zero where it was not kept.
    """
    factor = inverse_factor(hessian, damping)  # U
    result = weight.detach().double().clone()  # (O, I)
    result[:, hessian.diagonal() == 0] = (
        0.0  # else they would be chosen last, for the diagonal that they were given
    )
    width = result.shape[1]
    for start in range(0, width, block):
        end = min(start + block, width)
        here = result[:, start:end].clone()  # (O, b)
        local = factor[start:end, start:end]  # (b, b)
        keep = choose((here / local.diagonal()).square(), start)  # (O, b)
        errors = torch.zeros_like(here)  # (O, b)
        for j in range(end - start):
            column = here[:, j].where(keep[:, j], 0.0)  # (O,)
            errors[:, j] = (here[:, j] - column) / local[j, j]
            here[:, j:] -= errors[:, j : j + 1] * local[j, j:]
            here[:, j] = column
        result[:, start:end] = here
        result[:, end:] -= errors @ factor[start:end, end:]
    return result.to(weight.dtype)


def reconstruction_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """``||(W - W') X^T||² / ||W X^T||²``, by H = X^T X."""

    def size(matrix: Tensor) -> Tensor:
        matrix = matrix.detach().double()
        return (matrix @ hessian.double() * matrix).sum()

    whole = size(weight)
    return float(size(weight - pruned) / whole) if whole > 0 else 0.0
