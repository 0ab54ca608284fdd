"""Planted false claims fail, planted true ones hold, borderline ones are undecided: for every kind."""

import datetime

import numpy as np
import pytest
from scipy import stats

from effnlp.reproduce.claims import VOCABULARY, check
from effnlp.reproduce.experiment import Claim, Column, Published
from effnlp.reproduce.result import FAILS, HOLDS, NOT_TESTABLE, UNDECIDED, Cell

JITTER = (-0.2, 0.1, 0.1)  # of three seeds; half a width of 0.29 at 90 %
MIRRORED = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}


def column(name, better=None):
    return Column(name, better=better)


COLUMNS = {
    "score": column("score", "max"), "cost": column("cost", "min"), "size": column("size", "min"),
    **{str(n): column(str(n)) for n in (1, 2, 4, 8)},
}  # fmt: skip


def seeded(mean, spread=1.0, seeds=("0", "1", "2")):
    """One figure a seed whose mean is exact."""
    return {seed: mean + spread * jitter for seed, jitter in zip(seeds, JITTER, strict=True)}


def table(**rows):
    """Row to column to a number (exact), or to a figure of each seed."""
    return {
        (row, name): Cell(row, name, value, False)
        if isinstance(value, dict)
        else Cell(row, name, {"0": value}, True)
        for row, columns in rows.items()
        for name, value in columns.items()
    }


def found(kind, cells, published=(), holes=(), **arguments):
    claim = Claim("planted", "It is so.", "small", kind, arguments, datetime.date(2026, 11, 22), "a pilot")
    printed = {
        (row, name): Published(row, name, value, "Table 1", "full_text") for row, name, value in published
    }
    return check(claim, cells, printed, COLUMNS, holes)


def score(row):
    return {"row": row, "column": "score"}


def along(*columns, row="a"):
    return {"row": row, "column": list(columns)}


# Of each kind: figures with which a claim holds, fails, is undecided

A = {"row": "a"}
B = {"row": "b"}
STEPS = ("1", "2", "4")
NOISY = {"0": -3.0, "1": 3.0, "2": 0.3}  # no sign


def noisy(mean, by=1.0):
    return {seed: mean + by * jitter for seed, jitter in NOISY.items()}


