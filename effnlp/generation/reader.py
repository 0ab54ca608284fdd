"""A batch of texts that a model reads on, and what it says may follow each of them.

Legend: B texts, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.model.memory import Past
from effnlp.model.prompted import prompt_length

Ids = Sequence[int]


def check_generates(model: nn.Module) -> None:
    """Refuse a model that cannot continue texts.

    Raises:
        ValueError: If it does not predict the next token, or keeps nothing of what it has read.
    """
    if not hasattr(model, "next_scores"):
        raise ValueError(
            f"a {type(model).__name__} predicts no next tokens, and so continues no text: train it with "
            "finetuning=causal_lm"
        )
    encoder: Any = model.encoder
    if not hasattr(encoder, "read_on"):
        raise ValueError(
            f"a {type(encoder).__name__} keeps nothing of what it has read, and so cannot read on"
        )
    encoder.check_reads_on()


def check_fits(model: nn.Module, prompts: Sequence[Ids], new_tokens: int) -> None:
    """Refuse texts that have no token, or would not fit with what is to follow.

    Raises:
        ValueError: Naming the first.
    """
    encoder: Any = model.encoder
    most = encoder.position_count - prompt_length(getattr(encoder, "prompt", None))
    for number, ids in enumerate(prompts):
        if not len(ids):
            raise ValueError(f"text {number + 1} has no token, and nothing to continue")
        if len(ids) + new_tokens > most:
            raise ValueError(
                f"text {number + 1} has {len(ids)} tokens, and {new_tokens} new ones do not fit behind them: the "
                f"model reads {most}"
            )


class Reader:
    """Reads the same number of tokens of each text at a time, after the first time.

    Args:
        model: From :func:`check_generates`; in evaluation mode.
        prompts: Ids of each text, at least one.
    """

    def __init__(self, model: Any, prompts: Sequence[Ids]) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self.past = Past()
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)  # (B, T), padding with any id
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
            mask[row, : len(prompt)] = 1
        self._unread = {"input_ids": ids, "attention_mask": mask}

    def start(self) -> Tensor:
        """(B, V): the logits of what follows each text."""
        return self._read(self._unread["input_ids"], self._unread["attention_mask"])

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each text, ``tokens`` (B,): the logits of what follows it, (B, V)."""
        ids = tokens.unsqueeze(1)
        return self._read(ids, torch.ones_like(ids))

    def select(self, rows: Sequence[int]) -> None:
        """Go on with the texts ``rows``, in this order; one may come several times."""
        if list(rows) != list(range(len(self.past.lengths))):
            self.past.select(rows)

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        batch = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        with torch.inference_mode():
            scores: Tensor = self._model.next_scores(batch, self.past)
        return scores
