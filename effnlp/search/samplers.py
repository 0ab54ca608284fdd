"""Samplers that know the space: quasi-random points, and a grid. How a sweep makes the sampler of its choice.

A sampler is made anew in every worker, at every start. Those of this file hold no state: what they propose
follows from the seed of the sweep and from what the study holds, over any number of workers.
"""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from effnlp.compose import ConfigError
from effnlp.search.space import Dimension, Space

LEARNS_ONLY_FROM_FINISHED = (
    "optuna.samplers.NSGAIISampler", "optuna.samplers.NSGAIIISampler", "optuna.samplers.GPSampler",
)  # fmt: skip
"""Targets of samplers that see nothing of a trial which was stopped early."""

POINTS_AT_MOST = 100_000
"""Of a grid; a larger one is not worked off."""


def make_sampler(
    config: Mapping[str, Any], space: Space, seed: int, worker: int = 0, known: int = 0
) -> BaseSampler:
    """The sampler of a config of the group ``search/sampler``.

    One that takes a ``space`` gets it, and the seed of the sweep: what it proposes is one sequence for all
    workers. All others draw from a stream of their own in each worker of each start: one that began again would
    propose what is known.

    Args:
        seed: Of the sweep.
        known: How many trials the study holds.

    Raises:
        ConfigError: If the space is too large for a grid, or a setting is wrong.
    """
    from hydra.utils import instantiate

    make = instantiate(dict(config), _convert_="all")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ExperimentalWarning
        )  # of Optuna's, about settings that the configs name
        if "space" in inspect.signature(make).parameters:
            sampler: BaseSampler = make(space=space, seed=seed)
        else:
            stream = np.random.SeedSequence([seed, worker, known])
            sampler = make(seed=int(stream.generate_state(1)[0]))
    return sampler


