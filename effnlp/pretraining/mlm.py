"""Masked language modelling: guess tokens of a text that were taken out of it, from both sides.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805

Of the chosen tokens 80 % are masked, 10 % replaced by another token at random, and 10 % left. Unlike the paper, the
head has no layer of its own: tokens are scored by the table of the embeddings and a bias, and there is no
prediction of the next sentence.

Legend: B batch, T tokens, M tokens chosen, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from effnlp.data.encodings import Batch
from effnlp.model.classifier import ModelChoice, Tokenizer
from effnlp.model.subwords import SubwordTokenizer, mask_id, special_ids
from effnlp.pretraining.stage import Start, learn
from effnlp.pretraining.train import Schedule, descent

REQUIRES = {"build": ("own_tokenizer", "both_directions")}
PROVIDES = {"build": ("pretrained_weights", "token_head")}

MASKED, REPLACED = 0.8, 0.1
"""Of the chosen tokens; the rest is left as it is."""


def choose(
    ids: Tensor,
    special: Tensor,
    fraction: float,
    generator: torch.Generator,
    begins_word: Tensor | None = None,
) -> Tensor:
    """Which tokens are to be guessed: each by itself with probability ``fraction``.

    Args:
        ids: (B, T).
        special: (V,) bool, ids that are never chosen.
        begins_word: (V,) bool, tokens that begin a word: a word is chosen or left as a whole. None: token by token.

    Returns:
        (B, T) bool.
    """
    draws = torch.rand(ids.shape, generator=generator)  # (B, T)
    if begins_word is not None:
        # The number of the word that a token is in, from 1; a special token begins one that is not chosen.
        words = (begins_word | special)[ids].long().cumsum(1)  # (B, T)
        draws = torch.rand(len(ids), ids.shape[1] + 1, generator=generator).gather(1, words)  # (B, T)
    return (draws < fraction) & ~special[ids]


def corrupt(ids: Tensor, chosen: Tensor, mask: int, special: Tensor, generator: torch.Generator) -> Tensor:
    """The tokens as the model sees them, (B, T): of those chosen, 80 % masked and 10 % replaced.

    Args:
        ids: (B, T).
        chosen: (B, T) bool.
        mask: The id that stands for one that is to be guessed.
        special: (V,) bool, ids that replace nothing.
    """
    draws = torch.rand(ids.shape, generator=generator)  # (B, T)
    ordinary = (~special).nonzero().squeeze(1)  # (V - specials,)
    others = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]  # (B, T)
    seen = torch.where(chosen & (draws < MASKED), mask, ids)
    return torch.where(chosen & (draws >= MASKED) & (draws < MASKED + REPLACED), others, seen)


def word_beginnings(tokenizer: SubwordTokenizer) -> Tensor:
    """(V,) bool: tokens that go on no word.

    In WordPiece a token that goes on has a prefix that says so; in byte-level BPE one that does not begins with a space
    or with no letter.
    """
    begins = torch.ones(tokenizer.vocabulary_size, dtype=torch.bool)
    goes_on = getattr(tokenizer.backend.model, "continuing_subword_prefix", None)
    for token, number in tokenizer.backend.get_vocab().items():
        if goes_on:
            begins[number] = not token.startswith(goes_on)
        else:
            begins[number] = token.startswith("Ġ") or not token[:1].isalnum()
    return begins


class MLM:
    """The choice ``pretraining=mlm``.

    Args:
        root: Folder of data, for sources that are folders.
        corpus: Sources of texts, see :func:`~effnlp.pretraining.corpus.read_corpus`.
        steps: Optimiser steps.
        batch_size: Pieces of documents in a batch.
        max_length: Longest piece in tokens; None: as long as the model reads.
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        mask_fraction: Share of the tokens that are to be guessed.
        whole_words: Whether a word is taken out as a whole.
        seed: Of initial weights, order, dropout and masks. Runs with other seeds share what was learned.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        root: str | None,
        corpus: Sequence[str] = ("docstrings",),
        steps: int = 2000,
        batch_size: int = 64,
        max_length: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        mask_fraction: float = 0.15,
        whole_words: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 < mask_fraction < 1:
            raise ValueError(f"pretraining.mask_fraction must be in (0, 1), got {mask_fraction}")
        self.corpus, self.root = corpus, root
        self.mask_fraction, self.whole_words = mask_fraction, whole_words
        how = descent(learning_rate, weight_decay, warmup_fraction)
        self.schedule = Schedule(steps, batch_size, max_length, how, seed)

    def learn(self, start: Start) -> tuple[ModelChoice, Tokenizer | None]:
        """The model as it guesses tokens of the corpus, and the tokenizer of the corpus with a mask."""
        settings = {"mlm": self.mask_fraction, "whole_words": self.whole_words, "schedule": self.schedule}
        return learn(self, self.schedule, self.corpus, self.root, start, settings, masks=True)

    def pose(self, batch: Batch, tokenizer: SubwordTokenizer, generator: torch.Generator) -> Batch:
        """The batch with tokens taken out; ``positions`` (M,) of them in the flattened batch, ``targets`` (M,)."""
        ids, mask = batch["input_ids"], mask_id(tokenizer)
        assert mask is not None
        special = torch.zeros(tokenizer.vocabulary_size, dtype=torch.bool)
        special[special_ids(tokenizer)] = True
        begins = word_beginnings(tokenizer) if self.whole_words else None
        chosen = choose(ids, special, self.mask_fraction, generator, begins)
        positions = chosen.flatten().nonzero().squeeze(1)  # (M,)
        return {
            **batch,
            "input_ids": corrupt(ids, chosen, mask, special, generator),
            "positions": positions,
            "targets": ids.flatten()[positions],
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean nats of the tokens that are to be guessed: a scalar; 0 where there is none."""
        states = model.encoder.states(batch)  # type: ignore[operator, union-attr]  # (B, T, D)
        scores = model.token_scores(states.flatten(0, 1)[batch["positions"]])  # type: ignore[operator]  # (M, V)
        nats = cross_entropy(scores.float(), batch["targets"], reduction="sum")
        return nats / max(1, len(batch["targets"]))
