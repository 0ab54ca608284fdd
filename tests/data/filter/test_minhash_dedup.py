"""MinHash deduplication, against true Jaccard similarities, theory and datasketch."""

import random

import numpy as np
import pandas as pd
import pytest
from datasketch import MinHash

from effnlp.data.filter.minhash_dedup import (
    assign,
    candidates,
    choose_bands,
    jaccard,
    minhash_dedup,
    shingle,
    sign,
)

VOCABULARY = [f"word{i}" for i in range(5000)]


def table_of(texts, labels=None):
    return pd.DataFrame({"text": texts, "label": labels if labels is not None else [0] * len(texts)})


def document(rng, words=60):
    return [rng.choice(VOCABULARY) for _ in range(words)]


def true_jaccard(first, second, ngram=5):
    def shingles(text):
        words = text.split()
        return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)} or {tuple(words)}

    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b)


def row_named(reason):
    return int(reason.split(" row ")[1].split(" ")[0])


def corpus_with_near_duplicates(seed=0, families=60):
    """Families of a document and variants of it that are more and less alike, shuffled."""
    rng = random.Random(seed)
    texts = []
    for _ in range(families):
        words = document(rng)
        texts.append(" ".join(words))
        for changed in (1, 2, 3, 6, 12):  # words replaced at the end, so 1 to 12 shingles of 56 differ
            texts.append(" ".join(words[:-changed] + document(rng, changed)))
    rng.shuffle(texts)
    return texts


def sets_with_similarity(shared, own, pairs, seed=0):
    """Flat shingles of 2 * pairs texts; texts 2i and 2i + 1 share ``shared`` and have ``own`` each."""
    rng = np.random.default_rng(seed)
    size = shared + own
    numbers = rng.integers(0, 2**64, size=(pairs, shared + 2 * own), dtype=np.uint64)
    first = numbers[:, :size]
    second = np.concatenate([numbers[:, :shared], numbers[:, size:]], axis=1)
    flat = np.stack([first, second], axis=1).reshape(-1)
    return flat, np.arange(0, flat.size + 1, size), shared / (shared + 2 * own)


@pytest.mark.parametrize(("shared", "own"), [(5, 45), (20, 20), (40, 10), (50, 2)])
def test_the_estimate_is_unbiased_with_the_variance_of_the_theory(shared, own):
    k, pairs = 128, 1000
    flat, offsets, true = sets_with_similarity(shared, own, pairs)
    signatures = sign(flat, offsets, k, seed=3)
    estimates = (signatures[0::2] == signatures[1::2]).mean(axis=1)
    variance = true * (1 - true) / k
    assert abs(estimates.mean() - true) <= 3 * np.sqrt(variance / pairs)
    assert np.mean((estimates - true) ** 2) == pytest.approx(variance, rel=0.2)


def test_the_estimate_agrees_with_datasketch_within_their_standard_errors():
    k = 256
    texts = corpus_with_near_duplicates(families=8)
    shingles, offsets = shingle(texts, 5)
    signatures = sign(shingles, offsets, k, seed=0)
    theirs = []
    for text in texts:
        words, sketch = text.split(), MinHash(num_perm=k, seed=1)
        sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
        theirs.append(sketch)
    compared = 0
    for a in range(len(texts)):
        for b in range(a):
            true = true_jaccard(texts[a], texts[b])
            if true == 0:
                assert not (signatures[a] == signatures[b]).any()
                continue
            compared += 1
            ours = (signatures[a] == signatures[b]).mean()
            error = np.sqrt(true * (1 - true) / k)
            assert abs(ours - true) <= 4.5 * error
            assert abs(ours - theirs[a].jaccard(theirs[b])) <= 4.5 * np.sqrt(2) * error
    assert compared >= 100


def test_jaccard_of_the_hashed_shingles_is_that_of_the_word_tuples():
    texts = corpus_with_near_duplicates(families=5)
    shingles, offsets = shingle(texts, 5)
    sets = [np.unique(shingles[offsets[i] : offsets[i + 1]]) for i in range(len(texts))]
    seen = set()
    for a in range(len(texts)):
        for b in range(len(texts)):
            seen.add(true_jaccard(texts[a], texts[b]))
            assert jaccard(sets[a], sets[b]) == true_jaccard(texts[a], texts[b])
    assert len(seen) > 5


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize(("bands", "rows"), [(16, 8), (32, 4), (10, 1)])
def test_candidates_are_found_at_the_rate_of_the_theory(similarity, bands, rows):
    pairs = 2000
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, size=(pairs, bands * rows), dtype=np.uint64)
    other = rng.integers(0, 2**64, size=first.shape, dtype=np.uint64)
    second = np.where(rng.random(first.shape) < similarity, first, other)
    found = list(candidates(np.concatenate([first, second]), bands, rows))
    assert len(found) == len(set(found))
    assert all(b == a + pairs for a, b in found)
    expected = 1 - (1 - similarity**rows) ** bands
    assert abs(len(found) / pairs - expected) <= 3.5 * np.sqrt(expected * (1 - expected) / pairs) + 1e-9


