"""Several tasks, one encoder: what each gets, what is shared, and that one task alone is the ordinary run."""

import csv
import json
import math
import random

import pytest
import torch

from effnlp.finetuning.multi_task import MultiTask
from effnlp.model.storage import Deployed
from effnlp.record import COMPLETED, FAILED
from effnlp.search.rungs import Rungs, Verdict


class Named:
    """All of a task that the fine-tuning asks for."""

    def __init__(self, name, labels):
        self.name, self.labels = name, labels


TASKS = [Named("own", "abc"), Named("beside", "de"), Named("third", "fghi")]


def learning(**settings):
    choice = MultiTask(**settings)
    choice.read_tasks(TASKS)
    return choice


@pytest.fixture
def joint(make_classifier):
    """A small model with a head for the nine classes of all tasks."""
    model = make_classifier()
    torch.manual_seed(3)
    model.head = torch.nn.Linear(32, 9)
    return model


@pytest.fixture
def of_task(make_batch):
    """A batch of one task: labels among its classes, counted on from those of the tasks before."""

    def make(start, classes, seed=1):
        batch = make_batch(seed=seed)
        return {**batch, "labels": start + batch["labels"] % classes}

    return make


# What is learned


@pytest.mark.parametrize(("start", "classes"), [(0, 3), (3, 2), (5, 4)])
def test_the_loss_of_a_batch_is_that_among_the_classes_of_its_task(joint, of_task, start, classes):
    batch = of_task(start, classes)
    loss = learning().objective(joint, batch)
    among = joint(batch)[:, start : start + classes].log_softmax(-1)
    assert torch.allclose(loss, -among[torch.arange(len(among)), batch["labels"] - start].mean())
    loss.backward()
    of_other = torch.ones(9, dtype=torch.bool)
    of_other[start : start + classes] = False
    assert joint.head.weight.grad[of_other].abs().max() == 0
    assert joint.head.weight.grad[~of_other].abs().min() > 0


def test_uncertainty_starts_as_equal_weights_and_its_gradient_is_the_closed_form(joint, of_task):
    batch = of_task(3, 2)
    plain = learning().objective(joint, batch)
    choice = learning(weighting="uncertainty")
    model = choice.with_head(joint)
    loss = choice.objective(model, batch)
    assert torch.equal(loss, plain)
    loss.backward()
    s = model.head.log_variances
    assert s.grad[1] == pytest.approx(0.5 - float(plain.detach()), rel=1e-5)  # of L exp(-s) + s / 2 at s = 0
    assert s.grad[[0, 2]].tolist() == [0, 0]


