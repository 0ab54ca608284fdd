"""Layers of a teacher that were looked at once say what they would say again."""

import errno
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effnlp.compression.distillation import lookup
from effnlp.compression.distillation.hidden import Hidden
from effnlp.compression.distillation.lookup import look
from effnlp.compression.distillation.minilm import MiniLM
from effnlp.compression.distillation.mobilebert import MobileBERT
from effnlp.compression.distillation.tinybert import TinyBERT
from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples
from effnlp.evaluation.evaluate import predict

METHODS = {
    "hidden": Hidden,
    "tinybert": TinyBERT,
    "tinybert, no attention": partial(TinyBERT, attention_weight=0.0),
    "minilm": MiniLM,
    "minilm, third layer": partial(MiniLM, teacher_layer=3),
    "mobilebert": partial(MobileBERT, progressive=0.0),
    "mobilebert, layer by layer": MobileBERT,
}


@pytest.fixture
def examples():
    """Twelve texts of different lengths in ids of the small models."""
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randint(1, 60, (3 + i,), generator=generator).tolist() for i in range(12)]
    return Examples(Encodings.from_lists(rows, pad_id=0), np.arange(12) % 3, with_rows=True)


@pytest.fixture
def around(tmp_path):
    """What a method may use that gathers, without meters; ``made`` says how often something was made."""
    gauge = SimpleNamespace(
        let_others_measure=lambda: None, start_step=lambda *_: None, end_step=lambda: None
    )
    found = SimpleNamespace(made=0)

    def fetch(kind, key, make):
        folder = tmp_path / kind / key
        if not folder.exists():
            folder.mkdir(parents=True)
            make(folder)
            found.made += 1
        return folder

    found.fetch = fetch
    found.predict = lambda model, examples: predict(model, examples, 5, gauge)
    return found


def wanted_by(method):
    """What a method asks of its teacher's layers."""
    asked = []
    method.lessons.gather = lambda data, around, wanted: asked.append(wanted)
    method.gather(None, None)
    del method.lessons.gather
    return asked[0]