@pytest.mark.parametrize("permutations", [1, 16, 100, 128, 256])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_fit_the_signature_and_no_longer_rows_would_find_enough(permutations, threshold):
    bands, rows = choose_bands(permutations, threshold)
    assert 1 <= bands * rows <= permutations

    def recall(bands, rows):
        return 1 - (1 - threshold**rows) ** bands

    if rows > 1:
        assert recall(bands, rows) >= 0.95
    assert all(recall(permutations // more, more) < 0.95 for more in range(rows + 1, permutations + 1))


def test_each_removed_row_is_like_the_row_that_stays_for_it_and_kept_rows_are_unlike():
    texts = corpus_with_near_duplicates()
    table = table_of(texts)
    out = minhash_dedup(table)
    assert out.removed > 60
    for row, reason in out.reasons.items():
        stays = row_named(reason)
        assert stays in out.table.index
        assert true_jaccard(texts[row], texts[stays]) >= 0.8
    assert sorted([*out.table.index, *out.reasons.index]) == list(range(len(texts)))
    # Only pairs that became no candidates may stay together: at most 5 % at the threshold, fewer above it.
    kept = list(out.table["text"])
    similar = sum(true_jaccard(a, b) >= 0.8 for i, a in enumerate(kept) for b in kept[:i])
    assert similar <= 0.05 * out.removed


@pytest.mark.parametrize("options", [{}, {"chain": True}, {"verify": False}, {"threshold": 0.6, "ngram": 2}])
def test_deduplicating_twice_is_deduplicating_once(options):
    once = minhash_dedup(table_of(corpus_with_near_duplicates()), **options)
    twice = minhash_dedup(once.table, **options)
    assert once.removed > 0
    assert twice.removed == 0
    pd.testing.assert_frame_equal(twice.table, once.table)


@pytest.mark.parametrize("options", [{}, {"chain": True}, {"verify": False}])
def test_which_texts_stay_does_not_depend_on_the_order_of_the_rows(options):
    rng = random.Random(1)
    texts = corpus_with_near_duplicates(families=30) + corpus_with_near_duplicates(families=5)  # and copies
    table = table_of(texts, [rng.randrange(3) for _ in texts])
    expected = minhash_dedup(table, **options)
    assert expected.removed > 0
    for seed in range(3):
        out = minhash_dedup(table.sample(frac=1, random_state=seed), **options)
        stay = ["text", "label"]
        assert sorted(map(tuple, out.table[stay].values)) == sorted(map(tuple, expected.table[stay].values))


def test_a_signature_does_not_depend_on_the_other_texts_so_shards_may_be_signed_apart():
    texts = corpus_with_near_duplicates(families=5)
    together = sign(*shingle(texts, 5), permutations=32, seed=0)
    apart = [sign(*shingle([text], 5), permutations=32, seed=0)[0] for text in texts]
    assert np.array_equal(together, np.stack(apart))


def test_a_chain_of_duplicates_is_broken_unless_asked_for():
    rng = random.Random(0)
    words = [document(rng, 1)[0] + str(i) for i in range(104)]
    a, b, c = words[:92], words[6:98], words[12:]
    texts = [" ".join(x) for x in (a, b, c)]
    assert true_jaccard(texts[0], texts[1]) >= 0.8 > true_jaccard(texts[0], texts[2])
    assert true_jaccard(texts[1], texts[2]) >= 0.8
    out = minhash_dedup(table_of(texts), permutations=512)
    assert len(out.table) == (1 if 1 in out.table.index else 2)
    for row, reason in out.reasons.items():
        assert true_jaccard(texts[row], texts[row_named(reason)]) >= 0.8
    assert len(minhash_dedup(table_of(texts), permutations=512, chain=True).table) == 1


@pytest.mark.parametrize(
    ("order", "without", "chained"),
    [
        ([(0, 1), (1, 2)], {0: 0, 1: 0, 2: 2}, {0: 0, 1: 0, 2: 0}),  # an end of the chain is first
        ([(0, 1), (0, 2)], {0: 0, 1: 0, 2: 0}, {0: 0, 1: 0, 2: 0}),  # its middle is first
        ([(0, 2), (1, 2)], {0: 0, 1: 1, 2: 0}, {0: 0, 1: 0, 2: 0}),  # its middle is last
        ([], {0: 0, 1: 1, 2: 2}, {0: 0, 1: 1, 2: 2}),
    ],
)
def test_who_stays_for_whom_in_chains_of_three(order, without, chained):
    assert assign(3, order, chain=False) == without
    assert assign(3, order, chain=True) == chained


def test_planted_duplicates_are_found_at_the_rate_of_the_theory_and_disjoint_documents_all_stay():
    rng = random.Random(4)
    originals = [document(rng, 104) for _ in range(400)]
    # 100 shingles each; the last 11 words replaced make 11 differ: J = 89 / 111 = 0.802
    planted = [words[:-11] + [f"new{i}x{j}" for j in range(11)] for i, words in enumerate(originals)]
    texts = [" ".join(words) for words in originals + planted]
    similarity = true_jaccard(texts[0], texts[400])
    assert 0.8 <= similarity < 0.81
    bands, rows = choose_bands(128, 0.8)
    expected = 1 - (1 - similarity**rows) ** bands
    found = minhash_dedup(table_of(texts)).removed / 400
    assert found >= expected - 3 * np.sqrt(expected * (1 - expected) / 400)

    disjoint = [" ".join(f"text{i}word{j}" for j in range(30)) for i in range(500)]
    assert minhash_dedup(table_of(disjoint)).removed == 0
    assert minhash_dedup(table_of(disjoint), verify=False).removed == 0


def test_copies_that_differ_in_case_and_punctuation_are_duplicates_and_one_stays():
    texts = ["The cat, sat on the mat!", "the cat sat on the mat", "THE CAT SAT ON THE MAT.", "a dog slept"]
    out = minhash_dedup(table_of(texts))
    assert len(out.table) == 2
    assert 3 in out.table.index
    assert out.reasons.str.fullmatch(r"near duplicate of row \d \(Jaccard 1\.00\)").all()


def test_texts_shorter_than_a_shingle_and_texts_without_words_are_compared_whole():
    out = minhash_dedup(table_of(["good", "bad", "good", "?!", "?!", "!?", "so good"]))
    assert len(out.table) == 5
    assert sorted(out.table["text"]) == ["!?", "?!", "bad", "good", "so good"]


def test_pairs_are_duplicates_only_where_both_texts_are():
    premise = " ".join(f"p{i}" for i in range(40))
    twin = premise + " end"
    other = [" ".join(f"h{i}x{j}" for j in range(40)) for i in range(2)]
    table = pd.DataFrame(
        {
            "text": [premise, premise, twin, other[0]],
            "text_pair": [other[0], other[1], other[0] + " end", premise],
            "label": 0,
        }
    )
    out = minhash_dedup(table)
    assert out.removed == 1
    assert out.reasons.index[0] in (0, 2)
    assert {1, 3} < set(out.table.index)


def test_a_duplicate_with_another_label_is_reported_and_equal_texts_keep_the_label_of_most():
    text = " ".join(f"w{i}" for i in range(20))
    out = minhash_dedup(table_of([text] * 5, [2, 1, 1, 2, 1]))
    assert out.table["label"].tolist() == [1]
    assert out.reasons.str.startswith("other label, near duplicate of").tolist() == [
        label != 1 for row, label in enumerate([2, 1, 1, 2, 1]) if row in out.reasons.index
    ]


def test_twenty_thousand_copies_of_one_text_are_not_compared_pair_by_pair():
    assert len(minhash_dedup(table_of(["one text that came twenty thousand times"] * 20_000)).table) == 1


def test_the_seed_changes_the_signatures_and_the_same_seed_repeats_them():
    shingles = shingle(corpus_with_near_duplicates(families=3), 5)
    assert np.array_equal(sign(*shingles, 16, seed=1), sign(*shingles, 16, seed=1))
    assert not np.array_equal(sign(*shingles, 16, seed=1), sign(*shingles, 16, seed=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngram": 0}, "ngram must be at least 1, got 0"),
        ({"permutations": 0}, "permutations must be at least 1, got 0"),
        ({"threshold": 0.0}, r"threshold must be in \(0, 1\], got 0.0"),
        ({"threshold": 80}, r"threshold must be in \(0, 1\], got 80"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        minhash_dedup(table_of(["a b c", "d e f"]), **options)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="nothing to filter"):
        minhash_dedup(table_of([]))
