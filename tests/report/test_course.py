import numpy as np
import pytest

from effnlp.record import COMPLETED, FAILED, Record
from effnlp.report.course import (
    attempts_of,
    budget_rows,
    courses,
    ends_in_words,
    failure_classes,
    limits,
    transfer_in_words,
)
from effnlp.report.read import Loaded, Reading, read_records
from effnlp.search.progress import hypervolume_curve

ACCURACY, FLOPS = "val/accuracy", "infer/single_stream/flops"


@pytest.fixture
def reading(searched):
    return read_records([searched])


@pytest.fixture
def sweep(reading):
    (sweep,) = reading.sweeps.values()
    return sweep


def test_the_course_has_an_entry_for_each_trial_that_ended_in_the_order_of_ending(reading):
    (course,) = courses(reading)
    assert [folder.name for folder in course.runs] == [f"{number:03d}" for number in range(20)]
    assert course.spent["trials"] == list(range(1, 21))
    assert all(len(column) == 20 and column == sorted(column) for column in course.spent.values())
    assert course.spent["flops"][-1] == pytest.approx(
        sum(run.record.values.get("cost/total/own/flops", 0) for run in reading.loaded)
    )


def test_only_trials_finished_at_full_fidelity_that_violate_nothing_raise_the_hypervolume(reading, sweep):
    (course,) = courses(reading)
    bound = float(sweep["constraints"][0].split("< ")[1])
    counted = [
        run.record.values for run in reading.loaded
        if run.record.status == COMPLETED and run.record.values["model/bytes"] < bound
    ]  # fmt: skip
    assert len(counted) == 10
    curve = hypervolume_curve(np.array([[v[ACCURACY], v[FLOPS]] for v in counted]), sweep["objectives"])
    assert course.hypervolume[-1] == pytest.approx(curve[-1])
    assert len(set(course.hypervolume[11:])) == 1  # those were stopped, or failed
    assert course.hypervolume == sorted(course.hypervolume)


def test_replicates_and_runs_of_nobodys_sweep_are_no_part_of_a_course(reading, searched, save, make_record):
    (before,) = courses(reading)
    save(make_record("pretrained", seed=1), "multirun/searched/trials/002-s1")
    save(make_record("pretrained", "lora"), "multirun/searched/elsewhere")
    (after,) = courses(read_records([searched]))
    assert after == before


def test_a_sweep_with_fewer_than_two_results_has_no_course(make_record, tmp_path):
    runs = [
        Loaded(make_record(), tmp_path / "trials/000"),
        Loaded(Record(FAILED, {}, reason="oom"), tmp_path / "trials/001"),
    ]
    reading = Reading(runs, sweeps={tmp_path: {"objectives": {ACCURACY: "maximize"}}})
    assert courses(reading) == []
    assert courses(Reading(runs * 2, sweeps={tmp_path: {}})) == []


def test_what_no_trial_recorded_is_no_axis(make_record, tmp_path):
    records = [make_record(), make_record(peft="lora")]
    for record in records:
        del record.values["cost/total/own/energy_joules"]
    runs = [Loaded(record, tmp_path / f"trials/00{n}") for n, record in enumerate(records)]
    (course,) = courses(Reading(runs, sweeps={tmp_path: {"objectives": {ACCURACY: "maximize"}}}))
    assert set(course.spent) == {"trials", "hours", "flops"}


def test_the_budget_is_told_with_units_limits_and_shares(sweep):
    assert budget_rows(sweep) == [
        ("trials", "20", "20", 1.0),
        ("time", "30.0 min", "60.0 min", 0.5),
        ("energy", "0.0123 kWh", "–", None),
        ("work", "2.50 PFLOP", "–", None),
        ("labels", "500", "–", None),
    ]
    assert limits(sweep) == {"trials": 20, "hours": 1.0}
    assert budget_rows({"trials": 3}) == []  # a sweep that has not ended


def test_what_a_transfer_saved_is_said_and_what_is_not_known_is_not(sweep):
    told = transfer_in_words(sweep)
    assert told.startswith("3 points from multirun/small were tried first.")
    assert told.endswith("reached as much for 11 trials, so that the transfer saved 8 trials.")

    def words(**more):
        return transfer_in_words({"outcome": {"transfer": {**sweep["outcome"]["transfer"], **more}}})

    assert words(spent_without=None).endswith("has not reached as much.")
    assert words(spent_without=2).endswith("so that the transfer saved nothing.")
    assert words(quantity="flops", spent=3e12, spent_without=5e12).endswith("the transfer saved 2.00 TFLOP.")
    assert words(points=1, hypervolume=None) == "1 point from multirun/small was tried first."
    assert transfer_in_words({}) is transfer_in_words({"outcome": {"transfer": None}}) is None


def test_failures_are_told_by_class_the_most_frequent_first(reading):
    failed = [run for run in reading.loaded if run.record.status == FAILED]
    found = [(c.reason, c.count, c.message, c.folder.name) for c in failure_classes(failed)]
    assert found == [("oom", 2, "no memory", "017"), ("killed", 1, "signal 9", "018")]
    assert failure_classes([]) == []


def test_the_history_of_a_run_is_found_by_its_slot(reading):
    by_name = {run.folder.name: attempts_of(run, reading) for run in reading.loaded}
    assert by_name.pop("018") == ["lost: worker 1 was lost"]
    assert set(map(tuple, by_name.values())) == {()}


def test_how_the_trials_ended_is_one_line(sweep):
    assert ends_in_words(sweep) == (
        "12 finished, 5 stopped, 3 failed, 1 of them tried again after being lost, "
        "4 proposals rejected beforehand; 20 of 20 trials are spent"
    )
    assert ends_in_words({}) == ""
