"""A number to be learned, from the file to the answer."""

import csv
import json
import random

import numpy as np
import pytest
import torch

from effnlp.evaluation.predictions import load_predictions
from effnlp.model.packaged import read_package
from effnlp.model.storage import Deployed
from effnlp.pick import main as pick_main
from effnlp.predict import main as predict_main
from effnlp.record import headline
from effnlp.report.read import read_records
from effnlp.report.summary import summarise
from effnlp.search.final import measure
from effnlp.search.rungs import Rungs, Verdict

NUMBERS = ("task.number=true", "finetuning=regress", "evaluation/quality=[regression]")


@pytest.fixture
def numbers_file(tmp_path):
    """300 texts; each has one word that is worth 200, 210 or 230, and filler."""
    draw, path = random.Random(0), tmp_path / "numbers.csv"
    worth = {"low": 200, "middle": 210, "high": 230}
    filler = ["the", "a", "film", "plot", "was", "scene", "actor", "very", "with", "music", "story", "again"]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index in range(300):
            word = list(worth)[index % 3]
            words = [draw.choice(filler) for _ in range(draw.randint(3, 12))]
            rows.writerow([" ".join([*words, word]), worth[word]])
    return path


@pytest.fixture
def learn(run_tiny, numbers_file):
    """One run on them."""
    return lambda *overrides, **more: run_tiny(
        f"task.path={numbers_file}", *NUMBERS, "trainer.epochs=6", *overrides, **more
    )


def test_a_run_learns_numbers_and_its_model_gives_them(learn, capsys):
    record = learn()
    values = record.values
    assert record.status == "completed", record.message
    assert headline(values) == "val/pearson"
    assert values["val/pearson"] > 0.9
    assert values["val/mse"] == pytest.approx(values["train/best_mse"], rel=1e-4)
    assert values["val/mse"] < 0.3 * np.var([200, 210, 230])
    assert record.notes["labels"] == []
    assert not any("accuracy" in key or "best_score" in key for key in values)
    kept = load_predictions(record.folder)["val"]
    assert kept.logits.shape[1] == 1
    assert float(((kept.logits.squeeze(1) - kept.labels) ** 2).mean()) == pytest.approx(values["val/mse"])
    asked = ["the film was high", "the film was low"]
    given, _ = read_package(record.folder).numbers(asked)
    assert 190 < given[1] < given[0] < 240
    (record.folder / "asked.txt").write_text("\n".join(asked))
    assert predict_main([str(record.folder), "--file", str(record.folder / "asked.txt")]) == 0
    assert [float(line) for line in capsys.readouterr().out.split()] == pytest.approx(
        given.squeeze(1).tolist(), abs=1e-5
    )
    assert predict_main([str(record.folder), "--file", str(record.folder / "asked.txt"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first == {"text": asked[0], "number": pytest.approx(float(given[0]), abs=1e-5)}
    assert predict_main([str(record.folder), "--file", str(record.folder / "asked.txt"), "--scores"]) == 2
    assert "this model gives a number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no probabilities of classes"):
        read_package(record.folder).probabilities(asked)


def test_the_test_split_of_numbers_is_scored_later_as_it_would_have_been_at_once(learn, tmp_path):
    at_once = learn("evaluation.test=true")
    later = learn(folder=tmp_path / "later")
    measure(later, later.folder, test=True, latency=False)
    assert at_once.values["test/pearson"] > 0.8
    for key in ("test/pearson", "test/spearman", "test/mse"):
        assert later.values[key] == pytest.approx(at_once.values[key], abs=1e-6)


def test_what_is_shown_at_a_rung_are_labels_and_the_training_goes_on_untouched(learn, tmp_path):
    seen = []

    def report(rung):
        seen.append(dict(rung.values))
        return Verdict("continue", "go on")

    shown = learn(folder=tmp_path / "shown", rungs=Rungs((1,), 2, 0, report))
    plain = learn(folder=tmp_path / "plain")
    assert len(seen) == 1
    assert 0 < seen[0]["val/mse"] < 230**2 / 4  # predictions near the labels, not near 0
    assert shown.values["val/mse"] == plain.values["val/mse"]


def test_the_best_of_some_runs_on_numbers_is_picked_by_their_correlation(learn, tmp_path, capsys):
    better = learn(folder=tmp_path / "runs" / "better")
    worse = learn("trainer.epochs=1", folder=tmp_path / "runs" / "worse")
    assert better.values["val/pearson"] > worse.values["val/pearson"]
    assert pick_main([str(tmp_path / "runs"), "--into", str(tmp_path / "picked")]) == 0
    said = capsys.readouterr().out
    assert "val/pearson" in said
    assert "test/pearson" in said
    assert better.identity["config_hash"] in said
    page = (tmp_path / "picked" / "README.md").read_text()
    assert "Its answer is a number." in page
    assert read_package(tmp_path / "picked").labels == ()
    summary = summarise(read_records([tmp_path / "runs"]))
    assert list(summary.sections[0].objectives) == ["val/pearson", "infer/single_stream/flops"]


@pytest.mark.slow
def test_numbers_are_learned_in_half_precision_too(learn):
    record = learn("hardware=bf16")
    assert record.status == "completed", record.message
    assert record.values["val/pearson"] > 0.9


@pytest.mark.slow
def test_methods_work_on_a_model_of_numbers_as_on_one_of_classes(learn):
    record = learn(
        "model=backbone", "peft=lora", "compression/pruning=magnitude", "compression.pruning.sparsity=0.1",
        "compression/quantization=int8_dynamic", "finetuning.learning_rate=5e-3",
    )  # fmt: skip
    assert record.status == "completed", record.message
    deployed = Deployed.load(record.folder / "deployed.pt")
    given = deployed.model(deployed.tokenizer.encode(["a film", "the plot"]).batch([0, 1]))
    assert given.shape == (2, 1)
    assert torch.all((given > 150) & (given < 280))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["finetuning=classify"], "finetuning=classify learns classes, and the labels of task numbers are numbers"),
        (["evaluation/quality=[classification]"], "quality=classification scores classes"),
        (["evaluation/quality=[regression,calibration]"], "quality=calibration scores probabilities of classes"),
        (["task.number=false"], "finetuning=regress learns numbers, and task numbers has the classes '200'"),
        (["task.number=false", "finetuning=classify"], "quality=regression scores numbers"),
        (["model=backbone", "compression/early_exit=deebert"], "early_exit=deebert needs classes when it acts"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_numbers_is_refused_before_the_training(learn, overrides, said):
    record = learn(*overrides)
    assert record.status == "failed"
    assert said in record.message
    assert not (record.folder / "checkpoints").exists()
