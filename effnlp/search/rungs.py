"""The rungs of a trial, as its run and the search agree on them.

A trial reaches a *level* L of a search whose trials have R levels in all at step ``ceil(L / R × its own
steps)``. There its run shows what the model would be if it were finished now (a :class:`Rung`), and is told
whether to go on (a :class:`Verdict`).

Source: Li et al. (2020), https://arxiv.org/abs/1810.05934
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from effnlp.search.early_stopping.halving import step_of

Word = Literal["continue", "stop", "pause"]

WORDS: tuple[Word, ...] = ("continue", "stop", "pause")


@dataclass(frozen=True)
class Rung:
    """What a trial shows when it reaches a level.

    Attributes:
        index: Number of the rung, from 0.
        level: L, in the units of the search's ``max_resource``.
        step: Training steps done.
        steps: Training steps of the whole trial.
        values: Record keys to finite numbers: ``val/*``, ``infer/*/flops``, ``model/*``, ``data/*`` of a
            finished copy of the model. No latency and no seconds: what they are depends on the moment.
        cost: ``cost/<stage>/own/*`` and ``cost/total/own/*`` so far.
    """

    index: int
    level: int
    step: int
    steps: int
    values: Mapping[str, float]
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """What the search says to a rung.

    Attributes:
        word: ``continue``; ``stop``: the trial ends here; ``pause``: its checkpoint is kept, so that it may go
            on later.
        sentence: Why, for a reader.

    Raises:
        ValueError: If the word is another.
    """

    word: Word
    sentence: str = ""

    def __post_init__(self) -> None:
        if self.word not in WORDS:
            raise ValueError(f"a verdict must be one of {', '.join(WORDS)}, got {self.word!r}")


@dataclass(frozen=True)
class Rungs:
    """The rungs of one trial, and whom it tells of them.

    Attributes:
        levels: Rising whole numbers below ``max_resource``.
        max_resource: R: the level of a whole training.
        known: How many rungs the trial has reported and may pass: it was told to continue there, or was
            promoted after a pause. They are not reported again.
        report: Given a rung, it answers with the verdict.

    Raises:
        ValueError: If levels do not rise or lie outside 1 … R - 1, or ``known`` is not in 0 … their number.
    """

    levels: tuple[int, ...]
    max_resource: int
    known: int
    report: Callable[[Rung], Verdict]

    def __post_init__(self) -> None:
        edges = (0, *self.levels, self.max_resource)
        if any(high <= low for low, high in itertools.pairwise(edges)):
            raise ValueError(
                f"levels must rise and lie in 1 … {self.max_resource - 1}, got {list(self.levels)}"
            )
        if not 0 <= self.known <= len(self.levels):
            raise ValueError(f"known must be in 0 … {len(self.levels)}, got {self.known}")

    def steps(self, steps: int) -> list[int]:
        """The step of each level in a training of ``steps``; the last step stands for the end, which is no rung."""
        return [step_of(level, self.max_resource, steps) for level in self.levels]

    def due(self, step: int, steps: int, after: int) -> list[int]:
        """The rungs, by index and in order, that a training has reached and that were not reported.

        Args:
            step: Training steps done.
            steps: Training steps of the whole trial. Levels that fall on the last one are left out: the end of
                a training is its end.
            after: How many rungs were reported before.
        """
        return [
            index
            for index, at in enumerate(self.steps(steps))
            if index >= after and at <= step and at < steps
        ]
