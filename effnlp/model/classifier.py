"""The shape that every model has: an encoder from a batch to one vector a text, and a linear head.

Legend: B batch, T tokens, D width, C classes.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings


class Tokenizer(Protocol):
    """Turns texts into ids. Picklable; equal settings and training texts give equal ids."""

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of each text (with its partner, for pairs), cut at the model's longest input."""
        ...


class ModelChoice(Protocol):
    """What a config of the group ``model`` names: how to get a tokenizer and a fresh model.

    Attributes:
        tokenizer_keys: The settings on which the tokenizer and its ids depend; they are cached by these.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]]

    def tokenizer(self, train: pd.DataFrame) -> Tokenizer:
        """Learn it from the training texts, or load it. The same table gives the same tokenizer."""
        ...

    def build(self, tokenizer: Tokenizer, classes: int) -> "Classifier":
        """A model with fresh or loaded weights. Randomness comes from torch's global generator."""
        ...


@dataclass
class LayerState:
    """What flows from layer to layer of a layered encoder.

    Attributes:
        hidden: (B, T, D).
        mask: (B, T), 1 for tokens.
        context: Whatever else the layers of this encoder read (a prepared attention mask, say).
            Tensors whose first dimension is B belong to the examples; the rest is shared.
    """

    hidden: Tensor
    mask: Tensor
    context: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, keep: Tensor) -> "LayerState":
        """The state of the examples ``keep``, (K,) int64: early exit drops the others from the batch."""
        size = self.hidden.shape[0]

        def select(value: Any) -> Any:
            is_per_example = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size
            return value[keep] if is_per_example else value

        return LayerState(
            self.hidden[keep], self.mask[keep], {name: select(value) for name, value in self.context.items()}
        )


@runtime_checkable
class LayeredEncoder(Protocol):
    """An encoder that can be run layer by layer: the capability ``layer_outputs``."""

    width: int

    @property
    def depth(self) -> int:
        """How many layers there are."""
        ...

    def embed(self, batch: Batch) -> LayerState:
        """The input of layer 0."""
        ...

    def layer(self, index: int, state: LayerState) -> LayerState:
        """Run layer ``index`` (0-based)."""
        ...

    def pool(self, state: LayerState) -> Tensor:
        """(B, D): one vector a text from the output of any layer."""
        ...


class Classifier(nn.Module):
    """Encoder and linear head; ``forward`` maps a batch to logits (B, C).

    A parameter may have the attribute ``learning_rate_factor``, by which the optimizer multiplies the base
    rate for it. Copies and saved models keep what their parameters carry.

    Args:
        encoder: Maps a batch to (B, D). It has ``width`` (D) and ``linear_roles()``: a map from a role
            (``query``, ``key``, ``value``, ``attention_output``, ``feedforward_up``, ``feedforward_down``)
            to the names, inside the encoder, of the modules in that role; empty where it has none.
        classes: C.
        dropout: Rate before the head, in [0, 1).
    """

    def __init__(self, encoder: nn.Module, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        width = encoder.width
        if not isinstance(width, int):
            raise TypeError(f"{type(encoder).__name__}.width must be an int, got {width!r}")
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        return self.head(self.dropout(self.encoder(batch)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Classifier":
        """A copy whose parameters carry their attributes, which torch's copy of a parameter drops."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(deepcopy(self.__dict__, memo))
        for old, new in zip(self.parameters(), copied.parameters(), strict=True):
            new.__dict__.update(old.__dict__)
        return copied


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens: ``hidden`` (B, T, D) and ``mask`` (B, T) to (B, D)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)  # (B, D)


def count_params(model: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters, each shared tensor once; quantized weights kept as buffers count too.

    A module that keeps several weights in a byte, or some of them as floats, says how many it keeps in its attribute
    ``weight_count``.
    """
    own = [p.numel() for p in model.parameters() if p.requires_grad or not trainable_only]
    if trainable_only:
        return sum(own)
    telling = [module for module in model.modules() if hasattr(module, "weight_count")]
    told = {id(buffer) for module in telling for buffer in module.buffers(recurse=False)}
    integers = [
        b.numel() for b in model.buffers() if b.dtype in (torch.int8, torch.uint8) and id(b) not in told
    ]
    packed = [int(module.weight_count) for module in telling]  # type: ignore[arg-type]
    return sum(own) + sum(integers) + sum(packed)