CLAIMS = {
    "ratio": (
        {"of": score("a"), "to": B, "at_most": 0.5},
        table(a={"score": seeded(4.0)}, b={"score": seeded(10.0)}),
        table(a={"score": seeded(6.0)}, b={"score": seeded(10.0)}),
        table(a={"score": noisy(5.0)}, b={"score": 10.0}),
    ),
    "paired_difference": (
        {"of": score("a"), "to": B, "at_least": -1},
        table(a={"score": seeded(90.0)}, b={"score": seeded(90.2, 2)}),
        table(a={"score": seeded(90.0)}, b={"score": seeded(92.2, 2)}),
        table(a={"score": seeded(90.0)}, b={"score": noisy(91.2)}),
    ),
    "monotone": (
        {"of": along(*STEPS), "direction": "increasing"},
        table(a={"1": seeded(1.0), "2": seeded(2.0), "4": seeded(3.0, 2)}),
        table(a={"1": seeded(1.0), "2": seeded(3.0), "4": seeded(2.0, 1.5)}),
        table(a={"1": seeded(1.0), "2": seeded(2.0), "4": noisy(2.5)}),
    ),
    "loglog_slope": (
        {"of": along(*STEPS), "x": [1, 2, 4], "at_least": 1.7, "at_most": 2.3},
        table(a={"1": seeded(3.0), "2": seeded(12.0), "4": seeded(48.0)}),
        table(a={"1": seeded(3.0), "2": seeded(6.0), "4": seeded(12.0)}),
        table(a={"1": noisy(4.0), "2": seeded(12.0), "4": seeded(48.0)}),
    ),
    "rank_flip": (
        {"of": {"row": ["a", "b"], "column": ["score", "1"]}},
        table(a={"score": seeded(2.0), "1": 5}, b={"score": seeded(1.0), "1": 6}),
        table(a={"score": seeded(2.0), "1": 6}, b={"score": seeded(1.0, 2), "1": 5}),
        table(a={"score": noisy(2.0), "1": 5}, b={"score": seeded(1.8), "1": 6}),
    ),
    "retention": (
        {"of": score("a"), "to": B, "at_least": 0.9, "floor": 50},
        table(a={"score": seeded(88.0)}, b={"score": seeded(90.0)}),
        table(a={"score": seeded(80.0)}, b={"score": seeded(90.0)}),
        table(a={"score": noisy(86.0)}, b={"score": seeded(90.0)}),
    ),
    "pareto_dominates": (
        {"of": along("score", "cost"), "to": B, "tolerance": {"score": 0.5}},
        table(a={"score": seeded(89.9), "cost": 3}, b={"score": seeded(90.0), "cost": 4}),
        table(a={"score": seeded(88.0), "cost": 3}, b={"score": seeded(90.0), "cost": 4}),
        table(a={"score": noisy(89.9), "cost": 3}, b={"score": seeded(90.0), "cost": 4}),
    ),
    "equals": (
        {"of": score("a"), "to": B, "within": 0.5},
        table(a={"score": seeded(90.0)}, b={"score": seeded(90.2, 2)}),
        table(a={"score": seeded(90.0)}, b={"score": seeded(91.2, 2)}),
        table(a={"score": seeded(90.0)}, b={"score": noisy(90.0)}),
    ),
    "crossing": (
        {"of": along(*STEPS), "to": B},
        table(a={"1": seeded(1.0), "2": seeded(2.0), "4": seeded(3.0)}, b={"1": 2, "2": 2, "4": 2}),
        table(a={"1": seeded(1.0), "2": seeded(1.2), "4": seeded(1.5)}, b={"1": 2, "2": 2, "4": 2}),
        table(a={"1": seeded(1.0), "2": seeded(2.0), "4": noisy(2.2)}, b={"1": 2, "2": 2, "4": 2}),
    ),
    "interval_excludes": (
        {"of": score("a"), "number": 50, "side": "above"},
        table(a={"score": seeded(51.0)}),
        table(a={"score": seeded(49.0)}),
        table(a={"score": seeded(50.1)}),
    ),
}  # fmt: skip


def test_every_kind_has_planted_claims():
    assert set(CLAIMS) == set(VOCABULARY)


@pytest.mark.parametrize("kind", VOCABULARY)
@pytest.mark.parametrize(("planted", "verdict"), [(1, HOLDS), (2, FAILS), (3, UNDECIDED)])
def test_a_planted_claim_has_the_verdict_that_it_was_planted_for(kind, planted, verdict):
    arguments, cells = CLAIMS[kind][0], CLAIMS[kind][planted]
    assert not VOCABULARY[kind].problems(arguments, COLUMNS)
    finding = found(kind, cells, **arguments)
    assert finding.verdict == verdict, finding.why
    assert finding.low <= finding.estimate <= finding.high
    assert finding.why


@pytest.mark.parametrize("kind", VOCABULARY)
@pytest.mark.parametrize("planted", [1, 2, 3])
def test_the_verdict_does_not_depend_on_the_order_of_cells_and_seeds(kind, planted):
    arguments, cells = CLAIMS[kind][0], CLAIMS[kind][planted]
    turned = {
        place: Cell(cell.row, cell.column, dict(reversed(cell.values.items())), cell.is_exact)
        for place, cell in reversed(cells.items())
    }
    one, other = found(kind, cells, **arguments), found(kind, turned, **arguments)
    assert (one.verdict, one.n) == (other.verdict, other.n)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize("kind", VOCABULARY)
def test_a_cell_that_is_missing_is_named_and_leaves_the_claim_undecided(kind):
    arguments, cells = CLAIMS[kind][0], CLAIMS[kind][1]
    for place in cells:
        finding = found(kind, {p: cell for p, cell in cells.items() if p != place}, **arguments)
        assert finding.verdict == UNDECIDED, place
        assert f"no figure of {place[0]} in {place[1]}" in finding.why


