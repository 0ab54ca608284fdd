"""What the models are like that a method could have left in place of the one that is deployed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from effnlp.attempt import Attempt
from effnlp.data.prepare import Prepared
from effnlp.evaluation.evaluate import predict, score
from effnlp.evaluation.example_flops import example_flops
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.stage import gauge_of
from effnlp.evaluation.subject import priced
from effnlp.model.classifier import count_params
from effnlp.record import HEADLINES


def evaluate_variants(
    variants: Iterable[tuple[str, nn.Module]], data: Prepared, config: Mapping[str, Any], attempt: Attempt
) -> Measured:
    """The headline of each on the validation texts, its FLOPs for a text by itself, and its parameters.

    The stage ``evaluation`` is open; making the variants is charged to it, too.

    Args:
        variants: Pairs of a name, which begins with that of the method's slot, and a model.

    Returns:
        ``<name>/{accuracy,flops,params}``; ``evaluation/<slot>/{seconds,flops,energy_joules}``, where there are some.
    """
    validation, settings = data.examples["validation"], config["evaluation"]
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    slot = ""
    with priced(attempt.meter) as price:
        for name, variant in variants:
            slot = name.partition("/")[0]
            model = variant.to(attempt.hardware.torch_device()).eval()
            logits = predict(model, validation, settings["batch_size"], gauge_of(model, attempt))
            found = score(logits, torch.tensor(validation.labels), data.task.labels, settings["quality"])
            values |= {f"{name}/{key}": v for key, v in found.values.items() if f"val/{key}" in HEADLINES}
            flops, why = example_flops(model, validation.encodings, 1)
            values |= {f"{name}/flops": flops, f"{name}/params": count_params(model)}
            reasons[f"{name}/flops"] = why or ""
    if not values:
        return Measured()
    cost = price.measured().under(f"evaluation/{slot}")
    of_models = Measured.of(values, reasons)
    return Measured({**of_models.values, **cost.values}, {**of_models.absent, **cost.absent})
