import pytest

from effnlp.reproduce.analytic.distillation import BOTTLENECKED, STUDENTS, table


def test_a_student_of_the_layers_of_bert_has_the_parameters_and_products_of_the_closed_form():
    d, f, layers, tokens, vocabulary = 312, 1200, 4, 128, 30_522
    block = 4 * (d * d + d) + d * f + f + f * d + d + 4 * d
    parameters = (vocabulary + 512 + 2) * d + 2 * d + layers * block + d * d + d
    products = (
        layers * (4 * d * d + 2 * d * f + 2 * tokens * d) * tokens + d * d
    )  # the pooler reads one token
    found = table({"x": "tinybert-4"}, tokens)["x"]
    assert found["parameters"] == pytest.approx(parameters / 1e6)
    assert found["FLOPs"] == pytest.approx(2 * products / 1e9)


def test_a_bottlenecked_student_has_the_products_of_the_closed_form():
    d, e, f, layers, tokens, stacked = 512, 128, 512, 24, 64, 4
    block = 2 * d * e + (3 * e * e + d * e) + 2 * tokens * e + stacked * 2 * e * f + e * d
    products = (layers * block + 3 * e * d) * tokens
    assert table({"x": "mobilebert"}, tokens)["x"]["FLOPs"] == pytest.approx(2 * products / 1e9)


def test_every_student_can_be_asked_for_and_no_other():
    names = [*STUDENTS, *BOTTLENECKED]
    found = table(dict(zip(names, names, strict=True)), 8)
    assert list(found) == names
    assert all(cells["parameters"] > 10 and cells["FLOPs"] > 0 for cells in found.values())
    with pytest.raises(ValueError, match="row: no student 'mobilbert'; did you mean 'mobilebert'"):
        table({"row": "mobilbert"}, 8)
