"""Properties of counting; closed forms for whole models are in test_conformance.py."""

import math
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from effnlp.evaluation.flops import FlopCount, FlopCounter, StepFlops, batch_key, count_flops
from effnlp.evaluation.steps import MeterGauge


@pytest.fixture(scope="module")
def unknown_operator():
    """An operator that no formula can know."""
    library = torch.library.Library("effnlp_test", "DEF")
    library.define("mystery(Tensor x) -> Tensor")
    library.impl("mystery", lambda x: x @ x, "CompositeExplicitAutograd")
    yield torch.ops.effnlp_test.mystery
    library._destroy()


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: torch.randn(3, 5) @ torch.randn(5, 7), 2 * 3 * 5 * 7),
        (lambda: torch.randn(2, 3, 5) @ torch.randn(2, 5, 7), 2 * 2 * 3 * 5 * 7),
        (lambda: torch.randn(2, 3, 5) @ torch.randn(5, 7), 2 * 2 * 3 * 5 * 7),
        (lambda: torch.randn(3, 5) @ torch.randn(5), 2 * 3 * 5),
        (lambda: torch.randn(5) @ torch.randn(5), 2 * 5),
        (lambda: torch.einsum("bij,bkj->bik", torch.randn(2, 3, 5), torch.randn(2, 7, 5)), 2 * 2 * 3 * 5 * 7),
        (lambda: F.linear(torch.randn(2, 3, 5), torch.randn(7, 5), torch.randn(7)), 2 * 2 * 3 * 5 * 7),
        (lambda: torch._int_mm(torch.ones(32, 16).to(torch.int8), torch.ones(16, 8).to(torch.int8)), 8192),
        (lambda: F.conv1d(torch.randn(2, 4, 9), torch.randn(6, 4, 3)), 2 * 2 * 6 * 7 * 4 * 3),
        (lambda: F.embedding_bag(torch.ones(3, 4).long(), torch.randn(10, 6), mode="sum"), 2 * 12 * 6),
        (lambda: F.embedding_bag(torch.ones(3, 4).long(), torch.randn(10, 6), mode="max"), 0),
        (lambda: F.embedding(torch.ones(3, 4).long(), torch.randn(10, 6)), 0),
        (lambda: torch.fft.fft(torch.ones(3, 16, dtype=torch.cfloat)), 3 * 5 * 16 * 4),
        (lambda: torch.fft.rfft(torch.randn(3, 16)), 3 * 2.5 * 16 * 4),
        (lambda: torch.fft.irfft(torch.ones(3, 9, dtype=torch.cfloat), n=16), 3 * 2.5 * 16 * 4),
        (lambda: torch.ones(3, 5, dtype=torch.cfloat) @ torch.ones(5, 7, dtype=torch.cfloat), 8 * 3 * 5 * 7),
        (lambda: torch.eye(5).to_sparse() @ torch.randn(5, 7), 2 * 5 * 7),
        (lambda: torch.eye(5).to_sparse_csr() @ torch.randn(5, 7), 2 * 5 * 7),
        (lambda: torch.eye(5).to_sparse_csr() @ torch.randn(5), 2 * 5),
    ],
)
def test_a_contraction_costs_its_closed_form(work, expected, inference):
    with torch.inference_mode(inference):
        count = count_flops(work)
    assert count.flops == expected


@pytest.mark.parametrize("inference", [False, True])
def test_attention_counts_scores_and_weighted_sum_whichever_kernel_runs(inference):
    batch, heads, queries, keys, width, value_width = 2, 3, 5, 7, 8, 8
    query, key = torch.randn(batch, heads, queries, width), torch.randn(batch, heads, keys, width)
    value = torch.randn(batch, heads, keys, value_width)
    expected = 2 * batch * heads * queries * keys * (width + value_width)
    mask = torch.ones(batch, 1, queries, keys, dtype=torch.bool)
    with torch.inference_mode(inference):
        for arguments in ({}, {"attn_mask": mask}, {"dropout_p": 0.5}, {"is_causal": True}):
            count = count_flops(lambda kw=arguments: F.scaled_dot_product_attention(query, key, value, **kw))
            assert count.flops == expected, arguments


