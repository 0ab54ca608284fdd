import numpy as np
import pytest

from effnlp.evaluation.predictions import Predictions, save_predictions
from effnlp.record import Record
from effnlp.reproduce.analyses.changed import against_row
from effnlp.reproduce.cells import Run

LABELS = np.array([0] * 12 + [1] * 6 + [2] * 2)


@pytest.fixture
def row(tmp_path):
    """Makes the runs of a row from the answers of each seed."""

    def make(name, *answers):
        runs = []
        for seed, given in enumerate(answers):
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir()
            logits = 4.0 * np.eye(3, dtype=np.float32)[given]
            save_predictions(folder, {"val": Predictions(logits, LABELS)})
            runs.append(
                Run(name, str(seed), Record("completed", {}, notes={"labels": ["a", "b", "c"]}), folder)
            )
        return runs

    return make


def test_a_model_against_one_of_the_same_answers_is_wholly_loyal(row):
    table = against_row({"fp32": row("fp32", LABELS), "same": row("same", LABELS)}, "fp32")
    assert set(table) == {"same"}
    found = {column: values["0"] for column, values in table["same"].items()}
    assert found == {"label loyalty": 100, "probability loyalty": pytest.approx(100), "changed": 0}


def test_changed_answers_are_counted_where_they_are_seed_by_seed(row):
    rare, common = LABELS.copy(), LABELS.copy()
    rare[-1] = 0  # one of two texts of the rarest class
    common[:4] = 1
    runs = {"fp32": row("fp32", LABELS, LABELS), "int8": row("int8", rare, common)}
    found = against_row(runs, "fp32")["int8"]
    assert found["changed"] == {"0": pytest.approx(5), "1": pytest.approx(20)}
    assert found["label loyalty"] == {"0": pytest.approx(95), "1": pytest.approx(80)}
    assert found["rarest class"] == {"0": pytest.approx(0.5 / 0.05), "1": 0}


def test_where_one_seed_changed_nothing_there_is_no_ratio(row):
    other = LABELS.copy()
    other[0] = 2
    runs = {"fp32": row("fp32", LABELS, LABELS), "int8": row("int8", LABELS, other)}
    assert set(against_row(runs, "fp32")["int8"]) == {"label loyalty", "probability loyalty", "changed"}


def test_a_reference_that_is_not_there_is_named(row):
    runs = {"fp32": row("fp32", LABELS), "int8": row("int8", LABELS, LABELS)}
    with pytest.raises(ValueError, match="no row 'fp16' with runs; there is fp32, int8"):
        against_row(runs, "fp16")
    with pytest.raises(ValueError, match="fp32 has no run with the seed 1, which int8 has"):
        against_row(runs, "fp32")
