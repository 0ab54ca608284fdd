import copy
import importlib.util
import subprocess
import sys

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from effnlp import method
from effnlp.compression.quantization.integer import Int8Linear
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.model.storage import Deployed
from effnlp.model.surgery import layers_in_roles, replace_layers
from effnlp.peft import hf
from effnlp.peft.hf import NEEDS_MORE, HuggingFacePeft
from effnlp.peft.ia3 import IA3, ScaledLinear
from effnlp.peft.lora import LoRA, LoRALinear

TYPES = [one.name for one in peft.PeftType]
PROMPTS = ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"]
OF_LAYERS = [name for name in TYPES if name not in NEEDS_MORE and name not in PROMPTS]
SMALL = {
    "ADAMSS": {"r": 4, "num_subspaces": 2},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 20},
    "GRALORA": {"r": 8},
    "MISS": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [3, 7, 11]},
    "UNILORA": {"theta_d_length": 50},
    "VBLORA": {"vector_length": 16, "num_vectors": 8},
    "VERA": {"r": 16},
    "WAVEFT": {"n_frequency": 20},
}
"""Settings for layers of 32; the defaults of the package are for hundreds."""
OFTEN = {
    "LORA",
    "IA3",
    "ADALORA",
    "LOHA",
    "OFT",
    "VERA",
    "LN_TUNING",
    "LILY",
    "FOURIERFT",
    "TRAINABLE_TOKENS",
}
"""Types that are tested each time: one of each way to be merged; the others are slow together."""
LEAVES_LAYERS_WRAPPED = {"LILY"}

pytestmark = pytest.mark.filterwarnings("ignore")


def chosen_of(type, **more):
    return HuggingFacePeft(type, settings=SMALL.get(type), **more)


def learn(model, batch, take_steps, chosen, loss_of, steps=2):
    return take_steps(model, batch, steps=steps, objective=method.objective([chosen], loss_of))


def test_every_type_of_the_package_is_tested_or_refused():
    assert set(OF_LAYERS) | set(PROMPTS) | set(NEEDS_MORE) == set(TYPES)
    assert len(OF_LAYERS) > 25


@pytest.mark.parametrize(
    "type", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in OF_LAYERS]
)
def test_a_type_prepares_trains_what_it_says_merges_and_is_counted(
    type, make_classifier, make_batch, take_steps, loss_of, tmp_path
):
    batch, chosen, plain = make_batch(16), chosen_of(type), make_classifier()
    before = plain(batch)
    model = method.prepare([chosen], make_classifier())
    starts_alike = torch.allclose(model(batch), before, rtol=0, atol=1e-5)
    assert starts_alike != chosen.changes_at_start

    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} < learning
    learn(model, batch, take_steps, chosen, loss_of, steps=3)
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, values[name])
    }
    assert changed == learning

    trained = model(batch)
    finished = method.finish(chosen, copy.deepcopy(model)).eval()
    torch.testing.assert_close(finished(batch), trained, rtol=0, atol=1e-5)
    assert torch.equal(model(batch), trained)  # finishing a copy left it alone
    merged = not any(isinstance(module, BaseTuner | BaseTunerLayer) for module in finished.modules())
    assert merged == (type not in LEAVES_LAYERS_WRAPPED)
    noted = method.applied(finished)["peft"]
    assert noted["layers"] > 0
    assert noted["merged_layers"] == (noted["layers"] if merged else 0)

    encodings = Encodings.from_lists([[1, 2, 3], [4, 5, 6, 7, 8]], pad_id=0)
    flops, reason = example_flops(finished, encodings, 1)
    assert flops, reason
    if merged and type != "TRAINABLE_TOKENS":
        assert flops == example_flops(plain, encodings, 1)[0]

    Deployed(finished, None, ("a", "b", "c")).save(tmp_path / "model.pt")
    assert torch.equal(Deployed.load(tmp_path / "model.pt").model(batch), finished(batch))


