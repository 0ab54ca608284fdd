"""What runs with crossed seeds say: which seed moves a score, the best of many, and how early a bad start is seen.

Source: Dodge et al. (2020), https://arxiv.org/abs/2002.06305
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effnlp.record import Events
from effnlp.reproduce.cells import Run, Runs, Table
from effnlp.statistics import LEVEL, Interval, mean_squares
from effnlp.variance import variance_components

DRAWS = 10_000
"""Samples of runs out of all."""

POINTS = 100.0
"""Percentage points in a share of one; variances are in points squared."""


def components(runs: Mapping[str, Runs], row: str, key: str) -> Table:
    """Components of variance of a score, in points squared, each with its 90 % interval.

    Args:
        row: Whose runs: each seed of initialisation with each of order.
        key: Of the score in records, a share of one.

    Returns:
        Rows ``initialisation``, ``data order`` and ``interaction and chance`` with the column ``variance``. The
        row ``data order`` also has its component as a multiple of that of initialisation, ``ratio``, if that is
        finite.

    Raises:
        ValueError: If the seeds of the row are not crossed.
    """
    table = POINTS * crossed(of_row(runs, row), key)
    found = variance_components(table)
    parts = {
        "initialisation": found.init,
        "data order": found.order,
        "interaction and chance": found.residual,
    }
    rows = {name: {"variance": part} for name, part in parts.items() if part is not None}
    ratio = ratio_of_components(table)
    if math.isfinite(ratio.mean):
        rows["data order"]["ratio"] = ratio
    return rows


def ratio_of_components(table: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The component of variance due to the columns as a multiple of that due to the rows, with its 90 % interval.

    The interval is a generalised one, as in :func:`effnlp.variance.variance_components`: sums of squares are
    divided by draws of the chi-squared distributions that they follow, and the ratio is taken of each draw. Ends
    are infinite where the component of the rows may be 0.

    Args:
        table: (I, J) a score under each of I seeds of initialisation (rows) and J of order (columns).
    """
    values = np.asarray(table, dtype=np.float64)
    inits, orders = values.shape
    degrees = np.array([inits - 1, orders - 1, (inits - 1) * (orders - 1)], dtype=np.float64)
    squares = np.array(mean_squares(values))  # (3,) of rows, columns, residuals
    drawn = squares * degrees / np.random.default_rng(seed).chisquare(degrees, (draws, 3))  # (draws, 3)

    def ratio(mean_square: NDArray[np.float64]) -> NDArray[np.float64]:
        init = np.maximum(mean_square[:, 0] - mean_square[:, 2], 0.0) / orders
        order = np.maximum(mean_square[:, 1] - mean_square[:, 2], 0.0) / inits
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(order == 0, 0.0, order / init)

    estimate = float(ratio(squares[None, :])[0])
    # By rank, without interpolation: that would mix finite draws with infinite ones.
    low, high = np.quantile(ratio(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Interval(
        estimate, min(float(low), estimate), max(float(high), estimate), inits, "generalised interval"
    )


def best_of(runs: Mapping[str, Runs], row: str, key: str, many: int) -> Table:
    """The expected best of ``many`` runs, in points, and how far it is above the mean, in standard deviations.

    Returns:
        One row, ``best of 20``, with columns ``accuracy`` and ``deviations above the mean``.
    """
    values = POINTS * scores(of_row(runs, row), key)
    best = expected_best(values, many)
    return {
        f"best of {many}": {
            "accuracy": best,
            "deviations above the mean": float((best - values.mean()) / values.std(ddof=1)),
        }
    }


def early_half(
    runs: Mapping[str, Runs], row: str, key: str, many: int, look_at: float, draws: int = DRAWS, seed: int = 0
) -> Table:
    """How often the better half at an early look holds the eventual best of ``many`` runs, in per cent.

    Args:
        look_at: The share of a run's steps at which its last validation so far counts.

    Returns:
        One row, ``better half at 30 %``, with the column ``holds the best``.

    Raises:
        ValueError: If ``look_at`` is not between 0 and 1, or a run was not validated so early.
    """
    if not 0 < look_at <= 1:
        raise ValueError(f"look_at must be in (0, 1], got {look_at}")
    of_it = of_row(runs, row)
    early = np.array([early_score(run, key, look_at) for run in of_it])
    kept = retention(scores(of_it, key), early, many, draws, np.random.default_rng(seed))
    return {f"better half at {100 * look_at:g} %": {"holds the best": 100 * kept}}


def of_row(runs: Mapping[str, Runs], row: str) -> Runs:
    """The runs of a row.

    Raises:
        ValueError: If there are none.
    """
    if not runs.get(row):
        raise ValueError(f"no runs of the row {row!r}; there are runs of {list(runs)}")
    return runs[row]


def scores(runs: Runs, key: str) -> NDArray[np.float64]:
    """(N,) the score of each run."""
    return np.array([run.record.values[key] for run in runs], dtype=np.float64)


def crossed(runs: Runs, key: str) -> NDArray[np.float64]:
    """(I, J) scores by seeds of initialisation and of order.

    Raises:
        ValueError: If a seed of initialisation has not met one of order.
    """
    by_seeds = {_seeds(run): run.record.values[key] for run in runs}
    inits, orders = (sorted({pair[place] for pair in by_seeds}) for place in (0, 1))
    missing = [(init, order) for init in inits for order in orders if (init, order) not in by_seeds]
    if missing:
        raise ValueError(
            f"the seeds of {len(runs)} runs are not crossed: there is none of {missing[0][0]}-{missing[0][1]}"
        )
    return np.array([[by_seeds[init, order] for order in orders] for init in inits], dtype=np.float64)


def early_score(run: Run, key: str, look_at: float) -> float:
    """The best score of the validations in the first ``look_at`` of a run's steps.

    Raises:
        ValueError: If there is none so early.
    """
    looks = [(event["step"], event[key]) for event in Events(run.folder) if key in event and "step" in event]
    early = [score for step, score in looks if step <= look_at * looks[-1][0]]
    if not early:
        raise ValueError(f"{run.folder} has no validation in the first {100 * look_at:g} % of its steps")
    return float(max(early))


def expected_best(values: ArrayLike, many: int) -> float:
    """The expected largest of ``many`` values that are drawn with replacement.

    Source: Dodge et al. (2019), https://aclanthology.org/D19-1224
    """
    if many < 1:
        raise ValueError(f"the best of at least 1 is asked for, got {many}")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below = np.arange(len(ordered) + 1) / len(ordered)
    return float(ordered @ np.diff(below**many))


def retention(
    final: NDArray[np.float64],
    early: NDArray[np.float64],
    many: int,
    draws: int,
    random: np.random.Generator,
) -> float:
    """Share of samples of ``many`` runs (without replacement) whose better half at the early look has the best.

    Of runs that are equal at the early look the one that was drawn first is the better one; of those that end
    equal any may be the best.

    Args:
        final, early: (N,) score of each run at its end and at the look.

    Raises:
        ValueError: If there are fewer than ``many`` runs, or ``many`` is below 2.
    """
    if not 2 <= many <= len(final):
        raise ValueError(f"samples must have between 2 and {len(final)} runs, got {many}")
    kept = 0
    for _ in range(draws):
        drawn = random.choice(len(final), many, replace=False)
        half = drawn[np.argsort(-early[drawn], kind="stable")[: many // 2]]
        kept += bool(final[half].max() == final[drawn].max())
    return kept / draws


def _seeds(run: Run) -> tuple[int, int]:
    return int(run.record.identity["seed_init"]), int(run.record.identity["seed_order"])
