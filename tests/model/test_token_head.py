import copy

import pytest
import torch
import transformers

from effnlp.model.classifier import count_params
from effnlp.model.pretrained import Pretrained
from effnlp.model.token_head import token_head_of

TEXTS = ["the cat sat on the mat", "dog"]


def library(tiny):
    kind = (
        transformers.AutoModelForCausalLM
        if tiny.model.encoder.is_causal
        else transformers.AutoModelForMaskedLM
    )
    return kind.from_pretrained(tiny.path).eval()


@torch.inference_mode()
def test_scores_are_those_of_the_library(each_tiny_family):
    tiny = each_tiny_family
    if tiny.name == "t5":
        pytest.skip("the encoder alone predicts no tokens")
    batch, encoder = tiny.batch(TEXTS), tiny.model.encoder
    head = tiny.choice.with_token_head(tiny.model)
    expected = library(tiny)(**{name: batch[name] for name in encoder.inputs if name in batch}).logits
    real = batch["attention_mask"].bool()
    scores = head(encoder.states(batch))
    assert scores.shape == expected.shape
    assert (scores - expected)[real].abs().max() < 1e-5
    assert expected[real].std() > 0.1
    assert head.predicts_next == (tiny.name in ("gpt2", "opt", "llama", "qwen2", "qwen3"))


@pytest.mark.parametrize("name", ["bert", "gpt2", "opt", "distilbert"])
def test_a_tied_head_reads_the_embeddings_of_the_encoder_and_copies_stay_tied(name, tiny_family):
    tiny = tiny_family(name)
    both = torch.nn.ModuleList([tiny.model.encoder, token_head_of(tiny.model.encoder)])
    for pair in (both, copy.deepcopy(both)):
        encoder, head = pair
        table = encoder.model.get_input_embeddings().weight
        assert any(parameter is table for parameter in head.parameters())
    assert count_params(both) == count_params(library(tiny))


def test_the_head_learns_at_the_rate_of_the_encoder(tiny_family):
    tiny = tiny_family("bert", learning_rate_factor=0.3)
    assert {p.learning_rate_factor for p in token_head_of(tiny.model.encoder).parameters()} == {0.3}


def test_a_checkpoint_without_the_head_says_which_weights_it_lacks(tiny_family, tmp_path):
    tiny = tiny_family("bert")
    tiny.choice.checkpoint.load(transformers.AutoTokenizer).save_pretrained(tmp_path)
    transformers.AutoModel.from_pretrained(tiny.path).save_pretrained(tmp_path)
    bare = Pretrained(name=str(tmp_path), max_length=20).build(None, 2)
    with pytest.raises(
        ValueError, match=r"holds no head that predicts a masked token: it lacks \d of its weights, cls"
    ):
        token_head_of(bare.encoder)


def test_minilm_has_no_head_left(minilm):
    with pytest.raises(ValueError, match="minilm holds no head that predicts a masked token: it lacks"):
        token_head_of(minilm.model.encoder)


def test_an_encoder_that_predicts_no_tokens_is_refused(tiny_family, make_classifier):
    with pytest.raises(ValueError, match="models of type 't5' have no head that predicts a masked token"):
        token_head_of(tiny_family("t5").model.encoder)
    with pytest.raises(ValueError, match="comes from a pretrained checkpoint; BackboneEncoder has none"):
        token_head_of(make_classifier().encoder)
