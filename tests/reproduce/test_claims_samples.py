"""Intervals of sums, ratios and shares agree with scipy and with formulae, and cover as often as they say."""

import math

import numpy as np
import pytest
from scipy import stats

from effnlp.reproduce.claims.samples import (
    Sample,
    UndecidableError,
    contrast,
    exact,
    logarithm,
    ratio,
    share_above,
)

TRIALS = 400


def sample(values, name="a", first_seed=0, **others):
    return Sample(name, {str(first_seed + seed): float(v) for seed, v in enumerate(values)}, **others)


def scored(correct, name="a"):
    """Of (S, N) examples that are right or wrong."""
    examples = {str(seed): np.asarray(row, float) for seed, row in enumerate(correct)}
    return Sample(name, {seed: row.mean() for seed, row in examples.items()}, examples=examples, asked="x")


def covers(interval, truth):
    return interval.low <= truth <= interval.high


def as_often_as_said(hits, level=0.9):
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], TRIALS, level)
    return low <= hits <= high


# Against scipy and formulae


def test_a_difference_of_shared_seeds_is_the_paired_t_test_of_scipy():
    a, b = np.random.default_rng(0).normal(size=(2, 6)) + 3
    found = contrast([sample(a), sample(b)], [1, -1])
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.n == 6


def test_a_difference_from_an_exact_number_is_the_one_sample_t_test_of_scipy():
    a = np.random.default_rng(1).normal(5, 2, size=7)
    found = contrast([sample(a), exact(3.0)], [1, -1])
    theirs = stats.ttest_1samp(a, 3.0).confidence_interval(0.9)
    assert (found.low + 3, found.high + 3) == pytest.approx((theirs.low, theirs.high))


def test_a_difference_of_other_seeds_is_the_test_of_welch_of_scipy():
    draw = np.random.default_rng(2)
    a, b = draw.normal(0, 1, size=5), draw.normal(1, 4, size=9)
    found = contrast([sample(a), sample(b, first_seed=100)], [1, -1])
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert "unpaired" in found.how


def test_seeds_that_one_side_lacks_are_left_out_if_two_are_shared_and_that_is_said():
    a, b = sample([1.0, 2.0, 4.0, 50.0]), sample([0.5, 1.0, 2.0])
    found = contrast([a, b], [1, -1])
    assert found.mean == pytest.approx(np.mean([0.5, 1.0, 2.0]))
    assert found.n == 3
    assert "of up to 4" in found.how


def test_one_shared_seed_is_no_pair():
    found = contrast([sample([1.0, 2.0, 3.0]), sample([2.5, 3.5, 9.0], first_seed=2)], [1, -1])
    assert "unpaired" in found.how
    assert found.mean == pytest.approx(2.0 - 5.0)


def test_crossed_seeds_are_not_taken_for_independent_runs():
    draw = np.random.default_rng(3)
    luck = draw.normal(0, 1, (4, 1)) + draw.normal(0, 0.1, (4, 4))  # of initialisation above all
    crossed = Sample("a", {f"{i}-{o}": luck[i, o] for i in range(4) for o in range(4)})
    independent = Sample("a", {str(n): value for n, value in enumerate(luck.flat)})
    assert contrast([crossed], [1]).width > 2 * contrast([independent], [1]).width


@pytest.mark.parametrize("missing", [0, 1, 5])
def test_crossed_seeds_of_which_some_runs_are_missing_are_not_either(missing):
    draw = np.random.default_rng(4)
    hits = 0
    for _ in range(TRIALS):
        luck = draw.normal(0, 1, (5, 1)) + draw.normal(0, 0.2, (5, 4))
        kept = [(i, o) for i in range(5) for o in range(4)][missing:]
        hits += covers(contrast([Sample("a", {f"{i}-{o}": luck[i, o] for i, o in kept})], [1]), 0.0)
    assert hits >= stats.binom.ppf(1e-4, TRIALS, 0.9)


def test_the_share_has_the_interval_of_fieller():
    draw = np.random.default_rng(5)
    a, b = draw.normal(80, 2, size=8), draw.normal(90, 3, size=8)
    found = share_above(sample(a), sample(b), floor=50)
    # (a - rb)^2 <= t^2 (vaa - 2 r vab + r^2 vbb), solved for r
    covariance = np.cov(a, b) / 8
    (vaa, vab), (_, vbb) = covariance
    t2, ma, mb = stats.t.ppf(0.95, 7) ** 2, a.mean() - 50, b.mean() - 50
    roots = np.roots([mb**2 - t2 * vbb, -2 * (ma * mb - t2 * vab), ma**2 - t2 * vaa])
    assert (found.low, found.high) == pytest.approx(tuple(sorted(roots.real)), rel=1e-6)
    assert found.mean == pytest.approx(ma / mb)


