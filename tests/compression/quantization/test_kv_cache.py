import copy
import io

import pytest
import torch

from effnlp import method
from effnlp.compose import compose, hydra_context
from effnlp.compression.quantization.kv_cache import KVCache
from effnlp.compression.quantization.rounded_memory import RoundedGroups, RoundedKeysAndValues, round_evenly
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.finetuning.causal_lm import CausalLM
from effnlp.generation.generate import generate
from effnlp.generation.settings import Settings
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import LanguageModel
from effnlp.model.memory import KeysAndValues, Past, Places
from effnlp.model.mixer.attention import Attention
from effnlp.model.storage import stored_bytes

DEPTH, WIDTH, HEADS, VOCABULARY = 2, 16, 2, 30
E = WIDTH // HEADS


@pytest.fixture
def make_decoder():
    def make(max_length=64):
        torch.manual_seed(0)

        def causal(**how):
            return Attention(**how, causal=True)

        encoder = BackboneEncoder(Size(DEPTH, WIDTH, HEADS, 24), causal, VOCABULARY, max_length, 0.0)
        for parameter in encoder.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        return LanguageModel(encoder).eval()

    return make


def texts(*lengths, seed=1):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, VOCABULARY, (n,), generator=draw).tolist() for n in lengths]
    return Encodings.from_lists(rows, pad_id=0)


def one_by_one(model, batch):
    """Scores (B, T - 1, V) of a decoding that is given every token."""
    past, parts = Past(), []
    length = batch["input_ids"].shape[1]
    with torch.inference_mode():
        for t in range(length - 1):
            columns = {name: value[:, t : t + 1] for name, value in batch.items()}
            states = model.encoder.read_on(columns, past)
            parts.append(torch.nn.functional.linear(states, model.encoder.tokens.weight, model.head.bias))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_number_is_further_than_half_a_step_and_ends_of_the_range_are_kept(bits):
    rows = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) * 3 + 5
    numbers, step, lowest = round_evenly(rows, bits)
    assert int(numbers.max()) == 2**bits - 1
    back = numbers * step + lowest
    assert ((back - rows).abs() <= step / 2 * (1 + 1e-4)).all()
    ends = torch.stack([rows.amin(1), rows.amax(1)])
    torch.testing.assert_close(torch.stack([back.amin(1), back.amax(1)]), ends)


def test_a_row_of_equal_numbers_is_kept_as_it_is():
    rows = torch.full((2, 8), -3.25)
    numbers, step, lowest = round_evenly(rows, 4)
    assert torch.equal(numbers * step + lowest, rows)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("by_channel", [True, False])
def test_groups_hold_what_a_slow_reference_rounds(bits, by_channel):
    floats = torch.randn(3, 2, 16, E, generator=torch.Generator().manual_seed(0))
    groups = RoundedGroups(bits, group_size=8, by_channel=by_channel)
    groups.put(torch.arange(3), 0, floats, texts=3)
    found = groups.floats()
    for b in range(3):
        for k in range(2):
            for start in (0, 8):
                block = floats[b, k, start : start + 8]  # (G, E)
                for i in range(8):
                    row = block[:, i] if by_channel else block[i]
                    step = (row.max() - row.min()) / (2**bits - 1)
                    expected = ((row - row.min()) / step).round() * step + row.min()
                    of_row = found[b, k, start : start + 8]
                    torch.testing.assert_close(of_row[:, i] if by_channel else of_row[i], expected)