def test_grouped_queries_count_every_query_head():
    query, key = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 5, 8)
    count = count_flops(lambda: F.scaled_dot_product_attention(query, key, key, enable_gqa=True))
    assert count.flops == 2 * 2 * 6 * 5 * 5 * 16


def test_fused_attention_backward_is_five_products_and_the_unfused_one_four():
    tensors = [torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3)]
    product = 2 * 2 * 3 * 5 * 5 * 8
    fused = count_flops(lambda: F.scaled_dot_product_attention(*tensors).sum().backward())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        unfused = count_flops(lambda: F.scaled_dot_product_attention(*tensors).sum().backward())
    assert fused.flops == (2 + 5) * product
    assert unfused.flops == (2 + 4) * product


def test_int8_kernels_cost_as_much_as_the_float_layer_they_replace():
    layer = nn.Linear(16, 24)
    inputs = torch.randn(5, 16)
    packed = torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(layer.weight, 0.1, 0, torch.qint8))
    work = {
        "dynamic": lambda: torch.ops.quantized.linear_dynamic(inputs, packed),
        "weight only": lambda: torch._weight_int8pack_mm(
            inputs.bfloat16(), torch.ones(24, 16, dtype=torch.int8), torch.ones(24).bfloat16()
        ),
    }
    for name, call in work.items():
        assert count_flops(call).flops == count_flops(lambda: layer(inputs)).flops == 2 * 5 * 16 * 24, name


def test_point_wise_work_reductions_and_movement_cost_nothing_by_convention():
    values = torch.randn(4, 6, requires_grad=True)

    def work():
        hidden = F.layer_norm(F.gelu(values), (6,)).softmax(-1).cumsum(0)
        hidden = torch.cat([hidden, F.dropout(hidden).sort().values])[torch.tensor([0, 2])]
        F.cross_entropy(hidden, torch.tensor([1, 2])).backward()

    count = count_flops(work)
    assert values.grad is not None
    assert count == FlopCount({}, {})
    assert count.flops == 0


def test_an_operator_without_formula_is_named_and_leaves_no_total(unknown_operator):
    def work():
        unknown_operator(torch.ones(3, 3))
        unknown_operator(torch.ones(3, 3))
        torch.ones(2, 3) @ torch.ones(3, 2)

    count = count_flops(work)
    assert count.uncounted == {"effnlp_test.mystery": 2}
    assert count.by_operator == {"aten.mm": 24}
    assert count.flops is None
    assert "effnlp_test.mystery" in count.reason


def test_what_cannot_be_known_stays_unknown_when_counts_are_added(unknown_operator):
    known = count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 2))
    unknown = count_flops(lambda: unknown_operator(torch.ones(3, 3)))
    assert (known + known).flops == 48
    assert (known + unknown).flops is None
    assert (known.times(3) + FlopCount()).flops == 72
    assert unknown.times(0).flops == 0


def test_no_tensor_changes_because_it_is_counted():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    inputs = torch.randn(2, 5, 16)
    outputs = []
    for counted in (False, True):
        model.zero_grad()
        work = lambda: outputs.append(model(inputs)) or outputs[-1].sum().backward()  # noqa: E731
        count_flops(work) if counted else work()
        outputs.append(model.linear1.weight.grad.clone())
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


def test_nested_counters_each_see_what_runs_inside_them():
    with FlopCounter() as outer:
        torch.ones(2, 3) @ torch.ones(3, 2)
        with FlopCounter() as inner, torch.inference_mode():
            F.linear(torch.ones(2, 3), torch.ones(5, 3))
    assert inner.count.flops == 60
    assert outer.count.flops == 24 + 60


def test_a_counter_in_one_thread_does_not_see_another():
    counts = {}

    def work(name, repeats):
        with FlopCounter() as counter:
            for _ in range(repeats):
                torch.ones(2, 3) @ torch.ones(3, 2)
        counts[name] = counter.count.flops

    threads = [threading.Thread(target=work, args=(n, n)) for n in (3, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {3: 72, 50: 1200}


def test_recomputation_under_checkpointing_is_counted():
    inputs = torch.randn(4, 8, requires_grad=True)
    deep = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    plain = count_flops(lambda: deep(inputs).sum().backward()).flops
    again = count_flops(
        lambda: torch.utils.checkpoint.checkpoint(deep, inputs, use_reentrant=False).sum().backward()
    ).flops
    assert again - plain in (2 * 4 * 8 * 8, 4 * 4 * 8 * 8)  # the last product may be left out


def test_agrees_with_the_counter_of_pytorch_where_that_one_has_formulas():
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 7, 5))
    inputs = torch.randn(3, 4, 9)
    stock = FlopCounterMode(display=False)
    with stock:
        model(inputs).sum().backward()
    assert count_flops(lambda: model(inputs).sum().backward()).flops == stock.get_total_flops() > 0


