from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.model.bag_of_ngrams import GAIN, BagOfNgrams, NgramEncoder, NgramTokenizer
from effnlp.model.ngrams import TOKEN, mix, ngram_hashes, word_hashes

TEXTS = ["the cat sat on the mat", "the dog sat", "on", "", "a cat and a dog"]
MANY = 2**40  # so many buckets that no two n-grams meet


def fitted(texts=TEXTS, pairs=None, ngrams=3, buckets=MANY, max_length=100, min_count=1):
    return NgramTokenizer(ngrams, buckets, max_length).fit(texts, pairs, min_count)


def ids_of(tokenizer, text, pair=None):
    encodings = tokenizer.encode([text], None if pair is None else [pair])
    return [i for i in encodings.ids.tolist() if i]


def ngrams_of(text, longest):
    """The slow reference: a list of tuples of words."""
    words = TOKEN.findall(text.lower())
    return [tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)]


def test_mix_is_the_finaliser_of_splitmix64():
    def slow(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    values = np.array([0, 1, 2**32, 2**63, 2**64 - 1, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert mix(values).tolist() == [slow(v) for v in values.tolist()]


@pytest.mark.parametrize("longest", [1, 2, 3, 5])
def test_hashes_are_equal_exactly_where_the_ngrams_are(longest):
    words = [TOKEN.findall(text) for text in TEXTS]
    owner = np.repeat(np.arange(len(TEXTS)), [len(w) for w in words])
    text, found = ngram_hashes(word_hashes([w for ws in words for w in ws]), owner, longest, salt=1)
    expected = [ngrams_of(t, longest) for t in TEXTS]
    assert np.bincount(text, minlength=len(TEXTS)).tolist() == [len(e) for e in expected]
    assert (np.diff(text) >= 0).all()
    names = {}
    for gram, value in zip((g for e in expected for g in e), found.tolist(), strict=True):
        assert names.setdefault(value, gram) == gram
    assert len(names) == len({g for e in expected for g in e})


def test_ids_count_the_ngrams_of_the_text_and_of_no_other():
    tokenizer = fitted()
    for text in TEXTS:
        counts = sorted(Counter(ids_of(tokenizer, text)).values())
        assert counts == sorted(Counter(ngrams_of(text, 3)).values())
    together = tokenizer.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        row = together.ids[together.offsets[i] : together.offsets[i + 1]]
        assert sorted(x for x in row.tolist() if x) == sorted(ids_of(tokenizer, text))


def test_two_orders_of_two_words_share_their_words_only():
    tokenizer = fitted(["the cat", "cat the"], ngrams=2)
    assert len(set(ids_of(tokenizer, "the cat")) & set(ids_of(tokenizer, "cat the"))) == 2


def test_every_row_but_that_of_padding_occurs_in_training_and_unseen_ngrams_have_none():
    tokenizer = fitted()
    ids = set(tokenizer.encode(TEXTS).ids.tolist())
    assert ids == set(range(tokenizer.vocabulary_size))  # the empty text is a pad
    assert ids_of(tokenizer, "zebra crossing") == []
    assert len(ids_of(tokenizer, "zebra cat")) == 1


@pytest.mark.parametrize("min_count", [1, 2, 3])
def test_min_count_keeps_what_occurs_as_often(min_count):
    counts = Counter(gram for text in TEXTS for gram in ngrams_of(text, 2))
    tokenizer = fitted(ngrams=2, min_count=min_count)
    assert tokenizer.vocabulary_size - 1 == sum(count >= min_count for count in counts.values())


def test_few_buckets_are_shared_as_chance_has_it():
    words, buckets = [f"w{i}" for i in range(3000)], 1024
    taken = fitted([" ".join(words)], ngrams=1, buckets=buckets, max_length=5000).vocabulary_size - 1
    empty = (1 - 1 / buckets) ** 3000
    assert abs(taken - buckets * (1 - empty)) < 5 * np.sqrt(buckets * empty * (1 - empty))


def test_the_two_texts_of_a_pair_share_no_ngram():
    tokenizer = fitted(["cat", "dog"], ["dog", "cat"], ngrams=1)
    assert tokenizer.vocabulary_size == 1 + 4
    there, back = ids_of(tokenizer, "cat", "dog"), ids_of(tokenizer, "dog", "cat")
    assert len(there) == len(back) == 2
    assert not set(there) & set(back)


def test_words_beyond_the_longest_text_are_cut_on_either_side():
    tokenizer = fitted(["a b c d e"], ["f g h"], ngrams=1, max_length=3)
    assert tokenizer.vocabulary_size == 1 + 6
    encodings = tokenizer.encode(["a b c", "a b c d", "a"], ["f", "f", "f g h a"])
    assert encodings.truncated == 2
    assert encodings.lengths.tolist() == [4, 4, 4]


def test_the_vector_of_a_text_is_the_mean_of_its_rows():
    torch.manual_seed(0)
    encoder = NgramEncoder(rows=9, width=4)
    batch = {"input_ids": torch.tensor([[3, 5, 5, 0], [0, 0, 0, 0], [1, 2, 3, 4]])}
    table = encoder.table.weight
    expected = [table[[3, 5, 5]].mean(0), torch.zeros(4), table[[1, 2, 3, 4]].mean(0)]
    assert (encoder(batch) - GAIN * torch.stack(expected)).abs().max() < 1e-5


def test_rows_that_are_not_in_the_batch_get_no_gradient():
    encoder = NgramEncoder(rows=9, width=4)
    encoder({"input_ids": torch.tensor([[3, 5, 0]])}).sum().backward()
    assert encoder.table.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [3, 5]


def test_the_number_of_parameters_is_the_closed_form(toy):
    choice = BagOfNgrams(ngrams=2, width=8, min_count=1, buckets=MANY)
    tokenizer = choice.tokenizer(toy)
    grams = {gram for text in toy["text"] for gram in ngrams_of(text, 2)}
    model = choice.build(tokenizer, classes=5)
    assert sum(p.numel() for p in model.parameters()) == (len(grams) + 1) * 8 + 8 * 5 + 5


@pytest.mark.parametrize("name", ["ngrams", "buckets", "max_length"])
def test_settings_below_one_are_refused(name):
    choice = BagOfNgrams(**{name: 0})
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        choice.tokenizer(pd.DataFrame({"text": TEXTS}))


def test_training_texts_without_a_repeated_ngram_are_refused():
    table = pd.DataFrame({"text": ["one", "two", ""]})
    with pytest.raises(ValueError, match=r"no n-gram occurs 2 times \(min_count\) in 3 training texts"):
        BagOfNgrams(min_count=2).tokenizer(table)