def test_a_channel_of_large_keys_costs_the_others_nothing_by_channel_and_much_by_token():
    keys = torch.randn(1, 1, 32, E, generator=torch.Generator().manual_seed(0))
    keys[..., 3] += 50.0
    others = [i for i in range(E) if i != 3]
    errors = {}
    for by_channel in (True, False):
        groups = RoundedGroups(4, 32, by_channel)
        groups.put(torch.tensor([0]), 0, keys, texts=1)
        errors[by_channel] = float((groups.floats() - keys)[..., others].abs().mean())
    assert errors[True] < errors[False] / 5


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("keys", ["channel", "token"])
@pytest.mark.parametrize("recent", [0, 8, 16])
def test_bytes_follow_the_formula_at_every_length(make_decoder, bits, keys, recent):
    size, model = 8, make_decoder()
    model = KVCache(bits, size, recent, keys).finish(model)
    past, texts_here = Past(), 2
    one = torch.ones(texts_here, 1, dtype=torch.int64)
    for length in range(1, 41):
        with torch.inference_mode():
            model.encoder.read_on({"input_ids": one, "attention_mask": one}, past)
        whole = max(0, length - recent) // size
        rounded = size * E * bits // 8
        of_group = 2 * rounded + 8 * (E if keys == "channel" else size) + 8 * size
        plain = 2 * 4 * E * (length - whole * size)
        assert past.bytes == texts_here * DEPTH * HEADS * (whole * of_group + plain)


@pytest.mark.parametrize("recent", [0, 8])
def test_scores_are_those_of_decoding_token_by_token_whatever_the_texts_are_beside(make_decoder, recent):
    plain, model = make_decoder(), KVCache(2, 8, recent).finish(make_decoder())
    encodings = texts(41, 30, 9, 1)
    batch = encodings.batch(range(4))
    with torch.inference_mode():
        scores, counted = model.scores(batch), batch["attention_mask"][:, 1:, None]
        assert torch.isfinite(scores).all()
        assert ((scores - one_by_one(model, batch)) * counted).abs().max() < 1e-4
        assert ((scores - plain.scores(batch)) * counted).abs().max() > 0.05
        differs = ((scores - plain.scores(batch)) * counted).abs().amax((0, 2))  # (T - 1,)
        assert differs[: 8 + recent].max() < 1e-4, "nothing is rounded before"
        assert differs[8 + recent] > 1e-3
        for row in range(4):
            alone = model(encodings.batch([row], pad_to_multiple=16))
            torch.testing.assert_close(alone[0], model(batch)[row], rtol=0, atol=1e-3)


def test_more_bits_are_nearer_to_the_model_as_it_was(make_decoder):
    batch = texts(60, 60).batch(range(2))
    with torch.inference_mode():
        expected = make_decoder().scores(batch)
        errors = [
            float((KVCache(bits, 8, 0).finish(make_decoder()).scores(batch) - expected).square().mean())
            for bits in (2, 4, 8)
        ]
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0


def test_what_follows_a_text_is_the_same_in_any_company(make_decoder):
    model = KVCache(2, 8, 8).finish(make_decoder())
    encodings = texts(25, 9, 3)
    prompts = [
        encodings.ids[a:b].tolist() for a, b in zip(encodings.offsets, encodings.offsets[1:], strict=False)
    ]
    for settings in (Settings(30), Settings(20, beams=2), Settings(30, temperature=1.0)):
        together = generate(model, prompts, settings, ends=[7])
        alone = [generate(model, [p], settings, [7], first=n)[0] for n, p in enumerate(prompts)]
        assert [each.ids for each in together] == [each.ids for each in alone]
    longest = [generate(each, prompts, Settings(30))[0].ids for each in (make_decoder(), model)]
    assert longest[0] != longest[1], "else nothing was rounded that matters"


def test_texts_that_are_taken_out_and_doubled_keep_what_is_theirs():
    draw, size = torch.Generator().manual_seed(0), 8
    memory, rows = RoundedKeysAndValues(8, size, 0, True), [2, 0, 0]
    new = torch.randn(3, 2, 20, E, generator=draw)
    memory.append(new, -new, Places((0, 0, 0), (20, 11, 7), 20))
    memory.select(torch.tensor(rows))
    more = torch.randn(3, 2, 1, E, generator=draw)
    starts = tuple((20, 11, 7)[row] for row in rows)
    keys, values = memory.append(more, -more, Places(starts, (1, 1, 1), 1))
    for place, row in enumerate(rows):
        expected = torch.cat([new[row, :, : starts[place]], more[place]], dim=1)
        found = keys[place, :, : starts[place] + 1]
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
        torch.testing.assert_close(values[place, :, : starts[place] + 1], -expected, rtol=0, atol=0.02)
        left = starts[place] // size * size
        assert torch.equal(found[:, left:], expected[:, left:])


