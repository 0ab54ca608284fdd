"""Latency: seconds for each request, on a warm device with pinned threads, medians over repeats.

Quiet is the caller's business (:mod:`effnlp.evaluation.quiet`): a busy machine adds 15 to 70 per cent.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from effnlp.evaluation.measured import Measured
from effnlp.hardware.affinity import allowed_cpus, unbound

Request = TypeVar("Request")

FEWEST_REQUESTS = 5

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Latency:
    """Times of R requests.

    Attributes:
        seconds: (R,) for each request the median over the repeats.
        examples: (R,) how many examples each request held.
        examples_run: How many examples were gone through in all, repeats included.
        passes: How many repeats went through all requests, and were not cut short.
    """

    seconds: np.ndarray
    examples: np.ndarray
    examples_run: int
    passes: int = 1

    @property
    def examples_per_second(self) -> float:
        """Throughput of the requests one after another."""
        return float(self.examples.sum() / self.seconds.sum())

    def quantiles(self) -> Measured:
        """``latency_seconds_p50``, ``_p95`` and ``_p99`` over the requests.

        A quantile q is absent where fewer than 1 / (1 - q) requests were timed: it would be the maximum.
        """
        return quantiles(self.seconds, len(self.seconds))


def quantiles(seconds: np.ndarray, timed: int) -> Measured:
    """``latency_seconds_p50``, ``_p95`` and ``_p99`` along the last axis of ``seconds``, mean over the others.

    They follow from ``timed`` requests: too few, and a quantile is absent.
    """
    figures: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, q in QUANTILES.items():
        key, needed = f"latency_seconds_{name}", round(1 / (1 - q))
        figures[key] = float(np.quantile(seconds, q, axis=-1).mean()) if timed >= needed else None
        reasons[key] = f"{timed} requests were timed, a {name} needs {needed}"
    return Measured.of(figures, reasons)


def synchronize() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(allowed_cpus())


@contextmanager
def pinned_threads(threads: int | None) -> Iterator[int]:
    """Compute with ``threads`` threads (None: one for each available core), and as before afterwards.

    A worker of a sweep is bound to its share of the cores; here it has all of them.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    before = torch.get_num_threads()
    with unbound():
        pinned = threads or available_cores()
        torch.set_num_threads(pinned)
        try:
            yield pinned
        finally:
            torch.set_num_threads(before)


def warm_up(call: Callable[[Request], object], requests: Sequence[Request], count: int) -> None:
    """Make ``count`` calls, through the requests from the first on, without gradients."""
    with torch.inference_mode():
        for index in range(count):
            call(requests[index % len(requests)])
    synchronize()


def measure_latency(
    call: Callable[[Request], object],
    requests: Sequence[Request],
    *,
    warmup: int = 5,
    repeats: int = 3,
    examples: Callable[[Request], int] = lambda _: 1,
    budget_seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    after_pass: Callable[[], object] = lambda: None,
) -> Latency:
    """Time each request.

    Args:
        call: What is timed, without gradients; the model in it is in evaluation mode.
        requests: What it is called with, one after another.
        warmup: Calls before the clock counts; they go through the requests from the first on.
        repeats: How often all requests are gone through.
        examples: How many examples a request holds.
        budget_seconds: Start no further request after this long, once ``FEWEST_REQUESTS`` have been timed.
            Requests that were never timed are left out.
        clock: Seconds, never going back.
        after_pass: Called, and not timed, each time all requests were gone through.
    """
    if not requests:
        raise ValueError("there is no request to time")
    if warmup < 0 or repeats < 1:
        raise ValueError(f"warmup must be at least 0 and repeats at least 1, got {warmup} and {repeats}")
    if budget_seconds is not None and budget_seconds <= 0:
        raise ValueError(f"budget_seconds must be positive, got {budget_seconds}")
    times: list[list[float]] = [[] for _ in requests]
    warm_up(call, requests, warmup)
    with torch.inference_mode():
        begin = clock()
        for turn in range(repeats * len(requests)):
            is_over = budget_seconds is not None and clock() - begin >= budget_seconds
            if is_over and turn >= FEWEST_REQUESTS:
                break
            index = turn % len(requests)
            synchronize()
            start = clock()
            call(requests[index])
            synchronize()
            times[index].append(clock() - start)
            if index == len(requests) - 1:
                after_pass()
    sizes = [examples(request) for request in requests]
    return Latency(
        seconds=np.array([np.median(of_request) for of_request in times if of_request]),
        examples=np.array([size for size, of_request in zip(sizes, times, strict=True) if of_request]),
        examples_run=sum(size * len(of_request) for size, of_request in zip(sizes, times, strict=True)),
        passes=len(times[-1]),
    )


def fastest_turns(
    calls: Sequence[Callable[[], object]],
    turns: int,
    warmup: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of the fastest of so many turns of each call, without gradients; the calls take turns.

    What disturbs a machine for a moment disturbs one turn, not one call: for comparisons that take a moment.

    Args:
        calls: What is compared.
        turns: How often each is timed.
        warmup: Turns before the clock counts.
        clock: Seconds, never going back.
    """
    fastest = [float("inf")] * len(calls)
    with torch.inference_mode():
        for turn in range(warmup + turns):
            for place, call in enumerate(calls):
                start = clock()
                call()
                if turn >= warmup:
                    fastest[place] = min(fastest[place], clock() - start)
    return fastest
