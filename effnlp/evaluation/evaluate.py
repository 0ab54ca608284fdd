"""The evaluation of a deployed model: its quality on a split, on other sets, and what using it costs."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples
from effnlp.evaluation.example_flops import on_device
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.scores import Scores, refuse_language
from effnlp.evaluation.steps import MeterGauge
from effnlp.evaluation.subject import Subject
from effnlp.task.task import Task

SETS = ("robustness", "fairness")
"""Groups below ``evaluation`` whose choices look at a deployed model with texts of their own or in groups."""


def predict(model: nn.Module, examples: Examples, batch_size: int, gauge: MeterGauge) -> Tensor:
    """Logits (N, C) of every example, in their order, on the CPU in float32."""
    logits: Tensor | None = None
    with torch.inference_mode():
        for positions in examples.by_length(batch_size):
            gauge.let_others_measure()
            batch = on_device(model, examples.batch(positions, 8, with_labels=False))
            gauge.start_step(batch, "evaluation")
            answer = model(batch)
            gauge.end_step()
            if logits is None:
                logits = torch.empty(len(examples), answer.shape[1])
            logits[positions] = answer.float().cpu()
    if logits is None:
        raise ValueError("no example to evaluate")
    return logits.clone()


def score(
    logits: Tensor, labels: Tensor, names: Sequence[str], measures: Mapping[str, Mapping[str, Any]]
) -> Scores:
    """What all chosen measures say of ``logits`` (N, C) against ``labels`` (N,); ``names`` are of the classes."""
    scores = Scores({})
    for config in measures.values():
        scores |= instantiate(config, _convert_="all")(logits, labels, names)
    return scores


def refuse_sets(settings: Mapping[str, Any], task: Task) -> None:
    """Ask the chosen evaluations of quality, robustness and fairness, and the scenarios, whether the task allows them.

    It is asked before the training: a module that has something to say has a function ``refuse``
    (:func:`ask_to_refuse`). Robustness and fairness compare classes.

    Raises:
        ValueError: What one of them says, or if the task has no classes and one of them, or a reference, needs some.
    """
    if settings.get("reference"):
        refuse_language("evaluation.reference", task)
    for group in ("quality", *SETS, "scenarios"):
        for name, config in settings[group].items():
            if group in SETS and name != "none":
                refuse_language(f"evaluation/{group}={name}", task)
            if group in SETS and name != "none" and task.is_regression:
                raise ValueError(
                    f"evaluation/{group}={name} compares classes, and the labels of task {task.name} are "
                    f"numbers: give 'evaluation/{group}=[none]'"
                )
            ask_to_refuse(config, task)


def ask_to_refuse(config: Mapping[str, Any], task: Task) -> None:
    """Call the function ``refuse`` of the module that a config names, if it has one, with the task and all keys.

    Raises:
        ValueError: What it says.
    """
    module = importlib.import_module(str(config["_target_"]).rpartition(".")[0])
    keys = {key: value for key, value in config.items() if not key.startswith("_")}
    if hasattr(module, "refuse"):
        module.refuse(task, **keys)


def evaluate_sets(subject: Subject, settings: Mapping[str, Any]) -> Measured:
    """All chosen robustness and fairness evaluations, and what each of them cost.

    Returns:
        ``robustness/…`` and ``fairness/…``; ``evaluation/<group>/<choice>/{seconds,flops,energy_joules}``.

    Raises:
        ValueError: If two choices give the same key.
    """
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for group in SETS:
        for name, config in settings[group].items():
            with subject.priced() as price:
                found: Measured = instantiate(config, _convert_="all")(subject)
            if name == "none":
                continue
            for part in (found.under(group), price.measured().under(f"evaluation/{group}/{name}")):
                if twice := sorted(part.values.keys() & values.keys()):
                    raise ValueError(f"evaluation/{group}={name} gives {twice[0]}, which another choice gave")
                values |= part.values
                absent |= part.absent
    return Measured(values, absent)


def evaluate_scenarios(
    model: nn.Module, encodings: Encodings, scenarios: Mapping[str, Mapping[str, Any]]
) -> Measured:
    """What follows from model and texts alone in all chosen scenarios: FLOPs and padding, ``infer/<scenario>/…``.

    The rest is absent until :func:`~effnlp.evaluation.isolated.measure_use` measures it.
    """
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name, config in scenarios.items():
        scenario = instantiate(config, _convert_="all")
        found: Measured = scenario(model, encodings, latency=False)
        placed = found.under(f"infer/{name}")
        values |= placed.values
        absent |= placed.absent
    return Measured(values, absent)
