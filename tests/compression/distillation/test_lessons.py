"""How a student of a real run comes by its teacher, and what that costs."""

import numpy as np
import pandas as pd
import pytest
import torch

from effnlp.cache import cache_dir
from effnlp.compression.distillation.pool import with_pool
from effnlp.compression.distillation.teacher import difference_of, load_teacher, with_classes
from effnlp.data.calibration import calibration_batches
from effnlp.data.encodings import Encodings
from effnlp.data.examples import UNLABELLED, Examples, labelled_part
from effnlp.data.prepare import Prepared
from effnlp.model.backbone import train_byte_bpe
from effnlp.model.storage import Deployed
from effnlp.model.subwords import SubwordTokenizer
from effnlp.task.task import Task

LOGITS = "compression/distillation=logits"


def taught_by(teacher, *more):
    return [LOGITS, f"compression.distillation.teacher={teacher}", *more]


@pytest.fixture
def teacher(run_tiny, tmp_path):
    record = run_tiny("finetuning.learning_rate=5e-3", folder=tmp_path / "teacher")
    assert record.status == "completed"
    return record


def test_a_student_learns_from_the_model_of_a_run_and_from_texts_without_labels(run_tiny, teacher, tmp_path):
    sizes = ["task.train_size=60", "compression.distillation.pool_size=80", "seed.init=3"]
    record = run_tiny(*taught_by(teacher.folder, *sizes), folder=tmp_path / "student")
    assert record.status == "completed", record.message
    pool = record.notes["applied"]["compression/distillation"]["pool_texts"]
    assert 0 < pool <= 80
    assert record.values["data/labels"] == 60
    assert record.values["data/examples"] == 60 + pool
    for unit in ("flops", "seconds"):
        paid = teacher.values[f"cost/total/own/{unit}"]
        assert record.values[f"cost/total/amortised/{unit}"] >= paid > 0
    assert record.values["cost/compression/own/flops"] > 0, "asking the teacher is work"
    digest = load_teacher(teacher.folder).digest
    by_record = load_teacher(teacher.folder / "record.json")
    assert (by_record.digest, by_record.folder) == (digest, teacher.folder)
    assert record.notes["distillation/teacher"]["sha256"] == digest
    plain = Deployed.load(teacher.folder / "deployed.pt").model.state_dict()
    student = Deployed.load(tmp_path / "student" / "deployed.pt").model.state_dict()
    assert student.keys() == plain.keys()


def test_a_teacher_that_is_trained_first_is_paid_by_the_first_student_alone(run_tiny, tmp_path):
    overrides = "['model=bag_of_ngrams','trainer.epochs=1','finetuning.learning_rate=5e-3']"
    first = run_tiny(*taught_by(overrides), folder=tmp_path / "first")
    assert first.status == "completed", first.message
    second = run_tiny(*taught_by(overrides, "seed.init=0", "again=true"), folder=tmp_path / "second")
    (folder,) = (path for path in (cache_dir() / "runs").iterdir() if path.is_dir())
    cost = load_teacher(folder).record.values["cost/total/own/flops"]
    assert first.values["cost/compression/own/flops"] > cost > 0
    assert "cost/compression/amortised/flops" not in first.values
    assert second.values["cost/compression/own/flops"] < cost
    assert second.values["cost/compression/amortised/flops"] > cost
    quality = {key: value for key, value in first.values.items() if key.startswith("val/")}
    assert quality == {key: second.values[key] for key in quality}


