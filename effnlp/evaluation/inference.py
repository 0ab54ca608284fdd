"""What a model costs to use: FLOPs for each example, and quiet latency, memory and energy on request.

Source: the scenarios follow MLPerf Inference, Reddi et al. (2020), https://arxiv.org/abs/1911.02549; unlike
there, FLOPs, memory and energy are measured too.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.evaluation.energy import EnergyMeter
from effnlp.evaluation.flops import FlopCount, count_flops
from effnlp.evaluation.latency import measure_latency, pinned_threads
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.memory import PeakMemory
from effnlp.evaluation.quiet import QuietLock

log = logging.getLogger(__name__)

LATENCY_KEYS = (
    "latency_seconds_p50",
    "latency_seconds_p95",
    "latency_seconds_p99",
    "examples_per_second",
    "peak_memory_bytes",
    "energy_joules",
)

NOT_ASKED = "latency was not asked for"


def depends_on_data(model: nn.Module) -> bool:
    """Whether the FLOPs of a batch depend on more than its shape (attribute ``data_dependent_compute``)."""
    return any(getattr(module, "data_dependent_compute", False) for module in model.modules())


def batches_of(count: int, batch_size: int) -> list[range]:
    """The texts 0 … count - 1 in their order, ``batch_size`` at a time; the last batch may be smaller."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def spread(count: int, wanted: int) -> list[int]:
    """``min(count, wanted)`` different indices below ``count``, evenly spread, the same ones each time."""
    if wanted < 1:
        raise ValueError(f"the number wanted must be at least 1, got {wanted}")
    return [index * count // min(count, wanted) for index in range(min(count, wanted))]


def example_flops(
    model: nn.Module, encodings: Encodings, batch_size: int, sample: int = 256
) -> tuple[float | None, str | None]:
    """Mean FLOPs of an example when the whole split is read in batches, and why it is None if it is.

    A forward pass is counted once for each length and weighted by how many texts are padded to it. Where
    FLOPs depend on the data, batches with about ``sample`` examples, evenly spread, are counted one by one.
    """
    if len(encodings) == 0:
        raise ValueError("there are no texts to count FLOPs on")
    batches = batches_of(len(encodings), batch_size)
    with evaluating(model):
        if depends_on_data(model):
            batches = [batches[index] for index in spread(len(batches), max(1, sample // batch_size))]
            counts = [(_count(model, encodings.batch(rows)), 1) for rows in batches]
        else:
            counts = _count_shapes(model, encodings, batches)
    total = sum((count.times(repeats) for count, repeats in counts), FlopCount())
    if total.flops is None:
        return None, total.reason
    return total.flops / sum(len(rows) for rows in batches), None


def _count_shapes(
    model: nn.Module, encodings: Encodings, batches: Sequence[range]
) -> list[tuple[FlopCount, int]]:
    """Counts that together are those of all batches, each with how often it occurs.

    Where a batch costs as much as its texts one by one at its padded length (tried on the cheapest of the
    largest batches), one text stands for each length; else one batch for each shape.
    """
    lengths = encodings.lengths
    shapes = [(len(rows), int(lengths[rows.start : rows.stop].max())) for rows in batches]
    first = dict(zip(reversed(shapes), reversed(batches), strict=True))  # the first batch of each shape
    largest = max(size for size, _ in first)
    size, length = min(shape for shape in first if shape[0] == largest)
    whole = _count(model, encodings.batch(first[size, length]))
    one = _count_one(model, encodings, first[size, length])
    if whole.flops != one.times(size).flops:
        return [
            (_count(model, encodings.batch(first[shape])), repeats)
            for shape, repeats in Counter(shapes).items()
        ]
    texts: Counter[int] = Counter()
    for size, length in shapes:
        texts[length] += size
    by_length = {length: rows for (_, length), rows in first.items()}
    return [(_count_one(model, encodings, by_length[length]), repeats) for length, repeats in texts.items()]


def _count_one(model: nn.Module, encodings: Encodings, rows: range) -> FlopCount:
    """The count of the longest text of a batch, alone."""
    return _count(model, encodings.batch([max(rows, key=lambda row: encodings.lengths[row])]))


def _count(model: nn.Module, batch: Batch) -> FlopCount:
    moved = on_device(model, batch)
    with torch.inference_mode():
        return count_flops(lambda: model(moved))


def measure_inference(
    model: nn.Module,
    encodings: Encodings,
    *,
    batch_size: int,
    requests: int,
    warmup: int,
    repeats: int,
    threads: int | None = 1,
    budget_seconds: float | None = None,
    flops_sample: int = 256,
    latency: bool = True,
    quiet: QuietLock | None = None,
    quiet_timeout_seconds: float = 600.0,
    energy: EnergyMeter | None = None,
) -> Measured:
    """FLOPs of an example and, if ``latency``, what using the model takes on this machine now.

    Args:
        model: From a batch to logits. It is run in evaluation mode and gets its mode back.
        encodings: The texts of the whole split.
        batch_size: Examples in a request.
        requests: How many requests are timed, evenly spread over the split; some again if it has fewer.
        warmup: Requests before the clock counts.
        repeats: How often they are timed; the median counts.
        threads: Threads to compute with; None: one for each core that the process may use.
        budget_seconds: Stop timing after this long; what was timed until then counts.
        flops_sample: Examples counted where FLOPs depend on the data.
        latency: Whether to measure anything but FLOPs: that takes the quiet lock and time.
        quiet: The lock; without it the figures are taken beside whatever else runs, and say so.
        quiet_timeout_seconds: How long to wait for the others.
        energy: The meter of the machine; without it energy is absent.

    Returns:
        ``flops``, ``energy_joules`` (each of an example, mean), ``latency_seconds_p50|p95|p99`` (of a
        request), ``examples_per_second``, ``peak_memory_bytes`` (of the process), ``is_quiet`` (1 or 0).
    """
    flops, reason = example_flops(model, encodings, batch_size, flops_sample)
    counted = Measured.of({"flops": flops}, {"flops": reason or ""})
    if not latency:
        return Measured(counted.values, {**counted.absent, **dict.fromkeys(LATENCY_KEYS, NOT_ASKED)})
    timed = _timed_requests(encodings, batch_size, requests)
    lock = quiet.quiet(quiet_timeout_seconds) if quiet is not None else _beside_others()
    with lock as silence, pinned_threads(threads), evaluating(model):
        batches = [on_device(model, encodings.batch(rows)) for rows in timed]
        is_alone = silence is not None and silence.is_alone
        values = _measure(model, batches, warmup, repeats, budget_seconds, energy)
    return Measured(
        {**counted.values, **values.values, "is_quiet": float(is_alone)},
        {**counted.absent, **values.absent},
    )


def _measure(
    model: nn.Module,
    batches: Sequence[Batch],
    warmup: int,
    repeats: int,
    budget_seconds: float | None,
    energy: EnergyMeter | None,
) -> Measured:
    """Latency, memory and energy of the requests, warmed up before any of them is read."""

    def size(batch: Batch) -> int:
        return batch["input_ids"].shape[0]

    if warmup:
        measure_latency(model, batches[:1], warmup=warmup, repeats=1)
    with PeakMemory() as memory:
        before = energy.mark() if energy is not None else None
        latency = measure_latency(
            model, batches, warmup=0, repeats=repeats, examples=size, budget_seconds=budget_seconds
        )
        after = energy.mark() if energy is not None else None
    assert memory.result is not None
    quantiles = latency.quantiles()
    reading = energy.between(before, after) if energy and before and after else None
    joules = reading.joules if reading is not None else None
    rest = Measured.of(
        {
            "examples_per_second": latency.examples_per_second,
            "peak_memory_bytes": float(memory.result.process_bytes),
            "energy_joules": None if joules is None else joules / latency.examples_run,
        },
        {"energy_joules": (reading.reason if reading is not None else None) or "no meter of energy"},
    )
    return Measured({**quantiles.values, **rest.values}, {**quantiles.absent, **rest.absent})


def _timed_requests(encodings: Encodings, batch_size: int, requests: int) -> list[range]:
    """Full batches, evenly spread over the split, again from the first on if there are too few.

    Only if the split is smaller than a batch, the one smaller batch that there is.
    """
    batches = batches_of(len(encodings), batch_size)
    full = [rows for rows in batches if len(rows) == batch_size] or batches
    chosen = [full[index] for index in spread(len(full), requests)]
    return list(itertools.islice(itertools.cycle(chosen), requests))


@contextmanager
def _beside_others() -> Iterator[None]:
    log.warning("latency is measured without the quiet lock, beside whatever else runs")
    yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; each of its modules gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def on_device(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Batch:
    """The batch where the model's parameters are."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is None:
        return dict(batch)
    return {name: value.to(tensor.device) for name, value in batch.items()}
