import copy

import peft
import pytest
import torch
from torch import nn

from effnlp.compression.quantization.integer import Int8Linear
from effnlp.model.classifier import count_params
from effnlp.peft.ia3 import IA3, ScaledLinear


def randomise(model, seed=0):
    """Give the scales values, as training does; they start at one."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, ScaledLinear):
            nn.init.uniform_(module.scale, 0.5, 1.5)
    return model


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    before = model(batch)
    assert torch.equal(IA3().prepare(model)(batch), before)


def test_a_layer_adds_its_two_widths_and_its_inner_width(make_classifier):
    depth, width, inner = 3, 32, 64
    model = make_classifier(depth=depth, width=width)
    head = count_params(model.head)
    model = IA3().prepare(model)
    assert count_params(model, trainable_only=True) - head == depth * (width + width + inner)


def test_only_the_scales_and_the_head_receive_a_gradient_and_move(make_classifier, make_batch, take_steps):
    model = IA3().prepare(make_classifier())
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {n for n, _ in model.named_parameters() if n.endswith(".scale") or "head." in n}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == names


def test_merged_logits_are_those_of_before_and_the_layers_are_plain_again(make_classifier, make_batch):
    batch, plain = make_batch(), make_classifier()
    names = {name for name, _ in plain.named_modules()}
    model = randomise(IA3().prepare(plain))
    before = model(batch)
    finished = IA3().finish(model)
    assert torch.allclose(finished(batch), before, atol=1e-5)
    assert not torch.allclose(make_classifier()(batch), before, atol=1e-3), "the scales matter"
    assert {name for name, _ in finished.named_modules()} == names
    assert finished.applied["peft"] == {"layers": 9, "merged_layers": 9}


@pytest.mark.parametrize("scales_input", [False, True])
def test_agrees_with_the_library_peft_given_its_scales(scales_input):
    torch.manual_seed(1)
    base = nn.Sequential(nn.Linear(12, 20))
    ours = ScaledLinear(copy.deepcopy(base[0]), scales_input)
    config = peft.IA3Config(target_modules=["0"], feedforward_modules=["0"] if scales_input else [])
    theirs = peft.get_peft_model(base, config)
    nn.init.uniform_(ours.scale, 0.5, 1.5)
    for name, parameter in theirs.named_parameters():
        if "ia3_l" in name:
            parameter.data.copy_(ours.scale.reshape(parameter.shape))
    x = torch.randn(7, 12)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert torch.allclose(ours.merged()(x), theirs.merge_and_unload()(x), atol=1e-5)


def test_beside_integer_layers_the_scales_stay():
    layer = ScaledLinear(Int8Linear(nn.Linear(12, 20)), scales_input=False)
    assert layer(torch.randn(3, 12)).shape == (3, 20)
    with pytest.raises(TypeError, match=r"merges only into an nn\.Linear, not into Int8Linear"):
        layer.merged()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"targets": [], "feedforward_targets": []}, "both empty"),
        ({"targets": ["key"], "feedforward_targets": ["key"]}, "'key' is in targets and in feedforward"),
        ({"targets": "key"}, "targets must be a list of roles, got 'key'"),
    ],
)
def test_roles_that_make_no_sense_are_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        IA3(**keys)


def test_a_role_that_the_model_lacks_is_refused_with_near_ones(make_classifier):
    with pytest.raises(ValueError, match="no layer in the role 'keys'; did you mean 'key'"):
        IA3(targets=["keys"]).prepare(make_classifier())
