import math

import numpy as np
import optuna
import pytest

from effnlp.compose import ConfigError
from effnlp.search.constraints import (
    hopeless,
    inside,
    inside_of,
    is_feasible,
    keys_of,
    on_feasible_frontier,
    parse_constraints,
    parse_reference,
    reference_point,
    violations,
)
from effnlp.search.pareto import dominates, oriented

LATENCY = "infer/single_stream/latency_seconds_p50"
OBJECTIVES = {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"}


def test_a_constraint_is_read_with_or_without_spaces():
    found = parse_constraints([f"{LATENCY} <= 0.005", "model/bytes<2e7", " val/accuracy  >=  0.5 ", "a>-1"])
    assert [(c.key, c.relation, c.bound) for c in found] == [
        (LATENCY, "<=", 0.005), ("model/bytes", "<", 2e7), ("val/accuracy", ">=", 0.5), ("a", ">", -1.0),
    ]  # fmt: skip
    assert parse_constraints([str(c) for c in found]) == found
    assert keys_of(["a > 1", "b < 2", "a < 3"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["model/bytes = 2e7"], "KEY <= NUMBER, or with <, >= or >, got 'model/bytes = 2e7'"),
        (["model/bytes == 2e7"], "KEY <= NUMBER"),
        (["model/bytes =< 2e7"], "KEY <= NUMBER"),
        (["1 <= a <= 2"], "KEY <= NUMBER"),
        (["<= 2"], "KEY <= NUMBER"),
        (["model/bytes <= 20MB"], "'20MB' in 'model/bytes <= 20MB' is no number"),
        (["a <= inf"], "a bound is finite"),
        (["a <= nan"], "a bound is finite"),
        (["test/accuracy > 0.5"], "nothing selects on the test split; val/accuracy is meant for it"),
        (["a <= 1", "a < 2"], "bounds a from above twice, a <= 1 and a < 2"),
        (["a <= 1", "a >= 2"], "nothing satisfies both a <= 1 and a >= 2"),
        (["a < 1", "a > 1"], "nothing satisfies both"),
        ("a <= 1", "is a list such as"),
    ],
)
def test_what_is_no_constraint_is_refused_with_the_rule(texts, said):
    with pytest.raises(ConfigError, match=said):
        parse_constraints(texts)


@pytest.mark.parametrize("relation", ["<=", "<", ">=", ">"])
@pytest.mark.parametrize("bound", [0.005, 2e7, 0.0, -3.0, 1e-300])
def test_what_is_at_most_zero_is_exactly_what_satisfies(relation, bound):
    holds = {
        "<=": lambda v: v <= bound,
        "<": lambda v: v < bound,
        ">=": lambda v: v >= bound,
        ">": lambda v: v > bound,
    }[relation]
    near = [bound, math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf)]
    seen = set()
    for value in [*near, bound - 1, bound + 1, bound * 1.1, bound * 0.9, 0.0]:
        (amount,) = violations([f"key {relation} {bound!r}"], {"key": value}).values()
        assert (amount <= 0) == holds(value), value
        seen.add(amount <= 0)
    assert seen == {True, False}


def test_violations_are_relative_to_their_bounds_and_grow_with_the_distance():
    found = violations(["a <= 0.005", "b <= 2e7", "c >= 10"], {"a": 0.01, "b": 4e7, "c": 5})
    assert found == {
        "a <= 0.005": pytest.approx(1),
        "b <= 2e7": pytest.approx(1),
        "c >= 10": pytest.approx(0.5),
    }
    amounts = [violations(["a < 2"], {"a": v})["a < 2"] for v in (1.0, 2.0, 3.0, 4.0)]
    assert amounts == sorted(set(amounts))


def test_a_record_without_the_key_says_why():
    with pytest.raises(KeyError, match="model/bytes is not in the record: it was not stored"):
        violations(["model/bytes < 1"], {"val/accuracy": 1.0}, {"model/bytes": "it was not stored"})
    with pytest.raises(KeyError, match="did you mean 'model/bytes'"):
        violations(["model/byte < 1"], {"model/bytes": 1.0})
    with pytest.raises(ValueError, match="a is NaN"):
        violations(["a < 1"], {"a": math.nan})


