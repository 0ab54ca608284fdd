"""Back-ends give the numbers of the reference, cost what it costs, and are never needed to read a model."""

import copy
import importlib.util
import io
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from effnlp.compression.quantization import backends
from effnlp.compression.quantization.backends import (
    SEVEN_BITS,
    PackedWeights,
    check_backend,
    in_use,
    make_packed,
    use_backend,
)
from effnlp.compression.quantization.int8_dynamic import Int8Dynamic, quantize_dynamically
from effnlp.compression.quantization.int8_static import Int8Static
from effnlp.compression.quantization.products import DynamicInt8Linear, StaticInt8Linear
from effnlp.compression.quantization.smoothquant import SmoothQuant
from effnlp.evaluation.flops import count_flops
from effnlp.model.storage import stored_bytes
from effnlp.model.surgery import encoder_layers

needs_packed = pytest.mark.skipif(
    "torch" not in backends.available(), reason="fbgemm is not there, or not exact on this CPU"
)
each_packed = pytest.mark.parametrize(
    "name", ["torch", "onnxruntime", pytest.param("torchao", marks=pytest.mark.slow)], indirect=True
)
"""The back-ends that keep weights in a form of their own; torchao compiles for some seconds."""

OPERATORS = {
    "torch": "quantized.linear_with_input_q_dq_qweight_dq_output_fp32",
    "onnxruntime": "effnlp.int8_by_onnxruntime",
    "torchao": "effnlp.int8_by_torchao",
}

RELATIVE = 1e-6
"""Bound stated for the back-ends: floats are multiplied and added in another order, integers are the same."""


@pytest.fixture
def name(request):
    """A back-end that this machine has."""
    if why := backends.why_not(request.param):
        pytest.skip(f"{request.param} {why}")
    return request.param


@pytest.fixture(autouse=True)
def _packed_for_any_number_of_rows(monkeypatch):
    monkeypatch.setattr(backends, "FEWEST_ROWS", 1)


@needs_packed
def test_few_rows_are_computed_by_the_reference_and_many_by_the_packed_product(monkeypatch):
    monkeypatch.setattr(backends, "FEWEST_ROWS", 6)
    layer = DynamicInt8Linear(nn.Linear(8, 8))
    use_backend(layer, "torch")
    used = {
        rows: set(count_flops(lambda rows=rows: layer(torch.randn(rows, 8))).by_operator) for rows in (5, 6)
    }
    assert used[5] == {"aten._int_mm"}
    assert used[6] == {"quantized.linear_with_input_q_dq_qweight_dq_output_fp32"}


def layer_of(kind, linear):
    return DynamicInt8Linear(linear) if kind == "dynamic" else StaticInt8Linear(linear, 0.02)


@each_packed
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("rows", "inner", "outer"), [(1, 384, 96), (17, 31, 7), (300, 64, 130), (3, 4096, 8), (0, 8, 3)]
)
def test_the_packed_product_agrees_with_the_reference(name, kind, bias, rows, inner, outer):
    torch.manual_seed(rows)
    linear = nn.Linear(inner, outer, bias=bias)
    layer = layer_of(kind, linear)
    x = torch.randn(rows, inner) * torch.logspace(-3, 2, rows).unsqueeze(1)  # some beyond the static range
    expected = layer(x)
    assert use_backend(layer, name) == {f"layers_by_{name}": 1}
    assert expected.shape == layer(x).shape == (rows, outer)
    if not (inner % 16 or outer % 16):
        assert torch.equal(layer(x), expected)
    summands = x.abs() @ linear.weight.detach().abs().t() + 1  # what is rounded is no larger
    assert ((layer(x) - expected).abs() <= RELATIVE * summands).all()


