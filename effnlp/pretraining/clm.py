"""Causal language modelling: guess each token of a text from those before it.

Source: Radford et al. (2018), https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf

Legend: B batch, T tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.classifier import ModelChoice, Tokenizer
from effnlp.model.language import costs
from effnlp.model.subwords import SubwordTokenizer
from effnlp.pretraining.stage import Start, learn
from effnlp.pretraining.train import Schedule, descent

REQUIRES = {"build": ("own_tokenizer", "next_tokens")}
PROVIDES = {"build": ("pretrained_weights", "token_head")}


class CLM:
    """The choice ``pretraining=clm``.

    Args:
        root: Folder of data, for sources that are folders.
        corpus: Sources of texts, see :func:`~effnlp.pretraining.corpus.read_corpus`.
        steps: Optimiser steps.
        batch_size: Pieces of documents in a batch.
        max_length: Longest piece in tokens; None: as long as the model reads.
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        seed: Of initial weights, order and dropout. Runs with other seeds share what was learned.

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
        seed: int = 0,
    ) -> None:
        self.corpus, self.root = corpus, root
        how = descent(learning_rate, weight_decay, warmup_fraction)
        self.schedule = Schedule(steps, batch_size, max_length, how, seed)

    def learn(self, start: Start) -> tuple[ModelChoice, Tokenizer | None]:
        """The model as it guesses the next tokens of the corpus, and the tokenizer of the corpus."""
        settings = {"clm": True, "schedule": self.schedule}
        return learn(self, self.schedule, self.corpus, self.root, start, settings, masks=False)

    def pose(self, batch: Batch, tokenizer: SubwordTokenizer, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """The batch as it is."""
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean nats of the tokens of the batch that have one before them: a scalar; 0 where there is none."""
        states = model.encoder.states(batch)  # type: ignore[operator, union-attr]  # (B, T, D)
        nats, tokens = costs(model.token_scores(states[:, :-1]), batch).sum(0)  # type: ignore[operator]
        return nats / tokens.clamp_min(1)
