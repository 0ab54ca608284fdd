"""Continue texts: greedily, by lot, or by beams.

Legend: B texts, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effnlp.generation.beams import beam_search
from effnlp.generation.choosing import distribution, draw, uniforms
from effnlp.generation.reader import Ids, Reader, check_fits, check_generates
from effnlp.generation.settings import Settings


@dataclass(frozen=True)
class Continuation:
    """What follows a text.

    Attributes:
        ids: New tokens, without the one that ends the text.
        log_probability: Of these and, where there is one, the end, as the model has it: in nats, without temperature.
        has_ended: Whether the model ended the text, and not the limit.
    """

    ids: tuple[int, ...]
    log_probability: float
    has_ended: bool


def generate(
    model: Any, prompts: Sequence[Ids], settings: Settings, ends: Collection[int] = (), first: int = 0
) -> list[Continuation]:
    """Continue each text; what follows one does not depend on the others.

    Args:
        model: A language model in evaluation mode.
        prompts: Ids of each text.
        ends: Tokens that end a text.
        first: Number of the first text, by which its draws are its own.

    Raises:
        ValueError: If the model continues no texts, one has no token, or they do not fit with the new tokens.
    """
    check_generates(model)
    check_fits(model, prompts, settings.new_tokens)
    if settings.beams > 1:
        found = beam_search(
            model, prompts, settings.new_tokens, settings.beams, settings.length_penalty, ends
        )
        return [Continuation(*each) for each in found]
    return _one_by_one(model, prompts, settings, frozenset(ends), first)


def _one_by_one(
    model: Any, prompts: Sequence[Ids], settings: Settings, ends: frozenset[int], first: int
) -> list[Continuation]:
    """One token of each text at a time; a text that has ended leaves the batch."""
    lots = torch.stack(
        [uniforms(settings.seed, first + row, settings.new_tokens) for row in range(len(prompts))]
    )
    reader, alive = Reader(model, prompts), list(range(len(prompts)))
    ids: list[list[int]] = [[] for _ in prompts]
    sums, ended = [0.0] * len(prompts), [False] * len(prompts)
    scores = reader.start()
    for step in range(settings.new_tokens):
        tokens = _choose(scores, settings, lots[alive, step])  # (B,)
        taken = scores.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for row, token, nats in zip(alive, tokens.tolist(), taken, strict=True):
            sums[row] += nats
            ended[row] = token in ends
            if not ended[row]:
                ids[row].append(token)
        going = [place for place, row in enumerate(alive) if not ended[row]]
        if not going or step + 1 == settings.new_tokens:
            break
        alive = [alive[place] for place in going]
        reader.select(going)
        scores = reader.step(tokens[going])
    return [Continuation(tuple(i), s, e) for i, s, e in zip(ids, sums, ended, strict=True)]


def _choose(scores: Tensor, settings: Settings, lots: Tensor) -> Tensor:
    """The next token of each text, (B,) int64, from logits (B, V)."""
    if settings.temperature == 0:
        return scores.argmax(-1)
    return draw(
        distribution(scores, settings.temperature, settings.top_k, settings.top_p), lots.to(scores.device)
    )