@each_packed
def test_its_sums_are_exact_at_the_ends_of_the_range_and_the_smallest_number_is_minus_127(name):
    left = torch.randint(-127, 128, (40, 3000))
    left[0], left[1] = 127, -127
    right = torch.randint(-127, 128, (9, 3000), dtype=torch.int8)
    right[0], right[1] = 127, -127
    found = make_packed(name).product(left.float(), right, torch.ones(9))
    exact = left @ right.long().t()
    assert torch.equal(found, exact.float())


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")
def test_onnxruntime_is_exact_on_every_processor():
    assert backends.why_not("onnxruntime") is None


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_layers_of_onnxruntime_share_what_they_compute_in():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    layers = [DynamicInt8Linear(nn.Linear(16, 4096)) for _ in range(24)]
    one_answer = 1024 * 4096 * 4  # bytes
    for layer in layers:
        use_backend(layer, "onnxruntime")
        layer(torch.randn(1, 16))
    before = resident()
    for layer in layers:
        layer(torch.randn(1024, 16))
    assert resident() - before < len(layers) / 2 * one_answer


@each_packed
@pytest.mark.parametrize("make", [Int8Static, SmoothQuant], ids=["int8_static", "smoothquant"])
def test_methods_that_calibrate_let_it_be_chosen(name, make, make_classifier, make_batch):
    def finished(backend):
        method, model = make(backend=backend), make_classifier().eval()
        method.calibrate(model, [make_batch()])
        return method.finish(model).eval()

    packed, by_reference = finished(name), finished("reference")
    assert packed.applied["compression/quantization"][f"layers_by_{name}"] == 18
    assert by_reference.applied["compression/quantization"]["layers_by_reference"] == 18
    assert (in_use(packed), in_use(by_reference)) == ({name: 18}, {"reference": 18})
    torch.testing.assert_close(packed(make_batch()), by_reference(make_batch()), rtol=0, atol=5e-3)


@each_packed
def test_bytes_and_flops_are_those_of_the_reference_and_no_operator_is_uncounted(
    name, make_classifier, make_batch
):
    batch = make_batch()
    models = {
        each: quantize_dynamically(make_classifier(), backend=each).eval() for each in (name, "reference")
    }
    counts = {each: count_flops(lambda model=model: model(batch)) for each, model in models.items()}
    assert counts[name].flops == counts["reference"].flops
    assert counts[name].flops == count_flops(lambda: make_classifier()(batch)).flops
    assert not counts[name].uncounted
    assert OPERATORS[name] in counts[name].by_operator
    assert stored_bytes(models[name]) == stored_bytes(models["reference"])
    assert models[name].state_dict().keys() == models["reference"].state_dict().keys()


@each_packed
def test_what_is_packed_is_not_stored_and_a_copy_packs_for_itself(name):
    torch.manual_seed(0)
    layer, x = DynamicInt8Linear(nn.Linear(256, 256)), torch.randn(5, 256)
    plain = len(pickle.dumps(layer))
    use_backend(layer, name)
    expected = layer(x)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    assert len(pickle.dumps(layer)) < plain + 300
    buffer.seek(0)
    for other in (torch.load(buffer, weights_only=False), copy.deepcopy(layer)):
        assert torch.equal(other(x), expected)
        assert other.packed is not layer.packed


@each_packed
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_weights_that_are_loaded_or_written_into_are_packed_again(name, kind):
    torch.manual_seed(0)
    layers, x = [layer_of(kind, nn.Linear(16, 8)) for _ in range(2)], torch.randn(5, 16)
    for layer in layers:
        use_backend(layer, name)
    first, second = (layer(x) for layer in layers)
    layers[0].load_state_dict(layers[1].state_dict())
    assert not torch.equal(first, second)
    assert torch.equal(layers[0](x), second)
    layers[0].scales.mul_(2)
    assert not torch.equal(layers[0](x), second)


