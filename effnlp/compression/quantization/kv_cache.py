"""KV cache: a model that continues texts keeps keys and values in few bits, the newest ones as they are.

Source: Liu et al. (2024), https://arxiv.org/abs/2402.02750
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from effnlp.compression.quantization.packed import columns_of_group
from effnlp.compression.quantization.rounded_memory import RoundedKeysAndValues
from effnlp.generation.reader import check_generates
from effnlp.method import note
from effnlp.model.memory import Past
from effnlp.model.surgery import encoder_of

REQUIRES = {"finish": ("continued_texts",)}

BITS = (2, 4, 8)
KEYS = ("channel", "token")


class KVCache:
    """Keys share a scale by channel over a group of tokens, values by token over channels (section 3, KIVI).

    The prompt is read before any of it is rounded; a group is rounded once ``recent`` tokens follow it. Texts are
    scored a group at a time, each group read on from what is kept of those before: what a text costs is what it costs
    where it is decoded from its first token on. Weights stay as they are.

    Unlike in the paper, values are rounded by groups of tokens at the same times as keys, scales are float32, and the
    arithmetic is in float: what is saved is memory, not work.

    Args:
        bits: Of a number: 2, 4 or 8.
        group_size: Tokens that are rounded together, a multiple of 8, and channels of a token that share a scale where
            a head has more.
        recent: Tokens that stay as they are behind every group, a multiple of ``group_size``.
        keys: ``channel`` or ``token``: what of the keys has a scale of its own.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(self, bits: int = 4, group_size: int = 32, recent: int = 32, keys: str = "channel") -> None:
        if bits not in BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits!r}")
        if group_size < 8 or group_size % 8:
            raise ValueError(f"group_size must be a multiple of 8, got {group_size}")
        if recent < 0 or recent % group_size:
            raise ValueError(f"recent must be a multiple of group_size, which is {group_size}, got {recent}")
        if keys not in KEYS:
            raise ValueError(f"keys must be one of {', '.join(KEYS)}, got {keys!r}")
        self.bits, self.group_size, self.recent, self.keys = bits, group_size, recent, keys

    def check(self, model: nn.Module) -> None:
        """Refuse a model that keeps no keys and values, or in which nothing would ever be rounded.

        Raises:
            ValueError: If it does, or ``group_size`` does not divide the width of a head that is wider.
        """
        check_generates(model)
        encoder: Any = encoder_of(model)
        if encoder.position_count < self.group_size + self.recent:
            raise ValueError(
                f"compression/quantization=kv_cache rounds nothing: a group of {self.group_size} tokens is rounded "
                f"once {self.recent} follow it, and the model reads {encoder.position_count}"
            )
        for width in _widths_of_heads(encoder):
            columns_of_group(width, self.group_size)

    def finish(self, model: nn.Module) -> nn.Module:
        """Let ``model`` keep rounded keys and values, in place."""
        self.check(model)
        encoder = encoder_of(model)
        layers = len(_widths_of_heads(encoder))
        keeping: list[Any] = [module for module in encoder.modules() if hasattr(module, "remember")]
        for module in keeping:
            module.remember = partial(
                RoundedKeysAndValues, self.bits, self.group_size, self.recent, self.keys == "channel"
            )
        model.chunk = self.group_size  # type: ignore[assignment]
        note(model, "compression/quantization", {"kept_bits": self.bits, "layers": layers})
        return model


def _widths_of_heads(encoder: Any) -> list[int]:
    """Of each layer that keeps keys and values, the width of a head."""
    past, device = Past(), next(encoder.parameters()).device
    one = torch.ones(1, 1, dtype=torch.int64, device=device)
    was_training = encoder.training
    encoder.eval()  # dropout must not move the run's randomness
    with torch.no_grad():
        encoder.read_on({"input_ids": one, "attention_mask": one}, past)
    encoder.train(was_training)
    return [int(memory.width) for memory in past.memories.values()]  # type: ignore[attr-defined]
