"""MinHash deduplication: of training texts that are nearly the same, keep one.

Source: Broder (1997), https://doi.org/10.1109/SEQUEN.1997.666900; Lee et al. (2022),
https://arxiv.org/abs/2107.06499

Legend: N texts, S shingles in all, K permutations.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from effnlp.data.duplicates import drop_duplicates, preference
from effnlp.data.table import Filtered

CANDIDATE_RECALL = 0.95
"""Least chance of two texts as similar as the threshold to become candidates."""

_WORD = re.compile(r"\w+")


def minhash_dedup(
    table: pd.DataFrame,
    ngram: int = 5,
    permutations: int = 128,
    threshold: float = 0.8,
    verify: bool = True,
    chain: bool = False,
    seed: int = 0,
) -> Filtered:
    """Keep one of each cluster of texts whose sets of word n-grams are alike.

    The row that stays in a cluster is the first by :func:`effnlp.data.duplicates.preference`, so the result
    does not depend on the order of the rows. Unlike the papers, a row goes only for a row that stays and is
    itself similar to it, unless ``chain`` asks for whole connected components.

    Args:
        table: ``text``, ``label`` and perhaps ``text_pair``; pairs are duplicates where both texts are.
        ngram: Words in a shingle; letter case and punctuation do not count. A shorter text is one shingle.
        permutations: K, hash functions in a signature.
        threshold: Least Jaccard similarity of duplicates, in (0, 1].
        verify: Compare the shingles of candidates; otherwise their signatures (faster for long texts, and
            wrong near the threshold: the standard error is sqrt(J (1 - J) / K)).
        chain: Whether A and C are duplicates where both are similar to B only.
        seed: Of the hash functions.
    """
    _check(ngram, permutations, threshold)
    rank = preference(table)
    columns = [table[column].tolist() for column in ("text", "text_pair") if column in table.columns]
    parts = [shingle(texts, ngram, salt) for salt, texts in enumerate(columns)]  # one, or two of pairs
    sets = [[np.unique(part[start:stop]) for start, stop in pairwise(offsets)] for part, offsets in parts]

    # Rows with equal sets of shingles are one kind: what follows is quadratic in the kinds of a cluster.
    rows_of: dict[tuple[bytes, ...], list[int]] = defaultdict(list)
    for row, members in enumerate(zip(*sets, strict=True)):
        rows_of[tuple(shingles.tobytes() for shingles in members)].append(row)
    kinds = sorted(
        (sorted(rows, key=rank.__getitem__) for rows in rows_of.values()), key=lambda r: rank[r[0]]
    )
    first = [rows[0] for rows in kinds]

    signatures = [sign(part, offsets, permutations, seed)[first] for part, offsets in parts]
    # The shingles of the two parts are disjoint sets. So the similarity of their unions lies between those of
    # the parts, and no pair is missed that is alike in both.
    union = np.minimum.reduce(signatures)  # (kinds, K)
    similarity: dict[tuple[int, int], float] = {}
    for a, b in candidates(union, *choose_bands(permutations, threshold)):
        if verify:
            alike = min(jaccard(part[first[a]], part[first[b]]) for part in sets)
        else:
            alike = min(float(np.mean(part[a] == part[b])) for part in signatures)
        if alike >= threshold:
            similarity[a, b] = alike

    duplicate_of: dict[int, int] = {}
    detail: dict[int, str] = {}
    for kind, stays in assign(len(kinds), list(similarity), chain).items():
        alike = 1.0 if kind == stays else similarity.get((stays, kind), 0.0)
        for row in kinds[kind]:
            if row != first[stays]:
                duplicate_of[row] = first[stays]
                detail[row] = f" (Jaccard {alike:.2f})" if alike else " (linked by others)"
    return drop_duplicates(table, duplicate_of, "near duplicate of", detail)


def shingle(texts: Sequence[str], ngram: int, salt: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hash the word n-grams of each text; with another salt, to other numbers.

    Returns:
        (S,) uint64 hashes of all texts one after another, and (N + 1,) int64 offsets into them. Each text has
        at least one.
    """
    code_of: dict[str, int] = {}
    flat: list[int] = []
    lengths = []
    for text in texts:
        words = _WORD.findall(text.casefold()) or [text]
        lengths.append(len(words))
        for word in words:
            if word not in code_of:
                code_of[word] = int.from_bytes(
                    hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
                )
            flat.append(code_of[word])
    codes = np.array(flat, dtype=np.uint64)
    length = np.array(lengths, dtype=np.int64)  # (N,)
    start = np.concatenate([[0], np.cumsum(length)])
    count = np.maximum(length - ngram + 1, 1)  # (N,)
    offsets = np.concatenate([[0], np.cumsum(count)])
    text_of = np.repeat(np.arange(len(texts)), count)  # (S,)
    position = np.arange(offsets[-1]) - offsets[text_of] + start[text_of]  # (S,) of the first word
    stop = start[text_of + 1]
    shingles = np.full(len(position), salt, dtype=np.uint64)  # (S,)
    for step in range(ngram):
        is_inside = position + step < stop
        word = codes[np.where(is_inside, position + step, 0)]
        shingles = np.where(is_inside, mix(shingles ^ word), shingles)
    return shingles, offsets


