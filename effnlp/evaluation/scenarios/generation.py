"""Texts are continued: what reading a prompt costs, and what each token after it does.

Each request is made of prompts of one length and is given a fixed number of new tokens, always the likeliest, whatever
they are. It is measured twice, up to the first new token and to the last; decoding is the difference.

Source: Pope et al. (2023), https://arxiv.org/abs/2211.05102 (prefill and decode apart); the requests follow
Reddi et al. (2020), https://arxiv.org/abs/1911.02549
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch, Encodings
from effnlp.evaluation.energy import Joules
from effnlp.evaluation.example_flops import evaluating
from effnlp.evaluation.inference import LATENCY_KEYS, NOT_ASKED, Timing, measure_requests
from effnlp.evaluation.measured import Measured
from effnlp.evaluation.quiet import QuietLock
from effnlp.evaluation.requests import batches_of, timed_requests
from effnlp.generation.reader import Reader, check_fits, check_generates
from effnlp.task.task import Task

COUNTED = ("flops", "prefill_flops", "decode_flops_per_token", "cache_bytes", "cache_bytes_per_token")
"""What follows from the model and the lengths alone."""

PARTS = {
    "flops": ("prefill_flops", "decode_flops_per_token"),
    "latency_seconds_p50": ("prefill_seconds_p50", "decode_seconds_per_token"),
    "energy_joules": ("prefill_energy_joules", "decode_energy_joules_per_token"),
}
"""Of a whole request to what reading the prompt, and each token after the first new one, take of it."""

TIMED = (
    *LATENCY_KEYS,
    *(key for whole, parts in PARTS.items() if whole != "flops" for key in parts),
    "tokens_per_second",
)


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that there is nothing to continue.

    Raises:
        ValueError: If labels are learned, or texts are pairs.
    """
    if not task.is_language:
        raise ValueError(
            "evaluation/scenarios=generation continues texts, which a model with finetuning=causal_lm alone does: "
            "leave it out"
        )
    if task.is_pair:
        raise ValueError(
            f"evaluation/scenarios=generation continues single texts, and those of {task.name} are pairs: leave it out"
        )


class Continued(nn.Module):
    """Reads prompts of one length and adds tokens; as a model of a batch, so that it is measured as one.

    Args:
        model: A language model.
        new_tokens: How many are added; 1 is what reading the prompt gives.
    """

    def __init__(self, model: nn.Module, new_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.new_tokens = new_tokens

    def forward(self, batch: Batch) -> Tensor:
        """The last new token of each text, (B, 1)."""
        return self.read(batch)[1].unsqueeze(1)

    def read(self, batch: Batch) -> tuple[Reader, Tensor]:
        """The reader with all that it keeps, and the last new token of each text, (B,)."""
        reader = Reader(self.model, batch["input_ids"].tolist())
        token = reader.start().argmax(-1)
        for _ in range(self.new_tokens - 1):
            token = reader.step(token).argmax(-1)
        return reader, token


def prompts_of(encodings: Encodings, tokens: int, count: int) -> Encodings:
    """``count`` prompts of ``tokens`` tokens, cut from the texts laid end to end, over again if too few."""
    ids = np.resize(encodings.ids, tokens * count).reshape(count, tokens)
    return Encodings.from_lists(ids.tolist(), encodings.pad_id)


def generation(
    model: nn.Module,
    encodings: Encodings,
    *,
    prompt_tokens: int = 32,
    new_tokens: int = 32,
    batch_size: int = 1,
    requests: int = 20,
    warmup: int = 2,
    repeats: int = 3,
    threads: int | None = 1,
    budget_seconds: float | None = 20.0,
    flops: bool = True,
    latency: bool = True,
    quiet: QuietLock | None = None,
    quiet_timeout_seconds: float = 600.0,
    energy: Joules | None = None,
) -> Measured:
    """Measure requests of ``batch_size`` prompts that get ``new_tokens`` each.

    Args:
        prompt_tokens: Of each prompt.
        new_tokens: Of each text, at least 2.
        requests, warmup, repeats, threads, budget_seconds, quiet_timeout_seconds: As in
            :func:`~effnlp.evaluation.inference.measure_inference`; the prompt alone and the whole share the budget.

    Returns:
        What that gives of whole requests, an example being a text with its new tokens; ``prefill_…`` up to the first
        new token; ``decode_…_per_token`` of each after it, of one text, seconds those between two tokens of a text;
        ``tokens_per_second``, new tokens of all texts of a request; ``cache_bytes``, what is kept of one text once all
        but its last token are read, and ``cache_bytes_per_token`` of it. All absent, with the reason, where the model
        cannot continue texts of this length.

    Raises:
        ValueError: If there is less than one token to a prompt or less than two new ones.
    """
    if prompt_tokens < 1 or new_tokens < 2:
        raise ValueError(
            f"prompt_tokens must be at least 1 and new_tokens at least 2, got {prompt_tokens} and {new_tokens}"
        )
    prompts = prompts_of(encodings, prompt_tokens, batch_size * requests)
    try:
        check_generates(model)
        check_fits(model, [prompts.ids[:prompt_tokens].tolist()], new_tokens)
    except ValueError as error:
        wanted = [*(COUNTED if flops else ()), *TIMED]
        return Measured({}, dict.fromkeys(wanted, str(error)))
    timing = Timing(
        warmup,
        repeats,
        threads,
        None if budget_seconds is None else budget_seconds / 2,
        quiet_timeout_seconds,
    )
    prefill, whole = (
        measure_requests(
            Continued(model, count),
            prompts,
            batches=batches_of(len(prompts), batch_size),
            timed=timed_requests(len(prompts), batch_size, requests),
            timing=timing,
            flops=flops,
            latency=latency,
            quiet=quiet,
            energy=energy,
        )
        for count in (1, new_tokens)
    )
    found = in_parts(prefill, whole, new_tokens - 1)
    values, absent = {**whole.values, **found.values}, {**whole.absent, **found.absent}
    if flops:
        values |= cache_figures(model, prompts.batch([0]), new_tokens)
    if latency:
        values["is_quiet"] = min(whole.values["is_quiet"], prefill.values["is_quiet"])
        values["tokens_per_second"] = whole.values["examples_per_second"] * new_tokens
    else:
        absent["tokens_per_second"] = NOT_ASKED
    return Measured(values, absent)


def in_parts(prefill: Measured, whole: Measured, steps: int) -> Measured:
    """What the prompt takes, and each of the ``steps`` after the first new token: the rest of the whole."""
    figures: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for key, (of_prompt, of_token) in PARTS.items():
        if key not in {**whole.values, **whole.absent}:
            continue
        first, all_of_it = prefill.values.get(key), whole.values.get(key)
        missing = prefill.absent.get(key) or whole.absent.get(key) or ""
        figures |= {of_prompt: first, of_token: None}
        reasons |= {of_prompt: missing, of_token: missing}
        if first is not None and all_of_it is not None:
            if all_of_it >= first:
                figures[of_token] = (all_of_it - first) / steps
            else:
                reasons[of_token] = "the whole was measured to take less than its beginning: noise"
    return Measured.of(figures, reasons)


def cache_figures(model: nn.Module, batch: Batch, new_tokens: int) -> dict[str, float]:
    """``cache_bytes`` and ``cache_bytes_per_token`` of a batch of one text."""
    with evaluating(model), torch.inference_mode():
        past = Continued(model, new_tokens).read(batch)[0].past
    kept: Sequence[int] = past.lengths
    return {"cache_bytes": float(past.bytes), "cache_bytes_per_token": past.bytes / sum(kept)}
