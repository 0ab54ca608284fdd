import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.pruning.activations import wanda_scores
from effnlp.compression.pruning.mask import keep_mask
from effnlp.compression.pruning.wanda import Wanda, prune_by_inputs
from effnlp.model.surgery import encoder_layers


def linears(model):
    return encoder_layers(model, nn.Linear)


def test_with_unit_inputs_it_is_magnitude_pruning_row_by_row(make_classifier):
    model, before = make_classifier(), make_classifier()
    ones = {name: torch.ones(layer.in_features) for name, layer in linears(model).items()}
    prune_by_inputs(model, 0.4, ones)
    for name, layer in linears(model).items():
        dense = before.encoder.get_submodule(name).weight.detach()
        keep = torch.stack([keep_mask(row.abs(), 0.4) for row in dense])
        assert torch.equal(layer.weight, dense.where(keep, 0.0))


def test_the_score_is_the_weight_times_the_length_of_its_input():
    """The paper's Figure 1 in small: a small weight that meets a large input stays, a larger one goes."""
    inputs = torch.tensor([[3.0, 0.1, 1.0], [4.0, 0.0, 1.0]])
    weight = torch.tensor([[0.3, -2.0, 0.5], [-0.1, 3.0, 0.2]])
    expected = torch.stack([weight[:, j].abs() * inputs[:, j].norm() for j in range(3)], dim=1)
    torch.testing.assert_close(wanda_scores(weight, inputs.square().sum(0)), expected)
    assert expected[0].argmin() == 1  # the largest of its row


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_every_row_has_the_same_exact_count_of_zeros_and_the_rest_is_unchanged(
    make_classifier, make_batch, sparsity
):
    before, model = make_classifier(), make_classifier()
    method.finish(Wanda(sparsity), model, [make_batch()])
    for name, layer in linears(model).items():
        zeros = (layer.weight == 0).sum(1)
        assert (zeros == round(sparsity * layer.in_features)).all()
        dense = before.encoder.get_submodule(name).weight
        assert torch.equal(layer.weight[layer.weight != 0], dense[layer.weight != 0])
    told = model.applied["compression/pruning"]
    assert told["zeros"] == sum(int((layer.weight == 0).sum()) for layer in linears(model).values())


def test_inputs_decide_and_not_weights_alone(make_classifier, make_batch):
    by_inputs, by_weights = make_classifier(), make_classifier()
    method.finish(Wanda(0.5), by_inputs, [make_batch(32)])
    prune_by_inputs(by_weights, 0.5, {})
    different = [
        not torch.equal(layer.weight == 0, by_weights.encoder.get_submodule(name).weight == 0)
        for name, layer in linears(by_inputs).items()
    ]
    assert all(different)


def test_it_sees_as_many_texts_as_it_asks_for(make_classifier, make_batch):
    one, other = Wanda(0.5, calibration_texts=3), Wanda(0.5)
    batch = make_batch(8)
    method.finish(one, make_classifier(), [batch])
    method.finish(other, make_classifier(), [{name: value[:3] for name, value in batch.items()}])
    assert all(torch.equal(one._squares[name], other._squares[name]) for name in one._squares)


def test_sparsity_zero_changes_nothing_and_says_so(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    method.finish(Wanda(0.0), model, [batch])
    assert torch.equal(model(batch), make_classifier()(batch))
    assert model.applied["compression/pruning"]["zeros"] == 0


def test_minilm_is_pruned_in_every_linear_layer(minilm):
    texts = ["a lovely film", "the plot was dull and long", "it is not strange"]
    model = method.finish(Wanda(0.5), minilm.model, [minilm.batch(texts)])
    assert model.applied["compression/pruning"]["layers"] == 36
    assert model.applied["compression/pruning"]["sparsity"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"calibration_texts": 0}, "calibration_texts must be at least 1, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Wanda(**settings)


def test_a_sparsity_that_leaves_nothing_of_a_row_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match="whose rows have 32 weights"):
        Wanda(0.99).prepare(make_classifier())


def test_finishing_without_texts_is_refused(make_classifier):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(Wanda(), make_classifier())
    with pytest.raises(ValueError, match="wanda has seen no texts"):
        Wanda().finish(make_classifier())
