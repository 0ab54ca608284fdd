import time

import pytest
import torch

from effnlp.evaluation.memory import SAMPLING_SECONDS, PeakMemory, reset_high_water, resident_bytes

MEGABYTE = 1024**2


def allocate(megabytes, hold_seconds=0.0):
    block = torch.ones(megabytes * MEGABYTE // 4)
    time.sleep(hold_seconds)
    return block.sum().item()


@pytest.mark.parametrize("use_high_water", [True, False])
def test_the_peak_holds_what_was_allocated_and_freed_again(use_high_water):
    before = resident_bytes()
    with PeakMemory(use_high_water) as memory:
        allocate(200, hold_seconds=5 * SAMPLING_SECONDS)
    grown = (memory.result.process_bytes - before) / MEGABYTE
    assert 150 < grown < 400


def test_a_stage_does_not_inherit_the_peak_of_the_one_before():
    if not reset_high_water():
        pytest.skip("this system does not let a process set its high-water mark back")
    with PeakMemory() as large:
        allocate(300)
    with PeakMemory() as small:
        allocate(1)
    assert not small.result.is_sampled
    assert small.result.process_bytes < large.result.process_bytes - 200 * MEGABYTE


@pytest.mark.parametrize("use_high_water", [True, False])
def test_an_inner_block_does_not_hide_the_peak_of_the_outer_one(use_high_water):
    with PeakMemory(use_high_water) as outer:
        allocate(200, hold_seconds=5 * SAMPLING_SECONDS)
        with PeakMemory() as inner:
            allocate(1)
    assert outer.result.process_bytes > inner.result.process_bytes + 100 * MEGABYTE


def test_the_peak_of_an_inner_block_is_part_of_the_outer_one():
    with PeakMemory() as outer, PeakMemory() as inner:
        allocate(100)
    assert outer.result.process_bytes >= inner.result.process_bytes


@pytest.mark.parametrize("use_high_water", [True, False])
def test_what_is_set_aside_does_not_count_and_what_comes_after_does(use_high_water):
    with PeakMemory(use_high_water) as memory:
        before = memory.peak_so_far().process_bytes
        with memory.set_aside(), PeakMemory(use_high_water) as inner:
            allocate(300, hold_seconds=5 * SAMPLING_SECONDS)
        without = memory.peak_so_far().process_bytes
        allocate(150, hold_seconds=5 * SAMPLING_SECONDS)
    assert inner.result.process_bytes - before > 250 * MEGABYTE
    assert without - before < 100 * MEGABYTE
    assert 100 * MEGABYTE < memory.result.process_bytes - before < 250 * MEGABYTE


def test_the_peak_so_far_never_falls():
    with PeakMemory() as memory:
        peaks = [memory.peak_so_far().process_bytes]
        for megabytes in (50, 1, 120, 1):
            allocate(megabytes)
            peaks.append(memory.peak_so_far().process_bytes)
    assert peaks == sorted(peaks)
    assert memory.result.process_bytes >= peaks[-1]


def test_without_cuda_there_is_no_peak_of_a_gpu():
    with PeakMemory() as memory:
        allocate(1)
    assert (memory.result.gpu_bytes is None) == (not torch.cuda.is_initialized())