def sign(shingles: np.ndarray, offsets: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """MinHash signatures: for each text and each of K hash functions the least hash of its shingles.

    Two texts agree in a column with the probability of their Jaccard similarity.

    Returns:
        (N, K) uint64.
    """
    keys = np.random.default_rng(seed).integers(0, 2**64, size=permutations, dtype=np.uint64)
    columns = [np.minimum.reduceat(mix(shingles ^ key), offsets[:-1]) for key in keys]  # K of (N,)
    return np.stack(columns, axis=1)


def choose_bands(permutations: int, threshold: float, recall: float = CANDIDATE_RECALL) -> tuple[int, int]:
    """How many bands of how many rows: the longest rows, so the fewest candidates, that still find enough.

    Two texts of similarity s become candidates with probability 1 - (1 - s^rows)^bands.

    Returns:
        Bands and rows, with bands * rows <= permutations. Where no choice reaches ``recall``, rows of 1.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


def candidates(signatures: np.ndarray, bands: int, rows: int) -> Iterator[tuple[int, int]]:
    """Pairs (a, b), a < b, that agree in all rows of at least one band; each pair once."""
    seen: set[tuple[int, int]] = set()
    for band in range(bands):
        block = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for item, row in enumerate(block):
            buckets[row.tobytes()].append(item)
        for bucket in buckets.values():
            for pair in combinations(bucket, 2):
                if pair not in seen:
                    seen.add(pair)
                    yield pair


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Size of the intersection over size of the union of two sets (arrays without repetition)."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (a.size + b.size - shared)


def assign(items: int, pairs: Sequence[tuple[int, int]], chain: bool) -> dict[int, int]:
    """Which item stays for each item.

    Args:
        items: Number of items, in order of preference.
        pairs: (a, b) with a < b that are similar.
        chain: Whether similarity passes on.

    Returns:
        For each item the one that stays for it: itself, or an earlier item that stays. Without ``chain`` the
        two are a pair of ``pairs``, and no two items that stay are.
    """
    neighbours: dict[int, list[int]] = defaultdict(list)
    for a, b in pairs:
        neighbours[a].append(b)
        neighbours[b].append(a)
    stays_for: dict[int, int] = {}
    for item in range(items):
        if item in stays_for:
            continue
        stays_for[item] = item
        reached = list(neighbours[item])
        while reached:
            other = reached.pop()
            if other not in stays_for:
                stays_for[other] = item
                if chain:
                    reached.extend(neighbours[other])
    return stays_for


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers that looks random (the finaliser of splitmix64)."""
    # Not a*x + b modulo a prime, as is usual: that is independent for pairs only, which biases the minimum.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check(ngram: int, permutations: int, threshold: float) -> None:
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