def is_exhausted(study: Study) -> bool:
    """Whether the study's sampler has proposed all that it ever will, and no point waits to be tried first."""
    if not isinstance(study.sampler, Grid) or study.sampler.next_point(study) is not None:
        return False
    return not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of all dimensions that vary; those that the choices do not bring are not asked for."""
    return {d.name: d.distribution() for d in space.dimensions if d.varies}


def left_open(space: Space, seed: int, number: int, name: str) -> Any:
    """A random value of a dimension that a point leaves open: in a trial some of whose parameters were given."""
    generator = np.random.default_rng([seed, number, *name.encode()])
    dimension = next(d for d in space.dimensions if d.name == name)
    return dimension.parameter(dimension.at(generator.random()))


class QuasiRandom(BaseSampler):
    """Proposal i is the i-th point of a scrambled Sobol sequence, a coordinate for each dimension.

    Dimensions that are never there together share a coordinate, so that there are few.

    Unlike Optuna's own, it spreads categorical and conditional dimensions too: that one takes the dimensions of
    the first trial for those of all.

    Source: Owen (1998), https://doi.org/10.1006/jcom.1998.0487 (scrambling); Bergstra and Bengio (2012),
    https://jmlr.org/papers/v13/bergstra12a.html (for searches)
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space, self.seed = space, seed
        self.coordinates = coordinates(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions."""
        return distributions(self.space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A dimension that the point leaves open."""
        return left_open(self.space, self.seed, trial.number, param_name)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point of the trial's number."""
        width = max(self.coordinates.values(), default=-1) + 1
        if width == 0:
            return {}
        point = sobol(self.seed, width, trial.number)
        return {
            d.name: d.parameter(d.at(float(point[self.coordinates[d.name]])))
            for d in self.space.dimensions
            if d.varies
        }


def coordinates(space: Space) -> dict[str, int]:
    """Name of a dimension that varies to its coordinate: the least that no dimension has which it can meet."""
    found: dict[str, int] = {}
    for d in space.dimensions:
        if not d.varies:
            continue
        met = {found[other.name] for other in space.dimensions if other.name in found and _may_meet(d, other)}
        found[d.name] = next(i for i in range(len(met) + 1) if i not in met)
    return found


def _may_meet(one: Dimension, other: Dimension) -> bool:
    mine, theirs = dict(one.conditions), dict(other.conditions)
    return all(mine[key] == theirs[key] for key in mine.keys() & theirs.keys())


def sobol(seed: int, width: int, index: int) -> np.ndarray:
    """(width,) point ``index`` of the sequence of ``seed``, in [0, 1)."""
    exponent = max(8, index.bit_length())
    point: np.ndarray = _sobol(seed, width, exponent)[index]
    return point


@lru_cache(maxsize=8)
def _sobol(seed: int, width: int, exponent: int) -> np.ndarray:
    from scipy.stats import qmc  # slow to load, and most searches do not need it

    return np.asarray(qmc.Sobol(width, scramble=True, rng=np.random.default_rng(seed)).random_base2(exponent))


class Grid(BaseSampler):
    """All points of a grid, each once, in an order shuffled by the seed; over restarts it goes on.

    Choices and whole numbers take all their values; what is continuous, or on a logarithmic scale and has more
    values, is cut into a number of points from its low end to its high end.
    """

    def __init__(self, space: Space, seed: int = 0, points_per_dimension: int = 5) -> None:
        if points_per_dimension < 2:
            raise ConfigError(
                f"search.sampler.points_per_dimension must be at least 2, got {points_per_dimension}"
            )
        self.space, self.seed = space, seed
        self.cut = Space(tuple(cut(d, points_per_dimension) for d in space.dimensions))
        size = self.cut.combinations() or 0
        if size > POINTS_AT_MOST:
            raise ConfigError(
                f"search/sampler=grid: the grid has {size} points, more than {POINTS_AT_MOST}: fix a dimension, "
                "lower search.sampler.points_per_dimension, or take search/sampler=quasi_random"
            )
        self._order: list[dict[str, Any]] | None = None
        self._varying = {d.name for d in space.dimensions if d.varies}
        self._at, self._seen, self._read = 0, set[frozenset[tuple[str, Any]]](), 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions."""
        return distributions(self.space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A dimension that the point leaves open."""
        return left_open(self.space, self.seed, trial.number, param_name)

    @property
    def order(self) -> list[dict[str, Any]]:
        """The parameters of all points, in the order in which they are proposed."""
        if self._order is None:
            every = [self.space.parameters(point) for point in self.cut.points()]
            self._order = [every[i] for i in np.random.default_rng(self.seed).permutation(len(every))]
        return self._order

    def next_point(self, study: Study) -> dict[str, Any] | None:
        """The first point that no trial of the study has; None if there is none left."""
        trials = study.get_trials(deepcopy=False)
        open_from = len(trials)
        for index, trial in enumerate(trials[self._read :], self._read):
            if trial.state in (TrialState.WAITING, TrialState.RUNNING):
                open_from = min(open_from, index)
            given = trial.system_attrs.get("fixed_params", {})
            self._seen.add(self._identity({**given, **trial.params}))
        self._read = open_from  # those that run may get parameters yet
        while self._at < len(self.order) and self._identity(self.order[self._at]) in self._seen:
            self._at += 1
        return self.order[self._at] if self._at < len(self.order) else None

    def _identity(self, parameters: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
        """What tells points apart; a trial of an extended study may lack a setting."""
        return frozenset((name, value) for name, value in parameters.items() if name in self._varying)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point; when there is none left, the first one again, which is known then."""
        return self.next_point(study) or self.order[0]


def cut(dimension: Dimension, points: int) -> Dimension:
    """A dimension with so many of its values, evenly on its scale; one that can be listed stays whole."""
    if dimension.size is not None and (not dimension.log or dimension.size <= points):
        return dimension
    values = [dimension.at(i / (points - 1)) for i in range(points)]
    return replace(dimension, choices=tuple(dict.fromkeys(values)), log=False)