def test_operations_fall_by_what_no_token_reads_and_weights_keep_their_bytes(make_decoder):
    encodings, size = texts(32), 8
    plain, model = make_decoder(), KVCache(4, size, 8).finish(make_decoder())
    assert stored_bytes(model) == stored_bytes(plain)
    before, after = (example_flops(each, encodings, 1)[0] for each in (plain, model))
    products = sum(size * end for end in range(size, 33, size))
    assert before - after == 4 * DEPTH * WIDTH * (32 * 32 - products)


def test_it_is_saved_and_copied_with_the_model(make_decoder):
    model = KVCache(2, 8, 0).finish(make_decoder())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    batch = texts(40).batch([0])
    for other in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert torch.equal(other(batch), model(batch))
    assert method.applied(model) == {"compression/quantization": {"kept_bits": 2, "layers": DEPTH}}


def test_other_models_are_left_alone(make_decoder):
    KVCache(2, 8, 0).finish(make_decoder())
    assert make_decoder().encoder.layers[0].mixer.remember is KeysAndValues


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "qwen3"])
def test_pretrained_decoders_keep_rounded_keys_too(tiny_family, family):
    def made():
        return CausalLM().with_head(tiny_family(family).model).eval()

    batch = texts(40, 21).batch(range(2))
    model, counted = KVCache(2, 8, 8).finish(made()), batch["attention_mask"][:, 1:, None]
    past, parts = Past(), []
    with torch.inference_mode():
        for t in range(39):
            parts.append(model.encoder.read_on({k: v[:, t : t + 1] for k, v in batch.items()}, past))
        found = model.head(torch.cat(parts, dim=1))
        assert ((found - model.scores(batch)) * counted).abs().max() < 1e-3
        assert (made().scores(batch) - model.scores(batch)).abs().max() > 1e-2
        unrounded = Past()
        made().encoder.read_on({k: v[:, :39] for k, v in batch.items()}, unrounded)
    assert past.bytes < 0.8 * unrounded.bytes


def test_it_is_legal_where_texts_are_continued_and_nowhere_else():
    def plan(*overrides):
        with hydra_context():
            composed = compose(["task=files", "compression/quantization=kv_cache", *overrides])
        check(composed.config, composed.chosen, [conf_dir()])

    plan("model=decoder", "finetuning=causal_lm")
    plan("model=pretrained", "finetuning=causal_lm")
    plan("model=decoder", "finetuning=causal_lm", "peft=prefix")
    with pytest.raises(IllegalCombinationError, match="kv_cache needs continued texts when it acts"):
        plan("model=decoder", "finetuning=classify")


def test_a_model_in_which_nothing_would_be_rounded_is_refused(make_decoder, make_classifier):
    with pytest.raises(
        ValueError, match=r"rounds nothing: a group of 32 tokens .* once 32 follow it.* reads 63"
    ):
        KVCache().check(make_decoder(max_length=63))
    KVCache().check(make_decoder(max_length=64))
    with pytest.raises(ValueError, match="Classifier predicts no next tokens"):
        KVCache().check(make_classifier())


def test_heads_that_groups_of_channels_do_not_fill_are_refused():
    torch.manual_seed(0)

    def causal(**how):
        return Attention(**how, causal=True)

    model = LanguageModel(BackboneEncoder(Size(1, 24, 2, 8), causal, VOCABULARY, 64))
    with pytest.raises(ValueError, match="group_size 8 does not divide rows of 12"):
        KVCache(4, 8, 8).check(model)
    KVCache(4, 16, 16).check(model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 3}, "bits must be one of 2, 4, 8, got 3"),
        ({"group_size": 12}, "group_size must be a multiple of 8, got 12"),
        ({"recent": 16}, "recent must be a multiple of group_size, which is 32, got 16"),
        ({"keys": "head"}, "keys must be one of channel, token, got 'head'"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        KVCache(**values)
