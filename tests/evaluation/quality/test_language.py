import math

import pytest
import torch

from effnlp.evaluation.quality.calibration import refuse as refuse_calibration
from effnlp.evaluation.quality.classification import refuse as refuse_classes
from effnlp.evaluation.quality.language import language, refuse
from effnlp.evaluation.quality.regression import refuse as refuse_numbers
from effnlp.task.task import Task


def test_a_model_without_preferences_has_the_perplexity_of_its_vocabulary_and_bits_by_hand():
    tokens = torch.tensor([3.0, 5.0, 0.0])
    costs = torch.stack([tokens * math.log(50), tokens], dim=1)
    found = language(costs, torch.tensor([10.0, 22.0, 0.0]), ())
    assert found.values["perplexity"] == pytest.approx(50)
    assert found.values["loss"] == pytest.approx(math.log(50))
    assert found.values["bits_per_byte"] == pytest.approx(8 * math.log2(50) / 32)
    assert found.notes["language"] == {"texts": 3, "tokens": 8, "bytes": 32}


def test_bits_per_byte_do_not_depend_on_how_many_tokens_share_the_nats():
    labels = torch.tensor([12.0, 30.0])
    words = language(torch.tensor([[7.0, 2.0], [9.0, 4.0]]), labels, ()).values
    letters = language(torch.tensor([[6.0, 12.0], [10.0, 30.0]]), labels, ()).values
    assert words["bits_per_byte"] == pytest.approx(letters["bits_per_byte"])
    assert words["perplexity"] > 2 * letters["perplexity"]


def test_a_long_text_counts_for_more_than_a_short_one():
    costs = torch.tensor([[1.0, 1.0], [200.0, 100.0]])
    assert language(costs, torch.tensor([1.0, 100.0]), ()).values["loss"] == pytest.approx(201 / 101)


def test_a_perplexity_beyond_numbers_is_absent_with_its_reason():
    found = language(torch.tensor([[8000.0, 10.0]]), torch.tensor([40.0]), ())
    assert "perplexity" not in found.values
    assert "a loss of 800 is beyond floating-point numbers" in found.absent["perplexity"]
    assert found.values["loss"] == 800


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([[0.0, 0.0]], "no token to predict in 1 texts"),
        ([[0.1, 0.2, 0.7]], "nats and tokens .* got 3 numbers"),
    ],
)
def test_what_is_not_of_a_language_model_is_refused(costs, said):
    with pytest.raises(ValueError, match=said):
        language(torch.tensor(costs), torch.tensor([0.0]), ())


def test_labels_and_texts_are_told_apart_before_the_training():
    texts, classes = (Task("sst2", ("bad", "good"), {}, is_language=is_text) for is_text in (True, False))
    assert refuse(texts) is None
    with pytest.raises(ValueError, match="give model=decoder finetuning=causal_lm"):
        refuse(classes)
    for name, refuses in (
        ("classification", refuse_classes), ("calibration", refuse_calibration), ("regression", refuse_numbers)
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"evaluation/quality={name} looks at answers, .*=\[language\]"):
            refuses(texts)