def test_a_loss_that_stays_pulls_its_variance_to_where_the_paper_has_it(joint, of_task):
    batch = of_task(0, 3)
    plain = float(learning().objective(joint, batch).detach())
    choice = learning(weighting="uncertainty")
    model = choice.with_head(joint).requires_grad_(False)
    model.head.log_variances.requires_grad_(True)
    optimizer = torch.optim.SGD([model.head.log_variances], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        choice.objective(model, batch).backward()
        optimizer.step()
    assert float(model.head.log_variances[0].detach()) == pytest.approx(math.log(2 * plain), abs=1e-3)
    assert model.head.log_variances[1:].tolist() == [0, 0]


def test_the_variances_are_trained_where_all_but_the_head_is_frozen_and_are_gone_in_the_end(joint):
    from effnlp.peft.freezing import freeze_all_but_head

    choice = learning(weighting="uncertainty")
    model = choice.with_head(joint)
    freeze_all_but_head(model)
    assert model.head.log_variances.requires_grad
    assert set(dict(choice.finish(model).head.named_parameters())) == {"weight", "bias"}


def test_what_is_left_in_the_end_answers_for_each_task_as_the_joint_head_did(joint, make_batch):
    batch = make_batch()
    joint.head.weight.learning_rate_factor = 3.0
    before = joint(batch).detach()
    choice = learning()
    model = choice.finish(joint)
    assert torch.allclose(model(batch), before[:, :3], atol=1e-6)
    assert model.head.weight.learning_rate_factor == 3.0
    for name, (start, end) in {"beside": (3, 5), "third": (5, 9), "own": (0, 3)}.items():
        answers = choice.answering(model, name)(batch)
        assert torch.allclose(answers, before[:, start:end], atol=1e-6), name
    assert model.head.out_features == 3


def test_selection_looks_at_the_own_classes_alone():
    outputs = torch.tensor([[0.1, 0.9, 0.0, 5.0, 0, 0, 0, 0, 0], [2.0, 0.0, 0.0, 9.0, 0, 0, 0, 0, 0]])
    judge = learning().judge
    assert float(judge.of_batch(outputs, torch.tensor([1, 1]))) == 1.0


# Bad input


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"with_tasks": "sst2"}, r"finetuning.with_tasks must be a list or a mapping, got 'sst2'"),
        ({"with_tasks": ["sst2", "sst2"]}, "names 'sst2' twice"),
        ({"with_tasks": ["sst"]}, "names 'sst', which is no task; did you mean 'sst2'"),
        ({"with_tasks": {"sst2": {"train_sizes": 3}}}, "with_tasks.sst2 has no key 'train_sizes'.*train_size"),
        ({"with_tasks": {"sst2": {"train_size": "many"}}}, "with_tasks.sst2.train_size must be a whole number"),
        ({"with_tasks": {"hub": {}}}, "with_tasks.hub needs path"),
        ({"with_tasks": {"a/b": {"task": "sst2"}}}, "names a task 'a/b': letters"),
        ({"sampling": "often"}, "finetuning.sampling must be one of proportional, equal, temperature, got 'often'"),
        ({"weighting": "none"}, "finetuning.weighting must be one of equal, uncertainty, got 'none'"),
        ({"temperature": 0}, "finetuning.temperature must be above 0, got 0"),
        ({"label_smoothing": 1.0}, r"finetuning.label_smoothing must be in \[0, 1\), got 1.0"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        MultiTask(**settings)


# Runs


@pytest.fixture
def beside_file(tmp_path):
    """200 texts in two classes of other words, some of them long."""
    draw, path = random.Random(1), tmp_path / "beside.csv"
    telling = {"food": ["soup", "bread"], "travel": ["train", "plane"]}
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for index in range(200):
            label = list(telling)[index % 2]
            words = [draw.choice(["we", "had", "some", "of", "it", "in"]) for _ in range(draw.randint(2, 9))]
            rows.writerow([" ".join([*words, draw.choice(telling[label])]), label])
    return path


@pytest.fixture
def together(run_tiny, beside_file):
    """A run on the file of texts with the other file beside it."""
    key = f"finetuning.with_tasks={{beside: {{task: files, path: '{beside_file}'}}}}"
    return lambda *overrides, **more: run_tiny("finetuning=multi_task", key, *overrides, **more)


def results(record):
    left_out = ("cost/", "train/resumed_at")
    return {key: value for key, value in record.values.items() if not key.startswith(left_out)}


def weights(record):
    return Deployed.load(record.folder / "deployed.pt").model.state_dict()


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_task_alone_is_the_ordinary_run(run_tiny, tmp_path):
    plain = run_tiny("model=backbone", folder=tmp_path / "plain")
    alone = run_tiny("model=backbone", "finetuning=multi_task", folder=tmp_path / "alone")
    assert plain.status == alone.status == COMPLETED, alone.message
    shared = {f"model/{name}" for name in ("shared_params", "head_params", "params_per_task")}
    assert results(plain) == {key: value for key, value in results(alone).items() if key not in shared}
    assert alone.values["model/params_per_task"] == plain.values["model/params"]
    assert same_weights(weights(plain), weights(alone))


def test_both_tasks_are_learned_by_one_encoder_and_the_record_says_what_they_share(together):
    record = together("trainer.epochs=8", "finetuning.learning_rate=5e-3")
    values = record.values
    assert record.status == COMPLETED, record.message
    assert values["val/accuracy"] > 0.6  # chance is a third
    assert values["val/beside/accuracy"] > 0.9  # chance is a half
    model = Deployed.load(record.folder / "deployed.pt").model
    assert model.head.out_features == 3
    own = 5 * (model.head.in_features + 1)  # three classes and two
    assert values["model/head_params"] == own
    assert values["model/shared_params"] == values["model/params"] - own * 3 / 5
    assert values["model/params_per_task"] == (values["model/shared_params"] + own) / 2
    assert values["data/labels"] == values["data/examples"] > 300  # eight tenths of 300 and of 200
    assert values["train/best_accuracy"] == pytest.approx(values["val/accuracy"])
    assert record.identity["companions"].keys() == {"beside"}
    assert record.notes["labels"] == ["bad", "good", "odd"]


def test_words_of_every_task_are_in_the_vocabulary(together):
    record = together("model=backbone", "trainer.epochs=1")
    tokenizer = Deployed.load(record.folder / "deployed.pt").tokenizer
    lengths = tokenizer.encode(["soup train bread", "lovely awful weird"]).lengths
    assert lengths.max() <= 5  # three words, and what marks an end


@pytest.mark.parametrize("choice", [["peft=lora"], ["finetuning.weighting=uncertainty", "peft=head_only"]])
def test_what_methods_and_weights_do_the_run_ends_with_a_head_of_the_own_task(together, choice):
    record = together("model=backbone", "trainer.epochs=1", "finetuning.sampling=equal", *choice)
    assert record.status == COMPLETED, record.message
    assert weights(record)["head.weight"].shape[0] == 3
    assert "head.log_variances" not in weights(record)
    assert "val/beside/loss" in record.values


def test_a_killed_run_with_rungs_ends_as_one_that_was_never_disturbed(together, tmp_path, monkeypatch):
    from effnlp.finetuning import loop

    whole = together("model=backbone", folder=tmp_path / "whole")
    steps, original = [], loop.Training.training_step

    def step(self, batch, index):
        steps.append(index)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return original(self, batch, index)

    shown = []

    def report(rung):
        shown.append(rung.values)
        return Verdict("continue", "go on")

    monkeypatch.setattr(loop.Training, "training_step", step)
    settings = {"folder": tmp_path / "broken", "rungs": Rungs((1,), 4, 0, report)}
    assert together("model=backbone", **settings).reason == "interrupted"
    resumed = together("model=backbone", **settings)
    assert resumed.values["train/resumed_at"] > 0
    assert results(resumed) == results(whole)
    assert same_weights(weights(resumed), weights(whole))
    assert 0 <= shown[0]["val/accuracy"] <= 1


def test_each_task_is_filtered_by_itself(run_tiny, tmp_path, texts_file):
    texts = [["the same text", "a"], ["the same text", "a"], *([f"text {i}", "ab"[i % 2]] for i in range(60))]
    for name in ("one", "other"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(",".join(row) for row in texts))
    (tmp_path / "other.csv").write_text((tmp_path / "other.csv").read_text() + "\nand one more,b")
    key = f"finetuning.with_tasks={{other: {{task: files, train: {tmp_path / 'other.csv'}}}}}"
    record = run_tiny(
        "task.path=null", f"task.train={tmp_path / 'one.csv'}", "finetuning=multi_task", key,
        "data/filter=[exact_dedup]", folder=tmp_path / "run",
    )  # fmt: skip
    assert record.status == COMPLETED, record.message
    assert record.values["data/filter/exact_dedup/removed"] == 2  # one in each, none across them


def test_another_text_of_a_companion_makes_another_run(together, beside_file):
    first = together()
    happened = (first.folder / "events.jsonl").read_text()
    beside_file.write_text(beside_file.read_text().replace("soup", "stew"))
    second = together()
    assert first.identity["config_hash"] == second.identity["config_hash"]
    assert first.identity["companions"] != second.identity["companions"]
    assert (second.folder / "events.jsonl").read_text() != happened


def test_the_test_split_is_scored_later_as_it_would_have_been_at_once(together, tmp_path):
    from effnlp.search.final import measure

    at_once = together("evaluation.test=true", folder=tmp_path / "at_once")
    later = together(folder=tmp_path / "later")
    measure(later, later.folder, test=True, latency=False)
    assert later.values["test/accuracy"] == at_once.values["test/accuracy"]


@pytest.mark.parametrize(
    ("companion", "said"),
    [
        ("{texts: {task: files, path: PAIRS}}", "with_tasks names 'texts', which is the run's own task"),
        ("{again: {task: files, path: OWN}}", "with_tasks names 'again', which is the run's own task"),
        ("{pairs: {task: files, path: PAIRS, text_pair: second}}", "texts has single texts, pairs of .* has pairs"),
        ("{odd: {task: files, path: PAIRS, label: number, number: true}}", "texts has classes, odd of .* has numbers"),
    ],
)  # fmt: skip
def test_tasks_that_do_not_go_together_are_refused_before_the_training(
    run_tiny, tmp_path, texts_file, companion, said
):
    import re

    rows = [f"text {i},second {i},{'ab'[i % 2]},{i / 7}" for i in range(60)]
    (tmp_path / "pairs.csv").write_text("text,second,label,number\n" + "\n".join(rows))
    companion = companion.replace("PAIRS", str(tmp_path / "pairs.csv")).replace("OWN", str(texts_file))
    record = run_tiny("finetuning=multi_task", f"finetuning.with_tasks={companion}")
    assert record.status == FAILED
    assert re.search(said, record.message), record.message
    assert not (record.folder / "checkpoints").exists()


def test_exits_which_have_one_head_each_are_refused(run_tiny):
    from effnlp.legality import IllegalCombinationError

    record = run_tiny("model=backbone", "finetuning=multi_task", "compression/early_exit=deebert")
    assert record.status == FAILED
    assert "early_exit=deebert needs single task" in record.message
    assert issubclass(IllegalCombinationError, ValueError)


def test_numbers_are_refused(run_tiny, tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("text,label\n" + "\n".join(f"text {i},{i / 7}" for i in range(60)))
    learn = ("task.number=true", "finetuning=multi_task", "evaluation/quality=[regression]")
    record = run_tiny(f"task.path={path}", *learn)
    assert record.status == FAILED
    assert "finetuning=multi_task learns classes" in record.message
    assert json.loads((record.folder / "record.json").read_text())["status"] == FAILED


@pytest.mark.needs_data("trec")
@pytest.mark.needs_data("ag_news")
@pytest.mark.slow
def test_a_small_task_is_learned_beside_a_large_one(private_folders, tmp_path):
    from effnlp.compose import compose, hydra_context
    from effnlp.run import run

    typed = [
        "task=trec", "task.train_size=200", "model=bag_of_ngrams", "finetuning=multi_task", "trainer.epochs=4",
        "finetuning.with_tasks={ag_news: {train_size: 2000, validation_size: 500}}", "evaluation.latency=false",
        "trainer.progress=none",
    ]  # fmt: skip
    with hydra_context():
        composed = compose(typed)
    record = run(composed.config, composed.chosen, tmp_path / "run", typed)
    assert record.status == COMPLETED, record.message
    assert record.values["data/examples"] == 2200
    assert record.values["val/accuracy"] > 0.25
    assert record.values["val/ag_news/accuracy"] > 0.5
