"""Whether indicators of cost put the same configurations into the same order, and which pairs they invert.

Source: Dehghani et al. (2022), https://arxiv.org/abs/2110.12894
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from effnlp.report.candidates import ENERGY, pool
from effnlp.report.conflicts import AGREE, inversions, rank_correlations
from effnlp.report.read import Loaded
from effnlp.report.units import UP, direction
from effnlp.reproduce.cells import Runs, Table

Costs = NDArray[np.float64]


def correlations(runs: Mapping[str, Runs], axes: Mapping[str, str]) -> Table:
    """Kendall's tau-b of each two costs over the rows; one value a seed.

    It is oriented: 1 says that both costs put the rows into the same order from cheap to dear, throughput counting
    downwards.

    Args:
        runs: Each row with the same seeds.
        axes: Name of a cost to its key in records.

    Returns:
        A row a cost with a column ``tau with …`` for each cost before it; and the row ``all pairs`` with ``below 0.8``,
        the share of pairs of costs whose tau is below that, in per cent.

    Raises:
        ValueError: If a key is an energy (an estimate of it follows time, and would prove nothing), a record lacks
            one, or rows differ in seeds.
    """
    names = list(axes)
    taus = {seed: rank_correlations(costs)[0] for seed, costs in by_seed(runs, axes).items()}
    table: dict[str, dict[str, Mapping[str, float]]] = {}
    for i, j in itertools.combinations(range(len(names)), 2):
        column = {seed: float(tau[i, j]) for seed, tau in taus.items()}
        table.setdefault(names[j], {})[f"tau with {names[i]}"] = column
    pairs = np.triu_indices(len(names), 1)
    table["all pairs"] = {
        f"below {AGREE}": {seed: 100 * float(np.mean(tau[pairs] < AGREE)) for seed, tau in taus.items()}
    }
    return table


def inverted(runs: Mapping[str, Runs], axes: Mapping[str, str], first: str, second: str) -> Table:
    """How many pairs of rows two costs put into opposite orders, and how clearly.

    Args:
        first, second: Names of two of ``axes``.

    Returns:
        One row, ``parameters against latency`` for instance, with columns ``inverted pairs``: those that are
        opposite under every seed; and ``largest inversion``: the smaller of the two ratios of the clearest one whose
        90 % intervals over seeds do not overlap, 1 if there is none.

    Raises:
        ValueError: As :func:`correlations`, or if a cost is not one of ``axes``.
    """
    for name in (first, second):
        if name not in axes:
            raise ValueError(f"{name!r} is not one of the costs {', '.join(axes)}")
    two = {name: axes[name] for name in (first, second)}
    costs = np.stack(list(by_seed(runs, two).values()))  # (S, N, 2)
    return {
        f"{first} against {second}": {
            "inverted pairs": float(opposite(costs)),
            "largest inversion": _largest(runs, list(two.values())),
        }
    }


def opposite(costs: Costs) -> int:
    """The number of pairs of rows that the two costs order differently, each in one and the same way in every seed.

    Args:
        costs: (S, N, 2) seeds, rows, costs; lower is cheaper.
    """
    cheaper = np.asarray(
        (costs[:, :, None, :] < costs[:, None, :, :]).all(axis=0)
    )  # (N, N, 2) row than column
    return int((cheaper[..., 0] & cheaper[..., 1].T).sum())


def by_seed(runs: Mapping[str, Runs], axes: Mapping[str, str]) -> dict[str, Costs]:
    """Seed to (N, K) costs of the rows, lower is cheaper.

    Raises:
        ValueError: As :func:`correlations`.
    """
    for name, key in axes.items():
        if key.endswith(ENERGY):
            raise ValueError(
                f"{name} is an energy ({key}): an estimate of it follows time, and so proves nothing about orders"
            )
    seeds = [tuple(run.seed for run in of_row) for of_row in runs.values()]
    if not seeds or len(set(seeds)) > 1:
        differing = ", ".join(sorted({" ".join(each) or "none" for each in seeds})) or "none"
        raise ValueError(f"all rows must have the same seeds, got {differing}")
    signs = [-1.0 if direction(key) == UP else 1.0 for key in axes.values()]
    found = {}
    for place, seed in enumerate(seeds[0]):
        rows = [[_value(of_row, place, key) for key in axes.values()] for of_row in runs.values()]
        found[seed] = np.array(rows, dtype=np.float64) * signs
    return found


def _value(of_row: Runs, place: int, key: str) -> float:
    run = of_row[place]
    if key not in run.record.values:
        raise ValueError(f"{run.folder} has no {key}: {run.record.absent.get(key, 'it was not measured')}")
    return run.record.values[key]


def _largest(runs: Mapping[str, Runs], keys: Sequence[str]) -> float:
    """The size of the clearest inversion of two keys, 1 if there is none beyond the noise."""
    candidates = pool(Loaded(run.record, run.folder) for of_row in runs.values() for run in of_row)
    costs = np.array([
        [candidate.values[key].mean * (-1 if direction(key) == UP else 1) for key in keys]
        for candidate in candidates
    ])  # fmt: skip
    found = inversions(candidates, keys, costs, most=1)
    return found[0].size if found else 1.0
