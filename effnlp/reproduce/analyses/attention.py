"""What mixing tokens costs as texts grow: operations, memory and time of a training step of one mixer.

Softmax attention is there twice: with its matrix of weights written out, and by torch's fused kernel, which never
holds the matrix. Both have the same parameters and give the same outputs.

Source: Tay et al. (2021), https://arxiv.org/abs/2011.04006; Choromanski et al. (2021),
https://arxiv.org/abs/2009.14794; Dao et al. (2022), https://arxiv.org/abs/2205.14135

Legend: B batch, T tokens, D width, H heads, E width of a head.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effnlp.evaluation.flops import count_flops
from effnlp.evaluation.latency import pinned_threads, synchronize
from effnlp.model.heads import merge_heads, split_heads
from effnlp.model.mixer.attention import Attention
from effnlp.reproduce.cells import Table

EXPLICIT, FUSED = "explicit softmax", "fused softmax"
OPERATIONS, MEMORY, SECONDS = "operations", "peak memory", "time"
SPEED, SHARE, DIFFERENCE = "speed-up", "share of memory", "difference"


class ExplicitAttention(nn.Module):
    """The attention of the library with its weights written out: softmax(Q Kᵀ / √E) V, a T x T matrix a head.

    Args:
        attention: Whose projections it uses.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` (B, T, D) and ``mask`` (B, T), 1 for tokens, to (B, T, D)."""
        of = self.attention
        queries, keys, values = (
            split_heads(project(hidden), of.heads) for project in (of.query, of.key, of.value)
        )  # (B, H, T, E) each
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])  # (B, H, T, T)
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], -math.inf)
        mixed: Tensor = of.output(merge_heads(scores.softmax(-1) @ values))  # (B, T, D)
        return mixed


@dataclass(frozen=True)
class Work:
    """A mixer and the texts it mixes.

    Attributes:
        hidden: (B, T, D), leaf of the gradients.
        mask: (B, T), 1 for tokens.
    """

    mixer: nn.Module
    hidden: Tensor
    mask: Tensor

    def forward(self) -> Tensor:
        """(B, T, D), without gradients."""
        with torch.inference_mode():
            mixed: Tensor = self.mixer(self.hidden, self.mask)
        return mixed

    def step(self) -> None:
        """Forward and backward, after which no gradient is left."""
        self.mixer(self.hidden, self.mask).sum().backward()
        self.mixer.zero_grad(set_to_none=True)
        self.hidden.grad = None


def cost(
    mixers: Sequence[str] = ("attention", "performer"),
    tokens: Sequence[int] = (256, 512, 1024, 2048, 4096),
    width: int = 128,
    heads: int = 2,
    batch: int = 1,
    repeats: int = 5,
    steps: int = 3,
    threads: int | None = 1,
    device: str = "cpu",
    first_seed: int = 0,
) -> Table:
    """The cost of each mixer at each length.

    Every repeat draws weights and texts anew and goes through all mixers and lengths once, so that a slow minute of
    the machine meets all of them.

    Args:
        mixers: Choices of ``model/mixer``; ``attention`` stands for both ways to compute it.
        tokens: T, the lengths of the texts.
        repeats: Each is a value of the timed columns; operations and memory are of the first.
        steps: Timed in each repeat; the median counts.
        threads: Of the processor; None: all.

    Returns:
        Row (``fused softmax, 1024``) to column to values: ``operations`` of a forward pass in GFLOP; ``peak memory``
        that a training step allocates beyond weights and inputs, in MB; ``time`` of a training step in ms; the
        last two against explicit softmax at the same length (``share of memory``, ``speed-up``); ``difference``,
        the greatest between outputs of fused and explicit softmax, over the greatest output.

    Raises:
        ValueError: If a number is below 1, or the mixers lack ``attention``.
    """
    if "attention" not in mixers:
        raise ValueError(f"mixers must have attention, which others are held against, got {list(mixers)}")
    if min(repeats, steps, *tokens) < 1:
        raise ValueError(
            f"repeats, steps and tokens must be at least 1, got {repeats}, {steps}, {list(tokens)}"
        )
    found: dict[str, dict[str, float | dict[str, float]]] = {}
    seconds: dict[tuple[str, int], dict[str, float]] = {}
    with pinned_threads(threads):
        for seed in range(first_seed, first_seed + repeats):
            for length in tokens:
                works = make_works(mixers, length, width, heads, batch, device, seed)
                for name, work in works.items():
                    seconds.setdefault((name, length), {})[str(seed)] = step_seconds(work, steps)
                if seed == first_seed:
                    for name, figures in counted(works).items():
                        found[f"{name}, {length}"] = dict(figures)
    for (name, length), by_seed in seconds.items():
        explicit = seconds[EXPLICIT, length]
        row = found[f"{name}, {length}"]
        row[SECONDS] = {seed: 1e3 * value for seed, value in by_seed.items()}
        if name != EXPLICIT:
            row[SPEED] = {seed: explicit[seed] / value for seed, value in by_seed.items()}
    return found


def make_works(
    mixers: Sequence[str], length: int, width: int, heads: int, batch: int, device: str, seed: int
) -> dict[str, Work]:
    """Row name to the work of a mixer; all have the same texts, and both kinds of softmax the same weights."""
    torch.manual_seed(seed)
    hidden = torch.randn(batch, length, width).to(device).requires_grad_()
    mask = torch.ones(batch, length, device=device)
    made: dict[str, Work] = {}
    for name in mixers:
        mixer = _mixer(name, width, heads).to(device).eval()
        if isinstance(mixer, Attention):
            made[EXPLICIT] = Work(ExplicitAttention(mixer), hidden, mask)
            made[FUSED] = Work(mixer, hidden, mask)
        else:
            made[name] = Work(mixer, hidden, mask)
    return made


def _mixer(name: str, width: int, heads: int) -> nn.Module:
    """A choice of ``model/mixer`` with its own defaults."""
    from hydra.utils import get_method
    from omegaconf import OmegaConf

    from effnlp.menu import conf_dir

    config = OmegaConf.load(conf_dir() / "model" / "mixer" / f"{name}.yaml")
    settings = {str(key): value for key, value in config.items() if str(key)[0] != "_"}
    mixer: nn.Module = get_method(str(config._target_))(width=width, heads=heads, **settings)
    return mixer


def counted(works: Mapping[str, Work]) -> dict[str, dict[str, float]]:
    """What does not vary: operations, peak memory, its share of explicit softmax's, and differences of outputs."""
    peaks = {name: peak_bytes(work.step, work.hidden.device) for name, work in works.items()}
    found: dict[str, dict[str, float]] = {}
    for name, work in works.items():
        counts = count_flops(work.forward)
        if counts.flops is None:
            raise ValueError(f"the operations of {name} cannot be counted: {counts.reason}")
        found[name] = {OPERATIONS: counts.flops / 1e9, MEMORY: peaks[name] / 1e6}
        if name != EXPLICIT:
            found[name][SHARE] = peaks[name] / peaks[EXPLICIT]
    if FUSED in works:
        explicit = works[EXPLICIT].forward()
        difference = (works[FUSED].forward() - explicit).abs().max() / explicit.abs().max()
        found[FUSED][DIFFERENCE] = float(difference)
    return found


def step_seconds(work: Work, steps: int) -> float:
    """The median of so many steps, after one that warms up."""
    work.step()
    taken = []
    for _ in range(steps):
        synchronize()
        start = time.perf_counter()
        work.step()
        synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


# Memory, as the allocator sees it


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that torch's allocator held during some work beyond what it held before, scratch of kernels included.

    It is done once before, so that what is made once and kept does not count.
    """
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return highest(allocations(work))


def highest(changes: Sequence[int]) -> int:
    """The greatest sum of the first so many changes, 0 if none is above it."""
    held = most = 0
    for change in changes:
        held += change
        most = max(most, held)
    return most


def allocations(work: Callable[[], object]) -> list[int]:
    """Bytes that torch allocated (above 0) and freed (below 0) on the processor during some work, in their order."""
    from torch.autograd.profiler import profile

    with _native_stderr_closed(), profile(profile_memory=True) as profiler:
        work()
    assert profiler.kineto_results is not None
    found = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """The profiler of torch writes that it starts and stops, past Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