@pytest.mark.parametrize("kind", VOCABULARY)
def test_a_single_seed_leaves_the_claim_undecided_and_that_is_said(kind):
    arguments, cells = CLAIMS[kind][0], CLAIMS[kind][1]
    single = {
        place: cell if cell.is_exact else Cell(cell.row, cell.column, {"0": cell.values["0"]})
        for place, cell in cells.items()
    }
    finding = found(kind, single, **arguments)
    assert finding.verdict == UNDECIDED
    assert "single seed" in finding.why
    assert finding.low is None
    assert finding.estimate is not None


@pytest.mark.parametrize("kind", VOCABULARY)
def test_exact_figures_are_never_undecided(kind):
    arguments, *planted = CLAIMS[kind]
    for cells, verdict in zip(planted, (HOLDS, FAILS), strict=False):
        whole = {
            place: Cell(*place, {"0": float(np.mean(list(cell.values.values())))}, True)
            for place, cell in cells.items()
        }
        finding = found(kind, whole, **arguments)
        assert finding.verdict == verdict
        assert finding.n == 0
        assert finding.low == finding.estimate == finding.high


@pytest.mark.parametrize("kind", VOCABULARY)
def test_a_figure_that_is_not_finite_leaves_the_claim_undecided(kind):
    arguments, cells = CLAIMS[kind][0], dict(CLAIMS[kind][1])
    place = next(place for place in cells if not cells[place].is_exact)
    cells[place] = Cell(*place, {**cells[place].values, "1": float("nan")})
    finding = found(kind, cells, **arguments)
    assert finding.verdict == UNDECIDED
    assert "not finite with seed 1" in finding.why


# Simulation


def drawn(draw, mean, seeds=5):
    return {str(seed): value for seed, value in enumerate(draw.normal(mean, 1.0, seeds))}


