import math

import pytest
import torch

from effnlp.compression.distillation.soft_labels import soft_loss
from effnlp.compression.distillation.tinybert import TinyBERT, attention_loss, attention_scores, hidden_loss
from effnlp.compression.distillation.trace import trace

LAYERS_ALONE = {"alpha": 1.0, "first_phase": 0.5}


def layers_only(**settings):
    """A method in its first phase."""
    method = TinyBERT(**{**LAYERS_ALONE, **settings})
    method.follows_answers = False
    return method


def test_the_scores_are_those_of_the_paper_head_by_head():
    queries, keys = torch.randn(2, 2, 5, 12).unbind()
    found = attention_scores(queries, keys, heads=3)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        expected = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(4)
        torch.testing.assert_close(found[:, head], expected)


def test_heads_that_share_a_key_are_scored_with_it():
    queries, keys = torch.randn(2, 5, 16), torch.randn(2, 5, 8)  # 4 heads of width 4, 2 keys
    whole = attention_scores(queries, keys.view(2, 5, 2, 4).repeat_interleave(2, 2).flatten(2), heads=4)
    torch.testing.assert_close(attention_scores(queries, keys, heads=4), whole)


def test_padding_counts_nowhere():
    student, teacher = torch.randn(2, 2, 4, 6).unbind()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    tokens = torch.cat([(student - teacher)[0], (student - teacher)[1, :2]])
    torch.testing.assert_close(hidden_loss(student, teacher, mask), tokens.square().mean())
    scores, wanted = torch.randn(2, 2, 3, 4, 4).unbind()
    gaps = (scores - wanted).square()
    pairs = torch.cat([gaps[0].flatten(1), gaps[1, :, :2, :2].flatten(1)], 1)
    torch.testing.assert_close(attention_loss(scores, wanted, mask), pairs.mean())


def test_a_student_that_is_its_teacher_has_no_loss(make_classifier, make_batch, loss_with):
    loss = loss_with(TinyBERT(), make_classifier(), make_classifier(), make_batch())
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "layers"), [("uniform", (0, 2, 4, 6)), ("top", (0, 4, 5, 6)), ("bottom", (0, 1, 2, 3))]
)
def test_each_layer_follows_its_own_teacher_in_hidden_states_and_in_attention(
    make_classifier, make_teacher, make_batch, loss_with, kind, layers
):
    student, teacher, batch = make_classifier(depth=3), make_teacher(depth=6, width=32), make_batch()
    weights = {"embedding_weight": 3.0, "hidden_weight": 0.5, "attention_weight": 2.0}
    found = loss_with(layers_only(layer_map=kind, **weights), student, teacher, batch)
    roles, mask = ("query", "key"), batch["attention_mask"]
    own, theirs = trace(student, batch, roles), trace(teacher, batch, roles)
    expected = 3.0 * hidden_loss(own.hidden[0], theirs.hidden[0], mask)
    for m, n in list(enumerate(layers))[1:]:
        expected = expected + 0.5 * hidden_loss(own.hidden[m], theirs.hidden[n], mask)
        scores = [
            attention_scores(seen.given["query"][layer - 1], seen.given["key"][layer - 1], 2)
            for seen, layer in ((own, m), (theirs, n))
        ]
        expected = expected + 2.0 * attention_loss(*scores, mask)
    torch.testing.assert_close(found, expected)


def test_a_student_of_another_width_gets_the_two_projections_of_the_paper(make_classifier, make_teacher):
    method = TinyBERT()
    method.lessons.learn_from(make_teacher(width=48))
    student = method.prepare(make_classifier())
    shapes = {
        name: tuple(p.shape) for name, p in student.named_parameters() if name.startswith("projections")
    }
    assert shapes == {"projections.embeddings.weight": (48, 32), "projections.layers.weight": (48, 32)}
    assert not any("projections" in name for name in method.settle(student).state_dict())


def test_layers_come_first_and_then_the_answers_alone(make_classifier, make_teacher, make_batch, loss_of):
    method, batch, teacher = TinyBERT(alpha=1.0, first_phase=0.6), make_batch(), make_teacher(width=48)
    method.lessons.learn_from(teacher)
    student = method.prepare(make_classifier())
    loss = method.objective(loss_of)
    assert method.settled_after == 0.6
    for step in range(10):
        method.advance(student, step, 10)
        learning = {name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad}
        found = loss(student, batch)
        student.zero_grad()
        found.backward()
        moved = {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None}
        assert moved == learning == ({"encoder", "projections"} if step < 6 else {"encoder", "head"})
        if step >= 6:
            torch.testing.assert_close(found, soft_loss(student(batch), teacher(batch), 1.0))


def test_a_head_that_was_frozen_stays_so(make_classifier, make_teacher):
    method, student = TinyBERT(first_phase=0.5), make_classifier()
    student.head.requires_grad_(False)
    method.lessons.learn_from(make_teacher())
    method.prepare(student)
    method.advance(student, 9, 10)
    assert not any(p.requires_grad for p in student.head.parameters())


def test_the_student_comes_nearer_to_a_wider_and_deeper_teacher(
    make_classifier, make_teacher, make_batch, loss_of, take_steps
):
    method = layers_only()
    method.lessons.learn_from(make_teacher())
    student = method.prepare(make_classifier())
    losses = take_steps(student, make_batch(16), steps=60, objective=method.objective(loss_of))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_weight": -1.0}, "hidden_weight must be at least 0, got -1.0"),
        ({"embedding_weight": 0, "hidden_weight": 0, "attention_weight": 0}, "must be above 0"),
        ({"first_phase": 1.0}, "first_phase must be in"),
        ({"layer_map": "last"}, "layer_map must be one of"),
    ],
)
def test_values_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TinyBERT(**settings)


def test_layers_that_are_frozen_cannot_be_all_that_learns(make_classifier, make_teacher):
    student, method = make_classifier(), TinyBERT(first_phase=0.5)
    student.encoder.requires_grad_(False)
    method.lessons.learn_from(make_teacher())
    with pytest.raises(ValueError, match="first 50% of the steps layers alone learn"):
        method.prepare(student)


def test_another_number_of_heads_is_refused_unless_attention_does_not_count(make_classifier, make_teacher):
    teacher = make_teacher(heads=4)
    method = TinyBERT()
    method.lessons.learn_from(teacher)
    with pytest.raises(ValueError, match="the student has 2, the teacher 4"):
        method.prepare(make_classifier())
    without = TinyBERT(attention_weight=0.0)
    without.lessons.learn_from(teacher)
    without.prepare(make_classifier())
