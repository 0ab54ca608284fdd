import pytest
import torch

from effnlp.compression.pruning.mask import keep_highest
from effnlp.compression.pruning.surgeon import inverse_factor, prune_columns, reconstruction_error

TINY = 1e-12
"""Damping that changes nothing that could be seen."""


def problem(rows=6, width=12, tokens=50, seed=0):
    """Weights, inputs whose columns are correlated, and their products."""
    torch.manual_seed(seed)
    x = torch.randn(tokens, width, dtype=torch.float64) @ torch.randn(width, width, dtype=torch.float64)
    return torch.randn(rows, width, dtype=torch.float64), x, x.T @ x


def keeping(mask):
    """Keep what a given mask keeps, whatever the scores."""
    return lambda scores, start: mask[:, start : start + scores.shape[1]]


@pytest.mark.parametrize("block", [1, 5, 12, 128])
@pytest.mark.parametrize("column", [0, 4, 11])
def test_the_update_for_one_weight_is_the_closed_form_of_optimal_brain_surgery(block, column):
    """delta = - w_q / [H^-1]_qq H^-1_q (eq. 3), where H is that of the weights from q on: those before are fixed."""
    weight, _, hessian = problem()
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[2, column] = False
    inverse = hessian[column:, column:].inverse()
    expected = weight.clone()
    expected[2, column:] -= weight[2, column] / inverse[0, 0] * inverse[0]
    found = prune_columns(weight, hessian, keeping(mask), block, TINY)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert found[2, column] == 0


def test_the_score_of_a_weight_is_the_error_that_its_removal_causes():
    """w² / U_jj² (eq. 4) is ||(W - W') X||² after the best update of what is to its right."""
    weight, x, hessian = problem(rows=1)
    scores = (weight / inverse_factor(hessian, TINY).diagonal()).square()[0]
    for column in range(weight.shape[1]):
        mask = torch.ones_like(weight, dtype=torch.bool)
        mask[0, column] = False
        pruned = prune_columns(weight, hessian, keeping(mask), 1, TINY)
        error = ((weight - pruned) @ x.T).square().sum()
        torch.testing.assert_close(scores[column], error, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("block", [1, 3, 12, 128])
def test_with_given_zeros_the_blocks_make_no_difference_and_agree_with_a_slow_reference(block):
    """Column by column, with the inverse of what is left of H computed anew each time."""
    weight, _, hessian = problem()
    mask = torch.rand_like(weight) > 0.5
    expected = weight.clone()
    for column in range(weight.shape[1]):
        inverse = hessian[column:, column:].inverse()
        for row in range(weight.shape[0]):
            if not mask[row, column]:
                expected[row, column:] -= expected[row, column] / inverse[0, 0] * inverse[0]
    expected[~mask] = 0.0
    found = prune_columns(weight, hessian, keeping(mask), block, TINY)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_repaired_weights_lose_less_than_those_that_are_only_dropped():
    for seed in range(5):
        weight, _, hessian = problem(rows=20, width=40, tokens=100, seed=seed)
        found = prune_columns(
            weight, hessian, lambda scores, _: keep_highest(scores, scores.numel() // 2), 8, 0.01
        )
        dropped = weight.where(found != 0, 0.0)
        magnitude = weight.where(keep_highest(weight.abs(), int((found == 0).sum())), 0.0)
        errors = [reconstruction_error(weight, each, hessian) for each in (found, dropped, magnitude)]
        assert errors[0] < min(errors[1:])


def test_the_error_is_that_of_the_outputs():
    weight, x, hessian = problem()
    other = torch.randn_like(weight)
    expected = ((weight - other) @ x.T).square().sum() / (weight @ x.T).square().sum()
    assert reconstruction_error(weight, other, hessian) == pytest.approx(float(expected))
    assert reconstruction_error(weight, weight, hessian) == 0


def test_inputs_that_are_always_zero_and_too_few_tokens_do_no_harm():
    weight, x, _ = problem(tokens=5)
    x[:, 3] = 0
    found = prune_columns(
        weight, x.T @ x, lambda scores, _: keep_highest(scores, scores.numel() // 2), 4, 0.01
    )
    assert found.isfinite().all()
    assert (found[:, 3] == 0).all()


def test_the_factor_is_that_of_the_damped_inverse():
    _, _, hessian = problem()
    damped = hessian + 0.1 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    factor = inverse_factor(hessian, 0.1)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(len(hessian), dtype=torch.float64))
    assert torch.equal(factor, factor.triu())
