"""Compacter: adapters whose matrices are sums of Kronecker products, with one factor shared by all of them.

Source: Karimi Mahabadi et al. (2021), https://arxiv.org/abs/2106.04647

The other factor has rank one. So x W is computed factor by factor, and W is never made: a token costs n² m + n D
multiplications in place of m D. Places and norms are those of Houlsby et al. (2019), as in the paper; Compacter++ is
``targets=[feedforward_down]``. Unlike the paper, the up-projection starts at zero.

Legend: n number of products, I width in, O width out, D width of the model, m width of the bottleneck.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.peft.adapter import Bottleneck, check_adapter, insert, leave_unmerged

REQUIRES = {"prepare": ("linear_layers",)}
REMOVES = {"prepare": ("trainable_weights",)}


class KroneckerLinear(nn.Module):
    """``x W + b`` with W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ), a low-rank parameterised hypercomplex multiplication layer.

    Own parameters: I + O + O with the bias.

    Args:
        in_features: I.
        out_features: O.
        slow: A, (n, n, n): n matrices of n × n, which other layers may share.
        starts_at_zero: Whether W is zero at the start.

    Raises:
        ValueError: If n does not divide both widths.
    """

    def __init__(
        self, in_features: int, out_features: int, slow: nn.Parameter, starts_at_zero: bool = False
    ) -> None:
        super().__init__()
        n = len(slow)
        if in_features % n or out_features % n:
            raise ValueError(
                f"products must divide both widths of an adapter, got {n} for {in_features} and {out_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.slow = slow
        self.s = nn.Parameter(torch.empty(n, in_features // n))  # (n, I/n)
        self.t = nn.Parameter(torch.empty(n, out_features // n))  # (n, O/n)
        self.bias = nn.Parameter(torch.zeros(out_features))
        for factor in (self.s, self.t):
            nn.init.xavier_uniform_(factor.T)
        if starts_at_zero:
            nn.init.zeros_(self.t)

    def weight(self) -> Tensor:
        """W, (I, O), as the sum that defines it."""
        n = len(self.slow)
        fast = self.s[:, :, None] * self.t[:, None, :]  # (n, I/n, O/n)
        blocks = torch.einsum("iab,icd->acbd", self.slow, fast)  # (n, I/n, n, O/n)
        return blocks.reshape(n * fast.shape[1], n * fast.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        n = len(self.slow)
        if self.in_features >= self.out_features:
            read = x.unflatten(-1, (n, -1)) @ self.s.T  # (…, n of a, n of i)
            rest = torch.einsum("iab,io->aibo", self.slow, self.t).reshape(n * n, self.out_features)
            return linear(read.flatten(-2), rest.T, self.bias)
        first = torch.einsum("ic,iab->acbi", self.s, self.slow).reshape(self.in_features, n * n)
        read = (x @ first).unflatten(-1, (n, n))  # (…, n of b, n of i)
        return (read @ self.t).flatten(-2) + self.bias


class Compacter:
    """Only the adapters, the norms and the head are trained.

    An adapter has 2 (D + m) parameters and D + m biases; all of them together share n³ more.

    Args:
        products: n, of Kronecker products in a sum; it must divide ``width`` and the width of the model.
        width: m, of the bottleneck.
        activation: ``gelu``, ``relu``, ``silu`` or ``tanh``.
        train_norms: Whether the norms are trained too, as in the paper.
        targets: Roles of linear layers that get an adapter behind them.

    Raises:
        ValueError: If ``products`` is below 1 or does not divide ``width``, or another value is outside its range.
    """

    def __init__(
        self,
        products: int = 4,
        width: int = 16,
        activation: str = "gelu",
        train_norms: bool = True,
        targets: Sequence[str] = ("attention_output", "feedforward_down"),
    ) -> None:
        self.targets = check_adapter(width, activation, targets)
        if products < 1:
            raise ValueError(f"products must be at least 1, got {products}")
        if width % products:
            raise ValueError(f"products must divide width, got {products} for {width}")
        self.products, self.width, self.activation = products, width, activation
        self.train_norms = train_norms

    def prepare(self, model: nn.Module) -> nn.Module:
        """Insert the adapters, which share A, and freeze the rest, in place.

        Raises:
            ValueError: If the encoder lacks a role or a norm, is narrower than the bottleneck, or has a width
                that ``products`` does not divide.
        """
        slow = nn.Parameter(torch.empty(self.products, self.products, self.products))
        nn.init.normal_(slow, std=self.products**-0.5)

        def adapter(model_width: int) -> Bottleneck:
            if self.width > model_width:
                raise ValueError(
                    f"width must be at most {model_width} for layers of width {model_width}, got {self.width}"
                )
            down = KroneckerLinear(model_width, self.width, slow)
            up = KroneckerLinear(self.width, model_width, slow, starts_at_zero=True)
            return Bottleneck(down, up, self.activation)

        return insert(model, self.targets, adapter, self.train_norms)

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is: an adapter is not linear, so that it stays and its cost is measured."""
        return leave_unmerged(model)