def taught(method, student, teacher, batch, known):
    """The loss of a student and its gradients; ``known`` is what to look up, or None."""
    method.lessons.learn_from(teacher)
    method.lessons.lookup = known
    student = method.prepare(student)
    if getattr(method, "progressive", 0):
        method.advance(student, 3, 10)
    loss = method.objective(lambda model, given: model(given).sum() * 0.0)(student, batch)
    loss.backward()
    return loss.detach(), [p.grad for p in student.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", METHODS)
def test_a_student_learns_the_same_from_what_was_looked_up(
    make_classifier, make_teacher, examples, around, name
):
    wanted = wanted_by(METHODS[name]())
    known = look(make_teacher(), examples, wanted, around, "teacher")
    batch = examples.batch([7, 0, 11, 3], pad_to_multiple=8)
    (loss, gradients), (expected, of_looking) = (
        taught(METHODS[name](), make_classifier(), make_teacher(), batch, each) for each in (known, None)
    )
    assert float(expected) > 0
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert len(gradients) == len(of_looking) > 0
    for given, right in zip(gradients, of_looking, strict=True):
        torch.testing.assert_close(given, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_teacher_is_not_run_where_it_was_looked_at(make_classifier, make_teacher, examples, around, name):
    known = look(make_teacher(), examples, wanted_by(METHODS[name]()), around, "teacher")
    teacher = make_teacher()
    teacher.encoder.embed = lambda _: pytest.fail("the teacher reads")
    loss, _ = taught(METHODS[name](), make_classifier(), teacher, examples.batch([1, 2]), known)
    assert float(loss) > 0


def test_a_pretrained_teacher_is_looked_up(minilm, around):
    texts = ["a fine film", "what a dull and very long evening it was", "no"]
    batches = minilm.batch(texts)
    ids = [
        row[:n].tolist()
        for row, n in zip(batches["input_ids"], batches["attention_mask"].sum(1), strict=True)
    ]
    examples = Examples(Encodings.from_lists(ids, pad_id=0), np.zeros(3, dtype=np.int64), with_rows=True)
    known = look(minilm.model, examples, wanted_by(TinyBERT()), around, "teacher")
    batch = examples.batch([2, 0])
    again = lookup.trace(minilm.model, batch, ("query", "key"))
    found = known.trace(batch)
    is_token = batch["attention_mask"].bool()
    torch.testing.assert_close(found.logits, again.logits, rtol=1e-4, atol=1e-5)
    assert len(found.hidden) == len(again.hidden) == 7
    for given, right in [
        *zip(found.hidden, again.hidden, strict=True),
        *zip(found.given["key"], again.given["key"], strict=True),
    ]:
        torch.testing.assert_close(given[is_token], right[is_token], rtol=1e-4, atol=1e-5)


def test_texts_that_are_not_there_whole_are_read_again(make_teacher, examples, around):
    known = look(make_teacher(), examples, wanted_by(TinyBERT()), around, "teacher")
    batch = examples.batch([7, 3])
    assert known.trace(batch) is not None
    assert known.trace({name: each for name, each in batch.items() if name != "rows"}) is None
    cut = {name: each[:, :4] if each.dim() == 2 else each for name, each in batch.items()}
    assert known.trace(cut) is None
    with pytest.raises(ValueError, match="pooled of the teacher was not kept"):
        known.trace(batch).pooled(1)


def test_the_same_texts_are_looked_at_once(make_teacher, examples, around, monkeypatch):
    wanted = wanted_by(Hidden())
    for _ in range(2):
        assert look(make_teacher(), examples, wanted, around, "teacher") is not None
    assert around.made == 1
    assert look(make_teacher(), examples, wanted, around, "another") is not None
    other = Examples(
        examples.encodings.joined([examples.encodings] * 2), np.tile(examples.labels, 2), with_rows=True
    )
    assert look(make_teacher(), other, wanted, around, "teacher") is not None
    assert around.made == 3
    sizes = sum(
        each.nbytes for each in look(make_teacher(), examples, wanted, around, "teacher").arrays.values()
    )
    assert sizes == 4 * 12 * (3 + 7 * 48), "logits in three classes, vectors of seven states"
    for limit, is_kept in ((sizes, True), (sizes - 1, False)):
        monkeypatch.setattr(lookup, "LIMIT", limit)
        assert (look(make_teacher(), examples, wanted, around, "teacher") is not None) == is_kept


def test_a_full_disk_is_said_before_the_teacher_reads(make_teacher, examples, around, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    around.predict = lambda *_: pytest.fail("the teacher reads")
    with pytest.raises(OSError, match="no space left"):
        look(make_teacher(), examples, wanted_by(Hidden()), around, "teacher")


@pytest.mark.parametrize(
    "name",
    [
        "tinybert",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("hidden", "minilm", "mobilebert")),
    ],
)
def test_a_run_looks_at_its_teacher_once(run_tiny, tmp_path, monkeypatch, name):
    small = ["model=backbone"]
    teacher = run_tiny(*small, folder=tmp_path / "teacher")
    overrides = [
        *small,
        f"compression/distillation={name}",
        f"compression.distillation.teacher={teacher.folder}",
    ]
    first, second = (run_tiny(*overrides, f"seed.init={i}", folder=tmp_path / f"{i}") for i in (0, 1))
    assert first.status == second.status == "completed", first.message
    assert first.notes["distillation/layers"] == "cached"
    looked = first.values["cost/compression/own/flops"]
    assert second.values["cost/compression/own/flops"] < looked
    assert second.values["cost/compression/amortised/flops"] >= looked
    monkeypatch.setattr(lookup, "LIMIT", 0)
    reading = run_tiny(*overrides, "seed.init=1", "again=true", folder=tmp_path / "reading")
    assert reading.notes["distillation/layers"] == "read in each epoch"
    flops = "cost/finetuning/own/flops"
    assert reading.values[flops] > second.values[flops], "the teacher reads in each epoch"
    assert reading.values["val/loss"] == pytest.approx(second.values["val/loss"], rel=1e-3)
