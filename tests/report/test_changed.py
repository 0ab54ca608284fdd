import numpy as np
import pytest

from effnlp.evaluation.predictions import Predictions
from effnlp.report.changed import FILE, MOST_CLASSES, compared, recorded
from effnlp.report.read import Loaded
from effnlp.report.summary import section

OBJECTIVES = {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"}


@pytest.fixture
def of(make_record, tmp_path):
    """A function that makes a section out of (model, values, notes)."""

    def make(*runs):
        loaded = []
        for number, (model, values, notes) in enumerate(runs):
            record = make_record(model)
            record.put(values)
            record.notes |= notes
            loaded.append(Loaded(record, tmp_path / str(number)))
        return section(("docstrings", "9f", "1"), loaded, OBJECTIVES)

    return make


def changes(overall, **places):
    return {"reference/val/changed": overall, "reference/val/label_loyalty": 1 - overall} | {
        f"reference/val/changed/{where}": share for where, share in places.items()
    }


def test_runs_with_a_reference_are_a_table_with_the_most_changed_first(of):
    note = {"reference": {"config_hash": "abc", "folder": "x"}}
    (table,) = recorded(of(
        ("backbone", changes(0.1, rarest_class=0.3), note), ("pretrained", changes(0.2, rarest_class=0.1), note),
        ("bag_of_ngrams", {}, {}),
    ))  # fmt: skip
    assert [row.values["changed"] for row in table.rows] == [0.2, 0.1]
    assert [row.reference for row in table.rows] == ["abc", "abc"]
    assert (table.split, table.places, table.more_classes, table.more_rows) == ("val", ["rarest_class"], 0, 0)


def test_of_many_classes_those_are_shown_that_changed_most(of):
    shares = {f"class/{n:02d}": n / 100 for n in range(20)}
    (table,) = recorded(of(("backbone", changes(0.1, **shares), {})))
    assert table.places == [f"class/{n:02d}" for n in range(20 - MOST_CLASSES, 20)]
    assert table.more_classes == 20 - MOST_CLASSES


def test_without_a_reference_there_is_no_table(of):
    assert recorded(of(("backbone", {}, {}))) == []


def test_the_frontier_is_compared_with_its_best_by_stored_predictions(of):
    made = of(
        *((model, {}, {"labels": ["no", "yes"]}) for model in ("backbone", "pretrained", "bag_of_ngrams"))
    )
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    logits = np.stack([labels == 0, labels == 1], axis=1) * 4.0
    other = logits.copy()
    other[:2] = other[:2, ::-1]

    def load(folder):
        run = next(c for c in made.frontier if c.runs[0].folder == folder)
        if run.choices["model"] == "bag_of_ngrams":
            raise FileNotFoundError(folder)
        return {"val": Predictions(logits=logits if run is made.frontier[0] else other, labels=labels)}

    (table,) = compared(made, load)
    (row,) = table.rows
    assert row.reference == made.frontier[0].config_hash
    assert row.values["changed"] == 0.25
    assert row.values["changed/class/no"] == pytest.approx(2 / 3)
    assert row.values["changed/class/yes"] == 0


def test_predictions_of_other_examples_are_left_out(of):
    made = of(("backbone", {}, {}), ("pretrained", {}, {}))

    def load(folder):
        many = 4 if folder == made.frontier[0].runs[0].folder else 5
        return {"val": Predictions(logits=np.eye(many, 2), labels=np.arange(many) % 2)}

    assert len(made.frontier) == 2
    assert compared(made, load) == []


def test_the_file_is_the_one_that_runs_write():
    from effnlp.evaluation import predictions

    assert predictions.FILE == FILE
