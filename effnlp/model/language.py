"""A language model: what each token of a text costs, given those before it.

Source: Bengio et al. (2003), https://www.jmlr.org/papers/v3/bengio03a.html; the head reads the table of the
embeddings, as in Press and Wolf (2017), https://arxiv.org/abs/1608.05859

Legend: B batch, T tokens, D width, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from effnlp.data.encodings import Batch
from effnlp.model.memory import Past
from effnlp.model.prompted import prompt_length


class CausalEncoder(Protocol):
    """An encoder whose state of a token depends on that token and those before it alone."""

    tokens: nn.Embedding

    def states(self, batch: Batch) -> Tensor:
        """(B, T, D)."""
        ...


class TiedHead(nn.Module):
    """Scores of the next token: products with the rows of the embedding table, and a bias for each token.

    Args:
        vocabulary_size: V.
    """

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """``states`` (…, D) and ``table`` (V, D) to (…, V)."""
        return nn.functional.linear(states, table, self.bias)


class TokenModel(nn.Module):
    """An encoder with a head that scores tokens, as pre-training leaves them.

    Args:
        encoder: Gives states (B, T, D), ``states(batch)``, and has the table of the embeddings, ``tokens``.
        head: Scores tokens from states; a :class:`TiedHead` by that table.
        predicts_next: Whether the state of a token tells the next one; else it tells the token itself, where that
            was masked.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, predicts_next: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.predicts_next = predicts_next

    def token_scores(self, states: Tensor) -> Tensor:
        """States (…, T, D) to the logits of all tokens, (…, T, V)."""
        return score_tokens(self.encoder, self.head, states)


def score_tokens(encoder: nn.Module, head: nn.Module, states: Tensor) -> Tensor:
    """What a head makes of states of ``encoder``, (…, T, D): the logits of all tokens, (…, T, V)."""
    if isinstance(head, TiedHead):
        return head(states, encoder.tokens.weight)  # type: ignore[union-attr]
    scores: Tensor = head(states)
    return scores


class LanguageModel(nn.Module):
    """A causal encoder and a head tied to its embeddings; ``forward`` maps a batch to what its texts cost, (B, 2).

    What is deployed scores texts, so that all that is measured of a model (FLOPs, latency, memory) holds the
    product with the whole vocabulary at every token that has a next one.

    The first token of a text is given and not predicted; nor is the end.

    Args:
        encoder: A :class:`CausalEncoder` that is a module.
        head: Scores tokens from states; None: one that is tied to the embeddings of ``encoder``.

    Attributes:
        chunk: None: a text is scored at once. Else so many tokens at a time, each read on from what is kept of those
            before, so that scores are those of decoding where that is not the same.
    """

    chunk: int | None = None
    not_exported = "a language model has no ONNX form; a folder of effnlp pick keeps it"

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head or TiedHead(encoder.tokens.num_embeddings)  # type: ignore[union-attr, arg-type]

    def scores(self, batch: Batch) -> Tensor:
        """(B, T - 1, V): after each token but the last, the logits of the one that follows it."""
        states = self._states(batch)  # (B, T, D)
        # Cut here and not after the product: the logits are the largest tensor by far, and need no copy then.
        return score_tokens(self.encoder, self.head, states[:, :-1])

    def _states(self, batch: Batch) -> Tensor:
        encoder = self.encoder
        if self.chunk is None:
            return encoder.states(batch)  # type: ignore[operator]
        past, parts = Past(), []
        first = self.chunk - prompt_length(getattr(encoder, "prompt", None)) % self.chunk
        start, end, length = 0, first, batch["input_ids"].shape[1]
        while start < length:
            parts.append(encoder.read_on(_columns(batch, start, end), past))  # type: ignore[operator]
            start, end = end, end + self.chunk
        return torch.cat(parts, dim=1)

    def next_scores(self, batch: Batch, past: Past) -> Tensor:
        """(B, V): the logits of what follows each text of ``past`` and the tokens of ``batch``, which are taken up.

        Raises:
            ValueError: If a text has no token, or gets longer than the model reads.
        """
        last = batch["attention_mask"].sum(1) - 1  # (B,)
        if bool((last < 0).any()):
            raise ValueError("a text without a token cannot be continued")
        states: Tensor = self.encoder.read_on(batch, past)  # type: ignore[operator]  # (B, T, D)
        ends = states[torch.arange(len(last), device=last.device), last]  # (B, D)
        return score_tokens(self.encoder, self.head, ends.unsqueeze(1)).squeeze(1)

    def forward(self, batch: Batch) -> Tensor:
        """(B, 2) float32: of each text the nats of all its predicted tokens, and how many there are."""
        return costs(self.scores(batch), batch)


PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids")
"""What a batch has of each token."""


def _columns(batch: Batch, start: int, end: int) -> Batch:
    """The tokens from ``start`` to ``end`` of each text."""
    return {name: batch[name][:, start:end] for name in PER_TOKEN if name in batch}


def costs(scores: Tensor, batch: Batch) -> Tensor:
    """(B, 2) float32: of each text the nats of all its predicted tokens, and how many there are.

    Args:
        scores: (B, T - 1, V), after each token but the last.
    """
    wanted, counted = batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:]  # (B, T - 1) each
    nats = cross_entropy(scores.float().flatten(0, 1), wanted.flatten(), reduction="none")  # (B (T - 1),)
    nats = (nats.view(wanted.shape) * counted).sum(1)  # (B,)
    return torch.stack([nats, counted.sum(1).float()], dim=1)
