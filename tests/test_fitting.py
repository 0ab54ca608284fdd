"""Values fit annotations as a reader of the signature expects."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from effnlp.fitting import fits, wanted


@pytest.mark.parametrize(
    ("hint", "fitting", "others"),
    [
        (int, [0, -3], [True, 1.0, "1", None, []]),
        (float, [1, 0.5, float("inf")], [True, "0.5", None]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a"], [1, None, True, ["a"]]),
        (int | None, [1, None], ["a", 1.5]),
        (Literal["a", 1], ["a", 1], ["b", True, None]),
        (Sequence[str], [[], ["a"]], ["a", [1], {"a": 1}]),
        (list[float], [[1, 2.5]], [["a"], 1.0]),
        (tuple[str, ...], [["a", "b"]], [[1]]),
        (Mapping[str, str] | None, [{}, {"a": "b"}, None], [{"a": 1}, ["a"]]),
        (dict, [{}, {"a": 1}], [[]]),
    ],
)
def test_a_value_fits_its_own_type_and_no_other(hint, fitting, others):
    assert all(fits(value, hint) for value in fitting)
    assert not any(fits(value, hint) for value in others)


@pytest.mark.parametrize("hint", [Any, object, Callable[[int], int], type("Ours", (), {})])
def test_what_a_config_cannot_hold_is_not_judged(hint):
    assert fits({"_target_": "somewhere"}, hint)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (Sequence[str], "a list, each of it text"),
        (Literal["a", "b"], "a or b"),
        (bool, "true or false"),
        (dict[str, int], "a mapping"),
    ],
)
def test_what_would_fit_is_said_in_words(hint, words):
    assert wanted(hint) == words
