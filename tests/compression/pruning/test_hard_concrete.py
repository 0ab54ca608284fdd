import pytest
import torch

from effnlp.compression.pruning.hard_concrete import certain_gate, noise_like, open_probability, sampled_gate

ALPHAS = torch.tensor([-4.0, -1.0, 0.0, 0.5, 3.0])
ENDS = [(-1.5, 1.5), (-0.1, 1.1), (-1.0, 2.0)]


@pytest.mark.parametrize("temperature", [1.0, 2 / 3])
@pytest.mark.parametrize(("low", "high"), ENDS)
def test_the_closed_form_is_how_often_a_drawn_gate_is_not_zero(low, high, temperature):
    draws = 200_000
    torch.manual_seed(0)
    alpha = ALPHAS.expand(draws, -1)
    drawn = sampled_gate(alpha, noise_like(alpha), low, high, temperature)
    often = (drawn != 0).float().mean(0)
    deviation = (often * (1 - often) / draws).sqrt()
    assert ((often - open_probability(ALPHAS, low, high, temperature)).abs() < 4 * deviation + 1e-5).all()
    assert often.min() > 0.0
    assert often.max() < 1


@pytest.mark.parametrize(("low", "high"), ENDS)
def test_a_gate_is_between_0_and_1_and_is_both_of_them_at_times(low, high):
    torch.manual_seed(0)
    alpha = torch.zeros(10_000)
    drawn = sampled_gate(alpha, noise_like(alpha), low, high)
    assert drawn.min() == 0
    assert drawn.max() == 1
    assert ((drawn > 0) & (drawn < 1)).any()


def test_a_gate_of_infinite_alpha_is_certain_whatever_the_noise():
    torch.manual_seed(0)
    for alpha, value in ((torch.full((1000,), torch.inf), 1.0), (torch.full((1000,), -torch.inf), 0.0)):
        assert (sampled_gate(alpha, noise_like(alpha)) == value).all()
        assert (certain_gate(alpha) == value).all()
        assert (open_probability(alpha) == value).all()


def test_without_noise_a_gate_is_that_of_the_median_draw():
    torch.testing.assert_close(certain_gate(ALPHAS), sampled_gate(ALPHAS, torch.full_like(ALPHAS, 0.5)))


def test_the_gradient_reaches_alpha_where_a_gate_is_open_in_part():
    alpha = torch.tensor([-9.0, 0.2, 9.0], requires_grad=True)
    certain_gate(alpha).sum().backward()
    assert alpha.grad[1] > 0
    assert alpha.grad[0] == alpha.grad[2] == 0
