"""A model that answers in words: the score of a class is how likely its words are where an answer is due.

Source: Schick and Schütze (2021), https://arxiv.org/abs/2001.07676; calibration: Zhao et al. (2021),
https://arxiv.org/abs/2102.09690

Legend: B batch, T tokens, D width, V vocabulary, W words of all classes, L tokens of the longest word, C classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.language import TokenModel, score_tokens

Words = Sequence[Sequence[Sequence[int]]]
"""For each class its words, each as ids."""


class VerbalisedModel(nn.Module):
    """Maps a batch to a score for each class, (B, C): the log of the mean probability of its words.

    A masked model is asked at the mask. A model of next tokens is asked after the end of each text; words of several
    tokens are put there one by one, and cost a forward pass for each of the W words.

    Args:
        tokens: The model with its head of tokens.
        words: For each class at least one word; at a mask, of one token each.
        mask: The id of the mask; None where the next token is told.
        max_length: Longest input in tokens, words included.

    Raises:
        ValueError: If a class has no word, or a word no token, or several at a mask.
    """

    not_exported = "a model that answers in words has no ONNX form; a folder of effnlp pick keeps it"
    ids: Tensor
    lengths: Tensor
    log_prior: Tensor

    def __init__(self, tokens: TokenModel, words: Words, mask: int | None, max_length: int) -> None:
        super().__init__()
        flat = [word for of_class in words for word in of_class]
        if not all(words) or not all(flat):
            raise ValueError("every class needs a word, and every word a token")
        if mask is not None and max(map(len, flat)) > 1:
            raise ValueError("a masked model answers with one token")
        self.encoder, self.head = tokens.encoder, tokens.head
        self.mask, self.max_length = mask, max_length
        self.counts = [len(of_class) for of_class in words]
        longest = max(map(len, flat))
        padded = [[*word, *[0] * (longest - len(word))] for word in flat]
        self.register_buffer("ids", torch.tensor(padded))  # (W, L)
        self.register_buffer("lengths", torch.tensor([len(word) for word in flat]))  # (W,)
        self.register_buffer("log_prior", torch.zeros(len(words)))  # (C,)

    def forward(self, batch: Batch) -> Tensor:
        """(B, C); after :meth:`calibrate`, less the log of what a class gets without a text."""
        words = self.word_scores(batch)  # (B, W)
        parts = words.split(self.counts, dim=1)
        scores = [part.logsumexp(1) - math.log(part.shape[1]) for part in parts]
        return torch.stack(scores, dim=1) - self.log_prior  # (B, C)

    def word_scores(self, batch: Batch) -> Tensor:
        """(B, W) log-probability of each word, float32: the sum over its tokens."""
        if self.ids.shape[1] > 1:
            return self._after_text(batch)
        if self.mask is not None:
            place = (batch["input_ids"] == self.mask).int().argmax(1)  # (B,)
        else:
            place = batch["attention_mask"].sum(1) - 1  # (B,)
        states: Tensor = self.encoder.states(batch)  # type: ignore[operator]  # (B, T, D)
        there = states[torch.arange(len(place), device=place.device), place]  # (B, D)
        scores = score_tokens(self.encoder, self.head, there.unsqueeze(1)).squeeze(1)  # (B, V)
        return scores.float().log_softmax(1)[:, self.ids[:, 0]]  # (B, W)

    def _after_text(self, batch: Batch) -> Tensor:
        """As :meth:`word_scores`, each word put after each text."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        count, longest = self.ids.shape  # W, L
        size, width = len(ids), min(ids.shape[1] + longest, self.max_length)
        ends = mask.sum(1)  # (B,)
        places = ends[:, None] + torch.arange(longest, device=ids.device)  # (B, L)
        wide = torch.nn.functional.pad(ids, (0, max(0, width - ids.shape[1])))[:, :width]  # (B, T')
        rows = wide[:, None].expand(size, count, width).clone()  # (B, W, T')
        rows.scatter_(2, places[:, None].expand(size, count, longest), self.ids.expand(size, count, longest))
        seen = torch.arange(width, device=ids.device) < (
            ends[:, None, None] + self.lengths[:, None]
        )  # (B, W, T')
        flat = {"input_ids": rows.flatten(0, 1), "attention_mask": seen.long().flatten(0, 1)}  # (B W, T')
        states: Tensor = self.encoder.states(flat)  # type: ignore[operator]  # (B W, T', D)
        before = (places - 1)[:, None].expand(size, count, longest).flatten(0, 1)  # (B W, L)
        there = states.gather(1, before[:, :, None].expand(-1, -1, states.shape[2]))  # (B W, L, D)
        scores = score_tokens(self.encoder, self.head, there).float().log_softmax(2)  # (B W, L, V)
        wanted = self.ids.expand(size, count, longest).reshape(-1, longest, 1)  # (B W, L, 1)
        each = scores.gather(2, wanted).squeeze(2).view(size, count, longest)  # (B, W, L)
        is_there = torch.arange(longest, device=ids.device) < self.lengths[:, None]  # (W, L)
        return (each * is_there).sum(2)  # (B, W)

    def calibrate(self, scores: Tensor) -> None:
        """Take what classes get without a text, (N, C) scores of inputs that say nothing, for their prior.

        Probabilities are divided by it, as by the diagonal W of the paper, which gives the same answers; unlike
        there, what comes is a distribution again by dividing by its sum, not by another softmax.
        """
        prior = (scores + self.log_prior).softmax(1).mean(0)  # (C,)
        self.log_prior.copy_(prior.log())
