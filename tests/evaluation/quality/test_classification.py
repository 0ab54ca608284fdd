import pytest
import torch
from sklearn import metrics

from effnlp.evaluation.quality.classification import classification


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator)
    labels = torch.randint(0, 4, (200,), generator=generator)  # the last class has no example
    return logits, labels


def test_all_scores_equal_those_of_scikit_learn(scored):
    logits, labels = scored
    predicted = logits.argmax(1)
    scores = classification(logits, labels)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    log_loss = metrics.log_loss(labels, logits.double().softmax(1), labels=range(5))
    assert scores["loss"] == pytest.approx(log_loss, rel=1e-5)


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_lower_the_f1():
    labels = torch.tensor([0, 1, 1])
    logits = torch.nn.functional.one_hot(labels, 4).float() * 9
    assert classification(logits, labels)["macro_f1"] == 1.0


def test_the_order_of_examples_and_the_precision_of_logits_do_not_matter(scored):
    logits, labels = scored
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    shuffled = classification(logits[order], labels[order])
    assert shuffled == pytest.approx(classification(logits, labels))
    halved = classification(logits.bfloat16().float().bfloat16(), labels)
    assert halved["loss"] == pytest.approx(classification(logits, labels)["loss"], abs=0.02)


def test_no_example_has_no_score():
    with pytest.raises(ValueError, match="no example"):
        classification(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