def test_a_share_lies_in_its_interval_where_the_sum_that_it_makes_zero_is_undecided():
    draw = np.random.default_rng(6)
    of, to = sample(draw.normal(85, 2, 5)), sample(draw.normal(90, 2, 5), first_seed=50)
    found = share_above(of, to, floor=50)
    for share in np.linspace(0.6, 1.2, 61):
        left = contrast([of, to, exact(50.0)], [1, -share, share - 1])
        assert covers(found, share) == covers(left, 0.0)


def test_nothing_is_a_share_of_what_may_be_at_the_floor():
    with pytest.raises(UndecidableError, match="not surely above 50"):
        share_above(sample([60, 61, 62]), sample([48, 50, 53]), floor=50)


def test_a_ratio_is_the_difference_of_logarithms():
    a, b = np.random.default_rng(7).uniform(1, 3, size=(2, 5))
    theirs = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.9)
    found = ratio(sample(a), sample(b))
    assert (found.low, found.high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))


def test_a_ratio_of_accuracies_is_as_wide_as_its_examples_make_it():
    draw = np.random.default_rng(8)
    a = np.tile(draw.uniform(size=200) < 0.9, (3, 1))  # seeds that agree in all
    b = np.tile(draw.uniform(size=200) < 0.8, (3, 1))
    found = ratio(scored(a), scored(b, "b"))
    resampled = [
        a[0, drawn].mean() / b[0, drawn].mean() for drawn in draw.integers(0, 200, size=(4000, 200))
    ]  # fmt: skip
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, [0.05, 0.95])), abs=0.01)
    assert covers(found, found.mean)
    assert found.n == 3


def test_a_share_of_accuracies_looks_at_the_examples_too():
    draw = np.random.default_rng(9)
    a, b = (np.tile(draw.uniform(size=300) < rate, (3, 1)) for rate in (0.85, 0.9))
    found = share_above(scored(a), scored(b, "b"), floor=0.5)
    assert "examples" in found.how
    assert found.n == 3
    assert found.low < found.mean < found.high


# What has no interval, or needs none


def test_exact_figures_are_certain():
    found = contrast([exact(78.1), exact(78.4)], [1, -1])
    assert found.low == found.high == found.mean
    assert found.n == 0


def test_decimal_figures_that_cancel_leave_nothing():
    assert contrast([exact(0.1), exact(0.2), exact(0.3)], [1, 1, -1]).mean == 0
    assert contrast([exact(11683584 * 1e-6), exact(11.683584)], [1, -1]).mean == 0


def test_a_single_seed_has_no_interval():
    with pytest.raises(UndecidableError, match="b has a single seed"):
        contrast([sample([1.0, 2.0]), sample([1.0], "b")], [1, -1])
    with pytest.raises(UndecidableError, match="a has a single seed"):
        contrast([sample([1.0]), exact(0.0)], [1, -1])


def test_seeds_that_do_not_differ_have_an_interval_without_width_and_that_is_said():
    found = contrast([sample([2.0, 2.0, 2.0]), exact(1.0)], [1, -1])
    assert (found.low, found.high) == (1.0, 1.0)
    assert "none of which differs" in found.how


def test_only_positive_figures_have_a_logarithm():
    with pytest.raises(UndecidableError, match="a is -1, and only positive"):
        logarithm(sample([1.0, -1.0]))


def test_a_ratio_that_two_seeds_leave_wide_open_has_no_interval():
    with pytest.raises(UndecidableError, match="no bounded interval"):
        ratio(sample([1e-120, 1e120]), exact(1.0))


# Coverage


def test_ratios_of_unpaired_seeds_cover_as_often_as_they_say():
    draw = np.random.default_rng(10)
    hits = sum(
        covers(
            ratio(
                sample(np.exp(draw.normal(1, 0.3, 4))), sample(np.exp(draw.normal(0.5, 0.1, 5)), first_seed=9)
            ),
            math.exp(0.5),
        )
        for _ in range(TRIALS)
    )
    assert hits >= stats.binom.ppf(1e-4, TRIALS, 0.9)  # Welch is a little wide with so few


