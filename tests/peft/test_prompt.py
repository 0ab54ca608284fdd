import copy

import pytest
import torch
from torch import nn

from effnlp.compression.early_exit.exits import EarlyExitClassifier
from effnlp.compression.quantization.integer import Int8Linear
from effnlp.evaluation.flops import count_flops
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir, read_choice
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier, count_params, mean_pool
from effnlp.model.mixer.attention import Attention
from effnlp.model.surgery import replace_layers
from effnlp.peft.prefix import PrefixTuning
from effnlp.peft.prompt import PromptTuning, initial_rows

TEXTS = ["the film was good", "dull", "a story about the film and the plot of it"]


def with_words(batch, words):
    """The batch with the same words before each of its texts."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    before = words.expand(len(ids), -1)
    longer = {
        "input_ids": torch.cat([before, ids], dim=1),
        "attention_mask": torch.cat([torch.ones_like(before), mask], dim=1),
    }
    if "token_type_ids" in batch:
        longer["token_type_ids"] = torch.cat([torch.zeros_like(before), batch["token_type_ids"]], dim=1)
    return longer


def prompted_by_words(model, words):
    """Prompt tuning that starts from the embeddings of given words."""
    model = PromptTuning(len(words)).prepare(model)
    encoder = model.encoder
    with torch.no_grad():
        encoder.prompt.rows.copy_(encoder.word_embeddings().weight[words])
    return model


def test_a_prompt_of_words_is_what_these_words_before_the_text_are(make_classifier, make_batch):
    words, batch = torch.tensor([7, 30, 2, 30]), make_batch()
    model, plain = prompted_by_words(make_classifier(), words), make_classifier()
    states = plain.encoder.states(with_words(batch, words))[:, len(words) :]
    torch.testing.assert_close(model.encoder.states(batch), states, rtol=0, atol=1e-6)
    pooled = mean_pool(states, batch["attention_mask"])
    torch.testing.assert_close(model.encoder(batch), pooled, rtol=0, atol=1e-6)
    assert (plain(batch) - model(batch)).abs().max() > 1e-3


def test_of_a_pair_the_prompt_is_in_the_first_text():
    torch.manual_seed(0)
    encoder = BackboneEncoder(Size(2, 16, 2, 32), Attention, 60, 24, dropout=0.0, pairs=True)
    plain, words = Classifier(encoder, 3).eval(), torch.tensor([5, 9])
    ids = torch.randint(1, 60, (2, 6))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]]),
    }
    expected = plain.encoder.states(with_words(batch, words))[:, 2:]
    model = prompted_by_words(copy.deepcopy(plain), words)
    torch.testing.assert_close(model.encoder.states(batch), expected, rtol=0, atol=1e-6)


def test_in_every_family_a_prompt_of_words_is_what_these_words_are(each_tiny_family):
    """Whatever the embeddings pass through: positions counted from the padding, a projection, rotary positions."""
    tiny, words = each_tiny_family, torch.tensor([20, 33, 21])
    batch = tiny.batch(TEXTS)
    expected = tiny.model.encoder.states(with_words(batch, words))[:, len(words) :]
    model = prompted_by_words(tiny.build(), words)
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(model.encoder.states(batch)[tokens], expected[tokens], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "last", "mean", "max"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_pooling_takes_the_tokens_of_the_text(tiny_family, family, pooling):
    tiny = tiny_family(family, pooling=pooling)
    batch, mask = tiny.batch(TEXTS), tiny.batch(TEXTS)["attention_mask"].bool()
    encoder = PromptTuning(3).prepare(tiny.model).encoder
    for text, own, pooled in zip(encoder.states(batch), mask, encoder(batch), strict=True):
        of_text = text[own]
        expected = {
            "cls": of_text[0], "last": of_text[-1], "mean": of_text.mean(0), "max": of_text.max(0).values,
        }  # fmt: skip
        torch.testing.assert_close(pooled, expected[pooling], rtol=0, atol=1e-6)


def test_in_every_family_what_a_text_gives_depends_on_neither_company_nor_padding(each_tiny_family):
    tiny = each_tiny_family
    model = PromptTuning(3).prepare(tiny.model)
    together = model(tiny.batch(TEXTS))
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(model(tiny.batch([text]))[0], together[index], rtol=0, atol=1e-5)


def test_in_every_family_layer_by_layer_is_the_forward(each_tiny_family):
    model, batch = PromptTuning(3).prepare(each_tiny_family.model), each_tiny_family.batch(TEXTS)
    encoder = model.encoder
    state = encoder.embed(batch)
    assert state.hidden.shape[1] == state.mask.shape[1] == batch["input_ids"].shape[1] + 3
    for index in range(encoder.depth):
        state = encoder.layer(index, state)
    torch.testing.assert_close(encoder.pool(state), encoder(batch), rtol=0, atol=1e-6)


def test_early_exits_read_the_prompt(make_classifier, make_batch):
    model, batch = PromptTuning(3).prepare(make_classifier()), make_batch()
    exits = EarlyExitClassifier(model, threshold=0.0).eval()
    exits.exits_in_use = True
    torch.testing.assert_close(exits(batch), model(batch), rtol=0, atol=1e-6)
    exits.force_depth(1)
    words = exits(batch)
    with torch.no_grad():
        model.encoder.prompt.rows.normal_()
    assert (exits(batch) - words).abs().max() > 1e-3


def test_in_a_decoder_no_token_sees_one_that_follows_it(tiny_family):
    tiny = tiny_family("gpt2")
    encoder = PromptTuning(3).prepare(tiny.model).encoder
    batch = tiny.batch(TEXTS[2:])
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, 4] += 1
    one, two = encoder.states(batch), encoder.states(other)
    torch.testing.assert_close(two[:, :4], one[:, :4], rtol=0, atol=1e-6)
    assert (two[:, 4] - one[:, 4]).abs().max() > 1e-3


def test_what_is_trained_is_the_prompt(make_classifier, tiny_family):
    model = make_classifier(width=32)
    head = count_params(model.head)
    assert count_params(PromptTuning(5).prepare(model), trainable_only=True) - head == 5 * 32
    narrow = tiny_family("albert").model  # embeddings of width 8, layers of width 32
    head = count_params(narrow.head)
    assert count_params(PromptTuning(5).prepare(narrow), trainable_only=True) - head == 5 * 8


def test_only_the_prompt_and_the_head_receive_a_gradient_and_move(make_classifier, make_batch, take_steps):
    model = PromptTuning().prepare(make_classifier())
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"encoder.prompt.rows", "head.weight", "head.bias"}
    before = {name: value.clone() for name, value in model.named_parameters()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == names


def test_in_every_family_the_prompt_learns_and_the_base_does_not(each_tiny_family, take_steps):
    model = PromptTuning().prepare(each_tiny_family.model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    take_steps(model, each_tiny_family.batch(TEXTS, [0, 1, 2]), steps=2)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"encoder.prompt.rows", "head.weight", "head.bias"}


def test_its_factor_of_the_learning_rate_is_that_of_the_prompt_alone(make_classifier):
    model = PromptTuning(learning_rate_factor=30.0).prepare(make_classifier())
    rates = {n: getattr(p, "learning_rate_factor", 1.0) for n, p in model.named_parameters()}
    assert {name for name, rate in rates.items() if rate != 1.0} == {"encoder.prompt.rows"}
    assert rates["encoder.prompt.rows"] == 30.0


def test_a_prompt_of_the_vocabulary_is_made_of_different_words_and_never_of_padding():
    table = torch.arange(10.0)[:, None].expand(-1, 3)
    for seed in range(20):
        torch.manual_seed(seed)
        rows = initial_rows(table, 9, "vocabulary", padding_idx=4)
        assert sorted(rows[:, 0].tolist()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert len(initial_rows(table, 25, "vocabulary")) == 25


def test_the_prompt_is_no_view_of_the_table(make_classifier, make_batch):
    model = PromptTuning().prepare(make_classifier())
    table = model.encoder.tokens.weight.clone()
    with torch.no_grad():
        model.encoder.prompt.rows.add_(1.0)
    assert torch.equal(model.encoder.tokens.weight, table)


def test_a_random_prompt_is_as_large_as_words_are():
    torch.manual_seed(0)
    table = 0.3 + 0.02 * torch.randn(1000, 64)
    rows = initial_rows(table, 200, "random")
    assert abs(rows.mean() - 0.3) < 0.001
    assert abs(rows.std() - 0.02) < 0.001
    assert not (rows[:, None] == table[None]).all(-1).any()


def test_the_same_seed_draws_the_same_prompt():
    table = torch.randn(50, 4)
    for initial in ("vocabulary", "random"):
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(initial_rows(table, 6, initial))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_it_costs_what_a_text_that_is_longer_by_the_prompt_costs(make_classifier, make_batch):
    batch = make_batch()
    model = PromptTuning(3).prepare(make_classifier())
    longer, plain = with_words(batch, torch.tensor([1, 2, 3])), make_classifier()
    assert count_flops(lambda: model(batch)).flops == count_flops(lambda: plain(longer)).flops


@pytest.mark.parametrize("family", [None, "bert"])
def test_a_saved_and_loaded_prompt_gives_the_same_logits(
    tiny_family, make_classifier, make_batch, tmp_path, family
):
    tiny = tiny_family(family) if family else None
    batch, method = tiny.batch(TEXTS) if tiny else make_batch(), PromptTuning()

    def prepared(seed):
        base = tiny.build() if tiny else make_classifier()
        torch.manual_seed(seed)
        return method.prepare(base)

    model, fresh = method.finish(prepared(1)), prepared(2)
    assert not torch.equal(fresh(batch), model(batch))
    torch.save({name: p for name, p in model.named_parameters() if p.requires_grad}, tmp_path / "delta.pt")
    fresh.load_state_dict(torch.load(tmp_path / "delta.pt"), strict=False)
    assert torch.equal(fresh(batch), model(batch))


def test_it_works_before_a_base_in_int8_and_beside_a_prefix(make_classifier, make_batch, take_steps):
    model, batch = make_classifier(), make_batch()
    linears = [m for m in model.encoder.modules() if isinstance(m, nn.Linear)]
    model = replace_layers(model, linears, Int8Linear)
    model = PrefixTuning(2).prepare(PromptTuning(3).prepare(model))
    model.encoder.prompt.requires_grad_(True)
    losses = take_steps(model, batch, steps=10)
    assert losses[-1] < losses[0]
    assert model(batch).isfinite().all()


def test_it_is_noted_what_was_added(make_classifier):
    model = PromptTuning(4).finish(PromptTuning(4).prepare(make_classifier()))
    assert model.applied["peft"] == {"prompt_tokens": 4}


@pytest.mark.parametrize("family", [None, "bert", "roberta"])
def test_a_prompt_and_a_text_that_do_not_fit_the_positions_are_refused(tiny_family, make_classifier, family):
    model = tiny_family(family).model if family else make_classifier()
    room = model.encoder.position_count
    assert room == {None: 24, "bert": 64, "roberta": 62}[family]
    model = PromptTuning(10).prepare(model)
    ids = torch.full((1, room - 10), 20)
    assert model({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).isfinite().all()
    ids = torch.full((1, room - 9), 20)
    message = (
        f"a prompt of 10 tokens and a batch of {room - 9} tokens a text do not fit: the model reads {room}"
    )
    with pytest.raises(ValueError, match=message):
        model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"initial": "zero"}, "initial must be one of vocabulary, random, got 'zero'"),
        ({"learning_rate_factor": -1}, "learning_rate_factor must be above 0, got -1"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptTuning(**settings)


def test_a_prompt_that_leaves_no_position_for_a_text_is_refused(make_classifier):
    with pytest.raises(ValueError, match="leave a position for a text: the model reads 24 tokens, got 24"):
        PromptTuning(24).prepare(make_classifier())


def test_a_second_prompt_is_refused(make_classifier):
    with pytest.raises(ValueError, match="there is a prompt already"):
        PromptTuning().prepare(PromptTuning().prepare(make_classifier()))


def test_an_encoder_that_reads_no_sequence_is_refused():
    encoder = nn.Linear(4, 4)
    encoder.width = 4
    with pytest.raises(ValueError, match="Linear reads no sequence to put a prompt before"):
        PromptTuning().prepare(Classifier(encoder, 2))


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="has no prompt"):
        PromptTuning().finish(make_classifier())


def test_a_bag_of_ngrams_is_refused_before_the_run():
    slots = ["early_exit", "pruning", "quantization"]
    chosen = {"model": "bag_of_ngrams", "peft": "prompt", **{f"compression/{slot}": "none" for slot in slots}}
    compression = {slot: read_choice(f"compression/{slot}", "none", [conf_dir()]).keys for slot in slots}
    with pytest.raises(IllegalCombinationError, match="peft=prompt needs token sequence"):
        check({"compression": {"order": slots, **compression}}, chosen, [conf_dir()])