def test_a_resumed_student_ends_as_the_uninterrupted_one(run_tiny, teacher, tmp_path, monkeypatch):
    from effnlp.finetuning import loop

    student = taught_by(teacher.folder, "trainer.validations_per_epoch=2")
    whole = run_tiny(*student, folder=tmp_path / "whole")
    original, taken = loop.Training.training_step, []

    def step(self, batch, index):
        taken.append(index)
        if len(taken) == 10:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(loop.Training, "training_step", step)
    assert run_tiny(*student, folder=tmp_path / "cut").reason == "interrupted"
    resumed = run_tiny(*student, folder=tmp_path / "cut")
    assert resumed.values["train/resumed_at"] > 0
    weights = [Deployed.load(tmp_path / name / "deployed.pt").model.state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert whole.values["val/accuracy"] == resumed.values["val/accuracy"]
    assert resumed.values["cost/total/amortised/flops"] >= teacher.values["cost/total/own/flops"]


def test_what_is_no_teacher_is_refused_before_the_training(run_tiny, teacher, tmp_path):
    def refusal(*overrides):
        record = run_tiny(*overrides, folder=tmp_path / "refused")
        assert record.status == "failed"
        assert "train/steps" not in record.values
        return record.message

    assert "teacher must name a teacher" in refusal(LOGITS)
    assert "is not the folder of a run" in refusal(*taught_by(tmp_path / "nowhere"))
    assert "takes rows that task.train_size leaves out" in refusal(
        *taught_by(teacher.folder, "compression.distillation.pool_size=5")
    )
    assert "pool_size must be at most" in refusal(
        *taught_by(teacher.folder, "compression.distillation.pool_size=5000", "task.train_size=60")
    )
    rows = pd.DataFrame(
        {"text": [f"text {i} of {i % 2}" for i in range(80)], "label": [i % 2 for i in range(80)]}
    )
    rows.to_csv(tmp_path / "other.csv", index=False)
    message = refusal(*taught_by(teacher.folder, f"task.path={tmp_path / 'other.csv'}"))
    assert "'bad', 'good', 'odd'" in message
    assert "'0', '1'" in message


@pytest.fixture
def data():
    """Six texts in three classes; a tokenizer of their words."""
    texts = ["the cat", "a dog", "the dog", "a cat", "cats", "dogs"]
    labels = np.array([0, 1, 2, 0, 1, 2])
    train = pd.DataFrame({"text": texts, "label": labels})
    tokenizer = SubwordTokenizer(train_byte_bpe(texts, 300), 16, 0)
    split = Examples(tokenizer.encode(texts), labels)
    task = Task("pets", ("x", "y", "z"), dict.fromkeys(("train", "validation", "test"), train))
    return Prepared(task, train, tokenizer, dict.fromkeys(task.splits, split), {}, {}, sizes=[6])


def test_a_pool_stands_after_the_training_texts_and_takes_nothing_from_them(data):
    joined = with_pool(data, pd.DataFrame({"text": ["a cat and a dog", "more"]}))
    train, before = joined.examples["train"], data.examples["train"]
    assert train.labels.tolist() == [*before.labels, UNLABELLED, UNLABELLED]
    assert joined.train["text"].tolist()[6:] == ["a cat and a dog", "more"]
    assert train.labelled().tolist() == list(range(6))
    assert joined.values()["data/labels"] == 6
    assert joined.values()["data/examples"] == 8
    for i in range(6):
        old, new = before.batch([i]), train.batch([i])
        assert torch.equal(old["input_ids"], new["input_ids"])
        assert new["rows"].tolist() == [i]
    alone = data.tokenizer.encode(["a cat and a dog", "more"]).batch([1])
    assert torch.equal(train.batch([7])["input_ids"], alone["input_ids"])
    assert joined.examples["validation"] is data.examples["validation"]


def test_texts_without_a_label_are_not_calibrated_on(data):
    joined = with_pool(data, pd.DataFrame({"text": ["a", "b", "c", "d"]}))
    batches = calibration_batches(joined, 20, seed=0)
    assert sum(len(batch["labels"]) for batch in batches) == 6
    assert all((batch["labels"] >= 0).all() for batch in batches)


def test_the_labelled_part_of_a_batch_keeps_each_text_with_its_label(make_batch):
    batch = make_batch(6)
    assert labelled_part(batch) is batch
    cut = {**batch, "labels": torch.tensor([0, -1, 2, -1, -1, 1])}
    part = labelled_part(cut)
    assert torch.equal(part["input_ids"], batch["input_ids"][[0, 2, 5]])
    assert part["labels"].tolist() == [0, 2, 1]
    numbers = {**batch, "labels": torch.tensor([-1.0] * 6)}
    assert labelled_part(numbers) is numbers, "a number may be -1"


def test_joined_encodings_are_those_of_all_texts():
    lists = [[1, 2], [3], [4, 5, 6], [7]]
    parts = [Encodings.from_lists(lists[:3], 0, truncated=1), Encodings.from_lists(lists[3:], 0, truncated=2)]
    joined, whole = Encodings.joined(parts), Encodings.from_lists(lists, 0)
    assert np.array_equal(joined.ids, whole.ids)
    assert np.array_equal(joined.offsets, whole.offsets)
    assert joined.truncated == 3


def test_tokenizers_differ_by_what_they_give_for_a_text_and_not_by_their_longest_text():
    few, more = train_byte_bpe(["cat cat dog"], 300), train_byte_bpe(["house mouse house mouse"] * 3, 300)
    long, short, other = (
        SubwordTokenizer(few, 64, 0),
        SubwordTokenizer(few, 16, 0),
        SubwordTokenizer(more, 64, 0),
    )
    assert difference_of(long, short) is None
    assert "up to 64 tokens where it reads 16" in difference_of(short, long)
    assert "vocabularies" in difference_of(other, long)


def test_the_classes_of_a_teacher_in_another_order_are_put_in_ours(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    before = model(batch).detach()
    torch.testing.assert_close(with_classes(model, [2, 0, 1])(batch), before[:, [2, 0, 1]])