@needs_packed
def test_a_model_from_elsewhere_is_computed_by_the_reference_where_the_kernel_is_missing(
    make_classifier, make_batch, monkeypatch, caplog
):
    model, batch = quantize_dynamically(make_classifier(), backend="torch").eval(), make_batch()
    expected = quantize_dynamically(make_classifier(), backend="reference").eval()(batch)
    monkeypatch.setattr(backends, "has", lambda name, largest=127: name == "reference")
    backends._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(model(batch), expected)
        assert torch.equal(model(batch), expected)
    assert [record.message for record in caplog.records] == [
        "this machine lacks fbgemm, for which the model was made: plain products take its place"
    ]
    assert in_use(model) == {"reference": 18}
    backends._tell_once.cache_clear()


@needs_packed
def test_in_a_graph_the_plain_products_stand_and_answer_the_same():
    torch.manual_seed(0)
    x = torch.randn(9, 32)
    for kind in ("dynamic", "static"):
        layer = layer_of(kind, nn.Linear(32, 48))
        use_backend(layer, "torch")
        plain = layer.for_export()
        assert "aten._int_mm" in count_flops(lambda plain=plain: plain(x)).by_operator
        torch.testing.assert_close(plain(x), layer(x), rtol=RELATIVE, atol=RELATIVE)
        assert layer.packed is not None


def test_a_back_end_that_is_not_there_is_refused_with_those_that_are(make_classifier, monkeypatch):
    model = make_classifier()
    with pytest.raises(
        ValueError,
        match="one of auto, reference, torch, onnxruntime, torchao, got 'tpu'; this machine has reference",
    ):
        Int8Static(backend="tpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backends.has.cache_clear()
    try:
        with pytest.raises(
            ValueError, match=r"'torchao' needs torchao \(pip install 'effnlp\[torchao\]'\); this mach"
        ):
            quantize_dynamically(model, backend="torchao")
        with pytest.raises(ValueError, match="'torchao' needs torchao"):
            Int8Dynamic(backend="torchao")  # made before anything is trained
        with pytest.raises(
            ValueError, match=r"'onnxruntime' needs onnxruntime and onnx \(pip install 'effnlp\[onnx"
        ):
            quantize_dynamically(model, backend="onnxruntime")
    finally:
        backends.has.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(backends, "packed_products_are_exact", lambda name="torch", largest=127: False)
    backends.has.cache_clear()
    try:
        with pytest.raises(
            ValueError, match="'torch' is not exact on this machine, or not there; this machine has refer"
        ):
            SmoothQuant(backend="torch")
        assert check_backend("auto") == "auto"
        assert quantize_dynamically(model).applied["compression/quantization"]["layers_by_reference"] == 18
    finally:
        backends.has.cache_clear()
    assert encoder_layers(model, DynamicInt8Linear)


def has_only(monkeypatch, *names):
    monkeypatch.setattr(backends, "has", lambda name, largest=127: name in names)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (backends.NAMES, "torch"),
        (("reference", "onnxruntime", "torchao"), "onnxruntime"),
        (("reference", "torchao"), "reference"),
    ],
)
def test_auto_is_the_first_of_its_list_that_is_there(monkeypatch, make_classifier, there, chosen):
    has_only(monkeypatch, *there)
    model = quantize_dynamically(make_classifier())
    assert model.applied["compression/quantization"][f"layers_by_{chosen}"] == 18


@pytest.mark.skipif("onnxruntime" not in backends.available(), reason="ONNX Runtime is not installed")
@pytest.mark.parametrize(("there", "used"), [("torch", "reference"), ("nothing", "onnxruntime")])
def test_where_the_reference_multiplies_floats_few_rows_are_computed_by_the_back_end_too(
    monkeypatch, there, used
):
    monkeypatch.setattr(backends, "FEWEST_ROWS", 6)
    has_only(monkeypatch, "reference", "onnxruntime", there)
    layer = DynamicInt8Linear(nn.Linear(8, 8))
    use_backend(layer, "onnxruntime")
    operators = set(count_flops(lambda: layer(torch.randn(5, 8))).by_operator)
    assert (OPERATORS["onnxruntime"] in operators) == (used == "onnxruntime")


needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="fbgemm is not there"
)


