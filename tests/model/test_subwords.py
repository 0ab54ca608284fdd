import pytest

from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "Grüße aus Köln", "苹果在哪里"] * 5


@pytest.fixture(scope="module")
def backend():
    return train_byte_bpe(TEXTS, 320)


def test_no_text_has_an_unknown_token_and_none_loses_its_words(backend):
    for text in ["the cat", "zebra ünknown", "совсем другое", "🍎 \t x", "\x00\x7f"]:
        ids = backend.encode(text).ids
        assert backend.decode(ids).strip() == backend.normalizer.normalize_str(text).strip()


def test_case_and_width_of_letters_do_not_matter(backend):
    assert backend.encode("THE Cat").ids == backend.encode("the cat").ids
    assert backend.encode("ｔｈｅ cat").ids == backend.encode("the cat").ids  # full-width letters


def test_the_vocabulary_is_at_most_what_was_asked_for(backend):
    assert backend.get_vocab_size() <= 320
    assert train_byte_bpe(["a"], 5000).get_vocab_size() == 259  # nothing to merge


def test_padding_is_the_token_of_its_id_and_in_no_text(backend):
    assert backend.id_to_token(PAD_ID) == "[PAD]"
    ids = SubwordTokenizer(backend, 16, PAD_ID).encode([*TEXTS, "", "pad [ pad"]).ids
    assert PAD_ID not in ids


def test_a_pair_is_cut_at_its_longer_text(backend):
    tokenizer = SubwordTokenizer(backend, 12, PAD_ID)
    encodings = tokenizer.encode(["the cat sat on the mat " * 9], ["the"])
    whole = tokenizer.encode(["the"], ["the"])
    assert encodings.lengths.tolist() == [12]
    assert encodings.truncated == 1
    assert encodings.type_ids.sum() == whole.type_ids.sum()  # nothing of the second text is lost


def test_a_text_of_exactly_the_longest_length_is_not_cut(backend):
    length = len(backend.encode("the cat sat").ids)
    assert SubwordTokenizer(backend, length, PAD_ID).encode(["the cat sat"]).truncated == 0
    assert SubwordTokenizer(backend, length - 1, PAD_ID).encode(["the cat sat"]).truncated == 1


def test_the_backend_that_was_given_is_left_as_it_was(backend):
    before = backend.to_str()
    SubwordTokenizer(backend, 5, PAD_ID).encode(TEXTS)
    assert backend.to_str() == before
