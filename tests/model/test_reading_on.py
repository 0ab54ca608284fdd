"""Reading a text bit by bit gives the states that reading it at once gives: for every mixer, family and prompt."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from effnlp.compose import compose, hydra_context
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.families import FAMILIES
from effnlp.model.language import LanguageModel
from effnlp.model.memory import KeysAndValues, Past, Places
from effnlp.peft.prefix import PrefixTuning
from effnlp.peft.prompt import PromptTuning

MIXERS = sorted((conf_dir() / "model" / "mixer").glob("*.yaml"))
assert MIXERS
DECODERS = ("gpt2", "opt", "llama", "qwen2", "qwen3")
CUTS = ((0, 2), (2, 3), (3, 8), (8, 9), (9, 12))
LENGTHS = (12, 7, 3)
VOCABULARY = 30


def why_illegal(mixer: Path) -> str | None:
    """What legality says of a decoder with this mixer; None if it may be."""
    with hydra_context():
        composed = compose(["task=files", "model=decoder", "finetuning=causal_lm"])
    chosen = {**composed.chosen, "model/mixer": mixer.stem}
    try:
        check(composed.config, chosen, [conf_dir()])
    except IllegalCombinationError as error:
        return str(error)
    return None


def a_decoder(mixer, positions="learned", pairs=False):
    torch.manual_seed(0)
    made = instantiate(OmegaConf.load(mixer))

    def causal(**how):
        return made(**how, causal=True)

    encoder = BackboneEncoder(Size(2, 16, 2, 24), causal, VOCABULARY, 32, 0.0, positions, pairs)
    for parameter in encoder.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval().double()  # so that 1e-6 is far above rounding, whatever the size of the states


def a_batch(seed=1, high=VOCABULARY):
    ids = torch.randint(1, high, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def read_bit_by_bit(encoder, batch, cuts=CUTS, past=None):
    past = Past() if past is None else past
    parts = [encoder.read_on({k: v[:, start:end] for k, v in batch.items()}, past) for start, end in cuts]
    return torch.cat(parts, dim=1)


def assert_same_at_tokens(found, expected, mask):
    assert torch.isfinite(found).all(), "padding must stay finite"
    assert ((found - expected) * mask.unsqueeze(-1)).abs().max() < 1e-6
    assert expected.std() > 0.1


ILLEGAL = {mixer: why_illegal(mixer) for mixer in MIXERS}
LEGAL = [mixer for mixer in MIXERS if ILLEGAL[mixer] is None]
assert LEGAL
every_decoder_mixer = pytest.mark.parametrize("mixer", LEGAL, ids=lambda path: path.stem)


@pytest.mark.parametrize("mixer", [m for m in MIXERS if m not in LEGAL], ids=lambda path: path.stem)
def test_a_mixer_that_reads_what_follows_is_refused_with_the_reason(mixer):
    assert f"model/mixer={mixer.stem} needs" in ILLEGAL[mixer]
    assert "which model=decoder does not have" in ILLEGAL[mixer]


@every_decoder_mixer
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_bit_by_bit_gives_the_states_of_reading_at_once_at_every_token(mixer, positions):
    encoder, batch, past = a_decoder(mixer, positions), a_batch(), Past()
    encoder.check_reads_on()
    with torch.inference_mode():
        expected = encoder.states(batch)
        assert_same_at_tokens(read_bit_by_bit(encoder, batch, past=past), expected, batch["attention_mask"])
        assert past.lengths == LENGTHS
        one_by_one = read_bit_by_bit(encoder, batch, [(t, t + 1) for t in range(12)])
        assert_same_at_tokens(one_by_one, expected, batch["attention_mask"])


@every_decoder_mixer
def test_of_pairs_the_types_are_read_too(mixer):
    encoder, batch = a_decoder(mixer, pairs=True), a_batch()
    batch["token_type_ids"] = (torch.arange(12) > 4).long().expand(3, -1)
    with torch.inference_mode():
        assert_same_at_tokens(read_bit_by_bit(encoder, batch), encoder.states(batch), batch["attention_mask"])


@every_decoder_mixer
@pytest.mark.parametrize("t", [1, 4, 9])
def test_no_state_depends_on_a_token_that_follows_with_and_without_memory(mixer, t):
    encoder, batch = a_decoder(mixer), a_batch()
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, t:] = (other["input_ids"][:, t:] + 7) % (VOCABULARY - 1) + 1
    with torch.inference_mode():
        for read in (encoder.states, lambda batch: read_bit_by_bit(encoder, batch)):
            before, after = read(batch), read(other)
            assert torch.equal(before[:, :t], after[:, :t])
            assert (before[0, t:] - after[0, t:]).abs().max() > 1e-3


@every_decoder_mixer
def test_a_text_is_kept_and_read_alike_in_any_company_and_however_it_is_padded(mixer):
    encoder, batch = a_decoder(mixer), a_batch()
    with torch.inference_mode():
        together = read_bit_by_bit(encoder, batch)
        for row, length in enumerate(LENGTHS):
            alone = {k: v[row : row + 1, :length] for k, v in batch.items()}
            found = read_bit_by_bit(encoder, alone, [(t, t + 1) for t in range(length)])
            torch.testing.assert_close(found[0], together[row, :length], rtol=0, atol=1e-6)


@every_decoder_mixer
def test_texts_can_be_taken_out_reordered_and_doubled(mixer):
    encoder, batch, past = a_decoder(mixer), a_batch(), Past()
    rows = [2, 0, 0]
    with torch.inference_mode():
        read_bit_by_bit(encoder, {k: v[:, :8] for k, v in batch.items()}, CUTS[:3], past)
        past.select(rows)
        assert past.lengths == tuple(min(LENGTHS[row], 8) for row in rows)
        more = torch.randint(1, VOCABULARY, (3, 2))
        found = encoder.read_on({"input_ids": more, "attention_mask": torch.ones_like(more)}, past)
        for place, row in enumerate(rows):
            whole = torch.cat([batch["input_ids"][row, : min(LENGTHS[row], 8)], more[place]])[None]
            expected = encoder.states({"input_ids": whole, "attention_mask": torch.ones_like(whole)})[0, -2:]
            torch.testing.assert_close(found[place], expected, rtol=0, atol=1e-6)


@every_decoder_mixer
@pytest.mark.parametrize(
    "method", [PrefixTuning(length=3, reparameterise=False), PromptTuning(length=3)], ids=["prefix", "prompt"]
)
def test_what_is_trained_before_the_text_is_read_before_it(mixer, method):
    torch.manual_seed(3)
    model = method.prepare(LanguageModel(a_decoder(mixer).float())).eval().double()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "head" not in name:
            nn.init.normal_(parameter)
    batch = a_batch()
    with torch.inference_mode():
        expected = model.encoder.states(batch)
        assert_same_at_tokens(read_bit_by_bit(model.encoder, batch), expected, batch["attention_mask"])


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_pretrained_decoders_read_on_with_and_without_a_prefix(tiny_family, family, kind):
    for method in (None, PrefixTuning(length=3, reparameterise=False), PromptTuning(length=3)):
        model = tiny_family(family, attn_implementation=kind).model
        model = (model if method is None else method.prepare(model)).eval().double()
        for name, parameter in model.named_parameters():
            if method is not None and parameter.requires_grad and "head" not in name:
                nn.init.normal_(parameter)
        batch = a_batch()
        model.encoder.check_reads_on()
        with torch.inference_mode():
            expected = model.encoder.states(batch)
            assert_same_at_tokens(read_bit_by_bit(model.encoder, batch), expected, batch["attention_mask"])


def test_what_the_library_continues_greedily_is_what_we_continue(tiny_family):
    import transformers

    from effnlp.finetuning.causal_lm import CausalLM
    from effnlp.generation.generate import generate
    from effnlp.generation.settings import Settings

    for family in DECODERS:
        made = tiny_family(family)
        model = CausalLM().with_head(made.model).eval()
        reference = transformers.AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32).eval()
        prompt = [4, 7, 9, 3]
        theirs = reference.generate(
            torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert generate(model, [prompt], Settings(new_tokens=8))[0].ids == tuple(theirs[0, 4:].tolist()), (
            family
        )


def test_every_causal_family_that_is_known_is_tested_or_is_like_one_that_is():
    causal = {name for name in FAMILIES if name in DECODERS or name in ("mistral",)}
    assert all(FAMILIES["mistral"] is FAMILIES[name] for name in ("llama", "qwen2", "qwen3"))
    assert causal == {*DECODERS, "mistral"}


def test_an_encoder_that_sees_what_follows_is_refused(tiny_family, make_classifier):
    with pytest.raises(ValueError, match="'bert' read tokens that follow"):
        tiny_family("bert").model.encoder.check_reads_on()
    with pytest.raises(ValueError, match="Attention reads tokens that follow"):
        make_classifier().encoder.check_reads_on()


def test_a_mixer_that_keeps_nothing_is_refused():
    class Forgetful(nn.Identity):
        causal = True

    encoder = a_decoder(LEGAL[0])
    encoder.layers[1].mixer = Forgetful()
    with pytest.raises(ValueError, match="Forgetful keeps nothing of what it has read"):
        encoder.check_reads_on()


def test_a_text_longer_than_the_model_reads_is_refused(tiny_family):
    encoder = a_decoder(LEGAL[0])
    ids = torch.ones(1, 30, dtype=torch.int64)
    past = Past()
    encoder.read_on({"input_ids": ids, "attention_mask": ids}, past)
    with pytest.raises(ValueError, match="a text of 33 tokens does not fit: the model reads 32"):
        encoder.read_on({"input_ids": ids[:, :3], "attention_mask": ids[:, :3]}, past)
    of_library = tiny_family("gpt2").model.encoder
    ids = torch.ones(1, 65, dtype=torch.int64)
    with pytest.raises(ValueError, match="the model reads 64"):
        of_library.read_on({"input_ids": ids, "attention_mask": ids}, Past())


def test_padding_before_the_text_is_refused():
    batch = a_batch()
    batch["attention_mask"][1] = batch["attention_mask"][1].flip(0)
    with pytest.raises(ValueError, match="padding behind the text"):
        a_decoder(LEGAL[0]).read_on(batch, Past())


def test_the_bytes_of_what_is_kept_are_two_numbers_for_each_width_and_layer():
    encoder, past = a_decoder(LEGAL[0]).float(), Past()
    assert past.bytes == 0
    ids = torch.ones(3, 5, dtype=torch.int64)
    for tokens in (5, 6, 7):
        taken = ids[:, : 5 if tokens == 5 else 1]
        encoder.read_on({"input_ids": taken, "attention_mask": torch.ones_like(taken)}, past)
        assert past.bytes == 2 * encoder.depth * 3 * tokens * encoder.width * 4


def test_slots_hold_each_text_without_gaps():
    memory, draw = KeysAndValues(), torch.Generator().manual_seed(0)
    expected = [torch.empty(2, 0, 4) for _ in range(2)]
    for starts, counts, length in (
        ((0, 0), (3, 1), 3),
        ((3, 1), (1, 1), 1),
        ((4, 2), (0, 4), 5),
        ((4, 6), (2, 2), 2),
    ):
        new = torch.randn(2, 2, length, 4, generator=draw)
        keys, values = memory.append(new, -new, Places(starts, counts, length))
        expected = [
            torch.cat([of_text, new[row, :, : counts[row]]], dim=1) for row, of_text in enumerate(expected)
        ]
        for row, of_text in enumerate(expected):
            assert torch.equal(keys[row, :, : of_text.shape[1]], of_text)
            assert torch.equal(values[row, :, : of_text.shape[1]], -of_text)
        assert keys.shape[2] == max(len(of_text[0]) for of_text in expected)
