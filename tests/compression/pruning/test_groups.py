import pytest
import torch

from effnlp.compression.pruning.groups import (
    choose,
    choose_by_importance,
    importances,
    masked,
    multiplied,
    normalised,
    refuse_whole,
    summed_loss,
)
from effnlp.model.parts import heads_of, units_of


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.7])
def test_exactly_the_requested_fraction_goes_even_of_equal_scores(scope, sparsity):
    scores = {"a": torch.ones(10), "b": torch.ones(20)}
    masks = choose(scores, sparsity, scope)
    dropped = {name: int((~mask).sum()) for name, mask in masks.items()}
    assert sum(dropped.values()) == round(sparsity * 30)
    if scope == "layer":
        assert dropped == {"a": round(sparsity * 10), "b": round(sparsity * 20)}


def test_over_all_layers_each_keeps_its_best():
    scores = {"weak": torch.tensor([0.1, 0.3, 0.2]), "strong": torch.tensor([5.0, 4.0, 6.0])}
    masks = choose(scores, 0.5, "global")
    assert masks["weak"].tolist() == [False, True, False]
    assert masks["strong"].tolist() == [True, False, True]
    assert scores["strong"].isfinite().all(), "the scores stay as they are"


def test_too_much_is_refused_with_the_largest_that_is_allowed():
    with pytest.raises(
        ValueError, match=r"sparsity 0\.9 would remove all 4 groups that a reads; at most 0\.75"
    ):
        refuse_whole({"a": 4, "b": 100}, 0.9, "layer")
    refuse_whole({"a": 4, "b": 100}, 0.75, "layer")
    with pytest.raises(
        ValueError, match=r"2 layers have 104 groups, of which each keeps one; at most 0\.9808"
    ):
        refuse_whole({"a": 4, "b": 100}, 0.99, "global")
    refuse_whole({"a": 4, "b": 100}, 0.98, "global")


def test_normalised_scores_of_a_part_have_length_one():
    found = normalised({"a": torch.tensor([3.0, 4.0]), "dead": torch.zeros(2)})
    assert found["a"].tolist() == pytest.approx([0.6, 0.8])
    assert found["dead"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("parts_of", [heads_of, units_of])
def test_importance_is_the_mean_over_texts_of_how_the_loss_follows_the_mask(
    parts_of, make_classifier, make_batch
):
    """Against central differences, text by text, of one group in each layer."""
    model, batch = make_classifier().double(), make_batch(5)
    parts = parts_of(model)
    found = importances(model, parts, [batch], {})
    step = 1e-5
    for index, part in enumerate(parts):
        group = (index + 1) % part.count
        slopes = []
        for text in range(5):
            alone = {name: value[text : text + 1] for name, value in batch.items()}
            losses = []
            for moved in (1 + step, 1 - step):
                mask = torch.ones(part.count, dtype=torch.float64)
                mask[group] = moved
                with torch.no_grad(), masked(model, [part], {part.reader: mask}):
                    losses.append(float(summed_loss(model, alone)))
            slopes.append(abs(losses[0] - losses[1]) / (2 * step))
        assert float(found[part.reader][group]) == pytest.approx(sum(slopes) / 5, rel=1e-5)
        assert found[part.reader][group] > 1e-6


def test_importance_does_not_depend_on_how_texts_are_put_into_batches(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch(12)
    parts = [*heads_of(model), *units_of(model)]
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(5), slice(5, 12))]
    together, apart = importances(model, parts, [batch], {}), importances(model, parts, halves, {})
    for name, scores in together.items():
        torch.testing.assert_close(apart[name], scores, rtol=1e-4, atol=1e-8)


def test_looking_leaves_the_model_as_it_is(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    before = model(batch)
    model.requires_grad_(False)
    found = importances(model, heads_of(model), [batch], {})
    assert all(scores.min() > 0 for scores in found.values()), "a frozen model has importances, too"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(batch), before)


def test_a_head_that_says_nothing_goes_first(make_classifier, make_batch):
    model = make_classifier()
    with torch.no_grad():
        for index, block in enumerate(model.encoder.layers):
            block.mixer.output.weight[:, 16 * (index % 2) : 16 * (index % 2) + 16] = 0.0
    masks = choose_by_importance(model, heads_of(model), [make_batch()], 0.5, "layer", 1)
    assert [mask.tolist() for mask in masks.values()] == [[False, True], [True, False], [False, True]]


def test_in_rounds_what_is_gone_stays_gone_and_the_rest_is_looked_at_without_it(make_classifier, make_batch):
    model, batches = make_classifier(), [make_batch(32)]
    parts = units_of(model)
    first = choose_by_importance(model, parts, batches, 0.4, "layer", 1)
    both = choose_by_importance(model, parts, batches, 0.8, "layer", 2)
    at_once = choose_by_importance(model, parts, batches, 0.8, "layer", 1)
    assert all(not both[name][~mask].any() for name, mask in first.items())
    assert any(not torch.equal(both[name], at_once[name]) for name in both)
    assert {name: int(m.sum()) for name, m in both.items()} == {
        name: int(m.sum()) for name, m in at_once.items()
    }


def test_a_layer_that_is_run_twice_has_one_importance(tiny_family):
    family = tiny_family("albert")
    model, batch = family.model, family.batch(["the cat", "a dull film"], [0, 1])
    (part,) = heads_of(model)
    found = importances(model.double(), [part], [batch], {})[part.reader]
    slopes = []
    for text in range(2):
        alone = {name: value[text : text + 1] for name, value in batch.items()}
        losses = []
        for moved in (1 + 1e-5, 1 - 1e-5):
            mask = torch.ones(part.count, dtype=torch.float64)
            mask[1] = moved
            with torch.no_grad(), masked(model, [part], {part.reader: mask}):
                losses.append(float(summed_loss(model, alone)))
        slopes.append(abs(losses[0] - losses[1]) / 2e-5)
    assert float(found[1]) == pytest.approx(sum(slopes) / 2, rel=1e-4)


def test_numbers_have_a_squared_error_and_unknown_classes_none(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch(6)
    logits = model(batch)
    far = {**batch, "labels": torch.tensor([0, 1, 7, 2, 7, 7])}
    known = torch.tensor([0, 1, 3])
    expected = torch.nn.functional.cross_entropy(logits[known], far["labels"][known], reduction="sum")
    torch.testing.assert_close(summed_loss(model, far), expected)
    model.head = torch.nn.Linear(32, 1)
    numbers = {**batch, "labels": torch.linspace(-1, 1, 6)}
    expected = (model(batch).flatten() - numbers["labels"]).square().sum()
    torch.testing.assert_close(summed_loss(model, numbers), expected)


def test_texts_without_labels_are_refused(make_classifier, make_batch):
    batch = {name: value for name, value in make_batch().items() if name != "labels"}
    with pytest.raises(ValueError, match="the texts have no labels"):
        summed_loss(make_classifier(), batch)


def test_a_gate_for_each_row_multiplies_that_row():
    x, gates = torch.randn(3, 5, 8), torch.randn(3, 4)
    expected = torch.stack([multiplied(x[i], gates[i]) for i in range(3)])
    torch.testing.assert_close(multiplied(x, gates), expected)
