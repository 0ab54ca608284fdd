"""Cells hold what the runs and functions gave, one value a seed; what is missing is a hole that says why."""

import re
import sys
from types import ModuleType

import pytest
import torch

from effnlp.evaluation.predictions import Predictions, save_predictions
from effnlp.record import COMPLETED, Record
from effnlp.reproduce.cells import Run, from_function, from_runs, load_function, make_cells, places
from effnlp.reproduce.experiment import Claim, Column, Computed, Experiment, Layer, Published
from effnlp.reproduce.result import Cell, Hole
from effnlp.reproduce.runs import Missing
from effnlp.statistics import Interval

ACCURACY = Column("accuracy", "val/accuracy", "%", scale=100.0)
BYTES = Column("size", "model/bytes", "MB", scale=1e-6, exact=True)
DERIVED = Column("derived")
ABSENT = Missing("full", "2", "out of memory", "effnlp run seed.init=2 seed.order=2")


def run(row, seed, folder, **values):
    record = Record(COMPLETED, {"evaluator": "2"})
    record.put({key.replace("_", "/"): value for key, value in values.items()})
    place = folder / f"{row}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    return Run(row, seed, record, place)


def experiment_of(layer, columns=(ACCURACY, BYTES, DERIVED), **more):
    return Experiment(
        **{
            "name": "made", "chapter": "model", "title": "Made", "citation": "Nobody (2000)", "question": "?",
            "columns": columns, "layers": {layer.name: layer}, "claims": (), **more,
        }
    )  # fmt: skip


@pytest.fixture
def functions(monkeypatch):
    """A module of functions that experiments can name."""
    module = ModuleType("made_functions")

    def spread(runs, factor=1.0):
        values = [run.record.values["val/accuracy"] for run in runs["full"]]
        return factor * (max(values) - min(values))

    def breaks():
        raise ZeroDivisionError("nothing to divide by")

    module.spread, module.breaks = spread, breaks
    module.give = lambda value: value
    monkeypatch.setitem(sys.modules, "made_functions", module)
    return module


def test_a_cell_has_the_value_of_each_run_in_the_unit_of_its_column(tmp_path):
    runs = [run("full", seed, tmp_path, val_accuracy=value) for seed, value in (("0", 0.5), ("0-1", 0.75))]
    assert from_runs("full", ACCURACY, runs) == [Cell("full", "accuracy", {"0": 50.0, "0-1": 75.0})]


def test_a_run_that_is_missing_leaves_the_others_and_a_hole_with_its_command(tmp_path):
    runs = [run("full", "0", tmp_path, val_accuracy=0.5)]
    cell, hole = sorted(from_runs("full", ACCURACY, runs, [ABSENT]), key=lambda made: isinstance(made, Hole))
    assert cell.values == {"0": 50.0}
    assert (hole.row, hole.column) == ("full", "accuracy")
    assert (hole.reason, hole.command) == (ABSENT.reason, ABSENT.command)


def test_what_could_not_be_measured_is_a_hole_with_the_reason_of_the_record(tmp_path):
    one = run("full", "0", tmp_path, val_accuracy=0.5)
    one.record.put({"model/bytes": None}, {"model/bytes": "it was not stored"})
    assert from_runs("full", BYTES, [one]) == [Hole("full", "size", "seed 0: it was not stored")]


def test_a_key_that_records_do_not_have_brings_near_ones(tmp_path):
    [hole] = from_runs("full", Column("a", "val/acuracy"), [run("full", "0", tmp_path, val_accuracy=0.5)])
    assert "no val/acuracy; did you mean 'val/accuracy'" in hole.reason


def test_an_exact_column_whose_seeds_differ_is_a_hole_that_names_them(tmp_path):
    runs = [
        run("full", seed, tmp_path, model_bytes=size) for seed, size in (("0", 1e6), ("1", 1e6), ("2", 2e6))
    ]
    assert from_runs("full", BYTES, runs[:2]) == [Cell("full", "size", {"0": 1.0, "1": 1.0}, is_exact=True)]
    [hole] = from_runs("full", BYTES, runs)
    assert "declared exact, but differs: seed 0: 1, seed 1: 1, seed 2: 2" in hole.reason


def test_examples_are_right_or_wrong_and_make_up_the_accuracy(tmp_path):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator)
    labels = torch.randint(3, (40,), generator=generator)
    right = (logits.argmax(dim=1) == labels).float()
    accuracy = float(right.mean())
    made = run("full", "0", tmp_path, val_accuracy=accuracy, test_accuracy=0.1)
    bare = run("full", "1", tmp_path, val_accuracy=0.5)
    save_predictions(made.folder, {"val": Predictions.of(logits, labels)})
    [cell] = from_runs("full", ACCURACY, [made, bare])
    assert set(cell.examples) == {"0"}
    assert cell.examples["0"] == right.tolist()
    assert sum(cell.examples["0"]) / 40 * ACCURACY.scale == pytest.approx(cell.values["0"])
    [other] = from_runs("full", Column("f1", "val/f1"), [run("full", "0", tmp_path, val_f1=0.5)])
    assert not other.examples


def test_examples_are_read_when_they_are_asked_for(tmp_path):
    made = run("full", "0", tmp_path, val_accuracy=0.5)
    (made.folder / "predictions.npz").write_text("damaged")
    [cell] = from_runs("full", ACCURACY, [made])
    with pytest.raises(ValueError, match="damaged"):
        cell.examples["0"]


