import copy

import pytest
import torch

from effnlp import method
from effnlp.compression.distillation.mobilebert import MobileBERT, layer_at
from effnlp.compression.distillation.relations import attention_scores, log_relations, relation_loss
from effnlp.compression.distillation.trace import hidden_loss, trace
from effnlp.model.bottleneck_encoder import BottleneckEncoder, Shape
from effnlp.model.classifier import Classifier

STEPS = 12  # with half of them for three layers: two for each


def taught(teacher, **settings):
    made = MobileBERT(**settings)
    made.lessons.learn_from(teacher)
    return made


def in_step(chosen, student, step):
    chosen.advance(student, step, STEPS)
    return chosen


@pytest.fixture
def make_thin():
    """A bottlenecked classifier for the batches of ``make_batch``."""

    def make(depth=3, width=48, heads=2, seed=0):
        torch.manual_seed(seed)
        shape = Shape(depth, width, 12, 10, heads, 20, 2)
        return Classifier(BottleneckEncoder(shape, 60, max_length=24, dropout=0.0), 3).eval()

    return make


def test_layers_take_over_from_the_bottom_up_for_equal_times_and_then_come_the_answers():
    found = [layer_at(step, 40, 0.6, 4) for step in range(40)]
    assert found == [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6 + [None] * 16
    assert [layer_at(step, 40, 0.0, 4) for step in (0, 39)] == [None, None]
    few = [layer_at(step, 4, 0.5, 6) for step in range(4)]
    assert few == [1, 4, None, None], "fewer steps than layers leave some out"


def test_a_student_that_is_its_teacher_has_no_loss_in_any_phase(make_classifier, make_batch, loss_with):
    chosen, batch = MobileBERT(alpha=1.0), make_batch()
    assert float(loss_with(chosen, make_classifier(), make_classifier(), batch).detach()) == pytest.approx(
        0, abs=1e-6
    )
    student = make_classifier()
    for step in range(STEPS):
        loss = in_step(chosen, student, step).objective(lambda model, given: model(given).sum() * 0)(
            student, batch
        )
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        student.encoder.layers[0].mixer.query.weight.mul_(1.5)
        student.head.weight.mul_(1.5)
    for step in (0, STEPS - 1):
        loss = in_step(chosen, student, step).objective(lambda model, given: model(given).sum() * 0)(
            student, batch
        )
        assert float(loss.detach()) > 1e-6


@pytest.mark.parametrize(
    ("kind", "layers"), [("uniform", (2, 4, 6)), ("top", (4, 5, 6)), ("bottom", (1, 2, 3))]
)
def test_the_loss_of_a_layer_is_that_of_its_own_map_and_attention_alone(
    make_classifier, make_teacher, make_batch, loss_of, kind, layers
):
    teacher, student, batch = make_teacher(width=32), make_classifier(), make_batch()
    chosen = taught(teacher, layer_map=kind, feature_weight=3.0, attention_weight=0.5)
    student = chosen.prepare(student)
    roles, mask = ("query", "key"), batch["attention_mask"]
    own, theirs = trace(student, batch, roles), trace(teacher, batch, roles)
    for m, n in enumerate(layers, 1):
        maps = [
            log_relations(attention_scores(seen.given["query"][i - 1], seen.given["key"][i - 1], 2), mask)
            for seen, i in ((own, m), (theirs, n))
        ]
        expected = 3.0 * hidden_loss(own.hidden[m], theirs.hidden[n], mask) + 0.5 * relation_loss(*maps, mask)
        found = in_step(chosen, student, 2 * (m - 1)).objective(loss_of)(student, batch)
        torch.testing.assert_close(found, expected)


def test_the_divergence_is_that_of_the_attention_that_the_model_pays(make_classifier, make_batch):
    """Eq. 2, term by term, from the weights that a plain softmax gives each token of a text."""
    one, other = make_classifier(seed=0), make_classifier(seed=1)
    batch = make_batch(4)
    total = []
    seen = [trace(model, batch, ("query", "key")) for model in (one, other)]
    for text in range(4):
        length = int(batch["attention_mask"][text].sum())
        for head in range(2):
            part = slice(16 * head, 16 * head + 16)
            student, teacher = (
                (
                    (s.given["query"][0][text, :length, part] @ s.given["key"][0][text, :length, part].T) / 4
                ).softmax(-1)
                for s in seen
            )
            total.append(float((teacher * (teacher / student).log()).sum(-1).mean().detach()))
    maps = [
        log_relations(attention_scores(s.given["query"][0], s.given["key"][0], 2), batch["attention_mask"])
        for s in seen
    ]
    found = relation_loss(*maps, batch["attention_mask"])
    assert float(found.detach()) == pytest.approx(sum(total) / len(total), rel=1e-4)


def test_no_token_is_related_to_one_that_follows_it_where_the_model_reads_from_left_to_right():
    scores, mask = torch.randn(2, 3, 5, 5), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    found = log_relations(scores, mask, is_causal=True).exp()
    assert (found.triu(1) == 0).all()
    torch.testing.assert_close(found[0, 0, 1, :2], scores[0, 0, 1, :2].softmax(-1))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 5))


