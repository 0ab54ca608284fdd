import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.quantization.packed import round_rows
from effnlp.compression.quantization.qat import (
    QAT,
    LearnedInputs,
    LearnedRounding,
    LearnedRows,
    LearnedScale,
    best_scales,
)
from effnlp.compression.quantization.straight_through import MinMax, RowInputs, rounded_layers


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_for_a_value_is_1_inside_the_clip_and_0_outside():
    values = (torch.arange(-60, 61, dtype=torch.float64) / 10).requires_grad_()
    scales = torch.tensor(1.5, dtype=torch.float64)
    (LearnedRounding.apply(values, scales, 3) * scales).sum().backward()
    torch.testing.assert_close(values.grad, (values.detach().abs() <= 4.5).double())
    assert 0 < values.grad.sum() < len(values)


def test_the_gradient_for_a_scale_is_that_of_the_paper():
    values, scales = double(6, 40) * 3, (torch.rand(6, 1, dtype=torch.float64) + 0.2).requires_grad_()
    weights, largest = double(6, 40, seed=1), 3
    (LearnedRounding.apply(values, scales, largest) * scales * weights).sum().backward()
    ratios = values / scales.detach()  # eq. 3: round(v/s) - v/s inside, -Q_N or Q_P outside
    expected = torch.where(ratios.abs() < largest, ratios.round() - ratios, ratios.sign() * largest)
    torch.testing.assert_close(scales.grad, (expected * weights).sum(1, keepdim=True))
    outside = (ratios.abs() > largest).double().mean()
    assert 0.05 < outside < 0.95


