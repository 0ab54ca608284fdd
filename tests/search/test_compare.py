"""Searches are compared seed by seed at equal spending."""

import numpy as np
import pytest
from scipy import stats

from effnlp.compose import ConfigError
from effnlp.search.compare import RANDOM, Interval, compare, problem_named, rows_of
from effnlp.search.curves import Curve, Table, write
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.problems import ERROR, FLOPS, SYNTHETIC, Look
from effnlp.search.space import parse


@pytest.fixture
def table(tmp_path):
    curves = []
    for width in range(1, 9):
        values = {ERROR: 1 / width, FLOPS: float(width), "model/bytes": 10.0 - width}
        looks = tuple(Look(f, values, 10 * width * f, 5.0 * f) for f in (1 / 9, 1 / 3, 1.0))
        curves.append(Curve({"width": str(width)}, 0, looks))
    objectives = {ERROR: "minimize", FLOPS: "minimize"}
    write(
        Table("toy", parse({"width": "range(1,9)"}, [])[0], objectives, tuple(curves), "toys"),
        tmp_path / "t.csv",
    )
    return tmp_path / "t.csv"


def test_random_against_itself_differs_in_nothing():
    same = compare(SYNTHETIC["hard"](), RANDOM, lambda _: None, trials=10, workers=1, seeds=range(3))
    assert same.quality == same.reference_quality
    assert same.gain == Interval(0.0, 0.0, 0.0)


def test_both_spend_the_same():
    found = compare(SYNTHETIC["easy"](), RANDOM, lambda _: moasha(), trials=30, workers=2, seeds=range(3))
    for one, other in zip(found.chosen, found.reference, strict=True):
        assert one.spent == pytest.approx(other.spent)
        assert one.stopped > 0
        assert other.stopped == 0


def test_an_interval_is_that_of_students_t():
    values = np.random.default_rng(0).normal(size=12)
    lower, upper = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    found = Interval.of(values.tolist())
    assert (found.mean, found.lower, found.upper) == pytest.approx((values.mean(), lower, upper))


def test_a_table_is_found_by_its_path_and_asked_for_any_of_its_keys(table):
    problem, what = problem_named(str(table), None)
    assert list(problem.objectives) == [ERROR, FLOPS]
    assert what == f"{table}: 8 recorded runs of 8 points; toys"
    problem, _ = problem_named(str(table), {ERROR: "minimize", "model/bytes": "minimize"})
    assert list(problem.objectives) == [ERROR, "model/bytes"]
    with pytest.raises(ConfigError, match="has no model/byte; did you mean 'model/bytes'"):
        problem_named(str(table), {"model/byte": "minimize"})


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("nothing")
    with pytest.raises(ConfigError, match="is not a table of curves"):
        problem_named(str(tmp_path / "t.csv"), None)
    with pytest.raises(ConfigError, match="--simulate="):
        problem_named(str(tmp_path), None)


def test_figures_of_energy_are_there_if_the_table_has_them(table):
    problem, _ = problem_named(str(table), None)
    found = compare(problem, RANDOM, lambda _: moasha(), trials=8, workers=2, seeds=range(2))
    assert {name for name, *_ in rows_of(found)} >= {"hypervolume", "trials", "hours", "kWh"}
    synthetic = compare(SYNTHETIC["hard"](), RANDOM, lambda _: None, trials=3, workers=1, seeds=range(2))
    assert "kWh" not in {name for name, *_ in rows_of(synthetic)}
