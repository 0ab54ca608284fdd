import math

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.nn.functional import cross_entropy

from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import TiedHead, TokenModel
from effnlp.model.mixer.attention import Attention
from effnlp.model.subwords import (
    PAD_ID,
    SubwordTokenizer,
    mask_id,
    plain_ids,
    special_ids,
    train_byte_bpe,
    with_mask,
)
from effnlp.pretraining.mlm import MLM, choose, corrupt, word_beginnings
from effnlp.pretraining.train import pieces

VOCABULARY = 1000
SPECIAL = [0, 1, 2, 999]


@pytest.fixture
def special():
    marked = torch.zeros(VOCABULARY, dtype=torch.bool)
    marked[SPECIAL] = True
    return marked


@pytest.fixture
def ids():
    """Every text begins with a special token, has another inside, and is padded."""
    drawn = torch.randint(3, 999, (200, 60), generator=torch.Generator().manual_seed(0))
    drawn[:, 0], drawn[:, 30], drawn[:, 50:] = 1, 2, 0
    return drawn


@pytest.fixture
def tokenizer():
    texts = ["uncommonly readable sentences, of unbreakable words", "words of sentences"] * 3
    return with_mask(SubwordTokenizer(train_byte_bpe(texts, 270), 32, PAD_ID))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def within_binomial_bounds(hits, trials, probability):
    return abs(hits - trials * probability) <= 4 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("fraction", [0.15, 0.5])
def test_the_asked_share_of_the_tokens_is_chosen_and_no_special_one(ids, special, fraction):
    chosen = choose(ids, special, fraction, seeded())
    ordinary = ~special[ids]
    assert not (chosen & ~ordinary).any()
    assert within_binomial_bounds(int(chosen.sum()), int(ordinary.sum()), fraction)


def test_of_the_chosen_four_fifths_are_masked_a_tenth_replaced_and_a_tenth_left(ids, special):
    chosen = choose(ids, special, 0.5, seeded(1))
    seen = corrupt(ids, chosen, 999, special, seeded(2))
    assert torch.equal(seen[~chosen], ids[~chosen])
    trials, masked = int(chosen.sum()), seen[chosen] == 999
    kept = seen[chosen] == ids[chosen]
    assert within_binomial_bounds(int(masked.sum()), trials, 0.8)
    assert within_binomial_bounds(int(kept.sum()), trials, 0.1 + 0.1 / 996)
    replaced = seen[chosen][~masked & ~kept]
    assert not special[replaced].any()
    assert len(replaced.unique()) > 300


def test_words_are_taken_out_as_a_whole(tokenizer):
    texts = ["uncommonly unbreakable words of readable sentences, uncommonly unbreakable sentences"] * 100
    encoded = pieces(tokenizer, texts, 32).batch(range(100))["input_ids"]
    marked = torch.zeros(tokenizer.vocabulary_size, dtype=torch.bool)
    marked[special_ids(tokenizer)] = True
    begins = word_beginnings(tokenizer)
    chosen = choose(encoded, marked, 0.3, seeded(), begins)
    goes_on = ~begins[encoded] & ~marked[encoded]
    goes_on[:, 1:] &= ~marked[encoded][:, :-1]  # a piece may begin inside of a word
    assert goes_on.any()
    previous = torch.roll(chosen, 1, 1)
    assert torch.equal(chosen[goes_on], previous[goes_on])
    assert 0.2 < float(chosen[~marked[encoded]].float().mean()) < 0.4
    words = int((begins[encoded] & ~marked[encoded]).sum())
    assert within_binomial_bounds(int((chosen & begins[encoded]).sum()), words, 0.3)


def test_in_word_pieces_a_prefix_tells_what_goes_on_a_word():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "read": 2, "##able": 3, "able": 4, ",": 5}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    begins = word_beginnings(SubwordTokenizer(backend, 8, 0))
    assert begins.tolist() == [True, True, True, False, True, True]


def test_the_mask_is_the_last_id_and_no_text_can_write_it(tokenizer):
    assert mask_id(tokenizer) == tokenizer.vocabulary_size - 1
    (row,) = plain_ids(tokenizer, ["a [MASK] or [SEP] or [PAD]"])
    assert not set(row) & set(special_ids(tokenizer))
    assert mask_id(SubwordTokenizer(train_byte_bpe(["a text"], 300), 8, PAD_ID)) is None


def test_the_loss_is_the_cross_entropy_of_the_chosen_tokens_alone(tokenizer):
    torch.manual_seed(0)
    encoder = BackboneEncoder(Size(1, 16, 2, 32), Attention, tokenizer.vocabulary_size, 32, dropout=0.0)
    model = TokenModel(encoder, TiedHead(tokenizer.vocabulary_size), predicts_next=False).eval()
    choice = MLM(None, mask_fraction=0.4)
    batch = pieces(tokenizer, ["words of sentences", "readable"] * 8, 32).batch(range(16))
    posed = choice.pose(batch, tokenizer, seeded())
    with torch.no_grad():
        loss = choice.loss(model, posed)
        scores = model.token_scores(encoder.states(posed))
        rows = [
            (scores[i, j], batch["input_ids"][i, j])
            for i, j in (divmod(int(p), batch["input_ids"].shape[1]) for p in posed["positions"])
        ]
        expected = cross_entropy(torch.stack([s for s, _ in rows]), torch.stack([t for _, t in rows]))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert torch.equal(batch["attention_mask"], posed["attention_mask"])


def test_nothing_to_guess_costs_nothing(tokenizer):
    encoder = BackboneEncoder(Size(1, 16, 2, 32), Attention, tokenizer.vocabulary_size, 32)
    model = TokenModel(encoder, TiedHead(tokenizer.vocabulary_size), predicts_next=False)
    batch = tokenizer.encode([""]).batch([0])
    loss = MLM(None).loss(model, MLM(None).pose(batch, tokenizer, seeded()))
    assert float(loss.detach()) == 0.0
    loss.backward()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mask_fraction": 0.0}, r"pretraining\.mask_fraction must be in \(0, 1\), got 0"),
        ({"steps": 0}, r"pretraining\.steps must be a whole number of at least 1, got 0"),
        ({"learning_rate": -1.0}, r"pretraining\.learning_rate must be above 0, got -1"),
    ],
)
def test_values_outside_their_range_are_refused_by_key(keys, said):
    with pytest.raises(ValueError, match=said):
        MLM(None, **keys)