@pytest.mark.parametrize("type", PROMPTS)
def test_virtual_tokens_stand_before_the_texts_of_a_pretrained_model(
    type, minilm, take_steps, loss_of, make_classifier
):
    batch = minilm.batch(["a good film", "dull and much, much too long"], [1, 0])
    chosen = HuggingFacePeft(type, settings={"num_virtual_tokens": 3})
    before = minilm.model(batch)
    model = method.prepare([chosen], minilm.model)
    assert chosen.changes_at_start
    assert (model(batch) - before).abs().max() > 1e-4
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    learn(model, batch, take_steps, chosen, loss_of)
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, values[name])
    }
    assert changed == learning
    trained = model(batch)
    finished = method.finish(chosen, copy.deepcopy(model))
    assert torch.equal(finished(batch), trained)
    alone = minilm.batch(["a good film"])
    torch.testing.assert_close(finished(alone)[0], trained[0], rtol=0, atol=1e-5)
    with pytest.raises(
        ValueError, match=f"type={type} puts virtual tokens before a text; with model=pretrained"
    ):
        HuggingFacePeft(type).prepare(make_classifier())


@pytest.mark.slow
@pytest.mark.parametrize("type", [*OF_LAYERS, *PROMPTS])
def test_a_type_works_on_a_pretrained_model(type, minilm, take_steps, loss_of):
    of_type = {
        "TRAINABLE_TOKENS": {"token_indices": [1037]}, "VBLORA": {"vector_length": 128}, "C3A": {"block_size": 128},
    }  # fmt: skip
    batch = minilm.batch(["a good film", "dull and much, much too long"], [1, 0])
    chosen = HuggingFacePeft(type, settings=of_type.get(type))
    model = method.prepare([chosen], minilm.model)
    learn(model, batch, take_steps, chosen, loss_of)
    trained = model(batch)
    finished = method.finish(chosen, model).eval()
    torch.testing.assert_close(finished(batch), trained, rtol=0, atol=1e-5)
    flops, reason = example_flops(finished, Encodings.from_lists([[5, 6, 7]], pad_id=0), 1)
    assert flops, reason


# The package as the oracle of ours


def test_our_lora_with_the_packages_weights_gives_its_logits_on_a_pretrained_model(minilm):
    batch = minilm.batch(["a good film", "dull and much, much too long"])
    ours = LoRA(rank=4, alpha=6.0).prepare(copy.deepcopy(minilm.model))
    theirs = HuggingFacePeft("LORA", settings={"r": 4, "lora_alpha": 6}).prepare(copy.deepcopy(minilm.model))
    modules = dict(theirs.encoder.model.named_modules())
    copied = 0
    with torch.no_grad():
        for name, layer in ours.encoder.named_modules():
            if isinstance(layer, LoRALinear):
                nn.init.normal_(layer.b, std=0.2)
                modules[name].lora_A["default"].weight.copy_(layer.a)
                modules[name].lora_B["default"].weight.copy_(layer.b)
                copied += 1
    assert copied == 12
    torch.testing.assert_close(theirs(batch), ours(batch), rtol=0, atol=1e-5)
    assert (ours(batch) - minilm.model(batch)).abs().max() > 0.01
    finished = [LoRA().finish(ours), HuggingFacePeft("LORA").finish(theirs)]
    torch.testing.assert_close(finished[0](batch), finished[1](batch), rtol=0, atol=1e-5)


def test_our_ia3_with_the_packages_weights_gives_its_logits_on_a_pretrained_model(minilm):
    batch = minilm.batch(["a good film", "dull and much, much too long"])
    ours = IA3().prepare(copy.deepcopy(minilm.model))
    theirs = HuggingFacePeft("IA3").prepare(copy.deepcopy(minilm.model))
    modules = dict(theirs.encoder.model.named_modules())
    copied = 0
    with torch.no_grad():
        for name, layer in ours.encoder.named_modules():
            if isinstance(layer, ScaledLinear):
                nn.init.uniform_(layer.scale, 0.5, 1.5)
                assert modules[name].is_feedforward == layer.scales_input
                modules[name].ia3_l["default"].copy_(layer.scale.view_as(modules[name].ia3_l["default"]))
                copied += 1
    assert copied == 18
    torch.testing.assert_close(theirs(batch), ours(batch), rtol=0, atol=1e-5)
    assert (ours(batch) - minilm.model(batch)).abs().max() > 0.01


# Targets and settings


def test_roles_are_the_exact_layers_and_settings_may_name_roles_or_the_packages_own_modules(make_classifier):
    for chosen in (
        HuggingFacePeft("LORA", targets=["key", "feedforward_up"]),
        HuggingFacePeft("LORA", settings={"target_modules": ["key", "feedforward_up"]}),
        HuggingFacePeft("LORA", settings={"target_modules": ["mixer.key", "feedforward.up"]}),
    ):
        model = make_classifier()
        names = {name for role in ("key", "feedforward_up") for name in model.encoder.linear_roles()[role]}
        model = chosen.prepare(model)
        found = {n for n, m in model.encoder.model.named_modules() if isinstance(m, BaseTunerLayer)}
        assert found == names
        layers = layers_in_roles(model.encoder, ["key", "feedforward_up"])  # roles still lead to the layers
        assert all(isinstance(layer, BaseTunerLayer) for layer in layers)


