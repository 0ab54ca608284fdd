"""Hashed word n-grams, averaged, and a linear layer: the baseline that any Transformer must beat.

Source: Joulin et al. (2016), https://arxiv.org/abs/1607.01759

Legend: B batch, T n-grams of the longest text, D width, R rows of the table.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.model.classifier import Classifier
from effnlp.model.ngrams import PAD_ID, Hashed, ids_of

PROVIDES = {"build": ("embeddings", "trainable_weights", "uninterrupted_training")}

GAIN = 30.0  # on the mean of many small rows: brings it to the size that suits the head's learning rate


class NgramTokenizer:
    """Ids of hashed n-grams; those of buckets that training texts never fill are left out.

    Args:
        ngrams: Longest n-gram in words.
        buckets: The hash is taken modulo this.
        max_length: Longest text in words; what is longer is cut.
    """

    def __init__(self, ngrams: int, buckets: int, max_length: int) -> None:
        for name, value in (("ngrams", ngrams), ("buckets", buckets), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.ngrams = ngrams
        self.buckets = buckets
        self.max_length = max_length
        self.kept = np.empty(0, dtype=np.int64)  # sorted buckets; the id of bucket kept[i] is i + 1

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, that of padding included."""
        return len(self.kept) + 1

    def fit(self, texts: Sequence[str], pairs: Sequence[str] | None, min_count: int) -> "NgramTokenizer":
        """Keep the buckets that at least ``min_count`` n-grams of the training texts fall into."""
        _, bucket, _ = self._hashed.of(texts, pairs)
        found, count = np.unique(bucket, return_counts=True)
        self.kept = found[count >= min_count]
        if not len(self.kept):
            raise ValueError(f"no n-gram occurs {min_count} times (min_count) in {len(texts)} training texts")
        return self

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of the n-grams of each text (and of its partner); a text without a known one is one pad."""
        ids, offsets, truncated = ids_of(self._hashed, self.kept, texts, pairs)
        return Encodings(ids, offsets, None, PAD_ID, truncated)

    @property
    def _hashed(self) -> Hashed:
        return Hashed(self.ngrams, self.buckets, self.max_length)


class NgramEncoder(nn.Module):
    """The mean of the embeddings of a text's n-grams; zero for a text without any.

    Args:
        rows: R, one of them for padding.
        width: D.
        learning_rate_factor: How much faster than the rest the table learns.
    """

    def __init__(self, rows: int, width: int, learning_rate_factor: float = 1.0) -> None:
        super().__init__()
        self.width = width
        self.table = nn.EmbeddingBag(rows, width, mode="mean", padding_idx=PAD_ID)
        nn.init.uniform_(self.table.weight, -1 / width, 1 / width)
        with torch.no_grad():
            self.table.weight[PAD_ID].zero_()
        self.table.weight.learning_rate_factor = learning_rate_factor  # type: ignore[attr-defined]

    def linear_roles(self) -> dict[str, list[str]]:
        """There are none."""
        return {}

    def forward(self, batch: Batch) -> Tensor:
        """(B, D)."""
        return GAIN * self.table(batch["input_ids"])


class BagOfNgrams:
    """The choice ``model=bag_of_ngrams``.

    Unlike the paper, n-grams of one word are hashed too, only buckets that occur in training get a row
    (the others would never be trained), and the two texts of a pair have n-grams of their own.

    Args:
        ngrams: Longest n-gram in words.
        buckets: How many values the hash has; n-grams in one bucket share a row.
        min_count: How often a bucket must occur in the training texts to get a row.
        width: D.
        max_length: Longest text in words; what is longer is cut.
        dropout: Rate before the head, in [0, 1).
        learning_rate_factor: How much faster than the head the table learns: of its rows only those
            that occur in a batch get a gradient.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]] = ("ngrams", "buckets", "min_count", "max_length")

    def __init__(
        self,
        ngrams: int = 2,
        buckets: int = 262144,
        min_count: int = 2,
        width: int = 16,
        max_length: int = 512,
        dropout: float = 0.0,
        learning_rate_factor: float = 10.0,
    ) -> None:
        self.ngrams = ngrams
        self.buckets = buckets
        self.min_count = min_count
        self.width = width
        self.max_length = max_length
        self.dropout = dropout
        self.learning_rate_factor = learning_rate_factor

    def tokenizer(self, train: pd.DataFrame) -> NgramTokenizer:
        """Find the n-grams of the training texts."""
        pairs = train["text_pair"].tolist() if "text_pair" in train.columns else None
        tokenizer = NgramTokenizer(self.ngrams, self.buckets, self.max_length)
        return tokenizer.fit(train["text"].tolist(), pairs, self.min_count)

    def build(self, tokenizer: NgramTokenizer, classes: int) -> Classifier:
        """A model with fresh weights."""
        encoder = NgramEncoder(tokenizer.vocabulary_size, self.width, self.learning_rate_factor)
        return Classifier(encoder, classes, self.dropout)
