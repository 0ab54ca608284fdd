"""Classes told apart by entailment, from a run on pairs to the record."""

import csv
import re

import pytest
import torch

from effnlp.finetuning.nli_zero_shot import NLIZeroShot
from effnlp.model.packaged import read_package
from effnlp.model.storage import Deployed

NLI = ("model=backbone", "model.vocabulary_size=400", "model.max_length=32", "trainer.epochs=1")
ABOUT = "finetuning.about={good: lovely things, bad: awful, odd: strange}"


@pytest.fixture
def pairs_run(run_tiny, tmp_path):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "text_pair", "label"])
        for i in range(150):
            kind = ("entailment", "neutral", "contradiction")[i % 3]
            word = ("lovely", "awful", "strange")[i // 3 % 3]
            other = {"entailment": word, "neutral": "music", "contradiction": "not " + word}[kind]
            rows.writerow([f"the film {i} was {word}", f"This text is about {other}.", kind])
    record = run_tiny(f"task.path={path}", "task.text_pair=text_pair", *NLI, folder=tmp_path / "nli")
    assert record.status == "completed", record.message
    return record.folder


def test_a_class_scores_as_its_hypothesis_does_in_a_pair(run_tiny, pairs_run, tmp_path):
    record = run_tiny(
        *NLI,
        "finetuning=nli_zero_shot",
        f"finetuning.entailment={pairs_run}",
        ABOUT,
        folder=tmp_path / "zero",
    )
    values = record.values
    assert record.status == "completed", record.message
    assert values["train/steps"] == values["data/labels"] == values["model/trainable_params"] == 0
    assert "flops/uncounted" not in record.notes
    assert "contaminated" not in record.notes
    pairs = Deployed.load(pairs_run / "deployed.pt")
    assert values["model/params"] == sum(p.numel() for p in pairs.model.parameters())
    texts = ["a superb film", "", "the plot was weird again"]
    hypotheses = [f"This text is about {word}." for word in ("awful", "lovely things", "strange")]
    answers, _ = read_package(record.folder).probabilities(texts)
    expected = []
    for text in texts:
        encodings = pairs.tokenizer.encode([text] * 3, hypotheses)
        with torch.no_grad():
            logits = pairs.model(encodings.batch(range(3))).log_softmax(1)
        expected.append(logits[:, list(pairs.labels).index("entailment")].double().softmax(0))
    zero = Deployed.load(record.folder / "deployed.pt")
    assert list(zero.labels) == ["bad", "good", "odd"]
    assert torch.allclose(answers, torch.stack(expected), atol=1e-5)
    long = zero.tokenizer.encode(["word " * 100])
    assert long.truncated == 1
    with torch.no_grad():
        assert zero.model.with_hypotheses(long.batch([0], pad_to_multiple=8))["input_ids"].shape == (3, 32)


def test_it_costs_a_pass_for_each_class(run_tiny, pairs_run, tmp_path):
    record = run_tiny(
        *NLI,
        "finetuning=nli_zero_shot",
        f"finetuning.entailment={pairs_run}",
        ABOUT,
        folder=tmp_path / "zero",
    )
    plain = run_tiny(*NLI, folder=tmp_path / "plain")
    key = "infer/single_stream/flops"
    assert record.values[key] > 3 * plain.values[key]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((ABOUT, "finetuning.entailment=nowhere"), "finetuning.entailment=nowhere is no folder of a run"),
        ((ABOUT,), "finetuning.entailment must be the folder of a finished run"),
        (("finetuning.entailment=x",), "finetuning.about must be given for task texts"),
        (
            ("finetuning.entailment=x", "finetuning.about={good: a}"),
            "finetuning.about says nothing of label 'bad'",
        ),
        (("finetuning.entailment=x", ABOUT, "finetuning.hypothesis=about it"), "needs {label} once"),
        (("finetuning.entailment=x", ABOUT, "peft=bitfit"), "peft=bitfit acts on a training"),
    ],
)
def test_what_cannot_be_told_is_refused_in_words(run_tiny, overrides, said):
    record = run_tiny(*NLI, "finetuning=nli_zero_shot", *overrides)
    assert record.status == "failed"
    assert re.search(said, record.message), record.message


def test_another_model_than_the_one_that_answers_is_refused(run_tiny, pairs_run, tmp_path):
    record = run_tiny(
        *NLI, "finetuning=nli_zero_shot", f"finetuning.entailment={pairs_run}", ABOUT, "model.dropout=0.3",
        folder=tmp_path / "zero",
    )  # fmt: skip
    assert record.status == "failed"
    assert "it differs in model.dropout" in record.message


def test_a_run_without_entailment_is_refused(run_tiny, tmp_path):
    plain = run_tiny(*NLI, folder=tmp_path / "plain")
    record = run_tiny(
        *NLI,
        "finetuning=nli_zero_shot",
        f"finetuning.entailment={plain.folder}",
        ABOUT,
        folder=tmp_path / "zero",
    )
    assert "must hold a model of pairs of texts with a label 'entailment'" in record.message


def test_a_model_that_knew_pairs_before_is_noted(pairs_run):
    from effnlp.record import Record

    record = Record.load(pairs_run)
    choice = NLIZeroShot(str(pairs_run))
    choice.read_config(record.config)
    assert "contaminated" not in choice.notes
    record.config["model"]["name"] = "minilm"
    record.save(pairs_run)
    choice.read_config(record.config)
    assert "SNLI" in choice.notes["contaminated"]
