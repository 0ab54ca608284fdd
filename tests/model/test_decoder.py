import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.model.backbone import Backbone
from effnlp.model.decoder import Decoder
from effnlp.model.mixer.attention import Attention

TEXTS = [
    "The APPLE costs 3 €.",
    " a  space before, two within, one behind ",
    "苹果\nﬁne print 🍎",
    "tab\tand e\u0301",
]


@pytest.fixture(scope="module")
def tokenizer(toy):
    return Decoder(Attention, max_length=64, vocabulary_size=320).tokenizer(toy)


def test_ids_give_every_text_back_byte_by_byte(tokenizer):
    encodings = tokenizer.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        row = encodings.ids[encodings.offsets[i] : encodings.offsets[i + 1]]
        assert tokenizer.backend.decode(row.tolist(), skip_special_tokens=True) == text


def test_the_bytes_of_ids_are_those_of_the_texts_as_given(tokenizer):
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocabulary_size,)
    assert lengths.max() > 1  # some merges
    assert (lengths == 0).sum() == 3  # the special tokens
    found = tokenizer.encode([*TEXTS, ""]).totals(lengths)
    assert found.tolist() == [len(text.encode()) for text in [*TEXTS, ""]]


def test_of_a_text_that_is_cut_the_bytes_that_were_read_are_counted_even_within_a_character(toy):
    tokenizer = Decoder(Attention, max_length=6, vocabulary_size=260).tokenizer(toy)
    encodings = tokenizer.encode(["苹果苹果"])  # twelve bytes, of which no two are merged
    assert encodings.truncated == 1
    assert encodings.totals(tokenizer.byte_lengths()).tolist() == [5]


def test_of_pairs_the_bytes_of_both_texts_count(toy_pairs):
    tokenizer = Decoder(Attention, vocabulary_size=320).tokenizer(toy_pairs)
    found = tokenizer.encode(["Köln", "a"], ["", "the saw"]).totals(tokenizer.byte_lengths())
    assert found.tolist() == [5, 8]


def test_a_tokenizer_that_changes_texts_cannot_tell_their_bytes(toy):
    tokenizer = Backbone(Attention, vocabulary_size=320).tokenizer(toy)
    with pytest.raises(ValueError, match="does not keep texts byte by byte as given"):
        tokenizer.byte_lengths()


def test_totals_are_sums_over_the_ids_of_each_text(tokenizer):
    encodings = tokenizer.encode(TEXTS)
    ones = np.ones(tokenizer.vocabulary_size, dtype=np.int64)
    assert encodings.totals(ones).tolist() == encodings.lengths.tolist()


def test_its_states_depend_on_nothing_that_follows(toy):
    torch.manual_seed(0)
    choice = Decoder(Attention, vocabulary_size=320)
    tokenizer = choice.tokenizer(toy)
    encoder = choice.build(tokenizer, classes=2).eval().encoder
    batch = tokenizer.encode(["she bought the apple today", "she bought the apple again, and left"]).batch(
        [0, 1]
    )
    same = int((batch["input_ids"][0] == batch["input_ids"][1]).int().cumprod(0).sum())
    assert 3 < same < batch["attention_mask"].sum(1).min()
    with torch.no_grad():
        states = encoder.states(batch)
    assert torch.allclose(states[0, :same], states[1, :same], atol=1e-6)
    assert (states[0, same] - states[1, same]).abs().max() > 1e-3


def test_an_unknown_size_is_refused_by_name():
    with pytest.raises(ValueError, match="size must be one of tiny, small, base, got 'huge'"):
        Decoder(Attention, size="huge")


def test_a_table_without_pairs_gives_single_texts():
    table = pd.DataFrame({"text": ["a b c"], "label": [0]})
    assert not Decoder(Attention, vocabulary_size=260).tokenizer(table).type_ids