AT_THE_BOUND = {
    "paired_difference": ({"of": score("a"), "to": B, "at_least": -1}, {"score": 9.0}, {"score": 10.0}),
    "ratio": ({"of": score("a"), "to": B, "at_least": 0.9}, {"score": 90.0}, {"score": 100.0}),
    "retention": (
        {"of": score("a"), "to": B, "at_least": 0.8, "floor": 50}, {"score": 90.0}, {"score": 100.0}
    ),
    "equals": ({"of": score("a"), "to": B, "within": 4}, {"score": 94.0}, {"score": 90.0}),
    "monotone": ({"of": along("1", "2"), "direction": "increasing"}, {"1": 4.0, "2": 4.0}, {}),
    "loglog_slope": ({"of": along("1", "2"), "x": [1, 2], "at_least": 1}, {"1": 50.0, "2": 100.0}, {}),
    "interval_excludes": ({"of": score("a"), "number": 50, "side": "above"}, {"score": 50.0}, {}),
    "rank_flip": (
        {"of": {"row": ["a", "b"], "column": ["1", "2"]}}, {"1": 9.0, "2": 5.0}, {"1": 1.0, "2": 5.0}
    ),
    "pareto_dominates": (
        {"of": along("score", "cost"), "to": B, "tolerance": {"cost": 1}},
        {"score": 90.0, "cost": 5.0}, {"score": 50.0, "cost": 4.0},
    ),
    "crossing": (
        {"of": along(*STEPS), "to": B}, {"1": 9.0, "2": 5.0, "4": 5.0}, {"1": 1.0, "2": 5.0, "4": 5.0}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VOCABULARY)
def test_at_its_very_bound_a_claim_rarely_holds_and_rarely_fails(kind):
    """One side of a 90 % interval misses one time in 20."""
    draw, trials = np.random.default_rng(0), 200
    arguments, a, b = AT_THE_BOUND[kind]
    verdicts = []
    for _ in range(trials):
        rows = {"a": {name: drawn(draw, mean) for name, mean in a.items()}}
        rows["b"] = {name: drawn(draw, mean) for name, mean in b.items()}
        verdicts.append(found(kind, table(**rows), **arguments).verdict)
    most = stats.binom.ppf(1 - 1e-4, trials, 0.05)
    assert verdicts.count(HOLDS) <= most
    assert verdicts.count(FAILS) <= most
    assert verdicts.count(UNDECIDED)


def test_one_of_many_rows_seldom_seems_to_fail_where_all_are_at_the_bound():
    draw, trials, rows = np.random.default_rng(1), 100, [f"r{n}" for n in range(6)]
    verdicts = []
    for _ in range(trials):
        cells = table(**{row: {"score": drawn(draw, 9.0)} for row in rows})
        verdicts.append(found("paired_difference", cells, of={"column": "score"}, to=9.0, at_least=0).verdict)
    assert verdicts.count(FAILS) <= stats.binom.ppf(1 - 1e-4, trials, 0.05)
    assert not verdicts.count(HOLDS)


def test_each_step_may_have_the_usual_interval_where_all_must_hold():
    """Three steps of 0.35 with a half width of 0.34 each: simultaneous intervals would include zero."""
    turned = (seeded(1.0), seeded(1.4, 2.2), seeded(1.8, 1.0), seeded(2.2, 2.2))
    cells = table(a=dict(zip(("1", "2", "4", "8"), turned, strict=True)))
    finding = found("monotone", cells, of=along("1", "2", "4", "8"), direction="increasing")
    assert finding.verdict == HOLDS
    wide = stats.t.ppf(1 - 0.05 / 3, 2) / stats.t.ppf(0.95, 2)
    assert finding.estimate - wide * (finding.estimate - finding.low) < 0


# Swapped and scaled


@pytest.mark.parametrize("planted", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("paired_difference", {"at_least": -1}, {"at_least": 1}),
        ("ratio", {"at_most": 0.5}, {"at_most": 2.0}),
    ],
)
def test_swapping_the_sides_mirrors_the_verdict(kind, one, other, planted):
    """a - b >= -1 is the contrary of b - a >= 1 where the interval has neither end on the bound."""
    cells = CLAIMS[kind][planted]
    finding = found(kind, cells, of=score("a"), to=B, **one)
    swapped = found(kind, cells, of=score("b"), to=A, **other)
    assert swapped.verdict == MIRRORED[finding.verdict]


@pytest.mark.parametrize("kind", ["ratio", "retention", "loglog_slope", "rank_flip", "crossing", "monotone"])
@pytest.mark.parametrize("planted", [1, 2, 3])
def test_another_unit_changes_no_verdict_of_a_kind_without_bounds_in_the_unit(kind, planted):
    arguments, cells = dict(CLAIMS[kind][0]), CLAIMS[kind][planted]
    if "floor" in arguments:
        arguments["floor"] *= 1e-9
    scaled = {
        place: Cell(*place, {s: 1e-9 * v for s, v in cell.values.items()}, cell.is_exact)
        for place, cell in cells.items()
    }
    assert found(kind, scaled, **arguments).verdict == found(kind, cells, **CLAIMS[kind][0]).verdict


def test_what_is_surely_increasing_surely_does_not_decrease():
    arguments, cells = CLAIMS["monotone"][0], CLAIMS["monotone"][1]
    assert found("monotone", cells, **{**arguments, "direction": "decreasing"}).verdict == FAILS


# Every row that has both figures

PRINTED = (("a", "size", 12.0), ("b", "size", 18.0), ("c", "size", 60.0))


def test_a_column_against_the_published_one_holds_if_each_row_does():
    cells = table(a={"size": 11.9}, b={"size": 18.2}, d={"size": 1.0})
    finding = found("equals", cells, PRINTED, of={"column": "size"}, to="published", within_relative=0.02)
    assert finding.verdict == HOLDS
    assert finding.estimate == pytest.approx(0.2 / 18)  # b, which has the least room
    assert "all 2 hold" in finding.why
    assert "without a figure of ours: c in size" in finding.why


