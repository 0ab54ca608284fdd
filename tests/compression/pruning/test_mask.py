import pytest
import torch
from torch import nn

from effnlp.compression.pruning.mask import keep_in_rows, keep_mask, keep_masks, refuse_whole_layers


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["distinct", "tied", "few values"])
def test_drops_exactly_the_requested_count_however_scores_are_tied(sparsity, kind):
    scores = {
        "distinct": torch.randn(13, 31),
        "tied": torch.ones(13, 31),
        "few values": torch.randint(0, 3, (13, 31)).float(),
    }[kind]
    assert (~keep_mask(scores, sparsity)).sum() == round(sparsity * 13 * 31)


@pytest.mark.parametrize("values", [3, 10_000])
def test_agrees_with_a_stable_sort(values):
    scores = torch.randint(-values, values, (17, 23)).float()
    reference = torch.ones(17 * 23, dtype=torch.bool)
    reference[scores.flatten().argsort(stable=True)[: round(0.37 * 17 * 23)]] = False
    assert torch.equal(keep_mask(scores, 0.37), reference.view(17, 23))


def test_no_kept_score_is_below_a_dropped_one():
    scores = torch.randn(64, 32)
    mask = keep_mask(scores, 0.5)
    assert scores[mask].min() >= scores[~mask].max()


def test_layer_scope_drops_the_same_fraction_of_each_and_global_scope_of_all():
    scores = {"small": torch.rand(10, 20), "large": 1 + torch.rand(30, 10)}
    by_layer = keep_masks(scores, 0.3, "layer")
    assert [(~by_layer[name]).sum() for name in scores] == [60, 90]
    together = keep_masks(scores, 0.3, "global")
    assert [(~together[name]).sum() for name in scores] == [150, 0]  # all of the lower scores are in one


def test_the_global_masks_do_not_depend_on_how_the_scores_are_cut():
    scores = torch.randn(12, 10)
    cut = keep_masks({"a": scores[:5], "b": scores[5:]}, 0.4, "global")
    assert torch.equal(torch.cat([cut["a"], cut["b"]]), keep_mask(scores, 0.4))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got"):
        keep_mask(torch.ones(3), sparsity)


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="scores must have a rank, got NaN"):
        keep_mask(torch.tensor([1.0, float("nan")]), 0.5)


def test_an_unknown_scope_is_refused():
    with pytest.raises(ValueError, match="scope must be one of layer, global, got 'row'"):
        keep_masks({"a": torch.ones(2)}, 0.5, "row")


@pytest.mark.parametrize("kind", ["distinct", "tied"])
@pytest.mark.parametrize("drop", [0, 1, 5, 11])
def test_rows_are_ranked_one_by_one(kind, drop):
    scores = torch.randn(7, 11) if kind == "distinct" else torch.randint(0, 2, (7, 11)).float()
    rows = [keep_mask(row, drop / 11) if drop < 11 else torch.zeros(11, dtype=torch.bool) for row in scores]
    assert torch.equal(keep_in_rows(scores, drop), torch.stack(rows))


def test_a_row_with_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="scores must have a rank, got NaN"):
        keep_in_rows(torch.tensor([[1.0, float("nan")]]), 1)


def test_a_sparsity_that_leaves_nothing_of_a_layer_is_refused_and_one_weight_is_enough():
    layers = {"large": nn.Linear(20, 20), "small": nn.Linear(2, 5)}
    refuse_whole_layers(layers, 0.94)
    with pytest.raises(ValueError, match=r"sparsity=0.96 would leave nothing of small, which has 10 weights"):
        refuse_whole_layers(layers, 0.96)