@needs_fbgemm
def test_activations_of_seven_bits_have_exact_products_of_torch_on_every_processor():
    assert backends.has("torch", SEVEN_BITS)
    numbers = torch.randint(-SEVEN_BITS, SEVEN_BITS + 1, (40, 3000))
    numbers[0], numbers[1] = SEVEN_BITS, -SEVEN_BITS
    weights = torch.randint(-127, 128, (9, 3000), dtype=torch.int8)
    weights[0], weights[1] = 127, -127
    found = make_packed("torch", SEVEN_BITS).product(numbers.float(), weights, torch.ones(9))
    assert torch.equal(found, (numbers @ weights.long().t()).float())


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
@pytest.mark.parametrize("rows", [1, 300])
def test_the_packed_product_of_seven_bits_agrees_with_the_reference_and_a_copy_has_as_many(name, rows):
    if why := backends.why_not(name, SEVEN_BITS):
        pytest.skip(f"{name} {why}")
    torch.manual_seed(0)
    layer, x = DynamicInt8Linear(nn.Linear(64, 48), SEVEN_BITS), torch.randn(rows, 64)
    expected = layer(x)
    use_backend(layer, name)
    assert in_use(layer) == {name: 1}
    for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(each(x), expected)
        assert each.packed.largest == SEVEN_BITS


def test_auto_takes_the_product_of_torch_for_seven_bits_where_it_is_exact_for_these_alone(
    monkeypatch, make_classifier
):
    monkeypatch.setattr(backends, "has", lambda name, largest=127: name != "torch" or largest == SEVEN_BITS)
    for bits, chosen in ((7, "torch"), (8, "onnxruntime")):
        model = quantize_dynamically(make_classifier(), activation_bits=bits)
        assert model.applied["compression/quantization"][f"layers_by_{chosen}"] == 18


def test_where_eight_bits_saturate_the_refusal_names_seven(monkeypatch):
    monkeypatch.setattr(
        backends, "packed_products_are_exact", lambda name="torch", largest=127: largest == SEVEN_BITS
    )
    backends.has.cache_clear()
    try:
        with pytest.raises(
            ValueError, match="'torch' is not exact on this machine; for activation_bits=7 it is"
        ):
            Int8Dynamic(backend="torch")
        assert Int8Dynamic(backend="torch", activation_bits=7).backend == "torch"
    finally:
        backends.has.cache_clear()


@needs_packed
def test_a_product_that_saturates_is_not_offered(monkeypatch):
    exact = PackedWeights.product
    monkeypatch.setattr(
        PackedWeights, "product", lambda self, *args: exact(self, *args).clamp(-(2**15), 2**15 - 1)
    )
    assert not backends.packed_products_are_exact()


@needs_packed
def test_the_engine_of_torch_is_left_as_it_was():
    before = torch.backends.quantized.engine
    others = [name for name in torch.backends.quantized.supported_engines if name not in ("fbgemm", "none")]
    try:
        torch.backends.quantized.engine = others[0]
        layer = DynamicInt8Linear(nn.Linear(8, 8))
        use_backend(layer, "torch")
        layer(torch.randn(2, 8))
        assert torch.backends.quantized.engine == others[0]
    finally:
        torch.backends.quantized.engine = before


@needs_packed
def test_a_pretrained_model_answers_as_by_the_reference(minilm):
    batch = minilm.batch(["a warm and funny film", "dull, and much too long", "so-so", "I left early"])
    with torch.inference_mode():
        model = quantize_dynamically(minilm.model)
        by_torch = model(batch)
        use_backend(model, "reference")
        torch.testing.assert_close(
            by_torch, model(batch), rtol=0, atol=0.05
        )  # export_tolerance, for its reason


@pytest.mark.parametrize("name", ["torch", "onnxruntime"], indirect=True)
def test_trying_a_back_end_is_no_work_of_the_layer_that_asks(name):
    tried = []
    counted = count_flops(lambda: tried.append(backends.packed_products_are_exact(name)))
    assert tried == [True]
    assert counted.flops == 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert backends.packed_products_are_exact(name)
