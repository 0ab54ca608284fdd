"""A result says what it rests on: machines, versions, texts, and what this machine lacks."""

import dataclasses

import pytest

from effnlp.record import COMPLETED, EVALUATOR, Record
from effnlp.reproduce.cells import Run
from effnlp.reproduce.evaluate import evaluate, in_common, unfilled
from effnlp.reproduce.experiment import Claim, Column, Experiment, Layer
from effnlp.reproduce.machine import NEEDS, lacking
from effnlp.reproduce.result import HOLDS, NOT_TESTABLE, UNDECIDED, Result, Spent
from effnlp.reproduce.runs import Missing

PLACE = {"row": "full", "column": "accuracy"}


@pytest.fixture
def layer():
    return Layer("small", rows={"full": [], "lora": []}, seeds=[(0, 0), (1, 1)])


@pytest.fixture
def made(layer):
    claim = Claim("kept", "It is kept.", "small", "paired_difference",
                  {"of": PLACE | {"row": "lora"}, "to": PLACE, "at_least": -50.0})  # fmt: skip
    other = Claim("other", "Of another layer.", "full", "equals", {"of": PLACE, "to": 1})
    return Experiment(
        name="made", chapter="model", title="Made", citation="Nobody (2000)", question="?",
        columns=[Column("accuracy", "val/accuracy", "%", 100.0)], layers={"small": layer}, claims=[claim, other],
    )  # fmt: skip


def run(row, seed, folder, value, **identity):
    record = Record(
        COMPLETED,
        {"task": "sst2", "task_fingerprint": "abc", "evaluator": EVALUATOR, "machine": {"cpu": "A", "cores": 2},
         "packages": {"torch": "2.11"}, **identity},
    )  # fmt: skip
    record.put({"val/accuracy": value})
    return Run(row, seed, record, folder / f"{row}{seed}")


@pytest.fixture
def runs(tmp_path):
    figures = {("full", "0"): 0.8, ("full", "1"): 0.82, ("lora", "0"): 0.79, ("lora", "1"): 0.83}
    return {
        row: [run(row, seed, tmp_path, figures[row, seed]) for seed in ("0", "1")] for row in ("full", "lora")
    }


def test_a_result_has_the_cells_the_claims_of_its_layer_and_what_the_runs_say_of_themselves(
    made, layer, runs, tmp_path
):
    result = evaluate(made, layer, "effnlp reproduce made", runs, spent=Spent(seconds=1.0, runs=4))
    assert [(claim.name, claim.finding.verdict) for claim in result.claims] == [("kept", HOLDS)]
    assert result.cell("lora", "accuracy").values == pytest.approx({"0": 79.0, "1": 83.0})
    assert result.fingerprints == {"sst2": "abc"}
    assert result.machine == {"cpu": "A", "cores": 2}
    assert result.versions == {"evaluator": EVALUATOR, "torch": "2.11"}
    assert result.spent.runs == 4
    assert result.spent.seconds > 1.0
    assert result.is_whole
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == result


def test_a_missing_run_is_a_hole_and_a_claim_that_rests_on_too_few_seeds_is_undecided(made, layer, runs):
    missing = [Missing("lora", "1", "out of memory", "effnlp run x")]
    result = evaluate(made, layer, "", {**runs, "lora": runs["lora"][:1]}, missing)
    assert not result.is_whole
    assert result.cell("lora", "accuracy").values == pytest.approx({"0": 79.0})
    assert result.claims[0].finding.verdict == UNDECIDED


def test_records_of_several_versions_and_machines_are_all_named(made, layer, runs, tmp_path):
    other = run(
        "lora",
        "1",
        tmp_path,
        0.8,
        evaluator="1",
        packages={"torch": "2.12"},
        machine={"cpu": "B", "cores": 2},
    )
    result = evaluate(made, layer, "", {**runs, "lora": [runs["lora"][0], other]})
    assert result.versions == {"evaluator": f"{EVALUATOR} / 1", "torch": "2.11 / 2.12"}
    assert result.machine == {"cpu": "A / B", "cores": 2}


def test_what_mappings_share_is_kept_as_it_is():
    gpus = [{"gpus": []}, {"gpus": []}]
    assert in_common(gpus) == {"gpus": []}
    assert in_common([]) == {}
    assert in_common([{"a": 1}, {"b": 2}]) == {"a": 1, "b": 2}


def test_where_the_machine_lacks_something_nothing_is_computed(made, layer, runs):
    needy = dataclasses.replace(layer, needs={"gpus": 4096})
    result = evaluate(made, needy, "", runs)
    assert not result.cells
    assert {(hole.row, hole.column) for hole in result.holes} == {("full", "accuracy"), ("lora", "accuracy")}
    assert result.holes == unfilled(made, needy, lacking(needy.needs))
    assert [claim.finding.verdict for claim in result.claims] == [NOT_TESTABLE]


def test_a_claim_may_say_itself_why_it_cannot_be_tested(made, layer, runs):
    claim = dataclasses.replace(made.claims[0], not_testable="needs another planet")
    result = evaluate(dataclasses.replace(made, claims=[claim]), layer, "", runs)
    assert (result.claims[0].finding.verdict, result.claims[0].finding.why) == (
        NOT_TESTABLE,
        "needs another planet",
    )
    assert result.cells


@pytest.mark.parametrize(
    ("needs", "here", "said"),
    [
        ({}, {}, None),
        ({"gpus": 1}, {"gpus": 1}, None),
        ({"gpus": 1}, {"gpus": 0}, "needs 1 GPU (here 0)"),
        ({"gpus": 8, "cores": 4}, {"gpus": 2, "cores": 4}, "needs 8 GPUs (here 2)"),
        ({"memory_bytes": 16e9, "cores": 64}, {"memory_bytes": 8e9, "cores": 2},
         "needs 16 GB of memory (here 8) and 64 processor cores (here 2)"),
    ],
)  # fmt: skip
def test_what_a_machine_lacks_is_said_with_what_it_has(needs, here, said):
    assert lacking(needs, here) == said


def test_what_is_here_is_known_of_everything_that_can_be_needed():
    assert lacking(dict.fromkeys(NEEDS, 0.0)) is None
    assert lacking({"cores": 1, "memory_bytes": 1}) is None
    for name, (words, _) in NEEDS.items():
        assert words in str(lacking({name: 1e18}))
