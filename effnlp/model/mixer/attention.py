"""Multi-head softmax attention, computed by torch's fused kernel.

Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762

Legend: B batch, T tokens, D width, H heads, E width of a head.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from effnlp.model.heads import check_heads, merge_heads, split_heads
from effnlp.model.memory import KeysAndValues, Memory, Recall
from effnlp.model.prefixed import read_prefix

PROVIDES = {"build": ("attention_heads", "all_heads", "softmax_attention")}


class Attention(nn.Module):
    """Each token reads every token of its text, or those up to itself.

    Unlike the paper, the attention weights have no dropout, so that the fused kernel serves training too.

    Args:
        width: D.
        heads: H, a divisor of D.
        causal: Whether a token reads no other that follows it. Padding must then follow the text.
        value_width: Of what the values are made of, where that is not what queries and keys are made of.

    Attributes:
        prefix: Gives keys and values that every token reads before those of the text
            (:mod:`effnlp.model.prefixed`), or None.
        remember: Makes what keeps the keys and values of a text that is read bit by bit (:mod:`effnlp.model.memory`).
    """

    prefix: nn.Module | None
    remember: Callable[[], Memory] = KeysAndValues

    def __init__(self, width: int, heads: int, causal: bool = False, value_width: int | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.prefix = None
        self.heads = check_heads(width, heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width if value_width is None else value_width, width)
        self.output = nn.Linear(width, width)

    def linear_roles(self) -> dict[str, str]:
        """Role to the name of the module in that role."""
        return {"query": "query", "key": "key", "value": "value", "attention_output": "output"}

    @property
    def prefix_width(self) -> int:
        """The width of the keys that a prefix must have."""
        return int(self.key.out_features)

    def forward(
        self, hidden: Tensor, mask: Tensor, of_values: Tensor | None = None, recall: Recall | None = None
    ) -> Tensor:
        """``hidden`` (B, T, D) and ``mask`` (B, T), 1 for tokens, to (B, T, D).

        Args:
            of_values: (B, T, ``value_width``), what the values are made of; None: ``hidden``.
            recall: What was kept of the tokens before these, which are read too; these are kept with them.
        """
        keys = split_heads(self.key(hidden), self.heads)  # (B, H, T, E)
        values = split_heads(
            self.value(hidden if of_values is None else of_values), self.heads
        )  # (B, H, T, E)
        # Padding follows the text, and so no token of it is read from left to right.
        read = None if self.causal else mask.bool()[:, None, None, :]  # (B, 1, 1, T)
        is_causal = self.causal
        if recall is not None:
            keys, values = recall.append(keys, values)  # (B, H, S, E)
            is_causal = recall.places.is_first and self.prefix is None
            read = None if is_causal else recall.read(hidden.device)  # (B, 1, T, S)
        if self.prefix is not None:
            keys, values, read = read_prefix(self.prefix, keys, values, read, self.causal and recall is None)
            is_causal = False  # the mask says it: the kernel's own starts at the first key
        queries = split_heads(self.query(hidden), self.heads)  # (B, H, T, E)
        mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=read, is_causal=is_causal)
        return self.output(merge_heads(mixed))
