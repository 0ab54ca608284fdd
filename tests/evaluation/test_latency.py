import numpy as np
import pytest
import torch

from effnlp.evaluation.latency import (
    Latency,
    available_cores,
    fastest_turns,
    measure_latency,
    pinned_threads,
    quantiles,
)


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


def test_each_request_has_the_median_of_its_repeats(clock):
    durations = {"a": [1, 9, 2], "b": [50, 40, 30]}
    calls = dict.fromkeys(durations, 0)

    def call(request):
        clock.now += durations[request][calls[request]]
        calls[request] += 1

    latency = measure_latency(call, ["a", "b"], warmup=0, repeats=3, clock=clock)
    assert latency.seconds.tolist() == [2, 40]
    assert latency.examples_per_second == pytest.approx(2 / 42)


def test_warming_up_is_not_timed(clock):
    seen = []

    def call(request):
        clock.now += 1000 if len(seen) < 5 else 1
        seen.append(request)

    latency = measure_latency(call, [0, 1, 2], warmup=5, repeats=2, clock=clock)
    assert latency.seconds.tolist() == [1, 1, 1]
    assert seen == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2]


def test_after_each_whole_pass_and_untimed_somebody_is_told(clock):
    seen = []

    def call(request):
        clock.now += 1

    def told():
        seen.append(clock.now)
        clock.now += 100

    whole = measure_latency(call, [0, 1, 2], warmup=4, repeats=3, clock=clock, after_pass=told)
    assert seen == [4 + 3, 107 + 3, 210 + 3]
    assert whole.seconds.tolist() == [1, 1, 1]
    assert whole.passes == 3
    cut = measure_latency(call, range(9), repeats=2, clock=clock, budget_seconds=7, after_pass=told)
    assert (cut.passes, len(seen)) == (0, 3)


def test_calls_take_turns_and_the_fastest_that_is_no_warm_up_counts(clock):
    durations, seen = {"a": iter([1, 9, 5, 6]), "b": iter([2, 40, 30, 50])}, []

    def call(name):
        assert not torch.is_grad_enabled()
        clock.now += next(durations[name])
        seen.append(name)

    assert fastest_turns([lambda: call("a"), lambda: call("b")], turns=3, warmup=1, clock=clock) == [5, 30]
    assert seen == ["a", "b"] * 4


def test_throughput_counts_examples_not_requests(clock):
    def call(request):
        clock.now += 2

    latency = measure_latency(call, [10, 30], warmup=0, repeats=1, examples=lambda n: n, clock=clock)
    assert latency.examples_per_second == pytest.approx(10)


def test_the_budget_ends_the_timing_but_not_before_a_few_requests(clock):
    def call(request):
        clock.now += request

    cut = measure_latency(call, [1.0] * 10, warmup=0, repeats=3, budget_seconds=14, clock=clock)
    assert (len(cut.seconds), cut.examples_run) == (10, 14)
    fewer = measure_latency(call, [1.0] * 10, warmup=0, repeats=3, budget_seconds=7, clock=clock)
    assert (len(fewer.seconds), len(fewer.examples), fewer.examples_run) == (7, 7, 7)
    fewest = measure_latency(call, [50.0] * 10, warmup=0, repeats=3, budget_seconds=1, clock=clock)
    assert fewest.seconds.tolist() == [50] * 5
    whole = measure_latency(call, [1.0] * 10, warmup=0, repeats=3, budget_seconds=1e9, clock=clock)
    assert whole.examples_run == 30
    with pytest.raises(ValueError, match="budget_seconds must be positive, got 0"):
        measure_latency(call, [1.0], budget_seconds=0)


def test_requests_run_without_gradients():
    seen = []
    measure_latency(lambda _: seen.append(torch.is_inference_mode_enabled()), [0], warmup=1, repeats=1)
    assert seen == [True, True]


def test_quantiles_of_several_days_are_the_means_of_each_day():
    days = np.array([np.arange(100.0), 10 + np.arange(100.0)])
    assert quantiles(days, 100).values["latency_seconds_p50"] == pytest.approx(49.5 + 5)
    assert "latency_seconds_p95" in quantiles(days, 10).absent


def test_a_quantile_beyond_the_number_of_requests_is_absent_with_its_reason():
    measured = Latency(np.arange(50.0), np.ones(50), 50).quantiles()
    assert measured.values == {"latency_seconds_p50": 24.5, "latency_seconds_p95": pytest.approx(46.55)}
    assert measured.absent == {"latency_seconds_p99": "50 requests were timed, a p99 needs 100"}
    assert not Latency(np.arange(100.0), np.ones(100), 100).quantiles().absent


def test_threads_are_pinned_inside_and_as_before_outside():
    before = torch.get_num_threads()
    for threads in (1, 2):
        with pinned_threads(threads):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == before
    with pinned_threads(None) as threads:
        assert threads == torch.get_num_threads() == available_cores()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"requests": []}, "no request to time"),
        ({"requests": [0], "repeats": 0}, "repeats at least 1"),
        ({"requests": [0], "warmup": -1}, "warmup must be at least 0"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_latency(lambda _: None, **arguments)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"), pinned_threads(0):
        pass
