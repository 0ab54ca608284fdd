import copy

import pytest
import torch
from torch import nn

from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.model.parts import HEADS_OF_FAMILIES, heads_of, keep_groups, places, units_of
from effnlp.model.storage import stored_bytes
from effnlp.peft.houlsby_adapter import HoulsbyAdapter
from effnlp.peft.lora import LoRALinear
from effnlp.peft.prefix import PrefixTuning

TEXTS = ["the cat sat on the mat", "a dull film", "it is lovely and very strange , not bright"]


def some(part, index):
    """Different groups, and different numbers of them, from part to part; the first one not among them."""
    return torch.arange(1, part.count, index + 1)


def silenced(model, part, kept):
    """The reference: the reader's columns of what is gone are zero."""
    gone = torch.ones(part.count, dtype=torch.bool)
    gone[kept] = False
    layer = model.encoder.get_submodule(part.reader)
    with torch.no_grad():
        layer.weight[:, places(gone.nonzero().squeeze(1), part.width)] = 0.0


def assert_small_equals_silent(model, batch, parts_of):
    silent = copy.deepcopy(model)
    whole = model(batch)
    for index, part in enumerate(parts_of(model)):
        kept = some(part, index)
        silenced(silent, part, kept)
        keep_groups(model, part, kept)
        assert model.encoder.get_submodule(part.reader).in_features == len(kept) * part.width
    small = model(batch)
    torch.testing.assert_close(small, silent(batch), rtol=0, atol=1e-5)
    assert (small - whole).abs().max() > 1e-4, "what is gone was of use"


@pytest.mark.parametrize("parts_of", [heads_of, units_of])
def test_a_smaller_backbone_answers_as_one_whose_groups_are_silent(parts_of, make_classifier, make_batch):
    model = make_classifier(width=48)
    for block in model.encoder.layers:
        block.mixer.heads = 6  # the same matrices, read as six heads
    assert_small_equals_silent(model, make_batch(), parts_of)


@pytest.mark.parametrize("parts_of", [heads_of, units_of])
def test_a_smaller_minilm_answers_as_one_whose_groups_are_silent(parts_of, minilm):
    assert_small_equals_silent(minilm.model, minilm.batch(TEXTS), parts_of)


def test_heads_are_removed_from_every_family_that_can_do_without_and_refused_by_name_elsewhere(
    each_tiny_family,
):
    model = each_tiny_family.model
    if model.encoder.model_type in HEADS_OF_FAMILIES:
        assert_small_equals_silent(model, each_tiny_family.batch(TEXTS), heads_of)
    else:
        with pytest.raises(ValueError, match=f"of type '{model.encoder.model_type}' cannot be removed"):
            heads_of(model)


def test_inner_units_are_removed_from_every_family(each_tiny_family):
    assert_small_equals_silent(each_tiny_family.model, each_tiny_family.batch(TEXTS), units_of)


def test_heads_that_share_a_key_are_one_group(tiny_family):
    parts = heads_of(tiny_family("llama").model)
    assert [part.count for part in parts] == [2, 2]
    assert [list(part.givers.values()) for part in parts] == [[16, 8, 8]] * 2


@pytest.mark.parametrize("parts_of", [heads_of, units_of])
def test_bytes_and_flops_fall_by_what_the_groups_took(parts_of, make_classifier):
    model = make_classifier(width=32)
    lengths = [3, 7]
    encodings = Encodings.from_lists([list(range(1, n + 1)) for n in lengths], pad_id=0)
    before = stored_bytes(model), example_flops(model, encodings, 1)[0]
    width, parts = model.encoder.width, parts_of(model)
    parameters = 0
    for part in parts:
        keep_groups(model, part, torch.arange(1, part.count))
        parameters += sum(w * (width + 1) for w in part.givers.values()) + part.width * width
    # of a matrix, two for each number of it and token; of a head also T · E for scores and as much for what they mix
    products = 2 * sum(sum((*part.givers.values(), part.width)) * width for part in parts)
    mixing = sum(4 * part.width for part in parts) if parts_of is heads_of else 0
    tokens, squares = sum(lengths) / 2, sum(n * n for n in lengths) / 2
    after = stored_bytes(model), example_flops(model, encodings, 1)[0]
    assert before[0] - after[0] == 4 * parameters
    fallen = products * tokens + mixing * squares
    element_wise = before[1] - after[1] - fallen
    assert 0 <= element_wise < 0.1 * fallen, "the activation of a unit, the softmax of a head"


def test_what_is_left_is_trained_as_before(make_classifier):
    model = make_classifier()
    part = units_of(model)[0]
    up, down = (model.encoder.get_submodule(name) for name in (*part.givers, part.reader))
    up.weight.requires_grad_(False)
    down.weight.learning_rate_factor = 0.1
    keep_groups(model, part, torch.tensor([3, 5]))
    up, down = (model.encoder.get_submodule(name) for name in (*part.givers, part.reader))
    assert not up.weight.requires_grad
    assert up.bias.requires_grad
    assert down.weight.learning_rate_factor == 0.1
    assert isinstance(down, nn.Linear)


def test_an_adapter_behind_what_reads_the_groups_stays(make_classifier, make_batch):
    model, batch = HoulsbyAdapter(width=4).prepare(make_classifier()), make_batch()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adapter" in name:
                parameter.normal_(std=0.3)
    silent = copy.deepcopy(model)
    for part in [*heads_of(model), *units_of(model)]:
        kept = torch.arange(1, part.count)
        silent_layer = silent.encoder.get_submodule(part.reader).base
        with torch.no_grad():
            silent_layer.weight[:, : part.width] = 0.0
        keep_groups(model, part, kept)
    torch.testing.assert_close(model(batch), silent(batch), rtol=0, atol=1e-5)


def test_a_prefix_loses_the_keys_and_values_of_the_heads_that_are_gone(make_classifier, make_batch):
    method = PrefixTuning(length=3, reparameterise=False)
    model, batch = method.prepare(make_classifier()).eval(), make_batch()
    silent = copy.deepcopy(model)
    for part in heads_of(model):
        silenced(silent, part, torch.tensor([1]))
        keep_groups(model, part, torch.tensor([1]))
    assert {tuple(b.mixer.prefix.rows.shape) for b in model.encoder.layers} == {(2, 3, 16)}
    torch.testing.assert_close(model(batch), silent(batch), rtol=0, atol=1e-5)


def test_a_wrapped_layer_that_gives_the_groups_is_refused(make_classifier):
    model = make_classifier()
    part = units_of(model)[0]
    name = next(iter(part.givers))
    model.encoder.set_submodule(name, LoRALinear(model.encoder.get_submodule(name), 2, 4.0))
    with pytest.raises(ValueError, match=r"feedforward.up cannot be cut: it is a LoRALinear"):
        keep_groups(model, part, torch.tensor([0]))


def test_a_part_keeps_at_least_one_group(make_classifier):
    model = make_classifier()
    with pytest.raises(ValueError, match="must keep at least one group"):
        keep_groups(model, heads_of(model)[0], torch.tensor([], dtype=torch.int64))