def test_a_row_that_fails_is_named_unless_it_is_excepted():
    cells = table(a={"size": 11.9}, b={"size": 20.0}, c={"size": 80.0})
    arguments = {"of": {"column": "size"}, "to": "published", "within_relative": 0.02}
    finding = found("equals", cells, PRINTED, **arguments)
    assert finding.verdict == FAILS
    assert "c in size against the published figure (80 against 60) fails (and 1 more)" in finding.why
    assert found("equals", cells, PRINTED, **{**arguments, "except": ["b", "c"]}).verdict == HOLDS


def test_a_single_undecided_row_leaves_all_undecided_unless_another_one_fails():
    rows = {"a": {"score": seeded(95.0)}, "b": {"score": {"0": 95.0}}}
    arguments = {"of": {"column": "score"}, "to": 90, "at_least": 0}
    finding = found("paired_difference", table(**rows), **arguments)
    assert finding.verdict == UNDECIDED
    assert "b in score has a single seed" in finding.why
    assert finding.estimate == pytest.approx(5.0)
    failing = table(**rows, c={"score": seeded(80.0)})
    assert found("paired_difference", failing, **arguments).verdict == FAILS


def test_a_cell_that_should_be_there_keeps_a_claim_about_every_row_from_holding():
    arguments = {"of": {"column": "size"}, "to": "published", "within_relative": 0.02}
    cells = table(a={"size": 12.0})
    assert found("equals", cells, PRINTED, **arguments).verdict == HOLDS
    finding = found("equals", cells, PRINTED, holes=[("b", "size")], **arguments)
    assert finding.verdict == UNDECIDED
    assert "no figure of b in size" in finding.why
    excepted = {**arguments, "except": ["b"]}
    assert found("equals", cells, PRINTED, holes=[("b", "size")], **excepted).verdict == HOLDS


def test_a_claim_about_every_row_with_no_row_is_undecided():
    finding = found("equals", table(d={"size": 1.0}), PRINTED, of={"column": "size"}, to="published")
    assert finding.verdict == UNDECIDED
    assert "no cell to check" in finding.why


def test_every_row_is_compared_with_one_but_not_that_one_with_itself():
    cells = table(a={"size": 4.0}, b={"size": 2.0}, c={"size": 1.0})
    arguments = {"of": {"column": "size"}, "to": {"row": "a"}, "at_most": 0.5}
    for of in (arguments["of"], {"row": ["a", "b", "c"], "column": "size"}):
        finding = found("ratio", cells, **{**arguments, "of": of})
        assert finding.verdict == HOLDS
        assert "all 2 hold" in finding.why


def test_one_column_is_compared_with_another_row_by_row():
    cells = table(a={"size": 4.0, "cost": 8.0}, b={"size": 2.0, "cost": 4.1}, c={"size": 1.0})
    arguments = {"of": {"column": "cost"}, "to": {"column": "size"}, "within_relative": 0.1}
    assert found("equals", cells, **arguments).verdict == FAILS
    doubled = found("ratio", cells, of={"column": "cost"}, to={"column": "size"}, at_least=2)
    assert (doubled.verdict, doubled.estimate) == (HOLDS, 2.0)


def test_listed_rows_must_all_be_there():
    cells = table(a={"size": 12.0})
    arguments = {"of": {"row": ["a", "b"], "column": "size"}, "to": "published"}
    finding = found("equals", cells, PRINTED, **arguments)
    assert finding.verdict == UNDECIDED
    assert "no figure of b in size" in finding.why


# Particular kinds


def test_a_bound_that_is_met_exactly_in_decimals_holds():
    cells = table(a={"score": 78.1}, b={"score": 78.4})
    assert found("paired_difference", cells, of=score("a"), to=B, at_least=-0.3).verdict == HOLDS
    assert found("equals", cells, of=score("a"), to=B, within=0.3).verdict == HOLDS
    assert found("equals", cells, of=score("a"), to=B, within=0.29).verdict == FAILS
    assert found("equals", cells, of=score("a"), to=78.1).verdict == HOLDS


