import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.inputs import input_moments
from effnlp.compression.pruning.mask import keep_mask
from effnlp.compression.pruning.sparsegpt import SparseGPT, share_of_each_block
from effnlp.compression.pruning.surgeon import reconstruction_error
from effnlp.model.surgery import encoder_layers


def linears(model):
    return encoder_layers(model, nn.Linear)


@pytest.mark.parametrize("block", [5, 128])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_the_count_of_zeros_of_each_layer_is_exact(make_classifier, make_batch, sparsity, block):
    model = method.finish(SparseGPT(sparsity, block), make_classifier(), [make_batch(32)])
    for layer in linears(model).values():
        assert int((layer.weight == 0).sum()) == round(sparsity * layer.weight.numel())
    assert model.applied["compression/pruning"]["sparsity"] == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_on_every_layer_the_error_of_the_outputs_is_below_that_of_magnitude(
    make_classifier, make_batch, sparsity
):
    dense, batches = make_classifier(), [make_batch(32, seed=seed) for seed in range(2)]
    hessians = input_moments(dense, linears(dense), batches, "outer")
    model = method.finish(SparseGPT(sparsity, block=16), make_classifier(), batches)
    for name, layer in linears(model).items():
        weight = dense.encoder.get_submodule(name).weight.detach()
        magnitude = weight.where(keep_mask(weight.abs(), sparsity), 0.0)
        error = reconstruction_error(weight, layer.weight.detach(), hessians[name])
        assert error < reconstruction_error(weight, magnitude, hessians[name])


def test_the_logits_are_nearer_to_those_of_the_whole_model_than_after_magnitude(make_classifier, make_batch):
    batches, unseen = [make_batch(32, seed=seed) for seed in range(4)], make_batch(64, seed=9)
    expected = make_classifier()(unseen)
    repaired = method.finish(SparseGPT(0.5, block=16), make_classifier(), batches)
    dropped = make_classifier()
    with torch.no_grad():
        for layer in linears(dropped).values():
            layer.weight.masked_fill_(~keep_mask(layer.weight.abs(), 0.5), 0.0)
    assert (repaired(unseen) - expected).norm() < (dropped(unseen) - expected).norm()


def test_shares_of_blocks_add_up_to_the_share_of_all():
    torch.manual_seed(0)
    choose, scores = share_of_each_block(0.37), torch.rand(7, 23)
    blocks = [choose(part, 5 * i) for i, part in enumerate(scores.split(5, dim=1))]
    assert [block.shape[1] for block in blocks] == [5, 5, 5, 5, 3]
    assert sum(int((~block).sum()) for block in blocks) == round(0.37 * 7 * 23)


def test_sparsity_zero_changes_nothing_and_says_so(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    method.finish(SparseGPT(0.0), model, [batch])
    assert torch.equal(model(batch), make_classifier()(batch))
    assert model.applied["compression/pruning"]["zeros"] == 0


def test_the_record_says_what_is_lost_of_the_outputs(make_classifier, make_batch):
    def lost(sparsity):
        model = method.finish(SparseGPT(sparsity), make_classifier(), [make_batch(32)])
        return model.applied["compression/pruning"]["mean_relative_squared_error"]

    assert 0 < lost(0.3) < lost(0.6) < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"damping": 0.0}, "damping must be above 0, got 0.0"),
        ({"calibration_texts": 0}, "calibration_texts must be at least 1, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        SparseGPT(**settings)


def test_a_sparsity_that_leaves_nothing_of_a_layer_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match="would leave nothing of layers"):
        SparseGPT(0.9999).prepare(make_classifier())


def test_finishing_without_texts_is_refused(make_classifier):
    with pytest.raises(ValueError, match="sparsegpt has seen no texts"):
        SparseGPT().finish(make_classifier())


@pytest.mark.slow
def test_on_every_layer_of_minilm_the_error_of_the_outputs_is_below_that_of_magnitude(minilm):
    texts = [
        f"{a} {b} in the {c}"
        for a in ("a lovely", "the dull")
        for b in ("film", "plot", "cat")
        for c in "xyz"
    ]
    batches = [minilm.batch(texts)]
    hessians = input_moments(minilm.model, linears(minilm.model), batches, "outer")
    dense = {name: layer.weight.detach().clone() for name, layer in linears(minilm.model).items()}
    method.finish(SparseGPT(0.5), minilm.model, batches)
    assert len(dense) == 36
    for name, layer in linears(minilm.model).items():
        magnitude = dense[name].where(keep_mask(dense[name].abs(), 0.5), 0.0)
        error = reconstruction_error(dense[name], layer.weight, hessians[name])
        assert error < reconstruction_error(dense[name], magnitude, hessians[name])
        assert int((layer.weight == 0).sum()) == layer.weight.numel() // 2
