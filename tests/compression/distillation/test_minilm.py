import math

import pytest
import torch

from effnlp.compression.distillation.minilm import MiniLM, relation_loss, relations
from effnlp.compression.distillation.trace import trace


def test_relations_are_a_distribution_over_the_tokens_of_the_text_as_written_down():
    vectors, mask = torch.randn(2, 4, 12), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found = relations(vectors, heads=3, mask=mask).exp()
    for text, length in ((0, 4), (1, 2)):
        for head in range(3):
            part = vectors[text, :length, 4 * head : 4 * head + 4]
            expected = torch.softmax(part @ part.T / math.sqrt(4), -1)
            torch.testing.assert_close(found[text, head, :length, :length], expected)
    assert found[1, :, :, 2:].abs().max() == 0


def test_the_loss_is_the_mean_divergence_over_the_tokens_of_each_text():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    student, teacher = (relations(torch.randn(2, 3, 8), 2, mask) for _ in range(2))
    by_text = []
    for text, length in ((0, 3), (1, 1)):
        p, q = teacher[text, :, :length, :length], student[text, :, :length, :length]
        by_text.append((p.exp() * (p - q)).sum(-1).mean())
    torch.testing.assert_close(relation_loss(student, teacher, mask), torch.stack(by_text).mean())


def test_a_student_that_is_its_teacher_has_no_loss(make_classifier, make_batch, loss_with):
    loss = loss_with(MiniLM(relation_heads=8), make_classifier(), make_classifier(), make_batch())
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_widths_heads_and_depths_may_all_differ_and_nothing_is_added_to_the_student(
    make_classifier, make_teacher, make_batch, loss_with, take_steps, loss_of
):
    student, plain = make_classifier(depth=1), make_classifier(depth=1)
    method = MiniLM(alpha=1.0)
    loss = loss_with(method, student, make_teacher(width=64, heads=4), make_batch())
    assert float(loss.detach()) > 0
    assert student.state_dict().keys() == plain.state_dict().keys()
    losses = take_steps(student, make_batch(16), steps=40, objective=method.objective(loss_of))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("layer", [None, 1, 4])
def test_the_layer_that_teaches_is_the_one_that_is_named(
    make_classifier, make_teacher, make_batch, loss_with, layer
):
    student, teacher, batch = make_classifier(), make_teacher(depth=6), make_batch()
    found = loss_with(MiniLM(alpha=0.0, beta=2.0, teacher_layer=layer), student, teacher, batch)
    roles, mask = ("query", "key", "value"), batch["attention_mask"]
    own, theirs = trace(student, batch, roles), trace(teacher, batch, roles)
    expected = 0.0
    for role in roles:
        pair = own.given[role][-1], theirs.given[role][(layer or 6) - 1]
        expected = expected + 2.0 * relation_loss(*(relations(each, 16, mask) for each in pair), mask)
    torch.testing.assert_close(found, expected)


def test_without_any_weight_for_the_teacher_it_is_cross_entropy_bit_for_bit(
    make_classifier, make_batch, loss_of
):
    model, batch = make_classifier(), make_batch()
    assert torch.equal(MiniLM(alpha=0.0, beta=0.0).objective(loss_of)(model, batch), loss_of(model, batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"relation_heads": 0}, "relation_heads must be at least 1"),
        ({"teacher_layer": 0}, "teacher_layer must be at least 1"),
    ],
)
def test_values_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MiniLM(**settings)


def test_relation_heads_that_do_not_divide_and_layers_that_are_not_there_are_refused(
    make_classifier, make_teacher
):
    def prepare(**settings):
        method = MiniLM(**settings)
        method.lessons.learn_from(make_teacher(depth=6, width=48))
        method.prepare(make_classifier())

    with pytest.raises(ValueError, match="width 32 of the query of the student, got 12"):
        prepare(relation_heads=12)
    with pytest.raises(ValueError, match="width 48 of the query of the teacher, got 32"):
        prepare(relation_heads=32)
    with pytest.raises(ValueError, match="teacher_layer must be at most 6, got 7"):
        prepare(teacher_layer=7)
