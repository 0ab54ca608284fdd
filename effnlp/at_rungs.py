"""A run on its way: shows the search at each rung what the model in training would become."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from effnlp import method
from effnlp.attempt import Attempt
from effnlp.data.encodings import Batch
from effnlp.data.prepare import Prepared
from effnlp.evaluation.stage import measure
from effnlp.finetuning.loop import Training
from effnlp.model.delta import delta_bytes
from effnlp.search.rungs import Rung, Rungs, Verdict


class ToldError(Exception):
    """The search has told the run to stop or to pause at a rung."""

    def __init__(self, rung: Rung, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.rung, self.verdict = rung, verdict


def settled_copy(methods: Sequence[Any], model: nn.Module) -> nn.Module:
    """The model as its methods would leave it now; itself where none of them leaves less than it trains."""
    if not any(hasattr(each, "settle") for each in methods):
        return model
    model, methods = copy.deepcopy((model, list(methods)))
    return method.settle(methods, model)


PREVIEW_BATCHES = 16
"""How many training batches a method may look at in order to say at a rung what a model would become."""


@dataclass
class AtRungs:
    """Shows the search at each rung what the model in training would become.

    Attributes:
        model: The one in training; all that is done is done to copies.
        methods: What finishes it, in order.
        trainable: Names of the parameters that were trained at first.
    """

    rungs: Rungs
    model: nn.Module
    methods: Sequence[Any]
    trainable: frozenset[str]
    data: Prepared
    config: Mapping[str, Any]
    attempt: Attempt
    reported: int = 0

    def look(self, training: Training) -> None:
        """Report the rungs that the training has reached.

        Raises:
            ToldError: If the search says stop or pause.
            DivergedError: If a value is not finite.
        """
        step, steps = training.global_step, training.steps
        due = self.rungs.due(step, steps, after=max(self.reported, self.rungs.known))
        if not due:
            return
        values = self._values(step, steps, training.last_batches(PREVIEW_BATCHES))
        self.attempt.remember_spent()
        cost = dict(self.attempt.meter.as_values().values)
        for index in due:
            rung = Rung(index, self.rungs.levels[index], step, steps, values, cost)
            with self.attempt.meter.paused():
                verdict = self.rungs.report(rung)
            self.reported = index + 1
            self.attempt.tell(rung, verdict)
            if verdict.word != "continue":
                raise ToldError(rung, verdict)

    def _values(self, step: int, steps: int, batches: Iterable[Batch]) -> dict[str, float]:
        """Record keys of what the model would become: quality on validation, FLOPs, sizes, data."""
        attempt = self.attempt
        with torch.random.fork_rng(devices=_devices()):
            with attempt.meter.aside("evaluation", count_flops=True):
                delta = delta_bytes(settled_copy(self.methods, self.model), self.trainable)
                model = method.preview(self.methods, self.model, step, steps, batches)
            with attempt.meter.aside("evaluation"):
                found, _ = measure(model, self.data, self.config, attempt, ["val"], step)
        attempt.record.notes["applied"] = method.applied(model)
        kept = {
            key: value for key, value in attempt.record.values.items() if key.startswith(("data/", "model/"))
        }
        return {key: float(value) for key, value in {**kept, **delta, **found.values}.items()}


def _devices() -> list[int]:
    """The GPUs whose random numbers a look must not use up."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
