"""Prompt tuning: train the embeddings of a few tokens that are put before every text.

Source: Lester et al. (2021), https://arxiv.org/abs/2104.08691

Legend: B batch, T tokens, P tokens of the prompt, E width of the embeddings, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from effnlp.method import note
from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import check_factor, freeze_all_but_head, thaw

REQUIRES = {"prepare": ("token_sequence",)}
REMOVES = {"prepare": ("trainable_weights", "learning_layers")}

INITIAL = ("vocabulary", "random")


class SoftPrompt(nn.Module):
    """Puts trained embeddings before those of a text.

    Args:
        rows: What the prompt starts from, (P, E).
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    @property
    def length(self) -> int:
        """P."""
        return len(self.rows)

    def forward(self, words: Tensor) -> Tensor:
        """(B, T, E) to (B, P + T, E)."""
        rows = self.rows.to(words.dtype).expand(len(words), -1, -1)  # (B, P, E)
        return torch.cat([rows, words], dim=1)


def initial_rows(table: Tensor, length: int, initial: str, padding_idx: int | None = None) -> Tensor:
    """What a prompt starts from, (P, E); randomness comes from torch's global generator.

    Args:
        table: The embeddings of the vocabulary, (V, E).
        length: P.
        initial: ``vocabulary`` for rows of the table, each at most once while they last; ``random`` for normal
            numbers with the table's mean and standard deviation. Unlike these, the paper's are uniform in
            [-0.5, 0.5], whatever the size of the model's own embeddings.
        padding_idx: A row of the table that is no word.
    """
    if initial == "random":
        return table.mean() + table.std() * torch.randn(length, table.shape[1])
    words = [row for row in range(len(table)) if row != padding_idx]
    order = torch.randperm(len(words))  # (V,)
    return table[[words[int(order[i % len(words)])] for i in range(length)]].clone()


class PromptTuning:
    """Only the prompt and the head are trained.

    The prompt has the first positions, before whatever the tokenizer puts before a text, and is read by every layer
    as words are; what is made of a text is pooled over the text's own tokens. The model does not start as its base.

    It needs far higher rates than weights do: the paper trains at 0.3, which is constant, with Adafactor.

    Args:
        length: P, at least 1.
        initial: ``vocabulary``, embeddings of words drawn at random, or ``random``.
        learning_rate_factor: Multiplies the base rate for the prompt.

    Raises:
        ValueError: If a value is outside its range.
    """

    changes_at_start = True

    def __init__(
        self, length: int = 8, initial: str = "vocabulary", learning_rate_factor: float = 10.0
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if initial not in INITIAL:
            raise ValueError(f"initial must be one of {', '.join(INITIAL)}, got {initial!r}")
        self.length, self.initial = length, initial
        self.learning_rate_factor = check_factor(learning_rate_factor)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put the prompt before the text and freeze the rest, in place.

        Raises:
            ValueError: If the encoder reads no sequence of embeddings, has a prompt already, or has no position
                left for a text.
        """
        encoder: Any = encoder_of(model)
        if not hasattr(encoder, "prompt"):
            raise ValueError(f"{type(encoder).__name__} reads no sequence to put a prompt before")
        if encoder.prompt is not None:
            raise ValueError("there is a prompt already: one peft=prompt is enough")
        if self.length >= encoder.position_count:
            raise ValueError(
                f"length must leave a position for a text: the model reads {encoder.position_count} tokens, "
                f"got {self.length}"
            )
        freeze_all_but_head(model)
        table = encoder.word_embeddings()
        rows = initial_rows(table.weight.detach(), self.length, self.initial, table.padding_idx)
        encoder.prompt = SoftPrompt(rows).train(encoder.training)
        thaw(encoder.prompt.parameters(), self.learning_rate_factor)
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """The prompt stays: there is no weight that it could be merged into."""
        prompt = getattr(encoder_of(model), "prompt", None)
        if prompt is None:
            raise ValueError(f"nothing to keep: {type(model).__name__} has no prompt")
        note(model, "peft", {"prompt_tokens": prompt.length})
        return model