def test_few_noisy_seeds_never_make_two_figures_equal():
    cells = table(a={"score": noisy(90.0)}, b={"score": seeded(90.0)})
    assert found("equals", cells, of=score("a"), to=B, within=1).verdict == UNDECIDED
    assert found("paired_difference", cells, of=score("a"), to=B, within=1).verdict == UNDECIDED


def test_an_interval_with_the_number_in_it_does_not_show_that_they_are_the_same():
    arguments = {"of": score("a"), "number": 50}
    assert found("interval_excludes", table(a={"score": seeded(50.0)}), **arguments).verdict == UNDECIDED
    assert found("interval_excludes", table(a={"score": 50.0}), **arguments).verdict == FAILS
    near = found("interval_excludes", table(a={"score": seeded(50.0)}), **arguments, within=1)
    assert near.verdict == FAILS  # the interval lies in what is to be excluded
    for mean in (48.0, 52.0):
        assert (
            found("interval_excludes", table(a={"score": seeded(mean)}), **arguments, within=1).verdict
            == HOLDS
        )


def test_ties_keep_the_order_and_the_direction():
    tied = table(a={"score": 2, "1": 5, "2": 5}, b={"score": 1, "1": 5, "2": 5})
    assert found("rank_flip", tied, of={"row": ["a", "b"], "column": ["score", "1"]}).verdict == FAILS
    assert found("crossing", tied, of=along("1", "2"), to=B).verdict == FAILS
    for direction in ("increasing", "decreasing"):
        assert found("monotone", tied, of=along("1", "2"), direction=direction).verdict == HOLDS
    assert found("pareto_dominates", tied, of=along("score"), to=B).verdict == HOLDS
    assert found("pareto_dominates", tied, of=along("score"), to=B, tolerance=0.5).verdict == HOLDS


def test_a_row_does_not_dominate_its_equal():
    same = table(a={"score": 2, "cost": 3}, b={"score": 2, "cost": 3})
    finding = found("pareto_dominates", same, of=along("score", "cost"), to=B)
    assert finding.verdict == FAILS
    assert "better in none" in finding.why


def test_the_order_of_two_rows_is_by_merit_where_columns_say_what_is_better():
    """More accurate and cheaper is ahead in both, though larger in one."""
    cells = table(a={"score": 2, "cost": 3, "1": 3}, b={"score": 1, "cost": 4, "1": 4})
    assert found("rank_flip", cells, of={"row": ["a", "b"], "column": ["score", "cost"]}).verdict == FAILS
    assert found("rank_flip", cells, of={"row": ["a", "b"], "column": ["score", "1"]}).verdict == HOLDS


def test_a_crossing_is_said_to_be_where_it_is():
    cells = table(
        a={"1": 1.0, "2": 2.0, "4": 3.0, "8": 9.0}, b=dict.fromkeys(("1", "2", "4", "8"), 2.5)
    )  # fmt: skip
    finding = found("crossing", cells, of=along("1", "2", "4", "8"), to=B)
    assert "between a against b in 2 (2 against 2.5) and a against b in 4 (3 against 2.5)" in finding.why
    assert finding.estimate == 0.5


def test_a_tolerance_lets_a_step_go_the_other_way():
    cells = table(a={"1": 1.0, "2": 3.0, "4": 2.5})
    for tolerance, verdict in ((0.4, FAILS), (0.5, HOLDS)):
        assert (
            found("monotone", cells, of=along(*STEPS), direction="increasing", tolerance=tolerance).verdict
            == verdict
        )


def test_a_slope_is_that_of_least_squares():
    x, y = np.array([256, 512, 1024, 4096]), np.array([1.0, 2.5, 4.0, 31.0])
    cells = table(a=dict(zip(("1", "2", "4", "8"), y.tolist(), strict=True)))
    finding = found("loglog_slope", cells, of=along("1", "2", "4", "8"), x=x.tolist(), at_least=1)
    assert finding.estimate == pytest.approx(stats.linregress(np.log(x), np.log(y)).slope)


