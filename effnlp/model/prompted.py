"""Encoders that read trained tokens before those of the text: what a prompt needs of a model.

An encoder that can has the attribute ``prompt``: a module that maps the embeddings of the text's tokens (B, T, E) to
those of prompt and text (B, P + T, E), with P as its attribute ``length``; or None. ``word_embeddings()`` is its
table, and ``position_count`` says how many tokens it can tell apart by their position. The prompt comes first: what
the tokenizer puts before a text, [CLS], say, follows it. No vector of a text is made of the prompt's own.

Legend: B batch, T tokens, P tokens of the prompt, E width of the embeddings.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad


def prompt_length(prompt: Any) -> int:
    """P; 0 where there is no prompt."""
    return 0 if prompt is None else int(prompt.length)


def before_text(of_text: Tensor, length: int, value: int) -> Tensor:
    """(B, T) to (B, P + T) with ``value`` at the tokens of a prompt of ``length`` P."""
    return pad(of_text, (length, 0), value=value) if length else of_text


def prompted(prompt: nn.Module | None, words: Tensor, position_count: int) -> Tensor:
    """Embeddings of prompt and text (B, P + T, E) from those of the text (B, T, E).

    Raises:
        ValueError: If they are more than the model has positions for.
    """
    length, tokens = prompt_length(prompt), words.shape[1]
    if length + tokens > position_count:
        if prompt is None:
            raise ValueError(f"the batch has {tokens} tokens a text, the model reads {position_count}")
        raise ValueError(
            f"a prompt of {length} tokens and a batch of {tokens} tokens a text do not fit: the model reads "
            f"{position_count} tokens in all"
        )
    return words if prompt is None else prompt(words)
