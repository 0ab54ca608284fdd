from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effnlp.compression.quantization.kv_cache import KVCache
from effnlp.data.encodings import Encodings
from effnlp.evaluation.flops import count_flops
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.scenarios.generation import COUNTED, TIMED, generation, in_parts, prompts_of, refuse
from effnlp.generation.generate import generate
from effnlp.generation.settings import Settings
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.language import LanguageModel
from effnlp.model.mixer.attention import Attention

DEPTH, D, F, V = 2, 16, 24, 30
P, N = 10, 7


@pytest.fixture
def model():
    torch.manual_seed(0)

    def causal(**how):
        return Attention(**how, causal=True)

    return LanguageModel(BackboneEncoder(Size(DEPTH, D, 2, F), causal, V, 32, 0.0)).eval()


@pytest.fixture
def encodings():
    draw = np.random.default_rng(0)
    return Encodings.from_lists([draw.integers(1, V, n).tolist() for n in (3, 12, 5)], pad_id=0)


def token_flops(slots):
    """Of one more token that is read with ``slots`` tokens kept, itself included; closed form."""
    return DEPTH * (2 * (4 * D * D + 2 * D * F) + 4 * slots * D)


def test_operations_are_those_of_the_closed_form(model, encodings):
    found = generation(model, encodings, prompt_tokens=P, new_tokens=N, batch_size=2, latency=False).values
    head = 2 * D * V
    prefill = P * token_flops(P) + head  # the kernel is charged for all pairs of tokens
    decode = sum(token_flops(slots) + head for slots in range(P + 1, P + N))
    assert found["prefill_flops"] == prefill
    assert found["decode_flops_per_token"] == pytest.approx(decode / (N - 1))
    assert found["flops"] == prefill + decode
    counted = count_flops(lambda: generate(model, [encodings.ids[:P].tolist()], Settings(N)))
    assert counted.flops == prefill + decode
    assert counted.uncounted == {}


def test_reading_all_anew_for_each_token_takes_more(model, encodings):
    found = generation(model, encodings, prompt_tokens=P, new_tokens=N, latency=False).values
    anew = sum(P_ * token_flops(P_) + 2 * D * V for P_ in range(P, P + N))
    assert found["flops"] < anew / 2


def test_bytes_of_the_cache_are_those_of_the_formula_and_fall_by_it_when_rounded(model, encodings):
    def cache(model):
        found = generation(model, encodings, prompt_tokens=12, new_tokens=13, latency=False).values
        assert found["cache_bytes"] == found["cache_bytes_per_token"] * 24
        return found["cache_bytes"]

    assert cache(model) == 2 * DEPTH * D * 24 * 4
    rounded = (
        2 * (D * 8 * 4 // 8) + 8 * D + 8 * 8 * 2
    )  # of a group of 8: numbers, scales of keys and of values
    assert cache(KVCache(4, 8, 8).finish(model)) == DEPTH * (2 * rounded + 2 * D * 8 * 4)


def test_with_a_clock_all_that_was_promised_is_there(model, encodings):
    options = {"prompt_tokens": P, "new_tokens": N, "requests": 2, "repeats": 1, "warmup": 0}
    promised = generation(model, encodings, **options, flops=False, latency=False)
    assert promised.values == {}
    assert set(promised.absent) == set(TIMED)
    found = generation(model, encodings, **options)
    assert set(COUNTED) <= set(found.values)
    assert set(promised.absent) <= {*found.values, *found.absent}
    assert found.values["tokens_per_second"] == pytest.approx(N * found.values["examples_per_second"])
    assert found.values["prefill_seconds_p50"] > 0
    assert found.values["peak_memory_bytes"] > 0
    assert (
        found.absent["energy_joules"]
        == found.absent["decode_energy_joules_per_token"]
        == "no meter of energy"
    )


def test_what_is_not_of_the_prompt_is_of_the_tokens_after_the_first():
    prefill = Measured({"flops": 10.0, "latency_seconds_p50": 0.2, "energy_joules": 3.0})
    whole = Measured({"flops": 40.0, "latency_seconds_p50": 0.5, "energy_joules": 2.0})
    found = in_parts(prefill, whole, steps=3)
    assert found.values == {
        "prefill_flops": 10.0,
        "decode_flops_per_token": 10.0,
        "prefill_seconds_p50": 0.2,
        "decode_seconds_per_token": pytest.approx(0.1),
        "prefill_energy_joules": 3.0,
    }
    assert "noise" in found.absent["decode_energy_joules_per_token"]


def test_prompts_are_cut_from_the_texts_laid_end_to_end_again_and_again(encodings):
    prompts = prompts_of(encodings, 8, 4)
    assert prompts.lengths.tolist() == [8] * 4
    assert prompts.ids.tolist() == [*encodings.ids, *encodings.ids][:32]


def test_a_model_that_cannot_continue_such_texts_says_why_and_keeps_the_run(
    model, encodings, make_classifier
):
    found = generation(model, encodings, prompt_tokens=20, new_tokens=13, latency=False)
    assert found.values == {}
    assert "text 1 has 20 tokens, and 13 new ones do not fit" in found.absent["flops"]
    found = generation(make_classifier(), encodings, latency=False)
    assert "Classifier predicts no next tokens" in found.absent["decode_flops_per_token"]


@pytest.mark.parametrize("values", [{"prompt_tokens": 0}, {"new_tokens": 1}])
def test_too_few_tokens_are_refused(model, encodings, values):
    with pytest.raises(ValueError, match="prompt_tokens must be at least 1 and new_tokens at least 2, got"):
        generation(model, encodings, **values)


def test_a_task_with_answers_or_pairs_is_refused_before_the_training():
    refuse(SimpleNamespace(name="files", is_language=True, is_pair=False), prompt_tokens=3)
    with pytest.raises(ValueError, match=r"continues texts.*finetuning=causal_lm"):
        refuse(SimpleNamespace(name="sst2", is_language=False, is_pair=False))
    with pytest.raises(ValueError, match="those of snli are pairs"):
        refuse(SimpleNamespace(name="snli", is_language=True, is_pair=True))
