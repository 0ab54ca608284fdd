import itertools

import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.quantization.mixed import KINDS, Mixed, float_bytes, packed_bytes
from effnlp.compression.quantization.packed import PackedEmbedding, PackedLinear, round_rows
from effnlp.compression.quantization.sensitivity import divergence
from effnlp.model.classifier import count_params
from effnlp.model.export import export_form
from effnlp.model.storage import stored_bytes
from effnlp.model.surgery import encoder_layers

SENSITIVITIES = ["hessian", "loss"]


def with_texts(chosen, model, batches):
    return method.finish(chosen, model, batches).eval()


def widths_of(model):
    noted = model.applied["compression/quantization"]
    return {name.removeprefix("bits/"): bits for name, bits in noted.items() if name.startswith("bits/")}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [16, None])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_a_layer_is_said_to_take_is_what_it_is_stored_in(bits, group_size, symmetric):
    linear = nn.Linear(48, 10, bias=False)
    packed = PackedLinear(linear, round_rows(linear.weight.detach(), bits, group_size, symmetric))
    assert stored_bytes(packed) == packed_bytes(linear.weight, bits, group_size, symmetric)


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
@pytest.mark.parametrize("fraction", [0.12, 0.15, 0.25, 1.0])
def test_the_budget_is_kept_and_the_record_says_which_layer_got_what(
    make_classifier, make_batch, sensitivity, fraction
):
    batches = [make_batch(16, seed=s) for s in range(2)]
    layers = encoder_layers(make_classifier(), *KINDS)
    model = with_texts(Mixed(bytes_fraction=fraction, sensitivity=sensitivity), make_classifier(), batches)
    noted, widths = model.applied["compression/quantization"], widths_of(model)
    assert set(widths) == set(layers)
    assert {"tokens", "positions"} < set(widths)
    for name, bits in widths.items():
        packed = model.encoder.get_submodule(name)
        assert isinstance(packed, PackedLinear | PackedEmbedding)
        assert packed.stored.bits == bits
    stored = sum(stored_bytes(model.encoder.get_submodule(name).stored) for name in widths)
    assert stored <= noted["bytes"] <= noted["budget_bytes"] == int(fraction * float_bytes(layers))
    assert noted["layers"] == len(layers) == 20
    assert min(widths.values()) <= noted["average_bits"] <= max(widths.values())
    assert count_params(model) == count_params(make_classifier())
    if fraction == 1.0:
        assert noted["average_bits"] == 8


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_a_planted_fragile_layer_is_recovered(make_classifier, make_batch, sensitivity):
    """A constant is added to its weights. It adds nothing to what the layer gives, since the sum of its normed inputs
    is zero, but its rounded numbers are farther apart."""
    for planted in ("layers.0.feedforward.up", "layers.2.mixer.value"):
        model, chosen = make_classifier(), Mixed(bytes_fraction=0.12, sensitivity=sensitivity)
        linears = encoder_layers(model, nn.Linear)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.bias"):
                    parameter.zero_()
            expected = model(make_batch())
            linears[planted].weight.add_(2.0)
            torch.testing.assert_close(model(make_batch()), expected, rtol=0, atol=1e-4)
        method.calibrate(chosen, model, [make_batch(32)], "finish")
        assert max(linears, key=lambda name: chosen._errors[name][0]) == planted
        widths = widths_of(chosen.finish(model))
        assert widths[planted] > min(widths[name] for name in linears)


def by_brute_force(costs, errors, budget):
    return min(
        sum(row[option] for row, option in zip(errors, chosen, strict=True))
        for chosen in itertools.product(range(len(costs[0])), repeat=len(costs))
        if sum(row[option] for row, option in zip(costs, chosen, strict=True)) <= budget
    )


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_no_other_choice_of_bits_within_the_budget_is_expected_to_lose_less(
    make_classifier, make_batch, sensitivity
):
    chosen = Mixed(bits=[2, 4, 8], bytes_fraction=0.16, sensitivity=sensitivity)
    model = make_classifier(depth=1)
    layers = encoder_layers(model, *KINDS)
    assert len(layers) == 8
    method.calibrate(chosen, model, [make_batch(16)], "finish")
    costs = [[packed_bytes(layer.weight, bits, 64, False) for bits in (2, 4, 8)] for layer in layers.values()]
    errors = [chosen._errors[name] for name in layers]
    finished = chosen.finish(model)
    found = finished.applied["compression/quantization"]
    assert found["expected_loss"] == pytest.approx(by_brute_force(costs, errors, found["budget_bytes"]))
    assert found["expected_loss"] < found["expected_loss_of_uniform"]


def test_answers_stay_nearer_than_with_the_bits_turned_round(make_classifier, make_batch):
    """Of Q-BERT's: the layers that are worth most in the fewest bits, in the same bytes for layers of equal size."""
    batches, test = [make_batch(32, seed=s) for s in range(3)], make_batch(64, seed=50)
    reference = make_classifier()(test)
    mixed = with_texts(Mixed(bits=[2, 8], bytes_fraction=0.2), make_classifier(), batches)
    reversed_bits, widths = make_classifier(), widths_of(mixed)
    with torch.no_grad():
        for name, layer in encoder_layers(reversed_bits, *KINDS).items():
            layer.weight.copy_(round_rows(layer.weight, 10 - widths[name], 64, False).values)
    assert divergence(mixed(test), reference) < divergence(reversed_bits(test), reference)


