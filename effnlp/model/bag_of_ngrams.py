"""Hashed word n-grams, averaged, and a linear layer: the baseline that any Transformer must beat.

Source: Joulin et al. (2016), https://arxiv.org/abs/1607.01759

Legend: B batch, T n-grams of the longest text, D width, R rows of the table.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.model.classifier import Classifier

PROVIDES = {"build": ("embeddings", "trainable_weights", "uninterrupted_training")}

PAD_ID = 0
TOKEN = re.compile(r"\w+|[^\w\s]")
FIRST_SALT, SECOND_SALT = 0x51, 0xA7  # the first and the second text of a pair share no n-gram

GAIN = 30.0  # on the mean of many small rows: brings it to the size that suits the head's learning rate

Grams = tuple[np.ndarray, np.ndarray]
"""(G,) int64 the text of each n-gram, in order; (G,) uint64 its hash."""


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble (…) uint64 one to one (the finaliser of SplitMix64), so that any bits may be taken."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def word_hashes(words: Sequence[str]) -> np.ndarray:
    """(W,) uint64, the same in every process: 8 bytes of BLAKE2 of each word."""
    known: dict[str, int] = {}
    for word in words:
        if word not in known:
            digest = blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
    return np.fromiter((known[word] for word in words), dtype=np.uint64, count=len(words))


def ngram_hashes(words: np.ndarray, text: np.ndarray, ngrams: int, salt: int) -> Grams:
    """Hashes of all n-grams of 1 to ``ngrams`` words that lie within one text.

    Args:
        words: (W,) uint64 hashes of the words of all texts, one text after another.
        text: (W,) int64, the text of each word.
        ngrams: Longest n-gram in words.
        salt: Different salts give different hashes for the same words.
    """
    current = mix(words ^ np.uint64(salt))  # (W,)
    found, owners = [current], [text]
    for n in range(2, ngrams + 1):
        # The hash of n words from that of the n - 1 before the last one; the order of words matters.
        current = mix(current[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[n - 1 :])  # (W - n + 1,)
        inside = text[: len(current)] == text[n - 1 :]
        found.append(current[inside])
        owners.append(text[: len(current)][inside])
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return owner[order], np.concatenate(found)[order]


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
        _, bucket, _ = self._buckets(texts, pairs)
        found, count = np.unique(bucket, return_counts=True)
        self.kept = found[count >= min_count]
        if not len(self.kept):
            raise ValueError(f"no n-gram occurs {min_count} times (min_count) in {len(texts)} training texts")
        return self

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encodings:
        """Ids of the n-grams of each text (and of its partner); a text without a known one is one pad."""
        owner, bucket, truncated = self._buckets(texts, pairs)
        row = np.searchsorted(self.kept, bucket)  # (G,)
        known = self.kept[np.minimum(row, len(self.kept) - 1)] == bucket
        owner, ids = owner[known], row[known] + 1
        length = np.bincount(owner, minlength=len(texts))  # (N,)
        # An empty text becomes one pad, which the bag does not count.
        empty = np.flatnonzero(length == 0)
        offsets = np.concatenate([[0], np.cumsum(length)])
        ids = np.insert(ids, offsets[empty], PAD_ID)
        offsets = np.concatenate([[0], np.cumsum(np.maximum(length, 1))])
        return Encodings(ids.astype(np.int32), offsets.astype(np.int64), None, PAD_ID, truncated)

    def _buckets(
        self, texts: Sequence[str], pairs: Sequence[str] | None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(G,) text and (G,) bucket of each n-gram, ordered by text; how many texts were cut."""
        sides = [(texts, FIRST_SALT)] if pairs is None else [(texts, FIRST_SALT), (pairs, SECOND_SALT)]
        owners, hashes, was_cut = [], [], np.zeros(len(texts), dtype=bool)
        for side, salt in sides:
            if len(side) != len(texts):
                raise ValueError(f"{len(texts)} texts have {len(side)} partners")
            split = [TOKEN.findall(text.lower()) for text in side]
            was_cut |= np.fromiter((len(words) > self.max_length for words in split), bool, len(split))
            split = [words[: self.max_length] for words in split]
            text = np.repeat(np.arange(len(split)), [len(words) for words in split])
            words = word_hashes([word for words in split for word in words])
            owner, found = ngram_hashes(words, text, self.ngrams, salt)
            owners.append(owner)
            hashes.append(found)
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        bucket = (np.concatenate(hashes)[order] % np.uint64(self.buckets)).astype(np.int64)
        return owner[order], bucket, int(was_cut.sum())


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
