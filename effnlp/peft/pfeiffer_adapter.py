"""Adapters, one a layer: a trained bottleneck after the feed-forward only; the norms stay frozen.

Source: Pfeiffer et al. (2021), https://arxiv.org/abs/2005.00247

Unlike in the paper, the adapter reads what the feed-forward gives and not its norm: so it is inside of the residual
branch of any family, pre-norm or post-norm.
"""

from collections.abc import Sequence

from torch import nn

from effnlp.peft.adapter import check_adapter, dense_bottleneck, insert, leave_unmerged

REQUIRES = {"prepare": ("linear_layers",)}
REMOVES = {"prepare": ("trainable_weights",)}


class PfeifferAdapter:
    """Only the adapters and the head are trained.

    Args:
        width: m, of the bottleneck; at most the width of the model. The paper has D / 16.
        activation: ``gelu``, ``relu``, ``silu`` or ``tanh``.
        targets: Roles of linear layers that get an adapter behind them.

    Raises:
        ValueError: If ``width`` is below 1, ``activation`` is unknown or ``targets`` is empty.
    """

    def __init__(
        self, width: int = 16, activation: str = "relu", targets: Sequence[str] = ("feedforward_down",)
    ) -> None:
        self.targets = check_adapter(width, activation, targets)
        self.width, self.activation = width, activation

    def prepare(self, model: nn.Module) -> nn.Module:
        """Insert the adapters and freeze the rest, in place.

        Raises:
            ValueError: If the encoder lacks a role, or is narrower than the bottleneck.
        """
        return insert(model, self.targets, self._adapter, train_norms=False)

    def _adapter(self, model_width: int) -> nn.Module:
        return dense_bottleneck(self.width, model_width, self.activation)

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is: an adapter is not linear, so that it stays and its cost is measured."""
        return leave_unmerged(model)
