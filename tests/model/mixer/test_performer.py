"""The properties of FAVOR+ in Choromanski et al. (2021)."""

import math

import pytest
import torch

from effnlp.model.mixer.performer import (
    Performer,
    causal_linear_attention,
    linear_attention,
    log_features,
    orthogonal_features,
)

WIDTH = 16


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(count, norm, seed=0):
    directions = torch.randn(count, WIDTH, generator=seeded(seed), dtype=torch.float64)
    return norm * directions / directions.norm(dim=1, keepdim=True)


def estimates(query, key, features, draws, kind="orthogonal"):
    """(draws,) independent estimates of exp(q·k), each from ``features`` random features."""
    found = []
    generator = seeded(7)
    for _ in range(draws):
        if kind == "orthogonal":
            directions = orthogonal_features(features, WIDTH, generator).double()
        else:
            directions = torch.randn(features, WIDTH, generator=generator, dtype=torch.float64)
        found.append((log_features(query, directions) + log_features(key, directions)).exp().mean())
    return torch.stack(found)


def features_of(count, tokens, seed, rows=2, heads=3):
    """Positive features (rows, heads, tokens, count)."""
    return torch.rand(rows, heads, tokens, count, generator=seeded(seed), dtype=torch.float64) + 0.01


def test_the_product_of_features_estimates_the_exponential_without_bias():
    for seed in range(5):
        query, key = points(2, norm=1.0, seed=seed)
        found = estimates(query, key, features=WIDTH, draws=1500)
        error = (found.mean() - (query @ key).exp()) / (found.std() / math.sqrt(len(found)))
        assert abs(error) < 4


def test_the_squared_error_falls_as_one_over_the_number_of_features():
    query, key = points(2, norm=1.0)
    few, many = (
        (estimates(query, key, m, draws=800) - (query @ key).exp()).square().mean()
        for m in (WIDTH, 8 * WIDTH)
    )
    assert 5 < few / many < 13


def test_orthogonal_features_vary_no_more_than_independent_ones():
    query, key = points(2, norm=1.0)
    orthogonal = estimates(query, key, WIDTH, draws=3000)
    independent = estimates(query, key, WIDTH, draws=3000, kind="independent")
    assert orthogonal.var() < 1.05 * independent.var()


@pytest.mark.parametrize("count", [3, WIDTH, 2 * WIDTH + 5])
def test_features_are_orthogonal_within_a_block_and_never_of_one_length(count):
    directions = orthogonal_features(count, WIDTH, seeded())
    assert directions.shape == (count, WIDTH)
    for block in directions.split(WIDTH):
        product = block @ block.T
        assert (product - product.diagonal().diag()).abs().max() < 1e-4
    assert directions.norm(dim=1).unique().numel() == count


def test_each_direction_is_standard_normal():
    directions = torch.cat([orthogonal_features(WIDTH, WIDTH, seeded(s)) for s in range(600)])
    assert directions.mean().abs() < 4 / math.sqrt(directions.numel())
    covariance = directions.T @ directions / len(directions)
    assert (covariance - torch.eye(WIDTH)).abs().max() < 0.1
    assert abs(directions.square().sum(1).mean() - WIDTH) < 0.2  # chi-squared, not fixed lengths


def test_features_follow_the_generator():
    assert torch.equal(orthogonal_features(9, 4, seeded(3)), orthogonal_features(9, 4, seeded(3)))
    assert not torch.equal(orthogonal_features(9, 4, seeded(3)), orthogonal_features(9, 4, seeded(4)))


def test_linear_attention_equals_the_matrix_of_weights():
    queries, keys = features_of(5, 11, seed=0), features_of(5, 7, seed=1)
    values = torch.randn(2, 3, 7, 4, generator=seeded(2), dtype=torch.float64)
    weights = queries @ keys.transpose(-2, -1)
    expected = weights / weights.sum(-1, keepdim=True) @ values
    assert torch.allclose(linear_attention(queries, keys, values), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 8, 13, 64])
def test_the_causal_prefix_form_equals_the_masked_dense_form(chunk):
    queries, keys = features_of(5, 13, seed=0), features_of(5, 13, seed=1)
    values = torch.randn(2, 3, 13, 4, generator=seeded(2), dtype=torch.float64)
    weights = (queries @ keys.transpose(-2, -1)).tril()
    expected = weights / weights.sum(-1, keepdim=True) @ values
    found = causal_linear_attention(queries, keys, values, chunk)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_later_token_changes_nothing_before_it_in_the_causal_form():
    queries, keys = features_of(5, 12, seed=0), features_of(5, 12, seed=1)
    values = torch.randn(2, 3, 12, 4, generator=seeded(2), dtype=torch.float64)
    before = causal_linear_attention(queries, keys, values, chunk=5)
    keys[..., 7, :] += 1
    values[..., 7, :] -= 1
    after = causal_linear_attention(queries, keys, values, chunk=5)
    assert torch.equal(before[..., :7, :], after[..., :7, :])
    assert (before[..., 7:, :] != after[..., 7:, :]).any(-1).all()


def softmax_attention(mixer, hidden, mask):
    """The slow reference: what the random features estimate."""

    def split(x):
        return x.unflatten(-1, (mixer.heads, -1)).transpose(1, 2)

    q, k, v = split(mixer.query(hidden)), split(mixer.key(hidden)), split(mixer.value(hidden))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask.bool()[:, None, None, :], -math.inf).softmax(-1)
    return mixer.output((weights @ v).transpose(1, 2).flatten(2))


def test_with_many_features_the_layer_approaches_softmax_attention():
    torch.manual_seed(0)
    hidden = torch.randn(2, 9, 32)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    errors = []
    for features in (16, 4096):
        torch.manual_seed(1)
        mixer = Performer(32, heads=2, features=features)
        with torch.no_grad():
            difference = mixer(hidden, mask) - softmax_attention(mixer, hidden, mask)
        errors.append((difference * mask.unsqueeze(-1)).square().mean().sqrt().item())
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 6  # 16 expected: the root of the ratio of the numbers of features


def test_what_is_masked_leaks_into_nothing():
    torch.manual_seed(0)
    mixer = Performer(32, heads=4)
    hidden = torch.randn(3, 8, 32)
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[:, 5:] = 0
    other = hidden.clone()
    other[:, 5:] = 1e3 * torch.randn(3, 3, 32)
    assert torch.equal(mixer(hidden, mask)[:, :5], mixer(other, mask)[:, :5])
    assert (mixer(hidden, mask)[:, :5] - mixer(hidden[:, :5], mask[:, :5])).abs().max() < 1e-5


def test_large_inputs_stay_finite_forward_and_backward():
    torch.manual_seed(0)
    mixer = Performer(32, heads=2)
    hidden = (100 * torch.randn(2, 6, 32)).requires_grad_()
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    output = mixer(hidden, mask)
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(hidden.grad).all()


def test_the_directions_are_saved_with_the_model_and_not_trained():
    torch.manual_seed(0)
    mixer, other = Performer(32, heads=2), Performer(32, heads=2)
    assert not torch.equal(mixer.directions, other.directions)
    assert "directions" not in dict(mixer.named_parameters())
    other.load_state_dict(mixer.state_dict())
    hidden, mask = torch.randn(2, 5, 32), torch.ones(2, 5)
    assert torch.equal(mixer(hidden, mask), other(hidden, mask))


def test_no_features_are_refused():
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        Performer(32, heads=2, features=0)
