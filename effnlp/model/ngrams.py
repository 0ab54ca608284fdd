"""Hashed n-grams of words: what :mod:`effnlp.model.bag_of_ngrams` reads of a text, for folders without effnlp, too.

Legend: W words and G n-grams of all texts, N texts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

PAD_ID = 0
TOKEN = re.compile(r"\w+|[^\w\s]")
FIRST_SALT, SECOND_SALT = 0x51, 0xA7  # the first and the second text of a pair share no n-gram

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


@dataclass(frozen=True)
class Hashed:
    """How n-grams are hashed.

    Attributes:
        ngrams: Longest n-gram in words.
        buckets: The hash is taken modulo this.
        max_length: Longest text in words; what is longer is cut.
    """

    ngrams: int
    buckets: int
    max_length: int

    def of(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, int]:
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


def ids_of(
    hashed: Hashed, kept: np.ndarray, texts: Sequence[str], pairs: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids of the n-grams of all texts one after another, where each text begins (N + 1,), how many were cut.

    Args:
        kept: Sorted buckets; the id of bucket ``kept[i]`` is i + 1. An n-gram of any other has none.
    """
    owner, bucket, truncated = hashed.of(texts, pairs)
    row = np.searchsorted(kept, bucket)  # (G,)
    known = kept[np.minimum(row, len(kept) - 1)] == bucket
    owner, ids = owner[known], row[known] + 1
    length = np.bincount(owner, minlength=len(texts))  # (N,)
    # An empty text becomes one pad, which the bag does not count.
    empty = np.flatnonzero(length == 0)
    offsets = np.concatenate([[0], np.cumsum(length)])
    ids = np.insert(ids, offsets[empty], PAD_ID)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(length, 1))])
    return ids.astype(np.int32), offsets.astype(np.int64), truncated
