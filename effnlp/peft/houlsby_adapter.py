"""Adapters: a trained bottleneck after the attention and after the feed-forward of each frozen layer.

Source: Houlsby et al. (2019), https://arxiv.org/abs/1902.00751

The adapter comes right after the last linear layer of each of the two, before the residual addition. Unlike in the
paper's code, the dropout of a model acts after it and not before it: in evaluation they are the same.
"""

from collections.abc import Sequence

from torch import nn

from effnlp.peft.adapter import check_adapter, dense_bottleneck, insert, leave_unmerged

REQUIRES = {"prepare": ("linear_layers",)}
REMOVES = {"prepare": ("trainable_weights",)}


class HoulsbyAdapter:
    """Only the adapters, the norms and the head are trained.

    Args:
        width: m, of the bottleneck; at most the width of the model.
        activation: ``gelu``, ``relu``, ``silu`` or ``tanh``.
        train_norms: Whether the norms are trained too, as in the paper.
        targets: Roles of linear layers that get an adapter behind them.

    Raises:
        ValueError: If ``width`` is below 1, ``activation`` is unknown or ``targets`` is empty.
    """

    def __init__(
        self,
        width: int = 16,
        activation: str = "gelu",
        train_norms: bool = True,
        targets: Sequence[str] = ("attention_output", "feedforward_down"),
    ) -> None:
        self.targets = check_adapter(width, activation, targets)
        self.width, self.activation, self.train_norms = width, activation, train_norms

    def prepare(self, model: nn.Module) -> nn.Module:
        """Insert the adapters and freeze the rest, in place.

        Raises:
            ValueError: If the encoder lacks a role or a norm, or is narrower than the bottleneck.
        """
        return insert(model, self.targets, self._adapter, self.train_norms)

    def _adapter(self, model_width: int) -> nn.Module:
        return dense_bottleneck(self.width, model_width, self.activation)

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is: an adapter is not linear, so that it stays and its cost is measured."""
        return leave_unmerged(model)
