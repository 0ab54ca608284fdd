import functools

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.unfreezing import Unfreezing
from effnlp.menu import conf_dir
from effnlp.model.bag_of_ngrams import NgramEncoder
from effnlp.model.classifier import Classifier
from effnlp.model.layers import depths

DESCENDING = [
    path
    for path in sorted((conf_dir() / "finetuning").glob("*.yaml"))
    if "layer_decay" in OmegaConf.load(path)
]
assert len(DESCENDING) >= 3


def rates(descent, model):
    optimizer, _ = descent.optimizer(model, steps=10)
    of = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters()}


def test_the_rate_falls_by_the_same_factor_from_layer_to_layer(make_classifier):
    model = make_classifier(depth=3)
    found = rates(Descent(1e-3, 0.1, 0.1, layer_decay=0.5), model)
    for name, depth in depths(model).items():
        assert found[name] == pytest.approx(1e-3 * 0.5 ** (4 - depth)), name
    assert found["head.weight"] == pytest.approx(1e-3)
    assert found["encoder.layers.2.mixer.query.weight"] == pytest.approx(1e-3 * 0.5)
    assert found["encoder.tokens.weight"] == pytest.approx(1e-3 * 0.5**4)


def test_a_step_is_that_of_the_plain_form_and_what_is_frozen_stays(make_classifier, make_batch):
    ours, plain, batch = make_classifier(), make_classifier(), make_batch()
    fused, _ = Descent(1e-2, 0.1, 0.0).optimizer(ours, steps=9)
    groups = [
        {"params": [p for p in plain.parameters() if (p.dim() >= 2) == decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    others = torch.optim.AdamW(groups, lr=1e-2, fused=False)
    for model in (ours, plain):
        model.eval().encoder.tokens.weight.requires_grad_(False)
    before = ours.encoder.tokens.weight.clone()
    for _ in range(3):
        for model, optimizer in ((ours, fused), (plain, others)):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    assert torch.equal(ours.encoder.tokens.weight, before)
    for (name, left), right in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding, which AdamW makes steps of
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.allclose(ours.head.weight, make_classifier().head.weight, atol=1e-3)


def test_it_multiplies_with_the_factor_that_a_parameter_carries(make_classifier):
    model = make_classifier(depth=2)
    model.encoder.layers[0].mixer.query.weight.learning_rate_factor = 10.0
    found = rates(Descent(1e-3, 0.1, 0.1, layer_decay=0.9), model)
    assert found["encoder.layers.0.mixer.query.weight"] == pytest.approx(1e-2 * 0.9**2)
    assert found["encoder.layers.0.mixer.query.bias"] == pytest.approx(1e-3 * 0.9**2)


def test_without_decay_depth_does_not_count_and_need_not_be_known():
    torch.manual_seed(0)
    model = Classifier(NgramEncoder(5, 4), 2)
    assert set(rates(Descent(1e-3, 0.0, 0.1), model).values()) == {1e-3}


@pytest.mark.parametrize("keys", [{"layer_decay": 0.9}, {"gradual_unfreezing": 0.5}])
def test_a_model_without_layers_refuses_what_counts_layers(keys):
    torch.manual_seed(0)
    ((name, value),) = keys.items()
    with pytest.raises(ValueError, match=rf"NgramEncoder has no layers .* must be 1 .* {name}={value:g}"):
        Descent(1e-3, 0.0, 0.1, **keys).optimizer(Classifier(NgramEncoder(5, 4), 2), steps=3)


@pytest.mark.parametrize("path", DESCENDING, ids=lambda path: path.stem)
def test_every_fine_tuning_hands_its_keys_on(path, make_classifier):
    needed = {"instruction": {"with_tasks": ["sst2"]}}.get(path.stem, {})
    make = functools.partial(get_object(OmegaConf.load(path)["_target_"]), **needed)
    model = make_classifier(depth=2)
    choice = make(learning_rate=1e-3, layer_decay=0.5, gradual_unfreezing=0.25)
    optimizer, _ = choice.optimizer(model, steps=4)
    assert {group["initial_lr"] for group in optimizer.param_groups} == {1e-3 * 0.5**i for i in range(4)}
    (callback,) = choice.callbacks()
    assert isinstance(callback, Unfreezing)
    assert callback.share == 0.25
    assert make().callbacks() == []


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("layer_decay", 0.0, r"in \(0, 1\]"),
        ("layer_decay", 1.1, r"in \(0, 1\]"),
        ("gradual_unfreezing", 1.0, r"in \[0, 1\)"),
        ("gradual_unfreezing", -0.1, r"in \[0, 1\)"),
    ],
)
def test_a_value_outside_its_range_is_named(key, value, rule):
    with pytest.raises(ValueError, match=rf"finetuning\.{key} must be {rule}, got {value}"):
        Descent(1e-3, 0.0, 0.1, **{key: value})


def test_a_run_of_a_model_without_layers_says_so(run_tiny):
    record = run_tiny("model=bag_of_ngrams", "finetuning.layer_decay=0.9")
    assert record.status == "failed"
    assert "NgramEncoder has no layers" in record.message