def test_a_setting_reaches_the_configuration_of_the_type(make_classifier):
    model = HuggingFacePeft("LORA", settings={"r": 3, "lora_alpha": 9}).prepare(make_classifier())
    (layer, *_) = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    assert layer.lora_A["default"].weight.shape[0] == 3
    assert layer.scaling["default"] == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": "LORRA"}, "got 'LORRA'; did you mean 'LORA'"),
        ({"type": "lora"}, "got 'lora'; did you mean 'LORA'"),
        ({"type": "zzzzz"}, "got 'zzzzz'; there is PROMPT_TUNING, .*VERA"),
        ({"settings": {"rr": 3}}, "settings of type=LORA have no 'rr'; "),
        ({"type": "XLORA"}, "type=XLORA needs adapters that are trained already"),
        ({"type": "POLY"}, "type=POLY needs the task of each text"),
        ({"type": "TRAINABLE_TOKENS"}, r"needs settings\.token_indices"),
        (
            {"type": "PROMPT_TUNING", "targets": ["query"]},
            r"type=PROMPT_TUNING has no targets, got \['query'\]",
        ),
        ({"targets": []}, r"at least one role, got \[\]"),
        ({"targets": "query"}, "must be a list .* got 'query'"),
        ({"targets": ["query"], "settings": {"target_modules": ["up"]}}, "the targets are named twice"),
    ],
)
def test_what_is_wrong_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        HuggingFacePeft(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ["qurey"]}, "BackboneEncoder has no layer in the role 'qurey'; did you mean 'query'"),
        ({"settings": {"target_modules": ["nothing"]}}, "type=LORA: the package refuses: .*nothing"),
        ({"settings": {"r": 0}}, "the package refuses: .*0"),
        ({"type": "C3A", "settings": {"block_size": 7}}, "the package refuses: .*block size"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_words(arguments, message, make_classifier):
    with pytest.raises(ValueError, match=message):
        HuggingFacePeft(**arguments).prepare(make_classifier())


def test_integer_layers_are_refused_in_words(make_classifier):
    model = make_classifier()
    model = replace_layers(model, layers_in_roles(model.encoder, ["query", "value"]), Int8Linear)
    with pytest.raises(ValueError, match=r"the package refuses: .*Int8Linear"):
        HuggingFacePeft("LORA").prepare(model)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"peft=hf needs the package peft: pip install 'effnlp\[peft\]'"
    ):
        HuggingFacePeft()


def test_the_package_is_imported_only_when_it_is_used():
    program = "import sys, effnlp.peft.hf; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


# AdaLoRA


def test_adalora_takes_ranks_away_until_its_budget_is_met(make_classifier, make_batch, fit, loss_of):
    settings = {"init_r": 6, "target_r": 2, "deltaT": 1, "tfinal": 2}
    chosen = HuggingFacePeft("ADALORA", settings=settings)
    model = chosen.prepare(make_classifier())
    batches = [make_batch(8, seed=seed) for seed in range(5)]
    fit(model, batches, all_epochs=4, callbacks=chosen.callbacks(), objective=chosen.objective(loss_of))
    ranks = [
        int((module.lora_E["default"] != 0).sum()) for module in model.modules() if hasattr(module, "lora_E")
    ]
    assert len(ranks) == 6
    assert sum(ranks) <= 2 * len(ranks)
    assert sum(ranks) > 0
    assert method.settled_after([chosen]) == 1.0


def test_the_penalty_of_adalora_is_the_packages_own(make_classifier, make_batch, loss_of):
    chosen = HuggingFacePeft("ADALORA", settings={"orth_reg_weight": 0.5})
    model, batch = chosen.prepare(make_classifier()), make_batch()
    added = chosen.objective(loss_of)(model, batch) - loss_of(model, batch)

    class Output:
        loss = torch.tensor(0.0)

    tuner = hf.tuner_of(model)
    tuner.model.forward = lambda: Output
    torch.testing.assert_close(added, tuner.forward().loss, rtol=0, atol=1e-5)
    assert added > 0
