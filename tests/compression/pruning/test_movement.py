import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.pruning.magnitude import Magnitude
from effnlp.compression.pruning.mask import keep_mask
from effnlp.compression.pruning.movement import (
    MaskedLinear,
    Movement,
    StraightThrough,
    first_scores,
    kept_share,
    masked_layers,
    mean_score,
)


def zeros_of(model):
    return [int((m.weight == 0).sum()) for m in model.encoder.modules() if isinstance(m, nn.Linear)]


def sizes_of(model):
    return [m.weight.numel() for m in model.encoder.modules() if isinstance(m, nn.Linear)]


def train(fit, model, make_batch, movement, **options):
    """20 steps in two epochs."""
    return fit(model, [make_batch(seed=seed) for seed in range(10)], 2, movement.callbacks(), **options)


def test_logits_are_bit_equal_before_training(make_classifier, make_batch):
    batch = make_batch()
    assert torch.equal(Movement().prepare(make_classifier())(batch), make_classifier()(batch))


def test_the_gradient_of_a_score_is_that_of_the_used_weight_times_the_weight():
    torch.manual_seed(0)
    weight, x, target = torch.randn(5, 7), torch.randn(11, 7), torch.randn(11, 5)
    mask = torch.rand(5, 7) > 0.5
    layer = MaskedLinear(nn.Linear(7, 5, bias=False), 1.0, 0.0)
    layer.weight.data.copy_(weight)
    layer.mask.copy_(mask)
    ((layer(x) - target) ** 2).sum().backward()
    used = (weight * mask).requires_grad_()  # the same loss, with W' as the leaf
    ((x @ used.t() - target) ** 2).sum().backward()
    torch.testing.assert_close(layer.scores.grad, used.grad * weight)
    torch.testing.assert_close(layer.weight.grad, used.grad * mask)
    assert (layer.scores.grad[~mask] != 0).all()  # what is masked can come back


def test_scores_fall_where_weights_move_to_zero_and_rise_where_they_move_away():
    """Gradient descent on a toy with known targets: the score is the sum of -rate * dL/dW * W."""
    start, target = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.tensor([[0.2, 2.0, -0.2, -2.0]])
    layer = MaskedLinear(nn.Linear(4, 1, bias=False), 1.0, 0.0)
    layer.weight.data.copy_(start)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    expected = torch.zeros(1, 4)
    for _ in range(10):
        optimizer.zero_grad()
        ((layer(torch.eye(4)).t() - target) ** 2).sum().backward()
        expected -= 0.05 * layer.weight.grad * layer.weight.detach()
        optimizer.step()
    torch.testing.assert_close(layer.scores.detach(), expected)
    assert (layer.scores > 0).tolist() == [[False, True, False, True]]
    moved_away = layer.weight.detach().abs() > start.abs()
    assert torch.equal(layer.scores > 0, moved_away)
    assert keep_mask(layer.scores, 0.5).tolist() == [[False, True, False, True]]


