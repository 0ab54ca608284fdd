import numpy as np
import optuna
import pytest
from scipy.stats import f_oneway, false_discovery_control

from effnlp.report.additive import Design, fit, holm


def test_one_factor_is_the_analysis_of_variance_of_scipy():
    dice = np.random.default_rng(0)
    levels = ["a"] * 12 + ["b"] * 9 + ["c"] * 15
    values = dice.normal(size=36) + np.array([{"a": 0.0, "b": 0.6, "c": 1.1}[level] for level in levels])
    found = fit(Design.of({"factor": levels}, {"factor": "a"}), values, 0.9)
    by_level = [values[[one == level for one in levels]] for level in "abc"]
    assert found.shares["factor"].p == pytest.approx(f_oneway(*by_level).pvalue)
    means = [group.mean() for group in by_level]
    assert [level.estimate for level in found.levels] == pytest.approx(
        [means[1] - means[0], means[2] - means[0]]
    )
    assert [level.n for level in found.levels] == [9, 15]


def test_the_shares_of_a_balanced_design_are_the_planted_ones_and_add_up_to_what_is_explained():
    grid = np.array(np.meshgrid(range(4), range(4), range(4), range(6))).reshape(4, -1)
    values = grid[0] * 1.0 + grid[1] * 0.5 + np.random.default_rng(0).normal(size=grid.shape[1]) * 0.5
    factors = {name: [str(level) for level in row] for name, row in zip("abc", grid, strict=False)}
    found = fit(Design.of(factors, dict.fromkeys("abc", "0")), values, 0.9)
    variance = {"a": 1.25, "b": 1.25 / 4, "c": 0.0}
    for name, planted in variance.items():
        assert found.shares[name].share == pytest.approx(planted / (1.25 * 1.25 + 0.25), abs=0.02)
    assert found.shares["a"].p < 1e-6
    assert found.explained == pytest.approx(sum(share.share for share in found.shares.values()))


def test_factors_that_belong_together_share_what_nothing_else_explains():
    kind, size, other, _ = np.array(np.meshgrid(range(3), range(2), range(2), range(75))).reshape(4, -1)
    size = size * (kind == 2)  # a setting of the third kind alone
    noise = np.random.default_rng(0).normal(size=kind.size) * 0.1
    values = 1.0 * (kind == 1) + 2.0 * (kind == 2) + 3.0 * size + 1.0 * other + noise
    factors = {
        name: [str(n) for n in row] for name, row in (("kind", kind), ("size", size), ("other", other))
    }
    design = Design.of(factors, dict.fromkeys(factors, "0"))
    together = fit(design, values, 0.9, {"slot": ["kind", "size"], "other": ["other"]})
    apart = fit(design, values, 0.9)
    assert together.shares.keys() == {"slot", "other"}
    assert together.shares["other"] == apart.shares["other"]
    assert together.shares["slot"].share == pytest.approx(1 - np.var(1.0 * other) / np.var(values), abs=0.02)
    assert together.shares["slot"].share > apart.shares["kind"].share + apart.shares["size"].share + 0.1
    assert together.explained == apart.explained


def test_intervals_hold_what_was_planted_as_often_as_they_say():
    dice = np.random.default_rng(0)
    held = []
    for _ in range(300):
        one, other = dice.integers(0, 3, 40), dice.integers(0, 2, 40)
        factors = {"one": [str(level) for level in one], "other": [str(level) for level in other]}
        values = one * 0.3 - other * 0.7 + dice.normal(size=40)
        found = fit(Design.of(factors, {"one": "0", "other": "0"}), values, 0.9)
        planted = {("one", "1"): 0.3, ("one", "2"): 0.6, ("other", "1"): -0.7}
        held += [level.low <= planted[level.factor, level.level] <= level.high for level in found.levels]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_a_factor_without_effect_is_found_as_often_as_its_p_says():
    dice = np.random.default_rng(0)
    p = []
    for _ in range(300):
        levels = [str(level) for level in dice.integers(0, 3, 30)]
        p.append(fit(Design.of({"idle": levels}, {"idle": "0"}), dice.normal(size=30), 0.9).shares["idle"].p)
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.05)


def test_what_two_factors_do_together_alone_is_nobodys():
    levels = ["x", "y"] * 20
    values = np.array([0.0, 1.0] * 20) + np.random.default_rng(0).normal(size=40) * 0.1
    same = fit(Design.of({"one": levels, "other": levels}, {"one": "x", "other": "x"}), values, 0.9)
    assert same.explained > 0.9
    assert [share.share for share in same.shares.values()] == pytest.approx([0, 0], abs=1e-9)
    assert [share.p for share in same.shares.values()] == [1, 1]
    assert same.levels == []


def test_a_cost_that_follows_exactly_is_explained_wholly():
    levels = ["none", "int8", "int4"] * 5
    values = np.log([{"none": 90e6, "int8": 23e6, "int4": 13e6}[level] for level in levels])
    found = fit(Design.of({"quantization": levels}, {"quantization": "none"}), values, 0.9)
    assert found.shares["quantization"].p == 0
    assert found.explained == pytest.approx(1)
    by_level = {level.level: np.exp([level.low, level.estimate, level.high]) for level in found.levels}
    assert by_level["int8"] == pytest.approx([23 / 90] * 3)


def test_too_few_observations_and_constant_values_are_refused():
    design = Design.of({"factor": ["a", "b"]}, {"factor": "a"})
    with pytest.raises(ValueError, match="2 observations cannot tell the 2 columns apart"):
        fit(design, np.array([1.0, 2.0]), 0.9)
    with pytest.raises(ValueError, match="constant"):
        fit(Design.of({"factor": ["a", "b", "a"]}, {"factor": "a"}), np.ones(3), 0.9)


def test_p_values_are_adjusted_as_holm_does():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    raw = np.random.default_rng(0).random(20)
    assert np.all(np.array(holm(raw)) >= false_discovery_control(raw) - 1e-12)


def test_planted_shares_are_found_more_closely_than_by_the_forest_of_fanova_with_the_same_order():
    dice = np.random.default_rng(0)
    levels = dice.integers(0, 5, (120, 4))
    values = levels @ np.array([1.0, 0.3, 0.3, 0.0]) + dice.normal(size=120) * 0.2
    planted = np.array([1.0, 0.09, 0.09, 0.0]) * 2 / (1.18 * 2 + 0.04)
    factors = {name: [str(level) for level in column] for name, column in zip("abcd", levels.T, strict=True)}
    found = fit(Design.of(factors, dict.fromkeys("abcd", "0")), values, 0.9)
    ours = np.array([found.shares[name].share for name in "abcd"])

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    choices = optuna.distributions.CategoricalDistribution([str(level) for level in range(5)])
    for row, value in zip(levels, values, strict=True):
        params = {name: str(level) for name, level in zip("abcd", row, strict=True)}
        study.add_trial(
            optuna.create_trial(params=params, distributions=dict.fromkeys("abcd", choices), value=value)
        )
    forest = optuna.importance.FanovaImportanceEvaluator(n_trees=16, seed=0)
    theirs = optuna.importance.get_param_importances(study, evaluator=forest)

    forest_shares = np.array([theirs[name] for name in "abcd"])
    assert ours == pytest.approx(planted, abs=0.05)
    assert np.abs(ours - planted).max() < np.abs(forest_shares - planted).max()
    assert ours.argmax() == forest_shares.argmax() == 0
    assert ours.argmin() == forest_shares.argmin() == 3
