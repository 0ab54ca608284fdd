"""The layers of all experiments that are made of runs: each row makes a legal run, and no two rows the same one."""

from dataclasses import replace

import pytest

from effnlp.reproduce.plan import make_plans
from effnlp.reproduce.read import names, read

MANY = 10
"""Layers of more rows take seconds to compose."""

LAYERS = [
    pytest.param(name, layer, marks=[pytest.mark.slow] if len(found.rows) > MANY else [])
    for name in names()
    for layer, found in read(name).layers.items()
    if found.rows
]
assert LAYERS


def with_one_seed(name: str, layer: str):
    """The experiment with the first seed of that layer alone."""
    experiment = read(name)
    found = experiment.layers[layer]
    one = replace(found, seeds=list(found.seeds)[:1], seeds_of={})
    return replace(experiment, layers={**experiment.layers, layer: one})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_each_row_makes_a_legal_run_of_its_own(name, layer):
    experiment = with_one_seed(name, layer)
    (plan,) = make_plans([(experiment, layer)])
    assert list(plan.rows) == list(experiment.layers[layer].rows)
    assert len(plan.runs) == len(plan.rows)