def test_scores_begin_with_the_order_of_magnitudes_or_all_alike():
    weight = torch.tensor([[-3.0, 1.0], [0.0, 2.0]])
    scores = first_scores(weight, 0.5)
    torch.testing.assert_close(scores, 0.5 * torch.tensor([[1.0, -1 / 3], [-1.0, 1 / 3]]))
    assert torch.equal(first_scores(weight, 0.0), torch.zeros(2, 2))
    assert first_scores(torch.zeros(2, 2), 1.0).isfinite().all()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_without_a_step_it_prunes_by_magnitude(make_classifier, scope):
    movement, magnitude = Movement(sparsity=0.6, scope=scope), Magnitude(sparsity=0.6)
    model, expected = (
        movement.finish(movement.prepare(make_classifier())),
        magnitude.finish(make_classifier()),
    )
    same = [
        torch.equal(model.get_submodule(name).weight, layer.weight)
        for name, layer in expected.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    assert same
    assert all(same) == (scope == "layer"), (
        "all layers together are ranked by magnitudes relative to their layer's"
    )


def test_gradcheck_for_the_weight_in_double_precision():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    scores, mask = torch.zeros(3, 4, dtype=torch.float64), torch.rand(3, 4) > 0.4
    assert torch.autograd.gradcheck(lambda w: StraightThrough.apply(w, scores, mask), [weight])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_the_final_sparsity_is_exact_and_survives_momentum_and_weight_decay(
    fit, make_classifier, make_batch, sparsity, scope
):
    movement = Movement(sparsity=sparsity, scope=scope, cooldown=0.4)
    model = movement.prepare(make_classifier())
    train(fit, model, make_batch, movement)
    masks = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
    finished = movement.finish(model)
    if scope == "layer":
        assert zeros_of(finished) == [round(sparsity * size) for size in sizes_of(finished)]
    else:
        assert sum(zeros_of(finished)) == round(sparsity * sum(sizes_of(finished)))
    for name, mask in masks.items():
        assert torch.equal(finished.get_submodule(name).weight != 0, mask)


def test_finishing_gives_plain_linear_layers_and_the_logits_of_the_masked_model(
    fit, make_classifier, make_batch
):
    movement, batch = Movement(sparsity=0.6), make_batch(seed=77)
    model = movement.prepare(make_classifier())
    train(fit, model, make_batch, movement)
    logits = model(batch)
    finished = movement.finish(model)
    assert torch.equal(finished(batch), logits)
    assert set(finished.state_dict()) == set(make_classifier().state_dict())
    assert not masked_layers(finished)


def test_every_mask_has_its_final_count_from_the_settled_share_on(make_classifier):
    movement = Movement(sparsity=0.5, cooldown=0.35, update_every=4)
    model = movement.prepare(make_classifier())
    torch.manual_seed(1)
    for layer in masked_layers(model).values():
        nn.init.normal_(layer.scores)
    steps = 30
    for step in range(1, steps + 1):
        movement.advance(model, step, steps)
        dropped = {float((~layer.mask).float().mean()) for layer in masked_layers(model).values()}
        assert (dropped == {0.5}) == (step / steps >= movement.settled_after)


def test_finishing_before_the_end_of_the_schedule_takes_the_step_to_the_final_sparsity(make_classifier):
    movement = Movement(sparsity=0.5)
    model = movement.prepare(make_classifier())
    for layer in masked_layers(model).values():
        nn.init.normal_(layer.scores)
    finished = movement.finish(copy.deepcopy(model))
    assert zeros_of(finished) == [round(0.5 * size) for size in sizes_of(finished)]
    assert all(layer.mask.all() for layer in masked_layers(model).values())


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_a_resumed_training_ends_as_the_uninterrupted_one(fit, make_classifier, make_batch, loss_of, variant):
    def trained(**options):
        movement = Movement(sparsity=0.5, update_every=3, variant=variant, threshold=0.45)
        model = movement.prepare(make_classifier())
        options["objective"] = movement.objective(loss_of)
        return train(fit, model, make_batch, movement, **options), model.state_dict()

    losses, whole = trained()
    # The first epoch ends at step 10, no multiple of 3: the mask of step 9 comes back from the checkpoint.
    before, _ = trained(epochs=1)
    after, in_two = trained(resume=True)
    assert before + after == losses
    assert all(torch.equal(value, in_two[name]) for name, value in whole.items())
    assert any(name.endswith("scores") for name in whole)


def test_training_lowers_the_loss_while_weights_go(make_classifier, make_batch, take_steps):
    movement, batch = Movement(sparsity=0.5), make_batch()
    model = movement.prepare(make_classifier())
    losses = []
    for step in range(30):
        losses += take_steps(model, batch, steps=1)
        movement.advance(model, step + 1, 30)
    assert losses[-1] < 0.5 * losses[0]


def test_the_scores_are_not_decayed_and_learn_faster(make_classifier):
    layer = next(iter(masked_layers(Movement(learning_rate_factor=7.0).prepare(make_classifier())).values()))
    assert layer.scores.weight_decay_factor == 0.0
    assert layer.scores.learning_rate_factor == 7.0


def test_the_run_is_told_when_the_masks_have_settled():
    assert method.settled_after([Movement(cooldown=0.3), object()]) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"scope": "row"}, "scope must be one of"),
        ({"variant": "sof"}, "variant must be one of hard, soft, got 'sof'"),
        ({"threshold": 1.0}, r"threshold must be in \(0, 1\), got 1.0"),
        ({"penalty": -1.0}, "penalty must be at least 0, got -1.0"),
        ({"warmup": 0.6, "cooldown": 0.4}, "leave steps between them, got 0.6 and 0.4"),
        ({"update_every": 0}, "update_every must be at least 1, got 0"),
        ({"learning_rate_factor": 0.0}, "learning_rate_factor must be above 0, got 0.0"),
        ({"magnitude_prior": -0.5}, "magnitude_prior must be at least 0, got -0.5"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Movement(**settings)


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="has no masked layer"):
        Movement().finish(make_classifier())


