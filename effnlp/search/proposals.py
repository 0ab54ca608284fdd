"""New trials: what the sampler proposes, less what is illegal or known."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from effnlp.compose import Composed, ConfigError
from effnlp.identity import config_hash
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir
from effnlp.search.attributes import FIRST, HASH, REJECTED
from effnlp.search.samplers import is_exhausted
from effnlp.search.space import Space

log = logging.getLogger(__name__)

PROPOSALS_AT_MOST = 200
"""Proposals in a row that are illegal or known before a space with a continuum counts as exhausted."""

PROPOSALS_BEFORE_LISTING = 20
"""Proposals in a row after which the points of a space without a continuum are gone through instead."""

POINTS_TO_LIST = 20_000

Judge = Callable[[Sequence[str]], tuple[str | None, str]]
"""From overrides to why they are refused (None if they are not) and the hash of their config."""


def legality_judge(compose: Callable[[Sequence[str]], Composed], config_dir: Path | None) -> Judge:
    """Judges by composing and checking, inside a :func:`effnlp.compose.hydra_context`."""
    folders = [conf_dir()] + ([config_dir] if config_dir else [])

    def judge(overrides: Sequence[str]) -> tuple[str | None, str]:
        try:
            composed = compose(overrides)
            check(composed.config, composed.chosen, folders)
        except (ConfigError, IllegalCombinationError) as error:
            return str(error), ""
        return None, config_hash(composed.config)

    return judge


@dataclass
class Proposer:
    """Proposes trials of a space.

    Attributes:
        space: What varies.
        to_overrides: From a point of the space to what a trial is composed of.
        judge: Says what is refused, and the hash of what is not.
        seed: For the order in which a listed space is gone through.
    """

    space: Space
    to_overrides: Callable[[Mapping[str, str]], list[str]]
    judge: Judge
    seed: int = 0
    judged: dict[tuple[str, ...], tuple[str | None, str]] = field(default_factory=dict)

    def __call__(
        self, study: optuna.Study, taken: Mapping[int, FrozenTrial]
    ) -> tuple[optuna.Trial, list[str], str] | None:
        """A trial that is legal and not known yet, its overrides and its hash; None if there is none left."""
        known = {t.user_attrs.get(HASH) for t in taken.values()}
        points = self.space.combinations()
        listed = points is not None and points <= POINTS_TO_LIST
        for _ in range(PROPOSALS_BEFORE_LISTING if listed else PROPOSALS_AT_MOST):
            if is_exhausted(study):
                listed = False
                break
            if (made := self._ask(study, known)) is not None:
                return made
        if listed and (point := self._untried(known)) is not None:
            study.enqueue_trial(self.space.parameters(point))
            return self._ask(study, known)
        log.warning(
            "the space is exhausted: no legal point that is not known is left after %d trials", len(taken)
        )
        return None

    def _ask(self, study: optuna.Study, known: set[Any]) -> tuple[optuna.Trial, list[str], str] | None:
        """One proposal; None if it was refused, which the study then says of it."""
        trial = study.ask()
        overrides = self.to_overrides(self.space.sample(trial))
        refusal, digest = self._judge(overrides, known)
        if refusal is None:
            return trial, overrides, digest
        trial.set_user_attr(REJECTED, refusal)
        study.tell(trial, state=TrialState.FAIL)
        if trial.user_attrs.get(FIRST):
            log.warning("a point of search.first is left out: %s", refusal)
        return None

    def _untried(self, known: set[Any]) -> dict[str, str] | None:
        """Some legal point that is not known yet; None if there is none."""
        points = list(self.space.points())
        random.Random(f"{self.seed} {len(known)}").shuffle(points)
        for point in points:
            if self._judge(self.to_overrides(point), known)[0] is None:
                return point
        return None

    def _judge(self, overrides: list[str], known: set[Any]) -> tuple[str | None, str]:
        asked = tuple(overrides)
        if asked not in self.judged:
            self.judged[asked] = self.judge(overrides)
        refusal, digest = self.judged[asked]
        return refusal or ("known already" if digest in known else None), digest
