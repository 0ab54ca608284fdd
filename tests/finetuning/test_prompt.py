"""The task as text, from the template to the record."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.data.template import parse
from effnlp.finetuning.phrasings import PHRASINGS
from effnlp.finetuning.prompt import Prompt, draw_balanced, mutual_information, refuse, words_of
from effnlp.model.packaged import read_package
from effnlp.model.storage import Deployed
from effnlp.predict import main as predict_main
from effnlp.search.final import measure
from effnlp.task.task import Task

WORDS = "finetuning.words={good: lovely, bad: [awful, dull], odd: strange}"
ASKED = "finetuning.templates=['{text} {answer}']"
COMMON = (
    "finetuning=prompt", "model.vocabulary_size=400", "model.max_length=40", "pretraining.corpus=[task]",
    "pretraining.steps=40", "pretraining.batch_size=16",
)  # fmt: skip
MASKED = ("model=backbone", "pretraining=mlm", *COMMON)
SPOKEN = (*MASKED, WORDS)
CAUSAL = ("model=decoder", "pretraining=clm", *COMMON)


def task_of(labels=("bad", "good"), name="mine", pairs=False):
    table = pd.DataFrame({"text": ["a", "b"], "label": [0, 1]})
    if pairs:
        table = table.assign(text_pair="c")
    return Task(name, labels, {"train": table, "validation": table, "test": table})


def test_demonstrations_are_balanced_over_the_classes_and_the_same_for_a_seed():
    labels = np.array([0] * 90 + [1] * 6 + [2] * 4)
    for count in (0, 1, 3, 7, 14):
        drawn = draw_balanced(labels, count, torch.Generator().manual_seed(1))
        assert len(set(drawn)) == count
        counts = [sum(labels[i] == c for i in drawn) for c in range(3)]
        assert max(counts[:2]) - min(counts[:2]) <= 1 or counts[1] == 6
        assert drawn == draw_balanced(labels, count, torch.Generator().manual_seed(1))
    assert drawn != draw_balanced(labels, count, torch.Generator().manual_seed(2))
    with pytest.raises(ValueError, match="11 examples cannot be drawn from 10"):
        draw_balanced(labels[:10], 11, torch.Generator())


def test_mutual_information_is_zero_where_answers_are_alike_and_log_c_where_they_tell_all():
    assert mutual_information(torch.randn(1, 4).expand(50, 4)) == pytest.approx(0, abs=1e-9)
    assert mutual_information(1e3 * torch.eye(4).repeat(5, 1)) == pytest.approx(np.log(4), rel=1e-6)
    assert mutual_information(1e3 * torch.tensor([[1.0, 0.0]] * 9)) == pytest.approx(0, abs=1e-9)


def test_asking_trains_nothing_and_looks_at_no_label(run_tiny, tmp_path, texts_file, capsys):
    record = run_tiny(*SPOKEN, ASKED, "evaluation.test=true", folder=tmp_path / "asked")
    values = record.values
    assert record.status == "completed", record.message
    assert values["train/steps"] == values["data/labels"] == values["model/trainable_params"] == 0
    assert not any(key.startswith("train/") for key in values if key != "train/steps")
    assert 0 <= values["val/accuracy"] <= 1
    assert values["cost/finetuning/own/flops"] == 0
    assert values["cost/total/own/flops"] == pytest.approx(
        values["cost/pretraining/own/flops"] + values["cost/evaluation/own/flops"]
    )
    assert "flops/uncounted" not in record.notes
    assert record.notes["applied"]["finetuning"]["template"] == 0
    again = run_tiny(*SPOKEN, ASKED, folder=tmp_path / "later")
    assert again.values["val/loss"] == values["val/loss"]
    measure(again, again.folder, test=True, latency=False)
    assert again.values["test/loss"] == pytest.approx(values["test/loss"], rel=1e-5)
    deployed = Deployed.load(record.folder / "deployed.pt")
    long = "the film " * 100
    batch = deployed.tokenizer.encode(["very lovely", long]).batch([0, 1])
    assert batch["input_ids"].shape[1] == 40
    assert (batch["input_ids"] == deployed.model.mask).sum(1).tolist() == [1, 1]
    answers, cut = read_package(record.folder).probabilities(["very lovely", long])
    assert cut == 1
    assert torch.allclose(answers.sum(1), torch.ones(2, dtype=torch.float64))
    asked = tmp_path / "asked.txt"
    asked.write_text("a lovely plot\n")
    assert predict_main([str(record.folder), "--file", str(asked)]) == 0
    assert capsys.readouterr().out.strip() in ("good", "bad", "odd")


def test_labels_that_are_looked_at_are_counted_and_the_search_has_its_price(run_tiny, tmp_path):
    searched = ("finetuning.templates=['{text} {answer}','{answer} {text}','was {answer} {text}']",)
    by_accuracy = run_tiny(*SPOKEN, *searched, "finetuning.search_examples=20", folder=tmp_path / "one")
    assert by_accuracy.status == "completed", by_accuracy.message
    said = by_accuracy.notes["applied"]["finetuning"]
    scores = [said[f"score_{i}"] for i in range(3)]
    assert said["template"] == scores.index(max(scores))
    assert by_accuracy.values["data/labels"] == 20
    assert by_accuracy.values["cost/finetuning/own/flops"] > 0
    alone = run_tiny(
        *SPOKEN, f"finetuning.templates=[{searched[0].split('[')[1][:-1].split(',')[int(said['template'])]}]",
        folder=tmp_path / "two",
    )  # fmt: skip
    assert alone.values["val/loss"] == by_accuracy.values["val/loss"]
    unseen = run_tiny(
        *SPOKEN,
        *searched,
        "finetuning.search_by=mutual_information",
        "finetuning.shots=2",
        folder=tmp_path / "three",
    )
    assert unseen.status == "completed", unseen.message
    assert unseen.values["data/labels"] == 2


def test_a_causal_model_answers_after_the_text_with_words_of_any_length(run_tiny, tmp_path):
    words = "finetuning.words={good: lovely, bad: very awful indeed, odd: strange}"
    record = run_tiny(
        *CAUSAL,
        ASKED,
        words,
        "finetuning.shots=3",
        "finetuning.calibrate=true",
        "model.max_length=80",
        folder=tmp_path / "run",
    )
    assert record.status == "completed", record.message
    assert record.values["data/labels"] == 3
    assert record.values["cost/finetuning/own/flops"] > 0  # of the inputs without content
    model = Deployed.load(record.folder / "deployed.pt").model
    assert not torch.equal(model.log_prior, torch.zeros(3))
    assert float(model.log_prior.exp().sum()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "overrides", [(), ("peft=lora", "finetuning.learning_rate=1e-2")], ids=["all", "lora"]
)
def test_a_model_learns_to_answer(run_tiny, overrides):
    record = run_tiny(
        *SPOKEN,
        ASKED,
        "finetuning.train=true",
        "finetuning.learning_rate=3e-3",
        "trainer.epochs=8",
        *overrides,
    )
    assert record.status == "completed", record.message
    assert record.values["val/accuracy"] > 0.8
    assert record.values["train/steps"] > 0
    assert record.values["data/labels"] == record.values["data/examples"] > 200
    assert record.values["model/trainable_params"] > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "finetuning=prompt needs token head .* would work: .*pretraining=mlm"),
        (("pretraining=mlm",), "finetuning.templates must be given for task texts"),
        ((*MASKED, ASKED, "finetuning.words={good: lovely}"), "label 'bad' of task texts has no word"),
        ((*MASKED, ASKED, "finetuning.words={goood: lovely}"), "'goood', no label .* did you mean 'good'"),
        ((*SPOKEN, "finetuning.templates=['{text}']"), "needs each of {text}, {answer} once, got '{text}'"),
        (
            (*MASKED, ASKED, "finetuning.words={good: lovely, bad: very awful, odd: strange}"),
            r"'very awful' is 2 \('Ġvery', 'Ġawful'\)",
        ),
        ((*CAUSAL, WORDS, "finetuning.templates=['{answer}: {text}']"), "must end with {answer}"),
        ((*SPOKEN, ASKED, "peft=lora"), "peft=lora acts on a training, .* finetuning.train=true"),
        ((*SPOKEN, ASKED, "compression/pruning=movement"), "movement acts on a training"),
        ((*SPOKEN, ASKED, "finetuning.shots=30"), "30 demonstrations get half of 40 tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(run_tiny, overrides, said):
    overrides = overrides if COMMON[0] in overrides else ("model=backbone", "finetuning=prompt", *overrides)
    record = run_tiny(*overrides)
    assert record.status == "failed"
    assert re.search(said, record.message), record.message


def test_a_task_of_numbers_is_refused():
    with pytest.raises(
        ValueError, match="finetuning=prompt answers with words for classes, and task mine has none"
    ):
        refuse(task_of(labels=()))


@pytest.mark.parametrize("keys", [{"shots": -1}, {"search_by": "luck"}, {"calibrate": True, "train": True}])
def test_values_outside_their_range_are_refused_by_key(keys):
    with pytest.raises(ValueError, match=next(iter(keys))):
        Prompt(**keys)


@pytest.mark.parametrize("name", sorted(PHRASINGS))
def test_what_is_known_of_a_task_is_whole(name):
    known = PHRASINGS[name]
    is_pair = name == "snli"
    labels = tuple(known.words)
    refuse(task_of(labels, name, is_pair))
    assert words_of(task_of(labels, name, is_pair), None) == [list(known.words[label]) for label in labels]
    for template in (*known.masked, *known.causal):
        parse(template, is_pair)
    assert all(parse(template, is_pair).ends_with_answer for template in known.causal)
    assert set(known.about) in (set(labels), set())
    assert "{label}" in known.hypothesis


@pytest.mark.needs_data("sst2", "trec", "ag_news", "snli")
@pytest.mark.parametrize("name", ["sst2", "trec", "ag_news", "snli"])
def test_the_labels_of_the_table_are_those_of_the_data(name):
    import os

    from effnlp.task.folder import describe

    assert tuple(PHRASINGS[name].words) == tuple(describe(os.environ["EFFNLP_DATA"], name)["label_names"])


def test_the_labels_of_the_documentation_are_its_themes():
    from effnlp.task.docstrings import THEMES

    assert set(PHRASINGS["docstrings"].words) == set(PHRASINGS["docstrings"].about) == set(THEMES)


@pytest.mark.parametrize("family", ["bert", "electra", "gpt2"])
def test_a_checkpoint_answers_with_its_own_head(run_tiny, tiny_family, family):
    tiny = tiny_family(family)
    record = run_tiny(
        "model=pretrained", f"model.name={tiny.path}", "model.max_length=32", "finetuning=prompt",
        "finetuning.words={good: a, bad: the, odd: sat}", ASKED,
    )  # fmt: skip
    assert record.status == "completed", record.message
    assert "flops/uncounted" not in record.notes
    answering = Deployed.load(record.folder / "deployed.pt").model
    assert (answering.mask is None) == (family == "gpt2")


def test_a_checkpoint_without_a_head_of_tokens_is_refused(run_tiny, minilm):
    record = run_tiny("model=pretrained", "finetuning=prompt", WORDS, ASKED)
    assert record.status == "failed"
    assert "holds no head that predicts a masked token" in record.message
