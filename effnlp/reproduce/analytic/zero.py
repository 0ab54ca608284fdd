"""ZeRO: what weights, gradients and optimizer states take on each of N workers, by stage.

Source: Rajbhandari et al. (2020), https://arxiv.org/abs/1910.02054, sections 3.1, 5 and 7

Legend: Ψ parameters, N workers (N_d in the paper), K bytes of optimizer state for each parameter.
"""

from collections.abc import Sequence

HALF_BYTES = 2
"""Of a weight, and of its gradient, in 16 bits."""

ADAM_BYTES = 12
"""K of mixed-precision Adam: a copy of the weight, the momentum and the variance, in 32 bits each."""

STAGES = {"baseline": 0, "Pos": 1, "Pos+g": 2, "Pos+g+p": 3}
"""What is divided among the workers: nothing; optimizer states; gradients too; weights too."""

GIGA = 1e9


def state_bytes(parameters: float, workers: int, stage: int, optimizer_bytes: float = ADAM_BYTES) -> float:
    """Bytes on each worker: 2Ψ + 2Ψ + KΨ, of which each part that the stage divides counts 1/N.

    Activations, buffers and fragments are not in it.

    Args:
        parameters: Ψ.
        workers: N, at least 1.
        stage: 0 … 3, the values of :data:`STAGES`.
        optimizer_bytes: K.

    Raises:
        ValueError: If ``workers`` or ``stage`` is outside its range.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if stage not in STAGES.values():
        raise ValueError(f"stage must be one of {', '.join(map(str, STAGES.values()))}, got {stage}")
    parts = (optimizer_bytes, HALF_BYTES, HALF_BYTES)  # in the order in which stages divide them
    return parameters * sum(part / workers if stage > i else part for i, part in enumerate(parts))


def communicated(stage: int) -> int:
    """Numbers that a worker sends in a step, as a multiple of Ψ, for many workers (section 7).

    Averaging gradients is a reduce-scatter and an all-gather, of Ψ each. With divided weights these are gathered once
    for the forward and once for the backward pass, and gradients are only scattered.
    """
    return 3 if stage == STAGES["Pos+g+p"] else 2


def largest_model(
    memory_bytes: float, workers: int, stage: int, optimizer_bytes: float = ADAM_BYTES
) -> float:
    """Parameters whose states just fit into ``memory_bytes`` on each worker."""
    return memory_bytes / state_bytes(1.0, workers, stage, optimizer_bytes)


def table(parameters: float, workers: Sequence[int], memory_bytes: float) -> dict[str, dict[str, float]]:
    """By stage: gigabytes on each worker, billions of parameters that fit into ``memory_bytes``, communication.

    Args:
        parameters: Ψ of the model whose states are counted.
        workers: Numbers of workers; the column of 64 is ``N=64``, that of what fits is for the last one.
        memory_bytes: Of each worker.
    """
    cells = {}
    for row, stage in STAGES.items():
        cells[row] = {f"N={n}": state_bytes(parameters, n, stage) / GIGA for n in workers}
        cells[row]["largest model"] = largest_model(memory_bytes, workers[-1], stage) / GIGA
        cells[row]["communication"] = communicated(stage)
    return cells