def test_gradcheck_in_double_precision_with_the_rounding_error_held_where_it_is():
    """Rounding is then a constant beside the clipped ratio, which can be differentiated."""
    values, scales = double(4, 7).requires_grad_(), (torch.rand(4, 1).double() + 0.2).requires_grad_()
    ratios = (values / scales).detach().clamp(-3, 3)
    error = ratios.round() - ratios

    def as_if(v, s):
        return ((v / s).clamp(-3, 3) + error) * s

    def used(v, s):
        return LearnedRounding.apply(v, s, 3) * s

    assert torch.autograd.gradcheck(as_if, [values, scales])
    torch.testing.assert_close(used(values, scales), as_if(values, scales))
    gradient = double(4, 7, seed=2)
    expected = torch.autograd.grad(as_if(values, scales), [values, scales], gradient)
    found = torch.autograd.grad(used(values, scales), [values, scales], gradient)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_of_a_learned_scale_is_damped_by_the_root_of_what_it_is_for():
    scale = LearnedScale(torch.tensor([[0.5], [2.0]]), entries=50, largest=7, learning_rate_factor=3.0)
    torch.testing.assert_close(scale(), torch.tensor([[0.5], [2.0]]))
    scale().sum().backward()
    of_itself = torch.tensor([[0.5], [2.0]])  # d exp(x) / dx
    torch.testing.assert_close(scale.logarithms.grad, of_itself / (50 * 7) ** 0.5)
    assert (scale.logarithms.learning_rate_factor, scale.logarithms.weight_decay_factor) == (3.0, 0.0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_scale_starts_where_the_squared_error_is_least(bits):
    rows = torch.randn(5, 300, generator=torch.Generator().manual_seed(3)) * torch.logspace(-2, 2, 5)[:, None]
    largest = 2 ** (bits - 1) - 1
    reach = rows.abs().amax(1)

    def errors(scales):
        rounded = (rows / scales).round().clamp(-largest, largest) * scales
        return (rounded - rows).square().sum(1)

    found = errors(best_scales(rows, bits))
    grid = torch.stack([errors((share * reach / largest)[:, None]) for share in torch.linspace(0.02, 1, 500)])
    assert (found <= grid.amin(0) * 1.15).all()
    to_the_largest = (round_rows(rows, bits).values - rows).square().sum(1)
    assert (found <= to_the_largest * (1 + 1e-5)).all()
    if bits < 8:
        assert (found < 0.9 * to_the_largest).all()
    paper = errors(2 * rows.abs().mean(1, keepdim=True) / largest**0.5)
    assert (paper > found).all()
    if bits == 8:
        assert (paper > 5 * found).all()


def test_a_row_of_zeros_stays_one():
    rows = torch.randn(3, 8)
    rows[1] = 0
    rounding = LearnedRows(rows, 4, 1.0)
    numbers, scales = rounding(rows, slice(None))
    assert torch.isfinite(scales).all()
    assert ((numbers * scales)[1] == 0).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_numbers_are_whole_symmetric_and_fit_the_bits(bits):
    rows = torch.randn(6, 50)
    for rounding in (MinMax(bits), LearnedRows(rows, bits, 1.0)):
        numbers, scales = rounding(rows, slice(None))
        assert torch.equal(numbers, numbers.round())
        assert numbers.abs().max() <= 2 ** (bits - 1) - 1
        reversed_numbers, _ = rounding(-rows, slice(None))
        assert torch.equal(reversed_numbers, -numbers)
        inside = rows.abs() <= (2 ** (bits - 1) - 1) * scales
        assert ((numbers * scales - rows).abs() <= scales / 2 * 1.0001)[inside].all()


def test_minmax_rounds_as_the_post_training_methods_do():
    rows = torch.randn(6, 50)
    for bits in (2, 3, 4, 8):
        numbers, scales = MinMax(bits)(rows, slice(None))
        assert torch.equal(numbers * scales, round_rows(rows, bits).values)


def test_a_learned_scale_of_activations_cuts_off_and_learns_from_it():
    inputs = LearnedInputs(reach=1.27, width=10, learning_rate_factor=1.0)
    x = torch.tensor([[0.014, -5.0, 0.5]], requires_grad=True)
    numbers, scale = inputs(x)
    assert numbers.tolist() == [[1.0, -127.0, 50.0]]
    torch.testing.assert_close(inputs.scale, torch.tensor(0.01))
    (numbers * scale).sum().backward()
    assert x.grad.tolist() == [[1.0, 0.0, 1.0]]
    assert inputs.scales.logarithms.grad < 0  # -127 outweighs: to reach further down, the scale must grow


def test_scales_of_activations_start_where_texts_say(make_classifier, make_batch):
    chosen = QAT(calibration_texts=8)
    model = method.prepare([chosen], make_classifier(), [make_batch(8)])
    layers = [m for m in rounded_layers(model).values() if hasattr(m, "inputs")]
    assert len(layers) == 18
    assert all(isinstance(layer.inputs, LearnedInputs) for layer in layers)
    assert len({float(layer.inputs.scale) for layer in layers}) > 3


def test_a_layer_that_no_text_reaches_finds_its_scales_as_activations_come(make_classifier, make_batch):
    model, chosen = make_classifier(), QAT()
    model.encoder.spare = nn.Linear(32, 32)
    model = method.prepare([chosen], model, [make_batch()])
    assert isinstance(model.encoder.spare.inputs, RowInputs)
    assert torch.isfinite(method.finish(chosen, model).encoder.spare(torch.randn(2, 32))).all()


def test_only_learned_scales_of_activations_want_texts(make_classifier):
    assert QAT(calibration_texts=7).calibration_texts == 7
    for chosen in (QAT(scales="minmax"), QAT(activation_bits=None)):
        assert method.texts_wanted([chosen]) == 0
        assert rounded_layers(method.prepare([chosen], make_classifier()))
    with pytest.raises(ValueError, match="it must see some first"):
        QAT().prepare(make_classifier())


def test_learned_scales_learn_and_those_of_min_and_max_have_no_parameters(
    make_classifier, make_batch, take_steps
):
    batch = make_batch(16)
    model = method.prepare([QAT()], make_classifier(), [batch])
    before = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("logarithms")}
    assert len(before) == 18 + 18 + 1  # weights, their inputs, the table of words
    take_steps(model, batch, steps=3)
    after = dict(model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    plain = method.prepare([QAT(scales="minmax")], make_classifier())
    assert not [n for n, _ in plain.named_parameters() if n.endswith("logarithms")]


def test_with_full_8_bits_the_logits_are_near_those_of_the_float_model(make_classifier, make_batch):
    batch = make_batch(32)
    logits = make_classifier()(batch)
    for scales in ("minmax", "learned"):
        chosen = QAT(bits=8, scales=scales)
        model = method.finish(chosen, method.prepare([chosen], make_classifier(), [batch]))
        noise = (model(batch) - logits).square().mean() / logits.square().mean()
        assert 0 < noise < 10**-3  # 30 dB


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits must be from 2 to 8, got 1"),
        ({"bits": 9}, "bits must be from 2 to 8, got 9"),
        ({"scales": "lsq"}, "scales must be one of minmax, learned, got 'lsq'"),
        ({"learning_rate_factor": 0}, "learning_rate_factor must be above 0, got 0"),
        ({"calibration_texts": 0}, "calibration_texts must be at least 1, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        QAT(**settings)
