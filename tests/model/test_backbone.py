import math
from functools import partial

import pytest
import torch

from effnlp.model.backbone import SIZES, Backbone, BackboneEncoder, Size, sinusoidal_table
from effnlp.model.classifier import Classifier, count_params
from effnlp.model.mixer.attention import Attention
from effnlp.model.mixer.performer import Performer

SMALL = Size(depth=3, width=24, heads=2, feedforward_width=40)


def closed_form(size, vocabulary, length, pairs, classes):
    """Parameters of a classifier with learned positions: tables, blocks, final norm, head."""
    d, f = size.width, size.feedforward_width
    tables = (vocabulary + length + 2 * pairs) * d
    block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    return tables + size.depth * block + 2 * d + (d * classes + classes)


@pytest.mark.parametrize("mixer", [Attention, partial(Performer, features=8)], ids=["attention", "performer"])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_the_number_of_parameters_is_the_closed_form(name, pairs, mixer):
    with torch.device("meta"):  # base has 92 million
        encoder = BackboneEncoder(SIZES[name], mixer, 8192, 128, pairs=pairs)
        model = Classifier(encoder, classes=5)
    assert count_params(model) == closed_form(SIZES[name], 8192, 128, pairs, 5)
    assert count_params(model, trainable_only=True) == count_params(model)


def test_sinusoidal_positions_cost_no_parameters_and_learned_ones_a_table():
    learned, fixed = (
        BackboneEncoder(SMALL, Attention, 50, 16, positions=positions)
        for positions in ("learned", "sinusoidal")
    )
    assert count_params(learned) - count_params(fixed) == 16 * 24
    assert not [name for name in fixed.state_dict() if "position" in name]


def test_sinusoids_are_those_of_the_paper():
    table = sinusoidal_table(20, 7)
    for position in (0, 3, 19):
        for column in range(7):
            angle = position / 10_000 ** (2 * (column // 2) / 7)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert abs(table[position, column].item() - expected) < 1e-5


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_order_of_the_tokens_matters(positions):
    torch.manual_seed(0)
    encoder = BackboneEncoder(SMALL, Attention, 50, 16, positions=positions).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.ones_like(ids)
    there = encoder({"input_ids": ids, "attention_mask": mask})
    back = encoder({"input_ids": ids.flip(1), "attention_mask": mask})
    assert (there - back).abs().max() > 1e-4


def test_absent_types_are_those_of_the_first_text():
    torch.manual_seed(0)
    encoder = BackboneEncoder(SMALL, Attention, 50, 16, pairs=True).eval()
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    first = encoder({**batch, "token_type_ids": torch.zeros(1, 3, dtype=torch.long)})
    assert torch.equal(encoder(batch), first)
    assert not torch.equal(encoder({**batch, "token_type_ids": torch.ones(1, 3, dtype=torch.long)}), first)


def test_what_stands_in_the_padding_changes_nothing():
    torch.manual_seed(0)
    encoder = BackboneEncoder(SMALL, Attention, 50, 16).eval()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    other = torch.tensor([[5, 6, 7, 33, 12], [5, 6, 7, 8, 9]])
    assert torch.equal(
        encoder({"input_ids": ids, "attention_mask": mask}),
        encoder({"input_ids": other, "attention_mask": mask}),
    )


def test_the_residual_stream_does_not_grow_with_depth_at_initialisation():
    def spread(depth):
        torch.manual_seed(0)
        size = Size(depth=depth, width=64, heads=4, feedforward_width=256)
        encoder = BackboneEncoder(size, Attention, 500, 32).eval()
        batch = {"input_ids": torch.randint(1, 500, (8, 32)), "attention_mask": torch.ones(8, 32)}
        state = encoder.embed(batch)
        for index in range(depth):
            state = encoder.layer(index, state)
        return state.hidden.std().item()

    assert 0.5 < spread(24) / spread(2) < 2


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    encoder = BackboneEncoder(SMALL, Attention, 50, 16, dropout=0.5)
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)}
    assert not torch.equal(encoder(batch), encoder(batch))
    encoder.eval()
    assert torch.equal(encoder(batch), encoder(batch))


def test_the_type_table_exists_for_pairs_only(toy, toy_pairs):
    choice = Backbone(Attention, vocabulary_size=300)
    single = choice.build(choice.tokenizer(toy), 2).encoder
    pair = choice.build(choice.tokenizer(toy_pairs), 2).encoder
    assert single.types is None
    assert pair.types is not None


def test_pairs_carry_type_ids_and_single_texts_none(toy, toy_pairs):
    choice = Backbone(Attention, vocabulary_size=300)
    assert choice.tokenizer(toy).encode(["a"]).type_ids is None
    tokenizer = choice.tokenizer(toy_pairs)
    pair = tokenizer.encode(["the apple"], ["the saw"])
    first = tokenizer.encode(["the apple"])
    assert pair.type_ids.tolist() == [0] * (len(first.ids) + 1) + [1] * (len(pair.ids) - len(first.ids) - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "size must be one of tiny, small, base, got 'huge'"),
        ({"positions": "none"}, "positions must be one of learned, sinusoidal, got 'none'"),
        ({"vocabulary_size": 200}, "vocabulary_size must be at least 259, got 200"),
        ({"max_length": 2}, "max_length must exceed the 2 special tokens, got 2"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_rule(toy, arguments, message):
    def build():
        choice = Backbone(Attention, **{"vocabulary_size": 300, **arguments})
        return choice.build(choice.tokenizer(toy), 2)

    with pytest.raises(ValueError, match=message):
        build()


def test_a_batch_longer_than_the_model_reads_is_refused():
    encoder = BackboneEncoder(SMALL, Attention, 50, 16)
    batch = {"input_ids": torch.ones(1, 17, dtype=torch.long), "attention_mask": torch.ones(1, 17)}
    with pytest.raises(ValueError, match="the batch has 17 tokens a text, the model reads 16"):
        encoder(batch)


def test_it_reads_the_tokens_of_a_pretrained_model_where_it_is_told_to(minilm, toy):
    choice = Backbone(Attention, vocabulary="minilm", max_length=40)
    tokenizer = choice.tokenizer(toy)
    expected = minilm.batch(["An ordinary text about hammers"])["input_ids"]
    assert torch.equal(tokenizer.encode(["An ordinary text about hammers"]).batch([0])["input_ids"], expected)
    assert choice.build(tokenizer, 2).encoder.tokens.num_embeddings == tokenizer.vocabulary_size == 30522
    assert tokenizer.max_length == 40