def test_a_batch_key_tells_shapes_and_phases_apart_and_nothing_else():
    batch = {"input_ids": torch.zeros(2, 5), "attention_mask": torch.ones(2, 5)}
    other = {"attention_mask": torch.zeros(2, 5), "input_ids": torch.ones(2, 5)}
    assert batch_key(batch) == batch_key(other)
    assert batch_key(batch) != batch_key({**batch, "input_ids": torch.zeros(5, 2)})
    assert batch_key(batch, "frozen") != batch_key(batch, "all")


class CallsCounted(nn.Module):
    """Notes whether it ran under a counter."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.watched = []

    def forward(self, inputs):
        self.watched.append(torch.utils._python_dispatch._get_current_dispatch_mode() is not None)
        return self.linear(inputs)


def steps_of(steps, model, sizes):
    for size in sizes:
        steps.start(size)
        model(torch.randn(size, 3)).sum().backward()
        steps.end()
    return steps.total


def test_a_step_is_watched_once_for_each_key_and_the_total_is_as_if_always():
    model, sizes = CallsCounted(), [2, 5, 2, 2, 5, 1]
    total = steps_of(StepFlops(), model, sizes)
    assert model.watched == [True, True, False, False, False, True]
    everything = steps_of(StepFlops(data_dependent=True), CallsCounted(), sizes)
    assert total == everything
    assert total.flops == sum(2 * 2 * size * 3 * 4 for size in sizes)


def test_where_flops_depend_on_data_every_step_is_watched():
    model = CallsCounted()
    steps_of(StepFlops(data_dependent=True), model, [2, 2, 2])
    assert model.watched == [True, True, True]


def test_a_step_without_a_key_is_like_no_other():
    model = CallsCounted()
    steps = StepFlops()
    for key, size in [("a", 2), (None, 2), (None, 3), ("a", 2)]:
        with steps.step(key):
            model(torch.randn(size, 3)).sum().backward()
    assert model.watched == [True, True, True, False]
    assert steps.total.flops == 2 * 2 * (2 + 2 + 3 + 2) * 3 * 4


def test_a_phase_whose_flops_vary_is_watched_whole_and_the_others_once(make_batch):
    counted = []
    meter, quiet = SimpleNamespace(add_flops=lambda count: counted.append(count.flops)), SimpleNamespace()
    gauge, model, batch = MeterGauge(meter, quiet, varying=("validation",)), CallsCounted(), make_batch()
    for phase in ("train1", "train1", "validation1", "validation1"):
        gauge.start_step(batch, phase)
        model(torch.randn(2, 3))
        gauge.end_step()
    assert counted == [2 * 2 * 3 * 4] * 4
    assert model.watched == [True, False, True, True]


def test_a_step_that_fails_leaves_no_counter_behind_and_is_not_remembered():
    steps = StepFlops()

    def fail():
        with steps.step("key"):
            torch.ones(2, 3) @ torch.ones(3, 2)
            raise ZeroDivisionError("the step fails")

    with pytest.raises(ZeroDivisionError, match="the step fails"):
        fail()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    steps.abort()
    assert steps.total.flops == 24
    with steps.step("key"):
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert steps.total.flops == 24 + 48


def test_steps_do_not_overlap():
    steps = StepFlops()
    with pytest.raises(RuntimeError, match="start\\(\\) comes before end"):
        steps.end()
    steps.start("key")
    with pytest.raises(RuntimeError, match="still open"):
        steps.start("key")
    steps.abort()


def test_a_fourier_transform_over_two_dimensions_has_the_points_of_both():
    count = count_flops(lambda: torch.fft.fft2(torch.ones(3, 8, 4, dtype=torch.cfloat)))
    assert count.flops == 3 * 5 * 32 * math.log2(32)
