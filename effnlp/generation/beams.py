"""Beam search: the likeliest of several continuations that are followed at once.

Source: Graves (2012), https://arxiv.org/abs/1211.3711; the length penalty in its plain form, a power of the length,
as compared in Wu et al. (2016), https://arxiv.org/abs/1609.08144

Legend: N texts, b beams of each, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from effnlp.generation.reader import Ids, Reader

Found = tuple[tuple[int, ...], float, bool]
"""New tokens without the end, their log-probability in nats with it, and whether there is one."""


@dataclass
class _Search:
    """What is known of one text.

    Attributes:
        beams: New tokens of each continuation that goes on.
        best: The best one that does not, and its value.
    """

    beams: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    best: Found | None = None
    value: float = float("-inf")

    def offer(self, found: Found, value: float) -> None:
        """Take it if it is better than what there is."""
        if value > self.value:
            self.best, self.value = found, value

    def result(self, number: int) -> Found:
        """The best one of text ``number``."""
        if self.best is None:
            raise ValueError(f"text {number} cannot be continued: the scores of the model are not numbers")
        return self.best


def beam_search(
    model: Any,
    prompts: Sequence[Ids],
    new_tokens: int,
    beams: int,
    length_penalty: float = 0.0,
    ends: Collection[int] = (),
) -> list[Found]:
    """The best continuation of each text that a search with ``beams`` finds.

    At each step all tokens are tried behind all beams. What ends there, and is among the ``beams`` likeliest of all, is
    compared with the best that ended before; of what does not end, the ``beams`` likeliest go on. A text is done when
    no beam can still become better than its best.

    Args:
        new_tokens: At most; what has not ended by then is compared as it is.
        length_penalty: See :class:`~effnlp.generation.settings.Settings`; the end counts as a token.

    Raises:
        ValueError: If the scores of a text are not numbers.
    """
    searches = [_Search() for _ in prompts]
    reader, alive = Reader(model, prompts), list(range(len(prompts)))
    ending = sorted(set(ends))
    scores = reader.start().unsqueeze(1)  # (N, 1, V)
    sums = scores.new_zeros(len(prompts), 1, dtype=torch.float64)  # (N, b) nats of each beam
    for step in range(1, new_tokens + 1):
        total = sums.unsqueeze(-1) + scores.double().log_softmax(-1)  # (N, b, V)
        for place, row in enumerate(alive):
            _offer_ended(searches[row], total[place], ending, beams, step**length_penalty)
        total[..., ending] = float("-inf")
        wide = total.shape[1] * (total.shape[2] - len(ending))
        best, at = total.flatten(1).topk(min(beams, wide), dim=1)  # (N, b)
        parents, tokens = at // total.shape[2], at % total.shape[2]
        for place, row in enumerate(alive):
            search = searches[row]
            search.beams = [
                (*search.beams[parent], token)
                for parent, token in zip(parents[place].tolist(), tokens[place].tolist(), strict=True)
            ]
            if step == new_tokens:
                found = (search.beams[0], float(best[place, 0]), False)
                search.offer(found, found[1] / step**length_penalty)
        # Nats are not positive: the most that a beam can still be worth is its sum over the longest it can get.
        hope = best[:, 0] / new_tokens**length_penalty  # (N,)
        going = [place for place, row in enumerate(alive) if float(hope[place]) > searches[row].value]
        if not going or step == new_tokens:
            break
        rows = [place * total.shape[1] + int(parent) for place in going for parent in parents[place]]
        alive = [alive[place] for place in going]
        reader.select(rows)
        scores = reader.step(tokens[going].flatten()).unflatten(0, (len(going), -1))  # (N, b, V)
        sums = best[going]
    return [search.result(number) for number, search in enumerate(searches, start=1)]


def _offer_ended(search: _Search, total: Tensor, ending: Sequence[int], beams: int, divisor: float) -> None:
    """Offer the likeliest of the continuations that end now, if few enough are likelier; ``total`` (b, V)."""
    if not ending:
        return
    nats, at = total[:, list(ending)].max(-1).values.max(0)
    if int((total > nats).sum()) < beams:
        search.offer((search.beams[int(at)], float(nats), True), float(nats) / divisor)
