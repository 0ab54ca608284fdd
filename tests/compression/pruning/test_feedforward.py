import copy

import pytest
import torch

from effnlp import method
from effnlp.compression.pruning.feedforward import FeedForward


def widths(model):
    return [block.feedforward.up.out_features for block in model.encoder.layers]


def test_the_fraction_of_each_layer_is_removed_and_noted(make_classifier, make_batch):
    model = method.finish(FeedForward(sparsity=0.75), make_classifier(), [make_batch()])
    assert widths(model) == [16, 16, 16]
    assert method.applied(model)["compression/pruning"] == {
        "units": 192, "units_removed": 144, "units_sparsity": 0.75,
    }  # fmt: skip


def test_units_that_do_nothing_are_removed_without_a_trace(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    with torch.no_grad():
        for index, block in enumerate(model.encoder.layers):
            block.feedforward.down.weight[:, index :: 3 - index] = 0.0
    before, dead = model(batch), [len(range(i, 64, 3 - i)) for i in range(3)]
    small = method.finish(FeedForward(sparsity=min(dead) / 64), copy.deepcopy(model), [batch])
    assert widths(small) == [64 - min(dead)] * 3
    torch.testing.assert_close(small(batch), before, rtol=0, atol=1e-5)


def test_gated_layers_lose_the_gate_of_a_unit_with_it(tiny_family):
    family = tiny_family("llama")
    batch = family.batch(["the cat", "a dull film"], [0, 1])
    model = method.finish(FeedForward(sparsity=0.5), family.model, [batch])
    shapes = {tuple(layer.mlp.gate_proj.weight.shape) for layer in model.encoder.model.layers}
    assert shapes == {(20, 32)}
    assert model.encoder.model.layers[0].mlp.down_proj.in_features == 20


def test_minilm_keeps_different_widths_where_all_layers_are_compared(minilm):
    batch = minilm.batch(["a lovely film", "a dull film", "the mat"], [1, 0, 0])
    model = method.finish(FeedForward(sparsity=0.5, scope="global"), minilm.model, [batch])
    left = [layer.intermediate.dense.out_features for layer in model.encoder.model.encoder.layer]
    assert sum(left) == 6 * 1536 // 2
    assert len(set(left)) > 1


def test_a_layer_that_would_lose_all_units_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match=r"would remove all 64 groups that .*down reads; at most 0\.9844"):
        FeedForward(sparsity=0.999).check(make_classifier())


def test_the_base_is_cut_before_it_is_trained_where_it_is_told_so(make_classifier, make_batch):
    model = method.prepare([FeedForward(moment="prepare")], make_classifier(), [make_batch()])
    assert widths(model) == [32, 32, 32]