def test_a_slope_may_be_against_other_cells():
    cells = table(**{row: {"cost": n, "score": 3.0 * n**2} for row, n in (("a", 1), ("b", 2), ("c", 8))})
    of = {"row": ["a", "b", "c"], "column": "score"}
    finding = found("loglog_slope", cells, of=of, x={"column": "cost"}, at_least=1.9, at_most=2.1)
    assert finding.verdict == HOLDS
    assert finding.estimate == pytest.approx(2)


def test_a_share_of_nothing_is_undecided():
    cells = table(a={"score": 3.0}, b={"score": 0.0})
    for kind, bound in (("ratio", {"at_most": 1}), ("retention", {"at_least": 1})):
        assert found(kind, cells, of=score("a"), to=B, **bound).verdict == UNDECIDED
    assert found("equals", cells, of=score("a"), to=B, within_relative=0.1).verdict == UNDECIDED


def test_negative_figures_are_relative_to_the_size_of_what_they_are_held_against():
    cells = table(a={"score": -9.5}, b={"score": -10.0})
    finding = found("equals", cells, of=score("a"), to=B, within_relative=0.05)
    assert (finding.verdict, finding.estimate) == (HOLDS, pytest.approx(-0.05))


def test_scores_of_the_same_examples_make_a_lucky_agreement_of_seeds_undecided():
    draw = np.random.default_rng(2)
    right = {
        name: np.repeat(draw.uniform(size=(1, 200)) < rate, 3, axis=0)
        for name, rate in (("a", 0.85), ("b", 0.8))
    }
    cells = {
        (row, "accuracy"): Cell(
            row, "accuracy", {str(s): 100 * scores.mean() for s, scores in enumerate(rows)},
            examples={str(s): scores.astype(int).tolist() for s, scores in enumerate(rows)},
        )
        for row, rows in right.items()
    }  # fmt: skip
    claim = Claim(
        "c",
        "s",
        "small",
        "paired_difference",
        {"of": {"row": "a", "column": "accuracy"}, "to": B, "at_least": 2},
    )
    columns = {"accuracy": Column("accuracy", scale=100, unit="%")}
    finding = check(claim, cells, {}, columns)
    assert finding.verdict == UNDECIDED
    assert "bootstrap over 200 examples" in finding.why
    assert finding.n == 3
    unscored = {place: Cell(*place, cell.values) for place, cell in cells.items()}
    assert check(claim, unscored, {}, columns).verdict != UNDECIDED


def test_scores_that_the_figure_is_not_the_mean_of_are_not_used():
    cells = {
        (row, "f1"): Cell(row, "f1", seeded(mean), examples={seed: [0, 1, 1, 1] for seed in ("0", "1", "2")})
        for row, mean in (("a", 80.0), ("b", 70.0))
    }
    claim = Claim("c", "s", "small", "ratio", {"of": {"row": "a", "column": "f1"}, "to": B, "at_least": 1})
    finding = check(claim, cells, {}, {"f1": Column("f1", scale=100)})
    assert "examples" not in finding.why


# What is refused


def test_what_cannot_be_tested_is_not():
    claim = Claim("c", "s", "full", not_testable="needs the 8 GPUs of the paper's setting")
    finding = check(claim, {}, {}, {})
    assert (finding.verdict, finding.why) == (NOT_TESTABLE, "needs the 8 GPUs of the paper's setting")


def test_an_unknown_kind_is_refused_with_near_matches():
    with pytest.raises(ValueError, match="unknown kind 'ratios'; did you mean 'ratio'"):
        check(Claim("c", "s", "small", "ratios", {}), {}, {}, {})


def test_arguments_with_problems_are_refused():
    with pytest.raises(ValueError, match="claim c: needs 'to'"):
        check(Claim("c", "s", "small", "ratio", {"of": score("a"), "at_least": 1}), {}, {}, {})


def test_a_figure_that_is_said_to_be_exact_and_varies_is_refused():
    cells = {("a", "score"): Cell("a", "score", {"0": 1.0, "1": 2.0}, True)}
    with pytest.raises(ValueError, match="a in score is said to be exact, but differs"):
        found("equals", cells, of=score("a"), to=1)
