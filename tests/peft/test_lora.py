import copy

import peft
import pytest
import torch
from torch import nn

from effnlp.compression.quantization.integer import Int8Linear
from effnlp.model.classifier import count_params
from effnlp.model.surgery import layers_in_roles
from effnlp.peft.lora import LoRA, LoRALinear

ROLES = ["query", "key", "value", "attention_output", "feedforward_up", "feedforward_down"]


def randomise(model, seed=0):
    """Give B values, as training does; it starts at zero."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.b, std=0.2)
    return model


def a_layer(rank=4, alpha=6.0):
    """Not square, so that a transposition shows."""
    torch.manual_seed(3)
    return randomise(LoRALinear(nn.Linear(12, 20), rank, alpha))


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch, model = make_batch(), make_classifier()
    before = model(batch)
    assert torch.equal(LoRA(targets=ROLES).prepare(model)(batch), before)


def test_only_the_changes_and_the_head_receive_a_gradient_and_move(make_classifier, make_batch, take_steps):
    model = LoRA().prepare(make_classifier())
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {n for n, _ in model.named_parameters() if n.endswith((".a", ".b")) or "head." in n}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == names


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("targets", [["query", "value"], ROLES])
def test_a_layer_adds_rank_times_the_sum_of_its_widths(make_classifier, rank, targets):
    model = make_classifier()
    layers = layers_in_roles(model.encoder, targets)
    head = count_params(model.head)
    expected = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    model = LoRA(rank=rank, targets=targets).prepare(model)
    assert count_params(model, trainable_only=True) - head == expected


def test_the_change_has_at_most_the_given_rank():
    layer = a_layer(rank=3)
    assert torch.linalg.matrix_rank(layer.delta()) == 3


def test_merged_equals_unmerged_and_plain_layers_are_back(make_classifier, make_batch):
    batch, plain = make_batch(), make_classifier()
    names = set(plain.state_dict())
    model = randomise(LoRA(targets=ROLES).prepare(make_classifier()))
    unmerged = model(batch)
    assert (unmerged - plain(batch)).abs().max() > 0.01  # there is something to merge
    finished = LoRA(targets=ROLES).finish(model)
    torch.testing.assert_close(finished(batch), unmerged, rtol=0, atol=1e-5)
    assert set(finished.state_dict()) == names
    assert finished.applied["peft"] == {"layers": 18, "merged_layers": 18}


def test_unmerging_restores_the_bytes_of_the_base():
    layer, x = a_layer(), torch.randn(7, 12)
    original, unmerged = layer.base.weight.clone(), layer(x)
    layer.merge()
    assert layer.is_merged
    assert not torch.equal(layer.base.weight, original)
    torch.testing.assert_close(layer(x), unmerged, rtol=0, atol=1e-5)
    layer.unmerge()
    assert torch.equal(layer.base.weight, original)
    assert torch.equal(layer(x), unmerged)


def test_merging_twice_equals_merging_once():
    layer = a_layer()
    layer.merge()
    once = layer.base.weight.clone()
    layer.merge()
    assert torch.equal(layer.base.weight, once)


def test_agrees_with_the_library_peft_given_its_weights():
    base, x = nn.Sequential(nn.Linear(12, 20)), torch.randn(5, 12)
    ours = a_layer(rank=4, alpha=6.0)
    config = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules=["0"])
    theirs = peft.get_peft_model(base, config)
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        layer.base_layer.load_state_dict(ours.base.state_dict())
        layer.lora_A["default"].weight.copy_(ours.a)
        layer.lora_B["default"].weight.copy_(ours.b)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.delta(), layer.get_delta_weight("default"), rtol=0, atol=1e-7)


def test_beside_integer_layers_the_change_is_not_merged():
    layer = LoRALinear(Int8Linear(nn.Linear(12, 20)), rank=2, alpha=4)
    with pytest.raises(TypeError, match=r"merges only into an nn\.Linear, not into Int8Linear"):
        layer.merge()


def test_dropout_acts_in_training_only():
    layer = randomise(LoRALinear(nn.Linear(12, 20), 4, 8.0, dropout=0.5))
    x = torch.randn(3, 12)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_a_saved_and_loaded_model_gives_the_same_logits(make_classifier, make_batch, tmp_path):
    batch, model = make_batch(), randomise(LoRA().prepare(make_classifier()))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh = LoRA().prepare(make_classifier(seed=9))
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(fresh(batch), model(batch))


def test_finishing_a_copy_leaves_the_trained_model_alone(make_classifier, make_batch):
    batch, model = make_batch(), randomise(LoRA().prepare(make_classifier()))
    before = model(batch)
    LoRA().finish(copy.deepcopy(model))
    assert torch.equal(model(batch), before)


def test_it_works_on_a_pretrained_model(minilm):
    batch = minilm.batch(["a good film", "dull and much, much too long"], [1, 0])
    before = minilm.model(batch)
    model = LoRA().prepare(minilm.model)
    torch.testing.assert_close(model(batch), before, rtol=0, atol=1e-6)
    unmerged = randomise(model)(batch)
    torch.testing.assert_close(LoRA().finish(model)(batch), unmerged, rtol=0, atol=1e-5)
    assert (unmerged - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be above 0, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"targets": []}, r"at least one role, got \[\]"),
        ({"targets": "query"}, "must be a list .* got 'query'"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


def test_a_misspelt_role_names_the_near_match_and_the_roles_there_are(make_classifier):
    with pytest.raises(
        ValueError, match=r"no layer in the role 'qurey'; did you mean 'query'\? it has: attention"
    ):
        LoRA(targets=["qurey"]).prepare(make_classifier())


def test_a_rank_above_the_width_of_a_layer_is_refused(make_classifier):
    with pytest.raises(ValueError, match=r"rank must be in 1 … 32 for a layer of 32 × 32, got 33"):
        LoRA(rank=33).prepare(make_classifier())


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="has no LoRA layer"):
        LoRA().finish(make_classifier())
