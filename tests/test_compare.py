"""The verb, on folders as runs leave them, and on what cannot be compared."""

import json
import shutil

import pytest
import torch

from effnlp.compare import main
from effnlp.evaluation.predictions import Predictions, save_predictions
from effnlp.record import COMPLETED, FAILED, Record
from effnlp.report.answers import example_scores


def predicted(right, seed, count=300):
    """Predictions of three classes, right in this share of the examples."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    answers = torch.where(torch.rand(count, generator=draw) < right, labels, (labels + 1) % 3)
    return Predictions.of(2.0 * torch.nn.functional.one_hot(answers, 3).float(), labels)


@pytest.fixture
def pair(tmp_path):
    """Folders of two configurations with two seeds each; the second is right less often."""
    for name, right in (("long", 0.9), ("brief", 0.6)):
        for seed in (0, 1):
            folder = tmp_path / name / str(seed)
            folder.mkdir(parents=True)
            found = predicted(right, seed)
            means = {f"val/{key}": float(scores.mean()) for key, scores in example_scores(found).items()}
            record = Record(
                COMPLETED,
                {"config_hash": name, "seed_init": seed, "seed_order": seed, "task": "t", "evaluator": "1",
                 "task_fingerprint": "f", "recipe": {"seed": 0}, "started": f"{name}{seed}"},
                choices={"model": name}, notes={"labels": ["bad", "good", "odd"]},
            )  # fmt: skip
            record.put({**means, "model/bytes": 10, "cost/total/own/seconds": 2.0 + seed})
            record.save(folder)
            save_predictions(folder, {"val": found})
    return tmp_path / "long", tmp_path / "brief"


def edit(folder, **identity):
    for path in folder.rglob("record.json"):
        record = Record.load(path.parent)
        record.identity |= identity
        record.save(path.parent)


def said(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_two_configurations_are_compared_by_example_and_seed(pair, capsys):
    code, out, err = said(capsys, f"whole={pair[0]}", pair[1], "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [side["label"] for side in found["sides"]] == ["whole", "brief"]
    assert [len(side["seeds"]) for side in found["sides"]] == [2, 2]
    rows = {row["key"]: row for row in found["comparisons"][0]["rows"]}
    accuracy = rows["val/accuracy"]
    assert accuracy["difference"]["mean"] == pytest.approx(accuracy["b"] - accuracy["a"], abs=1e-6)
    assert accuracy["difference"]["mean"] < -0.05
    assert rows["model/bytes"]["verdict"] == "equal"
    answers = found["comparisons"][0]["answers"][0]
    assert 0 < answers["values"]["label_loyalty"] < 1
    assert answers["pairs"] == 2


def test_the_table_names_keys_verdicts_and_what_changed(pair, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = said(capsys, *pair, "--on", "val/accuracy", "model/*", "--level", "0.95")
    assert code == 0
    assert "brief (2 runs) against long (2 runs)" in out
    assert "val/accuracy ↑" in out
    assert "95%" in out
    assert "Answers on val" in out
    assert "val/loss" not in out.split("Answers")[0]
    for width in ("80", "200"):
        monkeypatch.setenv("COLUMNS", width)
        assert said(capsys, *pair)[0] == 0


def test_a_third_side_is_held_against_the_first_too(pair, capsys):
    code, out, _ = said(capsys, *pair, f"again={pair[0]}", "--json")
    assert code == 0
    found = json.loads(out)["comparisons"]
    assert [(each["a"], each["b"]) for each in found] == [("long", "brief"), ("long", "again")]
    assert {row["verdict"] for row in found[1]["rows"] if row["key"].startswith("val/")} == {"equal"}


@pytest.mark.parametrize(
    "identity", [{"task_fingerprint": "other"}, {"evaluator": "0"}, {"recipe": {"seed": 1}}]
)
def test_figures_that_do_not_compare_are_refused_unless_asked_for(pair, capsys, identity):
    edit(pair[1], **identity)
    code, out, err = said(capsys, *pair)
    name = next(iter(identity))
    assert (code, out) == (1, "")
    assert f"long, brief differ in {name}" in err
    assert "--anyway" in err
    code, out, err = said(capsys, *pair, "--anyway", "--json")
    assert code == 0
    assert f"differ in {name}" in err
    how = {
        row["difference"]["how"]
        for row in json.loads(out)["comparisons"][0]["rows"]
        if row["key"] == "val/accuracy"
    }
    assert how <= {"t over seeds", "bootstrap over examples"}
    if name == "task_fingerprint":
        assert how == {"t over seeds"}


def test_what_is_no_side_is_refused(pair, capsys, tmp_path):
    long, brief = pair
    for words, message in [
        ((long, tmp_path / "nowhere"), "nowhere is not a folder"),
        ((long, tmp_path), "holds 2 configurations, a side is one"),
        ((long, long), "two sides are called"),
        ((f"x={long}", f"x={brief}"), "two sides are called 'x'"),
        ((long, "=there"), "neither a folder nor LABEL=FOLDER"),
        ((long, brief, "--on", "val/acuracy"), "did you mean 'val/accuracy'"),
    ]:
        code, out, err = said(capsys, *words)
        assert (code, out) == (1, ""), words
        assert err.startswith("effnlp compare: ")
        assert message in err
    Record(FAILED, {"config_hash": "x"}).save(shutil.copytree(long / "0", tmp_path / "failed"))
    assert "failed has no completed run" in said(capsys, long, tmp_path / "failed")[2]
    edit(long / "0", task_fingerprint="other")
    assert "are not of the same: task_fingerprint" in said(capsys, long, brief)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["one"], "nothing to compare with"), (["a", "b", "--level", "90"], "between 0 and 1")],
)
def test_arguments_that_make_no_sense_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_runs_without_or_with_damaged_predictions(pair, capsys):
    for path in pair[1].rglob("predictions.npz"):
        path.unlink()
    code, out, _ = said(capsys, *pair, "--json")
    found = json.loads(out)["comparisons"][0]
    assert code == 0
    assert found["answers"] == []
    rows = {row["key"]: row for row in found["rows"]}
    assert rows["val/accuracy"]["difference"]["how"] == "t over seeds"
    (pair[1] / "0" / "predictions.npz").write_bytes(b"torn")
    code, _, err = said(capsys, *pair)
    assert code == 1
    assert "is damaged" in err


def test_two_runs_are_compared_and_the_one_with_a_reference_said_the_same(run_tiny, tmp_path, capsys):
    rate = "finetuning.learning_rate=5e-3"
    run_tiny(rate, "trainer.epochs=4", folder=tmp_path / "whole")
    brief = run_tiny(
        rate, "trainer.epochs=1", f"evaluation.reference={tmp_path}/whole", folder=tmp_path / "brief"
    )
    code, out, err = said(capsys, tmp_path / "whole", tmp_path / "brief", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["comparisons"][0]
    (answers,) = found["answers"]
    stored = {
        k.removeprefix("reference/val/"): v for k, v in brief.values.items() if k.startswith("reference/val/")
    }
    assert answers["values"] == pytest.approx(stored)
    accuracy = next(row for row in found["rows"] if row["key"] == "val/accuracy")
    assert accuracy["difference"]["how"] == "bootstrap over examples"
    assert accuracy["b"] == brief.values["val/accuracy"]
    assert accuracy["difference"]["mean"] == pytest.approx(accuracy["b"] - accuracy["a"])
