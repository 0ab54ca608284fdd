"""What mixing tokens costs."""

import functools
import itertools

import pytest
import torch

from effnlp.model.mixer.attention import Attention
from effnlp.reproduce.analyses import attention as module

WIDTH, HEADS = 16, 2


@functools.cache
def small():
    """Two short lengths, two repeats."""
    return module.cost(tokens=(16, 48), width=WIDTH, heads=HEADS, repeats=2, steps=1, first_seed=5)


def works(length):
    """Of all mixers."""
    return module.make_works(["attention", "performer"], length, WIDTH, HEADS, 1, "cpu", 0)


def test_explicit_softmax_gives_what_the_fused_kernel_gives_with_padding_too():
    torch.manual_seed(0)
    fused = Attention(WIDTH, HEADS)
    explicit = module.ExplicitAttention(fused)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    hidden = torch.randn(2, 7, WIDTH)
    both = [hidden.clone().requires_grad_() for _ in range(2)]
    outputs = [mixer(inputs, mask) for mixer, inputs in zip((fused, explicit), both, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(both[0].grad, both[1].grad, rtol=1e-4, atol=1e-6)
    unpadded = explicit(hidden, torch.ones_like(mask))
    assert not torch.allclose(unpadded[1], outputs[1][1], atol=1e-3)  # the mask does something


def test_operations_of_softmax_are_those_of_projections_and_two_products():
    length = 48
    expected = 4 * 2 * length * WIDTH**2 + 2 * 2 * length**2 * WIDTH
    for row in (module.EXPLICIT, module.FUSED):
        assert small()[f"{row}, {length}"][module.OPERATIONS] == pytest.approx(expected / 1e9)


def test_only_explicit_softmax_holds_a_matrix_of_weights():
    length = 512
    matrix_bytes = 4 * HEADS * length**2
    peaks = {name: module.peak_bytes(work.step, work.hidden.device) for name, work in works(length).items()}
    assert peaks[module.EXPLICIT] > matrix_bytes
    assert 0 < peaks[module.FUSED] < matrix_bytes
    assert 0 < peaks["performer"] < matrix_bytes


def test_a_peak_is_of_what_is_held_at_once():
    def work():
        one = torch.ones(1000, 1000)
        del one
        two = torch.ones(2000, 1000)
        del two

    assert module.peak_bytes(work, torch.device("cpu")) == pytest.approx(8e6, rel=1e-3)


def test_all_that_a_step_allocates_is_freed_at_its_end():
    work = works(32)["performer"]
    work.step()
    changes = module.allocations(work.step)
    assert len(changes) > 10
    assert sum(changes) == 0


def test_the_highest_is_the_greatest_running_sum():
    changes = [3, -1, 5, -6, 2, 4, -7]
    assert module.highest(changes) == max(itertools.accumulate(changes)) == 7
    assert module.highest([]) == module.highest([-2]) == 0


def test_there_is_a_row_for_each_mixer_and_length():
    names = itertools.product((module.EXPLICIT, module.FUSED, "performer"), (16, 48))
    assert set(small()) == {f"{name}, {length}" for name, length in names}


def test_ratios_are_against_explicit_softmax_at_the_same_length():
    for length in (16, 48):
        explicit = small()[f"{module.EXPLICIT}, {length}"]
        assert set(explicit) == {module.OPERATIONS, module.MEMORY, module.SECONDS}
        for name in (module.FUSED, "performer"):
            row = small()[f"{name}, {length}"]
            assert row[module.SHARE] == pytest.approx(row[module.MEMORY] / explicit[module.MEMORY])
            assert set(row[module.SPEED]) == {"5", "6"}
            for seed, speed in row[module.SPEED].items():
                assert speed == pytest.approx(explicit[module.SECONDS][seed] / row[module.SECONDS][seed])


def test_fused_and_explicit_softmax_differ_by_rounding_alone():
    differences = [small()[f"{module.FUSED}, {length}"][module.DIFFERENCE] for length in (16, 48)]
    assert all(0 <= difference <= 1e-5 for difference in differences)


def test_what_is_counted_is_the_same_each_time():
    assert module.counted(works(32)) == module.counted(works(32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixers": ["performer"]}, r"mixers must have attention.*got \['performer'\]"),
        ({"tokens": (16, 0)}, r"must be at least 1, got 5, 3, \[16, 0\]"),
        ({"repeats": 0}, "must be at least 1, got 0"),
    ],
)
def test_a_measurement_of_nothing_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        module.cost(**arguments)
