import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from effnlp.compression.distillation.hidden import Hidden, patient_loss
from effnlp.compression.distillation.soft_labels import soft_loss
from effnlp.compression.distillation.trace import trace
from effnlp.model.classifier import mean_pool


def test_the_distance_is_that_of_directions():
    """Of vectors of length one the squared distance is 2 (1 - cosine)."""
    student, teacher = [torch.randn(5, 8), torch.randn(5, 8)], [torch.randn(5, 8), torch.randn(5, 8)]
    expected = sum((2 - 2 * cosine_similarity(s, t)).mean() for s, t in zip(student, teacher, strict=True))
    torch.testing.assert_close(patient_loss(student, teacher), expected)
    torch.testing.assert_close(patient_loss([3 * s for s in student], teacher), expected)


def test_a_student_that_is_its_teacher_has_no_loss(make_classifier, make_batch, loss_with):
    loss = loss_with(Hidden(alpha=0.7), make_classifier(), make_classifier(), make_batch())
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_labels_logits_and_inner_layers_add_up(make_classifier, make_teacher, make_batch, loss_of):
    student, teacher, batch = make_classifier(depth=3), make_teacher(depth=6, width=32), make_batch()
    method = Hidden(alpha=0.3, beta=5.0, temperature=3.0)
    method.lessons.learn_from(teacher)
    found = method.objective(loss_of)(method.prepare(student), batch)
    own, theirs = trace(student, batch), trace(teacher, batch)
    vectors = [
        [mean_pool(model.encoder.norm(seen.hidden[layer]), seen.mask) for layer in layers]
        for model, seen, layers in ((student, own, (1, 2)), (teacher, theirs, (2, 4)))
    ]
    expected = (
        0.7 * cross_entropy(student(batch), batch["labels"])
        + 0.3 * soft_loss(student(batch), teacher(batch), 3.0)
        + 5.0 * patient_loss(*vectors)
    )
    torch.testing.assert_close(found, expected)


def test_a_student_of_another_width_gets_one_projection_which_is_gone_in_the_end(
    make_classifier, make_teacher, make_batch
):
    method, plain = Hidden(), make_classifier()
    method.lessons.learn_from(make_teacher(width=48))
    student = method.prepare(make_classifier())
    added = student.state_dict().keys() - plain.state_dict().keys()
    assert {name: tuple(student.state_dict()[name].shape) for name in added} == {
        "projections.layers.weight": (48, 32)
    }
    left = method.settle(method.settle(student))
    assert left.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(method.finish(left)(make_batch()), plain(make_batch()))


def test_a_student_that_is_built_again_without_its_teacher_needs_no_projection(make_classifier):
    assert Hidden().prepare(make_classifier()).state_dict().keys() == make_classifier().state_dict().keys()


def test_what_other_methods_draw_does_not_depend_on_the_teacher(make_classifier, make_teacher):
    drawn = []
    for width in (32, 48):
        method, student = Hidden(), make_classifier()
        method.lessons.learn_from(make_teacher(width=width))
        torch.manual_seed(3)
        method.prepare(student)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_the_teacher_stays_as_it_is_while_the_student_comes_nearer(
    make_classifier, make_teacher, make_batch, loss_of, take_steps
):
    method, teacher, batch = Hidden(alpha=0.5), make_teacher(), make_batch(16)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    method.lessons.learn_from(teacher.train())
    student = method.prepare(make_classifier())
    losses = take_steps(student, batch, steps=40, objective=method.objective(loss_of))
    assert losses[-1] < losses[0] / 2
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(p is q for p in student.parameters() for q in teacher.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1}, "alpha must be in"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"layer_map": "skip"}, "layer_map must be one of"),
    ],
)
def test_values_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Hidden(**settings)


def test_a_student_that_is_too_flat_or_too_deep_is_refused(make_classifier, make_teacher):
    method = Hidden()
    method.lessons.learn_from(make_teacher(depth=2))
    with pytest.raises(ValueError, match="it needs at least 2, got 1"):
        method.prepare(make_classifier(depth=1))
    with pytest.raises(ValueError, match="the student has 3, the teacher 2"):
        method.prepare(make_classifier(depth=3))
