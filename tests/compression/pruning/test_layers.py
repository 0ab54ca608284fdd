import copy

import pytest
import torch

from effnlp import method
from effnlp.compression.pruning.layers import STRATEGIES, Layers, in_order, similarities
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.model.classifier import count_params
from effnlp.model.layers import droppable_layers, keep_layers
from effnlp.model.storage import stored_bytes

TEXTS = ["the cat sat on the mat", "a dull film", "it is lovely and very strange , not bright"]
BY_PLACE = [strategy for strategy in STRATEGIES if strategy != "contribution"]


def run_layers(model, batch, kept):
    """The reference: only some of the layers are called."""
    state = model.encoder.embed(batch)
    for index in kept:
        state = model.encoder.layer(index, state)
    return model.head(model.encoder.pool(state))


def test_the_strategies_are_those_of_the_paper():
    """Figure 1: of 12 layers numbered from 1, which are dropped."""
    dropped = {strategy: sorted(i + 1 for i in in_order(strategy, 12)[:4]) for strategy in BY_PLACE}
    assert dropped == {
        "top": [9, 10, 11, 12],
        "bottom": [1, 2, 3, 4],
        "alternate": [6, 8, 10, 12],
        "symmetric": [5, 6, 7, 8],
    }


@pytest.mark.parametrize("strategy", BY_PLACE)
@pytest.mark.parametrize("depth", [1, 2, 5, 6, 12])
def test_every_strategy_comes_to_every_layer_once(strategy, depth):
    assert sorted(in_order(strategy, depth)) == list(range(depth))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_layers_that_stay_compute_what_they_did(strategy, make_classifier, make_batch):
    model, batch = make_classifier(depth=5), make_batch()
    whole, chosen = copy.deepcopy(model), Layers(sparsity=0.4, strategy=strategy, moment="finish")
    order = in_order(strategy, 5)
    if strategy == "contribution":
        order = similarities(model, [batch]).argsort(descending=True).tolist()
    kept = sorted(order[2:])
    small = method.finish(chosen, model, [batch])
    torch.testing.assert_close(small(batch), run_layers(whole, batch, kept), rtol=0, atol=1e-6)
    assert small.encoder.depth == 3
    assert method.applied(small)["compression/pruning"] == {
        "layers": 5, "layers_dropped": 2, "sparsity": 0.4,
    }  # fmt: skip


def test_a_layer_that_changes_nothing_contributes_least(make_classifier, make_batch):
    model, batch = make_classifier(depth=4), make_batch()
    before = model(batch)
    with torch.no_grad():
        for layer in (model.encoder.layers[1].mixer.output, model.encoder.layers[1].feedforward.down):
            layer.weight.zero_()
            layer.bias.zero_()
    idle = model(batch)
    assert (idle - before).abs().max() > 1e-3
    small = method.finish(Layers(sparsity=0.25, strategy="contribution", moment="finish"), model, [batch])
    torch.testing.assert_close(small(batch), idle, rtol=0, atol=1e-6)


def test_parameters_bytes_and_flops_fall_by_those_of_the_layers(make_classifier):
    model = make_classifier(depth=4)
    encodings = Encodings.from_lists([[1, 2, 3], [4, 5, 6, 7, 8]], pad_id=0)
    costs = []
    for depth in (4, 3, 1):
        small = copy.deepcopy(model)
        keep_layers(small.encoder, range(4 - depth, 4))
        costs.append((count_params(small), stored_bytes(small), example_flops(small, encodings, 1)[0]))
    of_layer = count_params(model.encoder.layers[0])
    assert costs[0][0] - costs[1][0] == of_layer
    assert costs[1][1] - costs[2][1] == 2 * 4 * of_layer
    assert 2 * (costs[0][2] - costs[1][2]) == costs[1][2] - costs[2][2] > 0


def test_every_family_does_without_layers_or_says_why_not(each_tiny_family):
    model, batch = each_tiny_family.model, each_tiny_family.batch(TEXTS)
    reasons = {"albert": "runs the same layer again", "t5": "its first layer serves the others"}
    if (why := reasons.get(each_tiny_family.name)) is not None:
        with pytest.raises(ValueError, match=why):
            Layers().check(model)
        return
    for kept in ([0], [1]):
        small = copy.deepcopy(model)
        keep_layers(small.encoder, kept)
        assert small.encoder.depth == 1
        expected = run_layers(model, batch, kept)
        torch.testing.assert_close(small(batch), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(run_layers(small, batch, [0]), expected, rtol=0, atol=1e-5)


def test_kinds_of_attention_stay_with_their_layers(tiny_family):
    encoder = tiny_family("qwen2").model.encoder
    encoder.model.config.layer_types = ["full_attention", "sliding_attention"]
    keep_layers(encoder, [1])
    assert encoder.model.config.layer_types == ["sliding_attention"]


def test_minilm_loses_its_last_layers_before_it_is_trained(minilm):
    batch = minilm.batch(TEXTS, [0, 1, 0])
    whole = copy.deepcopy(minilm.model)
    chosen = Layers()
    model = method.prepare([chosen], minilm.model)
    assert model.encoder.depth == 3
    torch.testing.assert_close(model(batch), run_layers(whole, batch, [0, 1, 2]), rtol=0, atol=1e-5)
    assert method.finish(chosen, model).encoder.depth == 3, "nothing is left to finish"


def test_early_exit_has_an_exit_for_each_layer_that_is_left(make_classifier, make_batch):
    from effnlp.compression.early_exit.deebert import DeeBERT

    model = method.prepare([Layers(sparsity=0.5), DeeBERT()], make_classifier(depth=4))
    assert len(model.exits) == 1
    assert model.eval()(make_batch()).isfinite().all()


def test_what_cannot_be_served_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match=r"sparsity 0\.9 would drop all 3 layers; at most 0\.6667"):
        Layers(sparsity=0.9).check(make_classifier())
    with pytest.raises(ValueError, match="at least one of the 3 layers must stay"):
        keep_layers(make_classifier().encoder, [])
    with pytest.raises(ValueError, match="did you mean 'contribution'"):
        Layers(strategy="contributions")
    assert len(droppable_layers(make_classifier().encoder)) == 3


def test_only_contribution_asks_for_texts(make_classifier):
    assert method.texts_wanted([Layers(strategy="alternate", calibration_texts=300)]) == 0
    assert method.texts_wanted([Layers(strategy="contribution", calibration_texts=300)]) == 300
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.prepare([Layers(strategy="contribution")], make_classifier())
