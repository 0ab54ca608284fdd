import itertools
import pickle

import pytest

from effnlp.data.template import MIN_ROOM, Demonstration, PromptTokenizer, parse, shortened
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, mask_id, special_ids, train_byte_bpe, with_mask

TEXTS = ["the film was good.", "a story, of all things, about nothing", "It was bad", "what is it?"]


def tokenizer_of(max_length=32, lossless=False, pairs=False):
    trained = train_byte_bpe([*TEXTS * 3, "It was . Question Answer"], 400, is_lossless=lossless)
    return with_mask(SubwordTokenizer(trained, max_length, PAD_ID, type_ids=pairs))


def rows_of(encodings):
    return [encodings.ids[a:b].tolist() for a, b in itertools.pairwise(encodings.offsets)]


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize(
    "template", ["{text} It was {answer}.", "{answer} news: {text}", "A {answer} one, {text}"]
)
def test_the_ids_are_those_of_the_whole_text_with_a_mask_in_it(template, lossless):
    tokenizer = tokenizer_of(64, lossless)
    rows = rows_of(PromptTokenizer(tokenizer, parse(template, False), is_masked=True).encode(TEXTS))
    for row, text in zip(rows, TEXTS, strict=True):
        assert row.count(mask_id(tokenizer)) == 1
        at = row.index(mask_id(tokenizer))
        whole = template.replace("{text}", text)
        left, right = whole.split(" {answer}" if " {answer}" in template else "{answer}")
        assert tokenizer.backend.decode(row[:at]).strip() == (left if lossless else left.lower()).strip()
        assert (
            tokenizer.backend.decode(row[at + 1 :]).strip() == (right if lossless else right.lower()).strip()
        )


def test_before_the_answer_of_a_causal_model_ids_are_those_of_the_plain_text():
    tokenizer = tokenizer_of(64, lossless=True)
    template = parse("Question: {text} Answer: {answer}", False)
    rows = rows_of(PromptTokenizer(tokenizer, template, is_masked=False).encode(TEXTS))
    expected = rows_of(tokenizer.encode([f"Question: {text} Answer:" for text in TEXTS]))
    assert rows == expected


@pytest.mark.parametrize(
    "template", ["{text} It was {answer}.", "{answer} : {text}", "It was {answer} of {text}!"]
)
def test_a_long_text_is_cut_and_nothing_of_the_template(template):
    tokenizer = tokenizer_of(24)
    asked = PromptTokenizer(tokenizer, parse(template, False), is_masked=True)
    short, long = rows_of(asked.encode(["x", "y " * 200]))
    assert len(long) == 24
    without = [i for i in short if i not in tokenizer.backend.encode("x", add_special_tokens=False).ids]
    kept = iter(long)
    assert all(number in kept for number in without)  # in their order
    assert asked.encode(["x", "y " * 200]).truncated == 1


def test_no_text_can_write_a_mask_or_another_special_token():
    tokenizer = tokenizer_of(64)
    asked = PromptTokenizer(tokenizer, parse("{text} It was {answer}.", False), is_masked=True)
    (row,) = rows_of(asked.encode(["[MASK] [SEP] [PAD] [MASK]"]))
    assert [i for i in row if i in special_ids(tokenizer)] == [1, mask_id(tokenizer)]


def test_of_pairs_both_texts_are_there_and_the_longer_one_is_cut_first():
    tokenizer = tokenizer_of(24)
    asked = PromptTokenizer(tokenizer, parse("{text}? {answer}, {text_pair}", True), is_masked=True)
    (row,) = rows_of(asked.encode(["good " * 40], ["what is it"]))
    assert len(row) == 24
    assert tokenizer.backend.decode(row).endswith("what is it")


