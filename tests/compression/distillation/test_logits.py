import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from effnlp.compression.distillation.logits import Logits
from effnlp.compression.distillation.soft_labels import soft_loss
from effnlp.finetuning.classify import Classify


@pytest.fixture
def batch(make_batch):
    made = make_batch(12)
    return {**made, "rows": torch.tensor([3, 1, 4, 15, 9, 2, 6, 5, 35, 8, 7, 0])}


@pytest.fixture
def said():
    """What a teacher says of 40 texts, three classes."""
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 3


def taught(logits, **settings):
    made = Logits(**settings)
    made.lessons.learn_from(logits=logits)
    return made


def divergence(student, teacher, temperature):
    """T² times the mean over the texts of KL(teacher ‖ student), term by term."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = softmax(t / temperature, 0), softmax(s / temperature, 0)
        total += sum(float(p[c]) * (math.log(p[c]) - math.log(q[c])) for c in range(len(p)))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
def test_the_loss_is_the_divergence_of_softened_probabilities_as_written_down(temperature):
    student, teacher = torch.randn(2, 9, 5, dtype=torch.float64).unbind()
    expected = divergence(student, teacher, temperature)
    assert float(soft_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_hinton():
    """Eq. 2, times T² and averaged over the texts: T (q - p)."""
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    teacher, temperature = torch.randn(6, 4, dtype=torch.float64), 3.0
    soft_loss(student, teacher, temperature).backward()
    expected = temperature * (softmax(student / temperature, 1) - softmax(teacher / temperature, 1)) / 6
    torch.testing.assert_close(student.grad, expected.detach())


def test_gradients_keep_their_size_as_the_temperature_grows():
    student = torch.randn(50, 10, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(50, 10, dtype=torch.float64)
    sizes = {}
    for temperature in (10.0, 100.0):
        (gradient,) = torch.autograd.grad(soft_loss(student, teacher, temperature), student)
        sizes[temperature] = float(gradient.norm())
    assert sizes[100.0] == pytest.approx(sizes[10.0], rel=0.1)  # without T² it would be a hundredth


def test_at_a_high_temperature_logits_are_matched():
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64).unbind()
    centred = [logits - logits.mean(1, keepdim=True) for logits in (student, teacher)]
    matching = ((centred[0] - centred[1]) ** 2).mean(1).mean() / 2
    assert float(soft_loss(student, teacher, 1e4)) == pytest.approx(float(matching), rel=1e-3)


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_a_student_that_says_what_its_teacher_says_has_no_loss(loss):
    logits = torch.randn(7, 3) * 4
    assert float(soft_loss(logits, logits.clone(), 2.0, loss)) == 0
    assert float(soft_loss(logits, logits + torch.tensor([1.0, 0, 0]), 2.0, loss)) > 0


def test_without_weight_for_the_teacher_it_is_cross_entropy_bit_for_bit(make_classifier, batch, loss_of):
    model = make_classifier()
    found = taught(None, alpha=0.0).objective(loss_of)(model, batch)
    assert torch.equal(found, cross_entropy(model(batch), batch["labels"]))


def test_the_teacher_is_looked_up_for_the_very_texts_of_the_batch(make_classifier, batch, said, loss_of):
    model = make_classifier()
    found = taught(said, alpha=0.3, temperature=4.0).objective(loss_of)(model, batch)
    logits = model(batch)
    expected = 0.7 * cross_entropy(logits, batch["labels"]) + 0.3 * soft_loss(
        logits, said[batch["rows"]], 4.0
    )
    torch.testing.assert_close(found, expected)
    other = taught(said.flip(0), alpha=0.3, temperature=4.0).objective(loss_of)(model, batch)
    assert float(other) != pytest.approx(float(found))


def test_the_labels_count_for_labelled_texts_alone_and_every_text_counts_once(
    make_classifier, batch, said, loss_of
):
    model = make_classifier()
    batch["labels"][[0, 5, 7]] = -1
    has_label = batch["labels"] >= 0
    logits = model(batch)
    by_text = 0.4 * soft_loss(logits, said[batch["rows"]], 2.0) * 12
    by_text = by_text + 0.6 * cross_entropy(logits[has_label], batch["labels"][has_label], reduction="sum")
    found = taught(said, alpha=0.4).objective(loss_of)(model, batch)
    torch.testing.assert_close(found, by_text / 12)


def test_a_batch_without_any_label_learns_from_the_teacher_alone(make_classifier, batch, said, loss_of):
    model = make_classifier()
    batch["labels"][:] = -1
    found = taught(said, alpha=0.4).objective(loss_of)(model, batch)
    torch.testing.assert_close(found, 0.4 * soft_loss(model(batch), said[batch["rows"]], 2.0))
    found.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_label_smoothing_and_whatever_else_the_loss_of_labels_does_stay(make_classifier, batch, said):
    smoothing = Classify(label_smoothing=0.2).objective
    model = make_classifier()
    found = taught(said, alpha=0.5).objective(smoothing)(model, batch)
    expected = (smoothing(model, batch) + soft_loss(model(batch), said[batch["rows"]], 2.0)) / 2
    torch.testing.assert_close(found, expected)


def test_a_loss_that_looks_at_the_weights_sees_those_of_the_student(make_classifier, batch, said):
    def penalised(model: nn.Module, given):
        names = {name.removeprefix("model.") for name, _ in model.named_parameters()}
        assert names == {name for name, _ in student.named_parameters()}
        return cross_entropy(model(given), given["labels"]) + model.encoder.tokens.weight.abs().sum()

    student = make_classifier()
    taught(said).objective(penalised)(student, batch).backward()
    assert (student.encoder.tokens.weight.grad[-1] != 0).all()


def test_a_student_that_only_hears_its_teacher_comes_to_say_the_same(
    make_classifier, batch, said, loss_of, take_steps
):
    model = make_classifier()
    before = float(soft_loss(model(batch), said[batch["rows"]], 2.0))
    losses = take_steps(model, batch, steps=60, objective=taught(said, alpha=1.0).objective(loss_of))
    assert losses[-1] < 0.05 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.2}, "alpha must be in"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"loss": "ce"}, "loss must be one of kl, mse, got 'ce'"),
        ({"pool_size": -1}, "pool_size must be at least 0, got -1"),
        ({"pool": "a.csv", "pool_size": 3}, "not both"),
        ({"pool_size": 5, "alpha": 0.0}, "a pool needs alpha above 0"),
    ],
)
def test_values_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Logits("teacher", **settings)


def test_a_training_without_what_the_teacher_says_is_refused(
    make_classifier, make_batch, batch, said, loss_of
):
    with pytest.raises(ValueError, match="gather comes before"):
        Logits("teacher").objective(loss_of)(make_classifier(), batch)
    with pytest.raises(ValueError, match="rows of the batch"):
        taught(said).objective(loss_of)(make_classifier(), make_batch())
