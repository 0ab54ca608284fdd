"""Indicators of cost that order the same configurations differently."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from effnlp.record import COMPLETED, Record
from effnlp.reproduce.analyses.ledger import by_seed, correlations, inverted, opposite
from effnlp.reproduce.cells import Run

COMMITTED = Path(__file__).with_name("ledger_runs.csv")
"""26 configurations, each measured once, of before there were experiment files."""

LATENCY, THROUGHPUT = "infer/single_stream/latency_seconds_p50", "infer/fixed_batch/examples_per_second"
AXES = {
    "parameters": "model/params",
    "bytes": "model/bytes",
    "FLOPs": "infer/single_stream/flops",
    "latency": LATENCY,
    "throughput": THROUGHPUT,
    "memory": "infer/fixed_batch/peak_memory_bytes",
    "training time": "cost/finetuning/own/seconds",
}


def made(tables: list[pd.DataFrame]) -> dict[str, list[Run]]:
    """Runs by row: each table is a seed, its index the rows, its columns keys."""
    runs: dict[str, list[Run]] = {}
    for seed, table in enumerate(tables):
        for row, values in table.iterrows():
            identity = {"config_hash": str(row), "seed_init": seed, "seed_order": seed}
            record = Record(COMPLETED, identity, values=values.dropna().to_dict())
            runs.setdefault(str(row), []).append(Run(str(row), str(seed), record, Path(f"{row}-{seed}")))
    return runs


@pytest.fixture
def before():
    return made([pd.read_csv(COMMITTED).set_index("configuration")])


def test_the_26_configurations_of_before_have_the_correlations_of_before(before):
    found = correlations(before, AXES)
    for row, column, tau in [
        ("bytes", "parameters", 0.83), ("latency", "parameters", 0.74), ("latency", "bytes", 0.58),
        ("throughput", "latency", 0.82), ("memory", "throughput", 0.71), ("training time", "bytes", 0.37),
    ]:  # fmt: skip
        assert found[row][f"tau with {column}"]["0"] == pytest.approx(tau, abs=0.005)
    assert "parameters" not in found, "the first cost has none before it"


def test_the_share_of_pairs_that_disagree_is_that_of_the_correlations(before):
    found = correlations(before, AXES)
    taus = [tau["0"] for row, columns in found.items() if row != "all pairs" for tau in columns.values()]
    assert len(taus) == 21
    assert found["all pairs"]["below 0.8"]["0"] == pytest.approx(100 * np.mean(np.array(taus) < 0.8))


def test_the_26_configurations_invert_bytes_and_latency_as_clearly_as_before(before):
    found = inverted(before, AXES, "bytes", "latency")["bytes against latency"]
    assert found["largest inversion"] == pytest.approx(4.7, abs=0.05)
    assert found["inverted pairs"] > 10


def test_no_energy_is_taken_for_a_cost(before):
    with pytest.raises(ValueError, match=r"joules is an energy .* proves nothing"):
        correlations(before, {**AXES, "joules": "infer/single_stream/energy_joules"})


def test_throughput_counts_downwards():
    table = pd.DataFrame({LATENCY: [1.0, 2.0, 3.0], THROUGHPUT: [9.0, 6.0, 3.0]}, index=list("abc"))
    found = correlations(made([table]), {"latency": LATENCY, "throughput": THROUGHPUT})
    assert found["throughput"]["tau with latency"]["0"] == 1


def test_each_seed_has_a_correlation_of_its_own():
    one = pd.DataFrame({"model/params": [1.0, 2, 3], LATENCY: [1.0, 2, 3]}, index=list("abc"))
    other = pd.DataFrame({"model/params": [1.0, 2, 3], LATENCY: [3.0, 2, 1]}, index=list("abc"))
    found = correlations(made([one, other]), {"parameters": "model/params", "latency": LATENCY})
    assert found["latency"]["tau with parameters"] == {"0": 1, "1": -1}


def test_opposite_pairs_are_those_of_a_search_through_all():
    costs = np.random.default_rng(0).random((2, 12, 2))
    expected = sum(
        all((seed[i] < seed[j]).tolist() == [True, False] for seed in costs)
        or all((seed[i] < seed[j]).tolist() == [False, True] for seed in costs)
        for i, j in itertools.combinations(range(12), 2)
    )
    assert opposite(costs) == expected > 0
    assert opposite(costs[:, :, [1, 0]]) == expected, "which cost comes first does not matter"
    assert opposite(costs[:, :, [0, 0]]) == 0


def test_a_difference_within_the_noise_of_seeds_inverts_nothing():
    tables = [
        pd.DataFrame({"model/params": [1.0, 2.0], LATENCY: latency}, index=list("ab"))
        for latency in ([1.1, 1.0], [1.0, 1.1], [1.1, 1.0])
    ]
    axes = {"parameters": "model/params", "latency": LATENCY}
    found = inverted(made(tables), axes, "parameters", "latency")["parameters against latency"]
    assert found == {"inverted pairs": 0, "largest inversion": 1}
    sure = [table.assign(**{LATENCY: [3.0, 1.0 + 0.01 * place]}) for place, table in enumerate(tables)]
    found = inverted(made(sure), axes, "parameters", "latency")["parameters against latency"]
    assert found["inverted pairs"] == 1
    assert found["largest inversion"] == pytest.approx(2)


def test_rows_of_other_seeds_are_refused():
    runs = made([pd.DataFrame({"model/params": [1.0, 2.0]}, index=list("ab"))] * 2)
    with pytest.raises(ValueError, match=r"all rows must have the same seeds, got 0, 0 1"):
        by_seed({"a": runs["a"], "b": runs["b"][:1]}, {"parameters": "model/params"})


def test_a_cost_that_a_run_lacks_is_named():
    runs = made([pd.DataFrame({"model/params": [1.0, 2.0]}, index=list("ab"))])
    with pytest.raises(ValueError, match=r"a-0 has no model/bytes: it was not measured"):
        by_seed(runs, {"bytes": "model/bytes"})
    with pytest.raises(ValueError, match=r"'size' is not one of the costs parameters"):
        inverted(runs, {"parameters": "model/params"}, "parameters", "size")