def test_shares_cover_as_often_as_they_say():
    draw = np.random.default_rng(11)
    hits = 0
    for _ in range(TRIALS):
        luck = draw.normal(0, 2, 5)
        of, to = 80 + luck + draw.normal(0, 1, 5), 90 + luck + draw.normal(0, 1, 5)
        hits += covers(share_above(sample(of), sample(to), floor=50), 0.75)
    assert as_often_as_said(hits)


def test_a_difference_of_accuracies_covers_though_both_seeds_and_examples_vary():
    draw = np.random.default_rng(12)
    hits = 0
    for _ in range(40):
        easy = draw.uniform(size=400)
        a, b = (
            easy + draw.normal(0, 0.05, (4, 1)) + draw.normal(0, 0.1, (4, 400)) < rate for rate in (0.85, 0.8)
        )
        truth = _accuracy(0.85) - _accuracy(0.8)
        hits += covers(contrast([scored(a), scored(b, "b")], [1, -1]), truth)
    assert hits >= stats.binom.ppf(1e-4, 40, 0.85)  # each source by itself, as examples_and_seeds says


def _accuracy(rate):
    draw = np.random.default_rng(13)
    return float((draw.uniform(size=10**6) + draw.normal(0, math.hypot(0.05, 0.1), 10**6) < rate).mean())


# Invariances


def test_the_order_of_seeds_does_not_matter():
    a, b = sample([1.0, 5.0, 2.0]), sample([0.0, 1.0, 3.0])
    turned = Sample("a", dict(reversed(a.values.items())))
    assert contrast([a, b], [1, -1]) == contrast([turned, b], [1, -1])


def test_swapped_sides_have_the_mirrored_interval():
    draw = np.random.default_rng(14)
    for first_seed in (0, 50):
        a, b = sample(draw.uniform(1, 3, 5)), sample(draw.uniform(1, 3, 5), first_seed=first_seed)
        one, other = contrast([a, b], [1, -1]), contrast([b, a], [1, -1])
        assert (one.low, one.mean, one.high) == pytest.approx((-other.high, -other.mean, -other.low))
        one, other = ratio(a, b), ratio(b, a)
        assert (one.low, one.mean, one.high) == pytest.approx((1 / other.high, 1 / other.mean, 1 / other.low))


def test_another_unit_changes_no_ratio_and_scales_every_difference():
    draw = np.random.default_rng(15)
    a, b = draw.uniform(1, 3, (2, 4))
    for found, scaled, factor in (
        (
            contrast([sample(a), sample(b)], [1, -1]),
            contrast([sample(1e6 * a), sample(1e6 * b)], [1, -1]),
            1e6,
        ),
        (ratio(sample(a), sample(b)), ratio(sample(1e6 * a), sample(1e6 * b)), 1),
        (share_above(sample(a), sample(b)), share_above(sample(1e6 * a), sample(1e6 * b)), 1),
    ):
        assert (scaled.low, scaled.high) == pytest.approx((factor * found.low, factor * found.high), rel=1e-5)


def test_an_interval_that_a_figure_brings_along_is_the_one_of_its_sum_with_exact_figures():
    own = Sample("variance", {"0": 2.0}, interval=(1.0, 5.0))
    found = contrast([own, exact(10.0)], [-2, 1])
    assert (found.mean, found.low, found.high) == pytest.approx((6.0, 0.0, 8.0))
    shares = ratio(own, exact(4.0))
    assert (shares.low, shares.mean, shares.high) == pytest.approx((0.25, 0.5, 1.25))


def test_independent_intervals_add_up_to_one_narrower_than_their_widths_and_wider_than_each():
    one, other = (Sample(name, {"0": 2.0}, interval=(1.0, 5.0)) for name in ("a", "b"))
    found = contrast([one, other], [1, 1])
    assert found.low == pytest.approx(4 - math.hypot(1, 1))
    assert found.high == pytest.approx(4 + math.hypot(3, 3))


def test_an_interval_of_its_own_is_of_one_level_only():
    own = Sample("variance", {"0": 2.0}, interval=(1.0, 5.0))
    with pytest.raises(UndecidableError, match="90% only"):
        contrast([own], [1], level=0.95)
