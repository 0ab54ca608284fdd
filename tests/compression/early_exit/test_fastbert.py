import math

import pytest
import torch
from torch.nn.functional import kl_div

from effnlp import method
from effnlp.compression.early_exit.exits import entropy
from effnlp.compression.early_exit.fastbert import ByUncertainty, FastBERT, distillation_loss

DEPTH = 4


def prepared(make_classifier, **settings):
    chosen = FastBERT(first_phase=0.5, **settings)
    return chosen, chosen.prepare(make_classifier(depth=DEPTH))


@pytest.mark.parametrize("classes", [2, 5])
def test_uncertainty_is_entropy_as_a_share_of_log_c(classes):
    logits = torch.randn(40, classes) * 3
    doubt, _ = ByUncertainty()(None, logits, None)
    torch.testing.assert_close(doubt, entropy(logits) / math.log(classes))
    assert 0 <= doubt.min() < 0.2 < 0.8 < doubt.max() <= 1
    nothing, _ = ByUncertainty()(None, torch.zeros(1, classes), None)
    torch.testing.assert_close(nothing, torch.ones(1))


def test_a_student_that_says_what_the_teacher_says_has_no_loss():
    teacher = torch.randn(8, 3)
    loss = distillation_loss([teacher + 7.0, teacher], teacher)  # a shift of logits changes no probability
    assert abs(loss) < 1e-6


def test_the_loss_is_the_sum_of_the_divergences_of_the_students_from_the_teacher():
    students, teacher = [torch.randn(8, 3) for _ in range(3)], torch.randn(8, 3)
    expected = sum(
        kl_div(teacher.log_softmax(-1), one.log_softmax(-1), reduction="batchmean", log_target=True)
        for one in students
    )
    torch.testing.assert_close(distillation_loss(students, teacher), expected)
    rows = torch.tensor([True] * 3 + [False] * 5)
    of_three = distillation_loss([one[:3] for one in students], teacher[:3])
    torch.testing.assert_close(distillation_loss(students, teacher, rows), of_three)


def test_no_gradient_reaches_the_teacher():
    teacher, student = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    distillation_loss([student], teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


def test_the_second_phase_moves_the_students_alone_and_asks_no_label(make_classifier, make_batch, loss_of):
    chosen, model = prepared(make_classifier)
    batch = make_batch(16)
    chosen.advance(model.train(), 5, 10)
    loss = chosen.objective(loss_of)(model, batch)
    other = chosen.objective(loss_of)(model, {**batch, "labels": 2 - batch["labels"]})
    unlabelled = {name: value for name, value in batch.items() if name != "labels"}
    assert loss == other == chosen.objective(loss_of)(model, unlabelled)
    loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {name for name, _ in model.named_parameters() if name.startswith("exits.")}


def test_the_first_phase_is_the_plain_loss_of_the_teacher(make_classifier, make_batch, loss_of):
    chosen, model = prepared(make_classifier)
    batch = make_batch(16)
    chosen.advance(model.train(), 4, 10)
    torch.testing.assert_close(
        chosen.objective(loss_of)(model, batch), loss_of(make_classifier(depth=DEPTH), batch)
    )


def test_students_come_to_say_what_the_teacher_says(make_classifier, make_batch, loss_of, take_steps):
    chosen, model = prepared(make_classifier)
    batch = make_batch(32)
    take_steps(model, batch, steps=15)
    chosen.advance(model, 9, 10)
    losses = take_steps(model, batch, steps=60, rate=2e-2, objective=chosen.objective(loss_of))
    assert losses[-1] < 0.5 * losses[0]


def test_a_preview_trains_the_students_alone(make_classifier, make_batch):
    chosen, model = prepared(make_classifier)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = method.preview([chosen], model, 3, 10, [make_batch()])
    changed = {name for name, value in seen.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("exits.")}


def test_a_speed_below_zero_is_refused():
    with pytest.raises(ValueError, match="speed must be at least 0, got -1"):
        FastBERT(speed=-1)