def test_optuna_takes_for_feasible_what_is_feasible_here():
    from optuna.study._constrained_optimization import _get_feasible_trials

    texts = ["a <= 2", "b > 1"]
    study = optuna.create_study(directions=["minimize"])
    expected = []
    for a, b in [(1, 2), (2, 1), (3, 2), (2, 1.5)]:
        trial = study.ask()
        violated = violations(texts, {"a": a, "b": b})
        for key, amount in violated.items():
            trial.set_constraint(key, amount)
        study.tell(trial, a)
        if is_feasible(violated):
            expected.append(trial.number)
    assert [t.number for t in _get_feasible_trials(study.trials)] == expected == [0, 3]


def test_the_feasible_frontier_is_the_frontier_of_what_is_feasible():
    generator = np.random.default_rng(0)
    for _ in range(30):
        values = generator.integers(0, 6, (25, 2)).astype(float)
        feasible = generator.random(25) < 0.6
        found = on_feasible_frontier(values, feasible)
        for i, value in enumerate(values):
            beaten = any(dominates(values[j], value) for j in np.flatnonzero(feasible))
            assert found[i] == (feasible[i] and not beaten)
    assert not on_feasible_frontier(values, np.zeros(25, dtype=bool)).any()


def test_at_a_rung_only_what_is_final_there_is_held_against_a_trial():
    texts = [
        "val/accuracy > 0.8", f"{LATENCY} <= 0.005", "model/bytes < 100", "infer/single_stream/flops <= 10",
        "cost/total/own/seconds <= 60", "cost/total/own/flops >= 5",
    ]  # fmt: skip
    shown = {
        "val/accuracy": 0.1, LATENCY: 1.0, "model/bytes": 100.0, "infer/single_stream/flops": 11.0,
        "cost/total/own/seconds": 61.0, "cost/total/own/flops": 1.0,
    }  # fmt: skip
    assert hopeless(texts, shown) == [texts[2], texts[3], texts[4]]
    assert hopeless(texts, {**shown, "model/bytes": 99.0, "cost/total/own/seconds": 1.0}) == [texts[3]]
    assert hopeless(texts, {}) == []


def test_inside_is_better_than_the_reference_and_not_hopeless():
    is_inside = inside_of(OBJECTIVES, {"val/accuracy": 0.5}, ["model/bytes <= 100"])
    assert is_inside({"val/accuracy": 0.51, "model/bytes": 100.0})
    assert not is_inside({"val/accuracy": 0.5, "model/bytes": 1.0})
    assert not is_inside({"val/accuracy": 0.9, "model/bytes": 101.0})
    assert is_inside({})
    assert inside_of(OBJECTIVES, {}, [])({"val/accuracy": 0.0})


def test_inside_of_points_and_of_what_a_trial_shows_agree():
    generator = np.random.default_rng(1)
    for reference in ({"val/accuracy": 0.5}, {"val/accuracy": 0.5, "infer/single_stream/flops": 4.0}, {}):
        values = np.stack([generator.integers(0, 11, 60) / 10, generator.integers(0, 9, 60)], axis=1)
        one_by_one = inside_of(OBJECTIVES, reference, [])
        expected = [one_by_one(dict(zip(OBJECTIVES, row, strict=True))) for row in values]
        found = inside(oriented(values, list(OBJECTIVES.values())), reference_point(reference, OBJECTIVES))
        assert found.tolist() == expected
        assert any(expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"val/acuracy": 0.5}, "val/acuracy is not an objective; did you mean 'val/accuracy'"),
        ({"val/accuracy": "high"}, "val/accuracy must be a finite number, got 'high'"),
        ({"val/accuracy": True}, "must be a finite number"),
        ({"val/accuracy": math.inf}, "must be a finite number"),
        ([0.5], "is a mapping such as"),
    ],
)
def test_a_reference_is_about_objectives(given, said):
    with pytest.raises(ConfigError, match=said):
        parse_reference(given, OBJECTIVES)


def test_a_reference_may_name_some_objectives_or_none():
    assert parse_reference(None, OBJECTIVES) == parse_reference({}, OBJECTIVES) == {}
    assert parse_reference({"val/accuracy": 1}, OBJECTIVES) == {"val/accuracy": 1.0}
    assert reference_point({"val/accuracy": 0.5}, OBJECTIVES).tolist() == [-0.5, math.inf]