def test_one_width_is_rounding_to_the_nearest_in_it(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    for layer in encoder_layers(model, *KINDS).values():
        layer.weight.data = round_rows(layer.weight.data, 4, 64, False).values
    found = with_texts(Mixed(bits=[4], bytes_fraction=0.2), make_classifier(), [batch])
    torch.testing.assert_close(found(batch), model(batch), rtol=0, atol=1e-5)


def test_a_budget_that_no_choice_meets_names_the_smallest_before_the_training(make_classifier, make_batch):
    with pytest.raises(
        ValueError, match=r"no choice of bits meets bytes_fraction=0.05.*smallest possible is 0\.\d+"
    ):
        Mixed(bytes_fraction=0.05).check(make_classifier())
    try:
        Mixed(bytes_fraction=0.05).check(make_classifier())
    except ValueError as error:
        named = float(str(error).rpartition(" ")[2])
    found = with_texts(Mixed(bytes_fraction=named), make_classifier(), [make_batch()])
    assert set(widths_of(found).values()) == {2}
    with pytest.raises(ValueError, match="smallest possible"):
        Mixed(bytes_fraction=named - 1e-3).check(make_classifier())


def clocks(monkeypatch, seconds):
    """Layers take what ``seconds`` says of their kind and bits; floats take 100 ns."""

    def nanoseconds(layers, changes):
        bits = [change.keywords["bits"] for change in changes]
        return [100] * len(layers), [[seconds(layer, width) for width in bits] for layer in layers.values()]

    monkeypatch.setattr("effnlp.compression.quantization.mixed.nanoseconds", nanoseconds)


def test_a_budget_of_time_is_kept_exactly_and_is_noted_in_seconds(monkeypatch, make_classifier, make_batch):
    clocks(monkeypatch, lambda layer, width: (10 if isinstance(layer, nn.Linear) else 30) * width)
    chosen = Mixed(bits=[2, 4, 8], bytes_fraction=None, latency_fraction=0.5)
    model = make_classifier(depth=1)
    layers = encoder_layers(model, *KINDS)
    method.calibrate(chosen, model, [make_batch(16)], "finish")
    costs = [
        [(10 if isinstance(layer, nn.Linear) else 30) * width for width in (2, 4, 8)]
        for layer in layers.values()
    ]
    errors = [chosen._errors[name] for name in layers]
    found = chosen.finish(model).applied["compression/quantization"]
    assert found["budget_seconds"] == pytest.approx(50e-9 * len(layers))
    assert found["layer_seconds"] <= found["budget_seconds"]
    assert found["expected_loss"] == pytest.approx(by_brute_force(costs, errors, 50 * len(layers)))
    assert "budget_bytes" not in found
    assert found["bytes"] == sum(
        packed_bytes(layer.weight, widths_of(model)[name], 64, False) for name, layer in layers.items()
    )


def test_real_layers_are_measured_and_where_more_bits_are_no_slower_all_get_them(make_classifier, make_batch):
    model = with_texts(Mixed(bytes_fraction=None, latency_fraction=1000.0), make_classifier(), [make_batch()])
    assert set(widths_of(model).values()) == {8}
    noted = model.applied["compression/quantization"]
    assert 0 < noted["layer_seconds"] < noted["budget_seconds"]


def test_a_budget_of_time_that_no_choice_meets_names_the_smallest(monkeypatch, make_classifier):
    clocks(monkeypatch, lambda _, width: 20 * width)
    with pytest.raises(
        ValueError, match=r"latency_fraction=0.3.* of \d+ nanoseconds; the smallest possible is 0.4"
    ):
        Mixed(bytes_fraction=None, latency_fraction=0.3).check(make_classifier())


@pytest.mark.parametrize("budgets", [{}, {"bytes_fraction": 0.2, "latency_fraction": 1.0}])
def test_there_is_one_budget(budgets):
    with pytest.raises(ValueError, match="one of bytes_fraction and latency_fraction must be a budget"):
        Mixed(**{"bytes_fraction": None, **budgets})


def test_a_budget_of_time_is_above_zero():
    with pytest.raises(ValueError, match="latency_fraction must be above 0, got -1"):
        Mixed(bytes_fraction=None, latency_fraction=-1)


def test_it_has_a_graph_and_gives_the_same_answers_there(make_classifier, make_batch):
    batch = make_batch()
    model = with_texts(Mixed(), make_classifier(), [batch])
    torch.testing.assert_close(export_form(model)(batch), model(batch), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_minilm_keeps_its_answers_in_fewer_bytes(minilm):
    texts = [
        "a lovely film",
        "dull and much too long",
        "the plot is thin, the cast superb",
        "it was not bad",
    ] * 4
    batch = minilm.batch(texts, [1, 0, 1, 1] * 4)
    reference, before = minilm.model(batch), stored_bytes(minilm.model)
    found = with_texts(Mixed(calibration_texts=16), minilm.build(), [batch])
    uniform = with_texts(Mixed(bits=[4], calibration_texts=1), minilm.build(), [batch])
    assert found.applied["compression/quantization"]["layers"] == 39
    assert stored_bytes(found) < 0.16 * before
    assert divergence(found(batch), reference) < divergence(uniform(batch), reference)


def test_values_outside_their_range_are_refused_at_once(make_classifier):
    with pytest.raises(ValueError, match="bits must be one of 2, 3, 4, 8, got 6"):
        Mixed(bits=[4, 6])
    with pytest.raises(ValueError, match="bits must name at least one width"):
        Mixed(bits=[])
    with pytest.raises(ValueError, match=r"bytes_fraction must be in \(0, 1\], got 0"):
        Mixed(bytes_fraction=0)
    with pytest.raises(ValueError, match="sensitivity must be one of hessian, loss, got 'weight'"):
        Mixed(sensitivity="weight")
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        Mixed(probes=0)
    with pytest.raises(ValueError, match="must see calibration texts first"):
        Mixed().finish(make_classifier())
