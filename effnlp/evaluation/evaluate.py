"""The evaluation of a deployed model: its quality on a split, and what using it costs."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples
from effnlp.evaluation.inference import on_device
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.meter import Meter
from effnlp.evaluation.quiet import QuietLock
from effnlp.evaluation.steps import MeterGauge


def predict(model: nn.Module, examples: Examples, batch_size: int, gauge: MeterGauge) -> Tensor:
    """Logits (N, C) of every example, in their order, on the CPU in float32."""
    logits: Tensor | None = None
    with torch.inference_mode():
        for positions in examples.by_length(batch_size):
            gauge.let_others_measure()
            batch = on_device(model, examples.encodings.batch(positions, pad_to_multiple=8))
            gauge.start_step(batch, "evaluation")
            answer = model(batch)
            gauge.end_step()
            if logits is None:
                logits = torch.empty(len(examples), answer.shape[1])
            logits[positions] = answer.float().cpu()
    if logits is None:
        raise ValueError("no example to evaluate")
    return logits.clone()


def evaluate_quality(
    model: nn.Module,
    examples: Examples,
    measures: Mapping[str, Mapping[str, Any]],
    batch_size: int,
    gauge: MeterGauge,
) -> dict[str, float]:
    """The scores of all chosen measures (``evaluation/quality``) on one split."""
    logits = predict(model, examples, batch_size, gauge)
    labels = torch.tensor(examples.labels)
    scores: dict[str, float] = {}
    for config in measures.values():
        scores |= instantiate(config, _convert_="all")(logits, labels)
    return scores


def evaluate_scenarios(
    model: nn.Module,
    encodings: Encodings,
    scenarios: Mapping[str, Mapping[str, Any]],
    quiet: QuietLock,
    meter: Meter,
    latency: bool,
) -> Measured:
    """The figures of all chosen scenarios (``evaluation/scenarios``), as ``infer/<scenario>/…``."""
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name, config in scenarios.items():
        scenario = instantiate(config, _convert_="all")
        wanted = latency and bool(config.get("latency", True))
        found: Measured = scenario(model, encodings, latency=wanted, quiet=quiet, energy=meter.energy)
        placed = found.under(f"infer/{name}")
        values |= placed.values
        absent |= placed.absent
    return Measured(values, absent)
