"""One product for every machine: exact, whoever computes it, and the same work for the meter."""

import pytest
import torch
from torch import nn

from effnlp.compression.quantization import plain_product
from effnlp.compression.quantization.int8_dynamic import quantize_dynamically
from effnlp.compression.quantization.plain_product import INPUTS_AT_ONCE, has_dot_products, integer_product
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.evaluation.flops import count_flops


@pytest.fixture(params=[True, False], ids=["dot_products", "floats"])
def dot_products(request, monkeypatch):
    """Whether the processor is taken for one with dot products of int8."""
    monkeypatch.setattr(plain_product, "has_dot_products", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [(1, 384, 96), (17, 31, 7), (300, 64, 130), (3, 4096, 8), (2, INPUTS_AT_ONCE + 1, 5), (0, 8, 3)],
)
def test_it_is_exact_against_64_bits(dot_products, rows, inner, outer):
    left = torch.randint(-128, 128, (rows, inner), dtype=torch.int8)
    right = torch.randint(-128, 128, (outer, inner), dtype=torch.int8)
    found = integer_product(left, right)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), left.long() @ right.long().t())


@pytest.mark.parametrize("inner", [INPUTS_AT_ONCE - 1, INPUTS_AT_ONCE, INPUTS_AT_ONCE + 1, 5000])
@pytest.mark.parametrize("number", [-128, -127, 127])
def test_the_largest_sums_are_exact(dot_products, inner, number):
    left = torch.full((2, inner), number, dtype=torch.int8)
    left[1, ::2] -= 1 if number > -128 else -1  # odd sums are what float32 loses first
    right = torch.full((3, inner), number, dtype=torch.int8)
    assert torch.equal(integer_product(left, right).long(), left.long() @ right.long().t())


def test_one_summand_more_would_not_fit():
    longer = INPUTS_AT_ONCE + 2
    left = torch.full((1, longer), -128, dtype=torch.int8)
    left[0, -1] = 1
    right = left.clone()
    exact = integer_product(left, right)
    assert int(exact) == (longer - 1) * 128**2 + 1
    assert int(left.float() @ right.float().t()) != int(exact)


def test_the_meter_counts_the_same_work_for_both(monkeypatch):
    layer, x, flops = DynamicInt8Linear(nn.Linear(2000, 20)), torch.randn(7, 2000), {}
    for there in (True, False):
        monkeypatch.setattr(plain_product, "has_dot_products", lambda there=there: there)
        flops[there] = count_flops(lambda: layer(x)).by_operator
    assert flops[True] == {"aten._int_mm": 2 * 7 * 2000 * 20}
    assert flops[False] == {"effnlp.int8_as_floats": 2 * 7 * 2000 * 20}


def test_a_model_gives_the_same_bits_on_processors_with_and_without(make_classifier, make_batch, monkeypatch):
    model, batch, logits = quantize_dynamically(make_classifier(), backend="reference"), make_batch(), []
    for there in (True, False):
        monkeypatch.setattr(plain_product, "has_dot_products", lambda there=there: there)
        logits.append(model(batch))
    assert torch.equal(*logits)


def test_a_processor_on_which_fbgemm_saturates_is_taken_for_one_without(monkeypatch):
    monkeypatch.setattr(plain_product, "packed_products_are_exact", lambda name: False)
    has_dot_products.cache_clear()
    try:
        assert not has_dot_products()
    finally:
        has_dot_products.cache_clear()