def test_demonstrations_come_before_every_text_with_their_answers():
    tokenizer = tokenizer_of(64, lossless=True)
    shown = [Demonstration("the film", None, "good"), Demonstration("a story", None, "bad")]
    asked = PromptTokenizer(tokenizer, parse("{text} It was {answer}", False), False, 2, shown)
    rows = rows_of(asked.encode(["about nothing", "x " * 100]))
    for row in rows:
        said = tokenizer.backend.decode(row)
        assert said.startswith("the film It was good\n\na story It was bad\n\n")
        assert said.endswith("It was")
        assert len(row) <= 62
    assert len(rows[1]) == 62


def test_long_demonstrations_leave_half_of_the_room():
    tokenizer = tokenizer_of(64)
    shown = [Demonstration("word " * 50, None, "good")] * 2
    asked = PromptTokenizer(tokenizer, parse("{text} It was {answer}.", False), True, 0, shown)
    assert len(asked.shown) <= 32
    assert tokenizer.backend.decode(asked.shown).count("it was good") == 2


@pytest.mark.parametrize("lengths", [(5, 9), (9, 5), (7, 7), (20,), (0, 3), (12, 1)])
@pytest.mark.parametrize("room", [0, 3, 10, 30])
def test_parts_are_cut_as_by_dropping_one_token_of_the_longest_at_a_time(lengths, room):
    parts = [list(range(length)) for length in lengths]
    cut = shortened(parts, room)
    assert all(after == before[: len(after)] for after, before in zip(cut, parts, strict=True))
    assert sum(map(len, cut)) == min(room, sum(lengths))
    dropped = [after for after, before in zip(cut, parts, strict=True) if len(after) < len(before)]
    assert all(len(part) <= min(map(len, dropped)) + 1 for part in cut if dropped)


def test_it_is_the_same_after_it_was_stored():
    asked = PromptTokenizer(tokenizer_of(), parse("{text} It was {answer}.", False), is_masked=True)
    again = pickle.loads(pickle.dumps(asked))
    texts = [*TEXTS, "[MASK] in a text"]
    assert rows_of(again.encode(texts)) == rows_of(asked.encode(texts))


@pytest.mark.parametrize(
    ("template", "is_pair", "said"),
    [
        ("{text}", False, "needs each of {text}, {answer} once"),
        ("{text} {answer} {answer}", False, "needs each of {text}, {answer} once"),
        ("{text} {label} {answer}", False, "needs each of {text}, {answer} once"),
        ("{text} {answer}", True, "pairs of texts needs each of {text}, {text_pair}, {answer} once"),
        ("{text} {text_pair} {answer}", False, "single texts needs each of {text}, {answer} once"),
    ],
)
def test_a_template_without_its_places_is_refused(template, is_pair, said):
    with pytest.raises(ValueError) as caught:
        parse(template, is_pair)
    assert said in str(caught.value)


def test_what_a_model_could_not_answer_is_refused():
    tokenizer = tokenizer_of(16)
    plain = SubwordTokenizer(train_byte_bpe(TEXTS, 300), 32, PAD_ID)
    with pytest.raises(ValueError, match="no mask token"):
        PromptTokenizer(plain, parse("{text} {answer}", False), is_masked=True)
    with pytest.raises(ValueError, match=r"must end with {answer}, got '{answer}: {text}'"):
        PromptTokenizer(tokenizer, parse("{answer}: {text}", False), is_masked=False)
    with pytest.raises(ValueError, match=rf"leaves \d of 16 tokens for a text, which needs {MIN_ROOM}"):
        PromptTokenizer(
            tokenizer, parse("about a very long template: {text} {answer}", False), is_masked=True
        )
    shown = [Demonstration("the film", None, "good")] * 5
    with pytest.raises(ValueError, match="5 demonstrations get half of 16 tokens"):
        PromptTokenizer(tokenizer, parse("{text} {answer}", False), True, 0, shown)
    with pytest.raises(ValueError, match="the template reads single texts"):
        PromptTokenizer(tokenizer, parse("{text} {answer}", False), True).encode(["a"], ["b"])