def test_a_sparsity_that_leaves_nothing_of_a_layer_is_refused_before_the_training(make_classifier):
    with pytest.raises(ValueError, match="would leave nothing of layers"):
        Movement(sparsity=0.9999).prepare(make_classifier())


def test_soft_masks_are_the_scores_above_a_threshold_that_rises(make_classifier):
    movement = Movement(variant="soft", threshold=0.4, sparsity=0.9, warmup=0.0, cooldown=0.2, update_every=1)
    model, kept = movement.prepare(make_classifier()), []
    torch.manual_seed(0)
    for layer in masked_layers(model).values():
        nn.init.normal_(layer.scores)
    for step in range(1, 80):
        movement.advance(model, step, 100)
        threshold = 0.4 * (1 - (1 - step / 80) ** 3)
        for layer in masked_layers(model).values():
            assert torch.equal(layer.mask, layer.scores.sigmoid() > threshold)
        kept.append(kept_share(masked_layers(model)))
    assert kept[0] > 0.99 > kept[-1]
    assert all(low >= high for low, high in pairwise(kept))


def test_soft_lets_layers_keep_different_shares_and_ends_with_exactly_the_sparsity_of_all(
    fit, make_classifier, make_batch, loss_of
):
    movement = Movement(sparsity=0.8, variant="soft", threshold=0.45, cooldown=0.4)
    model = movement.prepare(make_classifier())
    train(fit, model, make_batch, movement, objective=movement.objective(loss_of))
    logits, batch = model(make_batch(seed=77)), make_batch(seed=77)
    finished = movement.finish(model)
    zeros, sizes = zeros_of(finished), sizes_of(finished)
    assert sum(zeros) == round(0.8 * sum(sizes))
    assert len({zero / size for zero, size in zip(zeros, sizes, strict=True)}) > 3
    assert torch.equal(finished(batch), logits)


def test_the_penalty_of_soft_is_the_mean_squashed_score_while_too_much_is_kept(
    make_classifier, make_batch, loss_of
):
    movement = Movement(variant="soft", penalty=3.0, sparsity=0.5, magnitude_prior=0.0)
    batch = make_batch()
    model = movement.prepare(make_classifier()).train()
    loss, plain = movement.objective(loss_of), float(loss_of(model, batch))
    assert float(loss(model, batch)) == plain  # before the first step nothing is asked of the scores
    layers = masked_layers(model)
    for step, weight in ((10, 0.0), (40, 3.0 * (1 - 0.5**3)), (80, 0.0)):
        movement.weigh(step, 100)
        assert float(loss(model, batch)) == pytest.approx(plain + weight * 0.5)
    movement.weigh(40, 100)
    loss(model, batch).backward()
    assert all((layer.scores.grad != 0).all() for layer in layers.values())
    assert float(loss(model.eval(), batch)) == plain
    model.train()
    for layer in layers.values():
        layer.mask.fill_(False)
    assert float(loss(model, batch)) == float(loss_of(model, batch))
    scores = torch.cat([layer.scores.flatten() for layer in layers.values()])
    torch.testing.assert_close(mean_score(layers), scores.sigmoid().mean())


def test_the_penalty_lowers_scores_that_the_task_alone_would_leave_or_raise(
    fit, make_classifier, make_batch, loss_of
):
    def scores(penalty):
        movement = Movement(sparsity=0.6, variant="soft", threshold=0.01, penalty=penalty)
        model = movement.prepare(make_classifier())
        train(fit, model, make_batch, movement, epochs=1, objective=movement.objective(loss_of))
        return torch.cat([layer.scores.detach().flatten() for layer in masked_layers(model).values()])

    with_penalty, without = scores(1e5), scores(0.0)
    assert (with_penalty < without).float().mean() > 0.9
    assert (without > 0).any()
    assert (without < 0).any()


def test_hard_has_no_penalty(loss_of):
    assert Movement().objective(loss_of) is loss_of


def test_one_shot_scores_all_the_training_long_and_masks_after_it(fit, make_classifier, make_batch):
    movement = Movement(sparsity=0.7, schedule="one_shot")
    model = movement.prepare(make_classifier())
    train(fit, model, make_batch, movement)
    assert all(layer.mask.all() and (layer.scores != 0).any() for layer in masked_layers(model).values())
    finished = movement.finish(model)
    assert zeros_of(finished) == [round(0.7 * size) for size in sizes_of(finished)]
