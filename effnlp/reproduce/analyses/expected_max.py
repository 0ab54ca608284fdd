"""Expected best of n trials: the estimator against drawing, and whether families of models change places with n.

Source: Dodge et al. (2019), https://aclanthology.org/D19-1224
"""

from collections.abc import Mapping, Sequence

import numpy as np

from effnlp.report.expected import expected_max
from effnlp.reproduce.cells import Runs, Table
from effnlp.search import curves

ACCURACY = "val/accuracy"
MODEL = "model"


def row(n: int) -> str:
    """What the row of the best of ``n`` trials is called."""
    return f"best of {n}"


def estimator(family: str, budgets: Sequence[int], draws: int, seed: int) -> Table:
    """The estimator on the accuracies of a family in the shipped table, against the mean of drawn maxima.

    Args:
        family: A ``model`` of the table.
        budgets: Numbers of trials n, rising; the last may be the number N of runs of the family.
        draws: How often n of the runs are drawn, with replacement as the estimator supposes.

    Returns:
        Row (``best of 5``) to column to value, accuracies in per cent: ``estimate``; ``brute force``, the mean of
        the best of each draw; ``deviation`` of the two in standard errors of that mean; ``gain of one more``,
        E[max of n + 1] − E[max of n]; and ``limit``: the mean of all runs for n = 1 and the best of all for n = N.

    Raises:
        ValueError: If there is no such family, or a number is below its least.
    """
    values = accuracies(family)
    counts = _checked(budgets)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, for a standard error, got {draws}")
    random = np.random.default_rng(seed)
    estimates = expected_max(values, counts)
    after = expected_max(values, counts + 1)
    found: dict[str, dict[str, float]] = {}
    for n, estimate, next_one in zip(counts.tolist(), estimates.tolist(), after.tolist(), strict=True):
        best = random.choice(values, (draws, n)).max(axis=1)  # (draws,)
        error = float(best.std(ddof=1)) / draws**0.5
        found[row(n)] = {
            "estimate": estimate,
            "brute force": float(best.mean()),
            "deviation": (float(best.mean()) - estimate) / error if error else 0.0,
            "gain of one more": next_one - estimate,
        }
    limits = {1: float(values.mean()), len(values): float(values.max())}
    for n, limit in limits.items():
        if row(n) in found:
            found[row(n)]["limit"] = limit
    return found


def stored_families(families: Mapping[str, str], budgets: Sequence[int]) -> Table:
    """The curves of families of the shipped table, whose runs are all points of a grid.

    A random search of that grid draws from these runs, so that the curve is not an estimate but its expectation.

    Args:
        families: Column to ``model`` of the table.

    Returns:
        Row (``best of 5``) to column to expected best accuracy in per cent.
    """
    counts = _checked(budgets)
    found: dict[str, dict[str, float]] = {row(n): {} for n in counts.tolist()}
    for column, family in families.items():
        for n, value in zip(counts.tolist(), expected_max(accuracies(family), counts).tolist(), strict=True):
            found[row(n)][column] = value
    return found


def searches(runs: Mapping[str, Runs], families: Mapping[str, str], trials: int) -> Table:
    """The curves of families, of several independent searches each, from runs whose rows are trials.

    The rows of a family, in their order, are cut into searches of ``trials`` trials. Each search gives one value of
    each cell, so that the interval over searches knows of the luck of the draw of hyperparameters.

    Args:
        families: Column to the beginning of the names of its rows.
        trials: Of a search; a divisor of the number of rows of each family.

    Returns:
        Row (``best of 3``) for n from 1 to ``trials`` to column to search (``0``, ``1`` …) to the expected best
        accuracy of n of its trials, in per cent.

    Raises:
        ValueError: If a family has no rows, a number that ``trials`` does not divide, or a row without exactly one
            run.
    """
    counts = _checked(range(1, trials + 1))
    found: dict[str, dict[str, dict[str, float]]] = {row(n): {} for n in counts.tolist()}
    for column, beginning in families.items():
        values = 100 * np.array([_only(runs[name], name) for name in runs if name.startswith(beginning)])
        if len(values) == 0 or len(values) % trials:
            raise ValueError(
                f"the rows that begin with {beginning!r} must be a multiple of {trials} trials, got {len(values)}"
            )
        by_search = expected_max(np.sort(values.reshape(-1, trials), axis=1), counts)  # (S, trials)
        for n, of_searches in zip(counts.tolist(), by_search.T.tolist(), strict=True):
            found[row(n)][column] = {str(search): value for search, value in enumerate(of_searches)}
    return found


def accuracies(family: str) -> np.ndarray:
    """(N,) final accuracies of a family of the shipped table in per cent, in rising order.

    Raises:
        ValueError: If the table has none of that family.
    """
    table = curves.read(curves.SHIPPED)
    known = sorted({curve.point[MODEL] for curve in table.curves})
    if family not in known:
        raise ValueError(f"the table {table.name} has no model {family!r}; it has {', '.join(known)}")
    found = [curve.looks[-1].values[ACCURACY] for curve in table.curves if curve.point[MODEL] == family]
    return 100 * np.sort(np.array(found))


def _only(runs: Runs, name: str) -> float:
    if len(runs) != 1:
        raise ValueError(f"row {name} is a trial, which is one run, got {len(runs)}; choose seeds: 1")
    return runs[0].record.values[ACCURACY]


def _checked(budgets: Sequence[int]) -> np.ndarray:
    counts = np.asarray(budgets, dtype=int)
    if counts.ndim != 1 or len(counts) == 0 or (counts < 1).any() or (np.diff(counts) <= 0).any():
        raise ValueError(f"budgets must be rising numbers of trials from 1 on, got {list(budgets)}")
    return counts
