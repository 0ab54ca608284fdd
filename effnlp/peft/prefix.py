"""Prefix tuning: train keys and values that every attention reads before those of the text.

Source: Li and Liang (2021), https://arxiv.org/abs/2101.00190

Legend: P tokens of the prefix, L layers with attention, W width of their keys, D width of the encoder, M inner width
of the network.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.method import note
from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import check_factor, freeze_all_but_head, thaw

REQUIRES = {"prepare": ("softmax_attention",)}
REMOVES = {"prepare": ("trainable_weights",)}


class Trunk(nn.Module):
    """What the networks of all layers share: an embedding for each token of the prefix, and the first layer.

    Its parameters have names and no linear layers, so that nothing takes it for a part of the model.
    """

    def __init__(self, length: int, width: int, inner_width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(length, width))  # (P, D)
        up = nn.Linear(width, inner_width)
        self.up, self.up_offset = up.weight, up.bias  # (M, D), (M,)

    def forward(self) -> Tensor:
        """(P, M)."""
        return torch.tanh(linear(self.tokens, self.up, self.up_offset))


class ShapedPrefix(nn.Module):
    """Keys and values of one layer, given by a network (section 4.3) that :meth:`folded` leaves behind.

    Args:
        trunk: Shared with the other layers.
        inner_width: M.
        width: W.
    """

    def __init__(self, trunk: Trunk, inner_width: int, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        down = nn.Linear(inner_width, 2 * width)
        self.down, self.down_offset = down.weight, down.bias  # (2 W, M), (2 W,)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (P, W) each."""
        keys, values = linear(self.trunk(), self.down, self.down_offset).chunk(2, dim=-1)  # (P, W) each
        return keys, values

    def folded(self) -> "Prefix":
        """The keys and values as they are now, without the network."""
        with torch.no_grad():
            return Prefix(torch.stack(self()))


class Prefix(nn.Module):
    """Keys and values of one layer.

    Args:
        rows: (2, P, W): keys, then values.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (P, W) each."""
        keys, values = self.rows
        return keys, values


class PrefixTuning:
    """Only the keys and values of the prefix, or the network that gives them, and the head are trained.

    A prefix takes part in every softmax from the first step on: the model does not start as its base.

    The prefix has no position: unlike in the paper's code and in the library ``peft``, which count the text's positions
    from the prefix on, a text keeps its own, and may be as long as without a prefix.

    What is kept is 2·L·P·W numbers. With the network, P·D + D·M + M + 2·L·W·(M + 1) are trained.

    Args:
        length: P, at least 1.
        reparameterise: Whether a network gives the keys and values during the training, which is steadier. After it,
            they alone are kept.
        inner_width: M, at least 1.
        learning_rate_factor: Multiplies the base rate for the prefix.

    Raises:
        ValueError: If a value is outside its range.
    """

    changes_at_start = True

    def __init__(
        self,
        length: int = 10,
        reparameterise: bool = True,
        inner_width: int = 512,
        learning_rate_factor: float = 1.0,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if inner_width < 1:
            raise ValueError(f"inner_width must be at least 1, got {inner_width}")
        self.length, self.reparameterise, self.inner_width = length, reparameterise, inner_width
        self.learning_rate_factor = check_factor(learning_rate_factor)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put a prefix before every attention and freeze the rest, in place.

        Raises:
            ValueError: If the encoder has no attention that can read a prefix, or one has a prefix already.
        """
        encoder: Any = encoder_of(model)
        widths: dict[str, int] = encoder.prefix_readers() if hasattr(encoder, "prefix_readers") else {}
        if not widths:
            raise ValueError(f"{type(encoder).__name__} has no attention that can read a prefix")
        readers = {name: encoder.get_submodule(name) for name in widths}
        for name, reader in readers.items():
            if getattr(reader, "prefix", None) is not None:
                raise ValueError(f"{name} has a prefix already: one peft=prefix is enough")
        freeze_all_but_head(model)
        trunk = Trunk(self.length, int(encoder.width), self.inner_width) if self.reparameterise else None
        for name, width in widths.items():
            prefix: nn.Module
            if trunk is None:
                prefix = Prefix(torch.randn(2, self.length, width))
            else:
                prefix = ShapedPrefix(trunk, self.inner_width, width)
            thaw(prefix.parameters(), self.learning_rate_factor)
            readers[name].prefix = prefix.train(readers[name].training)
        return model

    def settle(self, model: nn.Module) -> nn.Module:
        """Put the keys and values that the network gives in its place."""
        for reader in list(model.modules()):
            prefix = getattr(reader, "prefix", None)
            if isinstance(prefix, ShapedPrefix):
                folded = prefix.folded().train(prefix.training)
                thaw(folded.parameters(), self.learning_rate_factor)
                reader.prefix = folded
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """The prefix stays: there is no weight that it could be merged into."""
        prefixes = [module for module in model.modules() if isinstance(module, Prefix)]
        if not prefixes:
            raise ValueError(f"nothing to keep: {type(model).__name__} has no prefix")
        length = prefixes[0].rows.shape[1]
        note(model, "peft", {"layers": len(prefixes), "merged_layers": 0, "prefix_tokens": length})
        return model
