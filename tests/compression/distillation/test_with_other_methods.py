"""Distillation beside what else is done to a student: fewer layers, LoRA, pruning, integers."""

import copy
from functools import partial

import pytest
import torch

from effnlp import method
from effnlp.compression.distillation.hidden import Hidden
from effnlp.compression.distillation.logits import Logits
from effnlp.compression.distillation.minilm import MiniLM
from effnlp.compression.distillation.mobilebert import MobileBERT
from effnlp.compression.distillation.tinybert import TinyBERT
from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.pruning.layers import Layers
from effnlp.compression.pruning.movement import Movement
from effnlp.compression.quantization.int8_weight_only import Int8WeightOnly
from effnlp.model.storage import Deployed
from effnlp.peft.lora import LoRA

OF_LAYERS = {
    "hidden": Hidden,
    "tinybert": TinyBERT,
    "minilm": MiniLM,
    "mobilebert": partial(MobileBERT, progressive=0.0),
}


@pytest.mark.parametrize("name", OF_LAYERS)
def test_half_of_a_pretrained_model_learns_from_the_whole(minilm, loss_of, name):
    batch = minilm.batch(["a fine film", "what a dull and very long evening it was"], [1, 0])
    chosen = OF_LAYERS[name]()
    chosen.lessons.learn_from(copy.deepcopy(minilm.model))
    methods = [Layers(sparsity=0.5, moment="prepare"), LoRA(), chosen]
    student = method.prepare(methods, minilm.model).train()
    assert student.encoder.depth == 3
    loss = method.objective(methods, loss_of)(student, batch)
    loss.backward()
    learning = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(n.startswith("encoder") for n in learning)
    assert {n for n, p in student.named_parameters() if p.requires_grad} >= learning
    for each in methods:
        student = method.finish(each, student.eval())
    assert student(batch).shape == (2, 2)
    assert "projections" not in " ".join(student.state_dict())


@pytest.mark.parametrize("name", OF_LAYERS)
def test_a_pruned_student_learns_and_is_rounded(
    make_classifier, make_teacher, make_batch, loss_of, take_steps, name
):
    chosen, batch = OF_LAYERS[name](), make_batch(16)
    chosen.lessons.learn_from(make_teacher())
    methods = [chosen, Movement(sparsity=0.5), Int8WeightOnly()]
    student = method.prepare(methods, make_classifier())
    losses = take_steps(student, batch, steps=15, objective=method.objective(methods, loss_of))
    assert losses[-1] < losses[0]
    for each in methods:
        student = method.finish(each, student.eval())
    assert torch.isfinite(student(batch)).all()
    noted = method.applied(student)
    assert {"compression/distillation", "compression/pruning", "compression/quantization"} <= set(noted)


def test_exits_learn_from_the_teacher_too(make_classifier, make_batch, loss_of):
    batch = {**make_batch(6), "rows": torch.arange(6)}
    losses = []
    for said in (torch.zeros(6, 3), torch.randn(6, 3) * 5):
        chosen, exits = Logits(alpha=1.0), DeeBERT()
        chosen.lessons.learn_from(logits=said)
        torch.manual_seed(0)
        student = method.prepare([chosen, exits], make_classifier())
        exits.advance(student, 9, 10)
        loss = method.objective([chosen, exits], loss_of)(student, batch)
        loss.backward()
        assert all(p.grad is not None for p in student.exits.parameters())
        losses.append(float(loss.detach()))
    assert losses[0] != losses[1]


def test_a_look_at_a_student_in_training_leaves_out_the_teacher_and_the_projection(
    make_classifier, make_teacher
):
    chosen = TinyBERT()
    chosen.lessons.learn_from(make_teacher())
    student = method.prepare([chosen], make_classifier())
    seen = method.preview([chosen], student, 3, 10)
    assert seen.state_dict().keys() == make_classifier().state_dict().keys()
    assert "projections.layers.weight" in student.state_dict()


@pytest.mark.slow
def test_a_resumed_student_of_two_phases_ends_as_the_uninterrupted_one(run_tiny, tmp_path, monkeypatch):
    from effnlp.finetuning import loop

    teacher = run_tiny("model=backbone", "trainer.epochs=1", folder=tmp_path / "teacher").folder
    student = [
        "model=backbone", "compression/distillation=tinybert", f"compression.distillation.teacher={teacher}",
        "compression.distillation.first_phase=0.5", "trainer.validations_per_epoch=2", "seed.init=1",
    ]  # fmt: skip
    whole = run_tiny(*student, folder=tmp_path / "whole")
    assert whole.status == "completed", whole.message
    original, taken = loop.Training.training_step, []

    def step(self, batch, index):
        taken.append(index)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(loop.Training, "training_step", step)
    assert run_tiny(*student, folder=tmp_path / "cut").reason == "interrupted"
    resumed = run_tiny(*student, folder=tmp_path / "cut")
    assert resumed.values["train/resumed_at"] > 0
    weights = [Deployed.load(tmp_path / name / "deployed.pt").model.state_dict() for name in ("whole", "cut")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