@pytest.mark.parametrize(
    ("value", "values"),
    [(2, {"0": 2.0}), ([2, 3], {"0": 2.0, "1": 3.0}), ({"0-1": 2, 5: 3}, {"0-1": 2.0, "5": 3.0})],
)
def test_a_function_gives_one_value_or_one_a_seed(value, values, functions):
    layer = Layer("small", computed=[Computed("made_functions.give", {"value": value}, "full", "derived")])
    assert make_cells(experiment_of(layer), layer, {}) == ([Cell("full", "derived", values)], [])


def test_a_function_may_give_a_whole_table_in_the_order_of_its_rows(functions):
    table = {"b": {"derived": 1.0, "size": 2.0}, "a": {"derived": [1.0, 2.0]}}
    layer = Layer("small", computed=[Computed("made_functions.give", {"value": table})])
    cells, holes = make_cells(experiment_of(layer), layer, {})
    assert [(cell.row, cell.column, cell.is_exact) for cell in cells] == [
        ("b", "derived", False), ("b", "size", True), ("a", "derived", False),
    ]  # fmt: skip
    assert not holes


def test_cells_of_the_analytic_layer_are_exact(functions):
    layer = Layer("analytic", computed=[Computed("made_functions.give", {"value": 3}, "full", "derived")])
    [cell], _ = make_cells(experiment_of(layer), layer, {})
    assert cell.is_exact


def test_a_function_whose_first_parameter_is_runs_gets_them_and_waits_for_all(tmp_path, functions):
    computed = Computed("made_functions.spread", {"factor": 2.0}, "full", "derived")
    layer = Layer("small", rows={"full": []}, seeds=[(0, 0), (1, 1)], computed=[computed])
    runs = {"full": [run("full", s, tmp_path, val_accuracy=v) for s, v in (("0", 0.5), ("1", 0.75))]}
    cells, _ = make_cells(experiment_of(layer, [ACCURACY, DERIVED]), layer, runs)
    assert {cell.column: cell.values for cell in cells}["derived"] == {"0": 0.5}
    cells, holes = make_cells(experiment_of(layer, [ACCURACY, DERIVED]), layer, runs, [ABSENT])
    assert "derived" not in {cell.column for cell in cells}
    [hole] = [hole for hole in holes if hole.column == "derived"]
    assert "1 of its runs is missing" in hole.reason
    assert hole.command == ABSENT.command


@pytest.mark.parametrize(
    ("computed", "reason"),
    [
        (Computed("made_functions.breaks", {}, "full", "derived"), "ZeroDivisionError: nothing to divide by"),
        (
            Computed("made_functions.give", {"value": float("nan")}, "full", "derived"),
            "not a finite number: seed 0",
        ),
        (Computed("made_functions.give", {"value": []}, "full", "derived"), "no value at all"),
        (Computed("made_functions.give", {"value": "x"}, "full", "derived"), "could not convert|ValueError"),
        (Computed("made_functions.give", {"value": {"full": {"deriwed": 1}}}), "no column 'deriwed'"),
        (Computed("made_functions.none", {}, "full", "derived"), "no function 'none'"),
    ],
)
def test_a_function_that_fails_leaves_the_rest_of_the_table(computed, reason, functions):
    whole = Computed("made_functions.give", {"value": 1}, "other", "derived")
    layer = Layer("small", computed=[computed, whole])
    cells, holes = make_cells(experiment_of(layer), layer, {})
    assert [cell.row for cell in cells] == ["other"]
    assert len(holes) == 1
    assert re.search(reason, holes[0].reason), holes[0].reason


def test_the_holes_of_a_failed_table_are_the_cells_that_it_owed(functions):
    computed = Computed("made_functions.breaks")
    layer = Layer("small", computed=[computed])
    published = [Published("a", "derived", 1.0, "Table 1", "official")]
    claim = Claim("c", "c", "small", "equals", {"of": {"row": "b", "column": "size"}, "to": 3})
    experiment = experiment_of(layer, published=published, claims=[claim])
    assert places(computed, experiment, layer) == [("a", "derived"), ("b", "size")]
    assert {(hole.row, hole.column) for hole in from_function(computed, experiment, layer, {})} == {
        ("a", "derived"), ("b", "size"),
    }  # fmt: skip
    assert places(computed, experiment_of(layer), layer) == [("breaks", "accuracy")]


def test_a_cell_is_made_once(tmp_path, functions):
    computed = Computed("made_functions.give", {"value": 1}, "full", "accuracy")
    layer = Layer("small", rows={"full": []}, computed=[computed])
    runs = {"full": [run("full", "0", tmp_path, val_accuracy=0.5)]}
    cells, holes = make_cells(experiment_of(layer, [ACCURACY]), layer, runs)
    assert [cell.values for cell in cells] == [{"0": 50.0}]
    assert "a second time" in holes[0].reason


def test_functions_are_found_by_their_dotted_name():
    assert load_function("effnlp.reproduce.cells.load_function") is load_function
    with pytest.raises(ValueError, match="has no function 'load_functio'; did you mean 'load_function'"):
        load_function("effnlp.reproduce.cells.load_functio")


def test_an_estimate_with_an_interval_keeps_it_and_is_not_exact(functions):
    value = Interval(2.4, 1.2, 6.9, 10, "generalised")
    layer = Layer("analytic", computed=[Computed("made_functions.give", {"value": value}, "full", "derived")])
    assert make_cells(experiment_of(layer), layer, {}) == (
        [Cell("full", "derived", {"0": 2.4}, interval=(1.2, 6.9))], [],
    )  # fmt: skip
    open_ended = Interval(2.4, 1.2, float("inf"), 10, "generalised")
    layer = Layer(
        "small", computed=[Computed("made_functions.give", {"value": open_ended}, "full", "derived")]
    )
    _, [hole] = make_cells(experiment_of(layer), layer, {})
    assert "no end: 1.2 to inf" in hole.reason