@pytest.mark.parametrize("lower_rate", [0.0, 0.25, 1.0])
def test_only_the_layer_whose_turn_it_is_learns_at_full_rate(
    make_classifier, make_teacher, make_batch, loss_of, lower_rate
):
    batch, teacher = make_batch(), make_teacher()
    for step in range(STEPS):
        chosen = taught(teacher, lower_rate=lower_rate)
        student = chosen.prepare(make_classifier())
        free = copy.deepcopy(student)
        in_step(chosen, student, step)
        learning = {name for name, p in student.named_parameters() if p.requires_grad}
        loss = chosen.objective(loss_of)
        steps = [taken(model, loss, batch) for model in (free, student)]
        chosen.rest()
        assert all(p.requires_grad for p in student.parameters())
        turn = None if step >= 6 else step // 2
        for name, moved in steps[1].items():
            place = 3 if name.startswith(("head", "encoder.norm")) else -1
            if name.startswith("encoder.layers."):
                place = int(name.split(".")[2])
            if name.startswith("projections"):
                expected = float(turn is not None and name.startswith(f"projections.layer{turn + 1}."))
            elif turn is None or place == turn or (turn == 0 and place == -1):
                expected = 1.0
            else:
                expected = lower_rate if place < turn else 0.0
            assert (name in learning) == (expected > 0)
            now = dict(student.named_parameters())[name].detach() - moved[0]
            whole = steps[0][name][1] - steps[0][name][0]
            torch.testing.assert_close(now, expected * whole, rtol=1e-4, atol=1e-6)


def taken(model, loss, batch):
    """Name to the value of each parameter before and after one step of AdamW."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    loss(model, batch).backward()
    optimizer.step()
    return {name: (before[name], p.detach().clone()) for name, p in model.named_parameters()}


def test_no_layer_above_the_one_that_takes_over_is_computed(
    make_classifier, make_teacher, make_batch, loss_of
):
    chosen = taught(make_teacher())
    student, ran = chosen.prepare(make_classifier()), []
    for index, layer in enumerate(student.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    in_step(chosen, student, 2).objective(loss_of)(student, make_batch())
    assert ran == [0, 1]


def test_what_was_frozen_before_stays_so(make_classifier, make_teacher):
    chosen, student = taught(make_teacher()), make_classifier()
    student.encoder.tokens.requires_grad_(False)
    chosen.prepare(student)
    for step in range(STEPS):
        in_step(chosen, student, step)
        assert not student.encoder.tokens.weight.requires_grad
    chosen.rest()
    assert not student.encoder.tokens.weight.requires_grad
    assert student.head.weight.requires_grad


def test_a_thin_student_comes_layer_by_layer_to_its_teacher_of_equal_width(
    make_thin, make_teacher, make_batch, loss_of
):
    teacher, student, batch = make_teacher(depth=3, width=48), make_thin(), make_batch(16)
    chosen = taught(teacher, alpha=1.0, progressive=0.75)
    student = chosen.prepare(student)
    assert not hasattr(student, "projections"), "equal widths need none"

    def distances():
        own, theirs = trace(student, batch), trace(teacher, batch)
        found = [hidden_loss(a, b, own.mask) for a, b in zip(own.hidden, theirs.hidden, strict=True)]
        return torch.stack(found).detach()[1:]

    before, loss = distances(), chosen.objective(loss_of)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for step in range(120):
        chosen.advance(student, step, 160)
        optimizer.zero_grad()
        loss(student, batch).backward()
        optimizer.step()
        chosen.rest()
    assert (distances() < 0.8 * before).all()
    assert chosen.settled_after == 0.75


def test_nothing_of_the_teacher_is_left(make_thin, make_teacher, make_batch):
    chosen = taught(make_teacher(width=32))
    student = chosen.prepare(make_thin())
    assert sorted(student.projections) == ["layer1", "layer2", "layer3"]
    finished = method.finish(chosen, student)
    assert finished.state_dict().keys() == make_thin().state_dict().keys()
    assert method.applied(finished)["compression/distillation"]["progressive"] == 0.5


def test_a_resumed_training_ends_as_the_uninterrupted_one(make_thin, make_teacher, make_batch, fit, loss_of):
    batches = [make_batch(4, seed=seed) for seed in range(4)]

    def train(**how):
        chosen = taught(make_teacher(), progressive=0.7)
        student = chosen.prepare(make_thin())
        seen = fit(
            student, batches, 3, callbacks=chosen.callbacks(), objective=chosen.objective(loss_of), **how
        )
        return method.settle([chosen], student).state_dict(), seen

    whole, seen = train()
    _, first = train(epochs=1)
    resumed, rest = train(resume=True)
    assert first + rest == seen
    assert len(rest) == 8
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_weight": -1.0}, "feature_weight must be at least 0, got -1.0"),
        ({"feature_weight": 0, "attention_weight": 0}, "one of feature_weight and attention_weight"),
        ({"progressive": 1.0}, "progressive must be in"),
        ({"lower_rate": 1.5}, "lower_rate must be in"),
        ({"layer_map": "last"}, "layer_map must be one of"),
        ({"alpha": 2}, "alpha must be in"),
    ],
)
def test_values_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MobileBERT(**settings)


def test_what_cannot_be_compared_is_refused_before_the_training(make_classifier, make_teacher):
    with pytest.raises(ValueError, match="the student has 2, the teacher 4"):
        taught(make_teacher(heads=4)).prepare(make_classifier())
    taught(make_teacher(heads=4), attention_weight=0.0).prepare(make_classifier())
    with pytest.raises(ValueError, match="the student has 3, the teacher 2"):
        taught(make_teacher(depth=2)).prepare(make_classifier())
    teacher = make_teacher()
    for layer in teacher.encoder.layers:
        layer.mixer.causal = True
    with pytest.raises(
        ValueError, match="the student reads in both directions, the teacher from left to right"
    ):
        taught(teacher).prepare(make_classifier())
    student = make_classifier()
    student.encoder.layers[1].requires_grad_(False)
    with pytest.raises(ValueError, match="all of layer 2 is frozen"):
        taught(make_teacher()).prepare(student)
    taught(make_teacher(), progressive=0.0).prepare(student)
