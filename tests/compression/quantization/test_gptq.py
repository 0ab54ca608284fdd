import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.inputs import input_moments
from effnlp.compression.quantization.gptq import GPTQ, inverse_factor, reconstruction_errors, solve
from effnlp.compression.quantization.packed import PackedLinear, find_scales, nearest, round_rows
from effnlp.model.classifier import count_params
from effnlp.model.storage import stored_bytes
from effnlp.model.surgery import encoder_layers


def problem(outputs=12, inputs=48, seed=0):
    """Weights and correlated inputs of very different sizes, with their products."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) * torch.logspace(-1, 1, inputs)
    x = torch.randn(400, inputs, generator=generator) @ mix
    return torch.randn(outputs, inputs, generator=generator), x, (x.T @ x).double()


def by_the_inverse(weight, products, bits, group_size, order, damping):
    """The paper's eq. 2 and 3 with the inverse of what is left made anew at each step, scales known beforehand."""
    plain = round_rows(weight.double(), bits, group_size, False)
    damped = products + damping * products.diagonal().mean() * torch.eye(len(products))
    left, rounded = weight.double().clone(), torch.zeros_like(weight, dtype=torch.double)
    for step, column in enumerate(order):
        rest = order[step:]
        inverse = torch.linalg.inv(damped[rest][:, rest])
        group = column // group_size
        scale, zero = plain.scales[:, group], plain.zeros[:, group]
        value = (nearest(left[:, column], scale, zero, bits).double() - zero) * scale
        error = (left[:, column] - value) / inverse[0, 0]
        left[:, rest] -= error.unsqueeze(1) * inverse[0]
        rounded[:, column] = value
    return rounded


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_step_by_step_solution_with_the_inverse_of_what_is_left(seed):
    weight, _, products = problem(seed=seed)
    order = products.diagonal().argsort(descending=True)
    expected = by_the_inverse(weight, products, 4, 16, order, 0.01)
    found = solve(weight.double(), products, 4, 16, damping=0.01)
    lost = weight.double() - expected
    errors = (lost @ products * lost).sum(1)
    assert torch.allclose(reconstruction_errors(weight, found, products), errors, rtol=0.02)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("group_size", [16, None])
@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (3, True), (4, False), (4, True), (8, False)])
def test_every_output_loses_at_most_what_rounding_to_the_nearest_loses(
    bits, symmetric, group_size, act_order
):
    weight, x, products = problem()
    plain = round_rows(weight, bits, group_size, symmetric)
    found = solve(weight, products, bits, group_size, symmetric, act_order)
    errors, errors_of_plain = (((x @ (weight - r.values).T) ** 2).sum(0) for r in (found, plain))
    assert (errors <= errors_of_plain * (1 + 1e-3)).all()
    # Here the inputs that matter most come last: without act_order little is left to make up for them.
    assert errors.sum() < (0.8 if act_order else 0.99) * errors_of_plain.sum()
    assert int(found.numbers.max()) < 2**bits


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight = torch.randn(6, 32)
    found = solve(weight, torch.diag(torch.rand(32).double() + 0.1), 4, 8)
    assert torch.equal(found.values, round_rows(weight, 4, 8, False).values)


def test_a_layer_that_saw_nothing_is_rounded_to_the_nearest():
    weight = torch.randn(6, 32)
    found = solve(weight, torch.zeros(32, 32), 4, 8)
    assert torch.equal(found.values, round_rows(weight, 4, 8, False).values)


def test_blocks_change_nothing():
    """300 columns are three blocks; with whole rows the scales are known beforehand."""
    weight, _, products = problem(outputs=5, inputs=300)
    found = solve(weight.double(), products, 4, None, act_order=False)
    factor, left = inverse_factor(products, 0.01), weight.double().clone()
    scales, zeros = find_scales(left.clone(), 4, False)
    for i in range(300):  # eq. 3 with all columns at once
        value = (nearest(left[:, i], scales, zeros, 4).double() - zeros) * scales
        left[:, i + 1 :] -= ((left[:, i] - value) / factor[i, i]).unsqueeze(1) * factor[i, i + 1 :]
        left[:, i] = value
    lost, plain = weight - left, round_rows(weight.double(), 4, None, False)
    errors = (lost @ products * lost).sum(1).minimum(reconstruction_errors(weight, plain, products))
    torch.testing.assert_close(reconstruction_errors(weight, found, products), errors, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_layer_of_a_model_loses_more_than_by_rounding_and_it_is_stored_packed(
    make_classifier, make_batch, bits
):
    model, batches = make_classifier(), [make_batch(32, seed=s) for s in range(3)]
    before = make_classifier()
    layers = encoder_layers(before, nn.Linear)
    products = input_moments(before, layers, batches, "outer")
    chosen = GPTQ(bits=bits, group_size=16, calibration_texts=96)
    model = method.finish(chosen, model, batches)
    for name, linear in layers.items():
        packed = model.encoder.get_submodule(name)
        assert isinstance(packed, PackedLinear)
        weight = linear.weight.detach()
        lost, plain = weight - packed.weight, weight - round_rows(weight, bits, 16, False).values
        errors = [(d.double() @ products[name] * d.double()).sum() for d in (lost, plain)]
        assert errors[0] <= errors[1] * (1 + 1e-6)
        groups = weight.numel() // 16
        assert stored_bytes(packed) == weight.numel() * bits // 8 + 5 * groups + 4 * len(linear.bias)
    assert count_params(model) == count_params(before)
    noted = model.applied["compression/quantization"]
    assert (noted["layers"], noted["layers_without_inputs"]) == (18, 0)
    assert 0 < noted["error_to_nearest"] < 1


def test_logits_come_closer_than_by_rounding_to_the_nearest(make_classifier, make_batch):
    model, batches = make_classifier(), [make_batch(32, seed=s) for s in range(3)]
    test, rounded = make_batch(64, seed=50), make_classifier()
    expected = model(test)
    for linear in encoder_layers(rounded, nn.Linear).values():
        linear.weight.data = round_rows(linear.weight.data, 3, 16, False).values
    chosen = GPTQ(bits=3, group_size=16, calibration_texts=96, embeddings=False)
    found = method.finish(chosen, model, batches)(test)
    assert (found - expected).square().mean() < (rounded(test) - expected).square().mean()


def test_without_texts_it_is_refused_and_so_are_groups_that_do_not_fill_a_row(make_classifier):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(GPTQ(), make_classifier(), [])
    with pytest.raises(ValueError, match="must see calibration texts first"):
        GPTQ().finish(make_classifier())
    with pytest.raises(ValueError, match="group_size 24 does not divide rows of 32 weights"):
        GPTQ(group_size=24).prepare(make_classifier())


def test_values_outside_their_range_are_refused_at_once():
    with pytest.raises(ValueError, match="bits must be one of 2, 3, 4, 8, got 6"):
        GPTQ(bits=6)
    with pytest.raises(ValueError, match="damping must be above 0, got 0"):
        GPTQ(damping=0)
    with pytest.raises(ValueError, match="calibration_texts must be at least 1, got 0"):
        GPTQ(calibration_texts=0)
