"""Candidates that train in processes of their own and take turns of a few steps."""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

BATCH_SIZE, TOKENS, CLASSES = 32, 64, 6

Build = Callable[..., Any]
"""Makes a classifier that is ready to be trained, from the settings of a candidate."""


def trained(
    parent: Connection, build: Build, settings: Mapping[str, Any], steps: int, batch_size: int
) -> None:
    """A process: make the model, train it when it is told to, and say in the end what it took."""
    import torch
    from torch.nn.functional import cross_entropy

    from effnlp.evaluation.memory import high_water_bytes, reset_high_water
    from effnlp.model.delta import delta_bytes

    torch.set_num_threads(1)
    torch.manual_seed(0)
    build(**settings)  # files are in the cache of the system, packages are imported
    reset_high_water()
    before = high_water_bytes()
    start = time.perf_counter()
    model, settle, rows = build(**settings)
    build_seconds = time.perf_counter() - start
    model.train()
    batch = {
        "input_ids": torch.randint(5, rows, (batch_size, TOKENS)),
        "attention_mask": torch.ones(batch_size, TOKENS, dtype=torch.int64),
    }
    labels = torch.randint(0, CLASSES, (batch_size,))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, fused=True)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while parent.recv():
            seconds = []
            for _ in range(steps):
                start = time.perf_counter()
                optimizer.zero_grad()
                cross_entropy(model(batch), labels).backward()
                torch.nn.utils.clip_grad_norm_(trainable, 1.0)
                optimizer.step()
                seconds.append(time.perf_counter() - start)
            parent.send(seconds)
        peak = high_water_bytes()
        state = [t for one in optimizer.state.values() for t in one.values() if torch.is_tensor(t)]
        names = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        count = sum(parameter.numel() for parameter in trainable)
        parent.send(
            {
                "build_seconds": build_seconds,
                "peak_memory_bytes": peak - before if peak is not None and before is not None else None,
                "trainable_params": count,
                "optimizer_bytes": sum(t.numel() * t.element_size() for t in state),
                "delta_bytes": int(delta_bytes(settle(model), names)["model/delta_bytes"]),
            }
        )


@contextmanager
def started(build: Build, settings: Mapping[str, Any], steps: int, batch_size: int) -> Iterator[Connection]:
    """The end of the pipe to one candidate."""
    spawn = multiprocessing.get_context("spawn")
    end, theirs = spawn.Pipe()
    process = spawn.Process(target=trained, args=(theirs, build, settings, steps, batch_size), daemon=True)
    process.start()
    theirs.close()  # so that the end of a process that dies is seen here
    try:
        yield end
    finally:
        end.close()
        process.join()


def in_turns(
    build: Build,
    candidates: Mapping[str, Mapping[str, Any]],
    turns: int,
    steps: int,
    batch_size: int = BATCH_SIZE,
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """For each candidate the median seconds of a step in each turn, and what it said in the end.

    The first turn, and the first step of each, warm up and are not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    said: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        ends = {
            name: stack.enter_context(started(build, settings, steps, batch_size))
            for name, settings in candidates.items()
        }
        for turn in range(turns):
            for name, end in ends.items():
                try:
                    end.send(True)
                    seconds = end.recv()
                except (EOFError, BrokenPipeError):
                    raise RuntimeError(f"{name} has ended in turn {turn}; see above") from None
                if turn > 0:
                    found[name].append(statistics.median(seconds[1:]))
        for name, end in ends.items():
            end.send(False)
            said[name] = end.recv()
    return found, said
