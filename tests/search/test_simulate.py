"""A simulated sweep is one of real decisions, and the search is as good as it was."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from effnlp.search.attributes import RUNG, rungs_of, slots
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.ledger import Rules, replay
from effnlp.search.pareto import hypervolume
from effnlp.search.problems import ERROR, FLOPS, SYNTHETIC, Look, Problem, dense_frontier, mean_seconds
from effnlp.search.simulate import Score, quality_over_budget, score_of, simulate
from effnlp.search.space import parse

VARIANTS = ("stopping", "promotion")


def random_proposals(space, seed):
    return optuna.samplers.RandomSampler(seed)


def run(name="hard", halving=None, **budget):
    return simulate(SYNTHETIC[name](), random_proposals, halving, **{"seed": 0, **budget})


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_decision_verifies_by_replay(variant):
    simulated = run(halving=moasha(variant=variant), trials=60)
    decisions = sum(
        key.startswith("decision:") for t in slots(simulated.study).values() for key in t.user_attrs
    )
    assert decisions >= 60
    assert (
        replay(simulated.study, lambda _: Rules(simulated.problem.objectives, moasha(variant=variant))) == []
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trial_ends_in_one_way_and_the_budget_in_trials_is_exact(variant):
    simulated = run(halving=moasha(variant=variant), trials=50, workers=3)
    assert simulated.trials == len(slots(simulated.study)) == 50
    assert len(simulated.finished) + simulated.stopped + simulated.paused == 50
    assert (simulated.stopped == 0) == (variant == "promotion")
    assert (simulated.paused == 0) == (variant == "stopping")
    states = [t.state for t in slots(simulated.study).values()]
    assert states.count(TrialState.COMPLETE) == len(simulated.finished)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_spent_is_the_sum_of_what_each_trial_ran(variant):
    simulated = run(halving=moasha(variant=variant), trials=50)
    seconds = 0.0
    for trial in slots(simulated.study).values():
        if trial.state == TrialState.COMPLETE:
            seconds += trial.user_attrs["cost"]["cost/total/own/seconds"]
        else:
            seconds += trial.user_attrs[f"{RUNG}{rungs_of(trial) - 1}"]["cost"]["cost/total/own/seconds"]
    assert simulated.spent * mean_seconds(simulated.problem) == pytest.approx(seconds)


def test_without_early_stopping_every_trial_counts_its_whole_length():
    simulated = run(trials=20, workers=1)
    assert len(simulated.finished) == 20
    assert simulated.finished[-1].spent == pytest.approx(simulated.spent)
    assert simulated.idle_share == 0.0


def test_a_budget_of_runs_is_spent_and_not_exceeded():
    for workers in (1, 5):
        simulated = run(halving=moasha(), whole_runs=12.5, workers=workers)
        assert simulated.spent == pytest.approx(12.5)
        assert all(trial.spent <= 12.5 * (1 + 1e-9) for trial in simulated.finished)


def test_a_budget_is_asked_for():
    with pytest.raises(ValueError, match="needs a budget: trials or whole_runs"):
        run()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_sweep_and_another_one_another(variant):
    first, again, other = (run(halving=moasha(variant=variant), trials=30, seed=seed) for seed in (1, 1, 2))
    assert first.finished == again.finished
    assert first.finished != other.finished


def test_one_proposal_is_one_run_with_early_stopping_or_without():
    stopped, whole = (run(halving=halving, trials=40) for halving in (moasha(), None))
    ends = {trial.slot: trial.values for trial in whole.finished}
    assert stopped.finished
    assert {trial.slot: trial.values for trial in stopped.finished}.items() <= ends.items()


@pytest.mark.parametrize("variant", VARIANTS)
def test_workers_are_idle_less_than_five_per_cent_of_the_time_when_lengths_spread_tenfold(variant):
    simulated = run(halving=moasha(variant=variant), trials=150, workers=4)
    assert simulated.idle_share < 0.05
    assert simulated.seconds * 4 * (1 - simulated.idle_share) == pytest.approx(
        simulated.spent * mean_seconds(simulated.problem)
    )


def test_more_workers_need_less_time_for_the_same_trials():
    seconds = [run(trials=40, workers=workers).seconds for workers in (1, 2, 8)]
    assert seconds[0] > seconds[1] > seconds[2] > seconds[0] / 8


def tiny_problem(values=4):
    """Each point's error is its number; all runs take 10 seconds."""

    def look(point, seed, fractions):
        for fraction in fractions:
            yield Look(fraction, {ERROR: float(point["n"]), FLOPS: 10.0 - float(point["n"])}, 10 * fraction)

    return Problem(
        name="tiny",
        space=parse({"n": f"range(1,{values + 1})"}, [])[0],
        objectives={ERROR: "minimize", FLOPS: "minimize"},
        run=look,
        truth=lambda point: {ERROR: float(point["n"]), FLOPS: 10.0 - float(point["n"])},
        identity=lambda point: point["n"],
    )


@pytest.mark.parametrize("halving", [None, moasha(), moasha(variant="promotion")], ids=["none", *VARIANTS])
def test_an_exhausted_space_ends_the_sweep_with_every_point_tried_once(halving):
    simulated = simulate(tiny_problem(), random_proposals, halving, trials=9, workers=2)
    assert simulated.trials == 4
    points = [trial.user_attrs["overrides"] for trial in slots(simulated.study).values()]
    assert sorted(points) == [["n=1"], ["n=2"], ["n=3"], ["n=4"]]


def test_what_ends_when_is_as_computed_by_hand():
    simulated = simulate(tiny_problem(), random_proposals, None, trials=3, workers=2)
    assert [trial.seconds for trial in simulated.finished] == [10.0, 10.0, 20.0]
    assert [trial.spent for trial in simulated.finished] == [2.0, 2.0, 3.0]
    assert simulated.idle_share == pytest.approx(0.25)


# Scores


def test_the_dense_frontier_scores_one_and_nothing_scores_zero():
    for name in SYNTHETIC:
        problem = SYNTHETIC[name]()
        assert score_of(problem)(dense_frontier(problem)) == pytest.approx(1.0)
        assert score_of(problem)(np.empty((0, 2))) == 0.0


def test_a_score_is_the_share_of_the_hypervolume_on_scales_of_decades_and_of_units():
    frontier = np.array([[0.1, 1e6], [0.2, 1e4], [0.4, 1e3]])
    score = Score.of(frontier)
    assert score.by_logarithm.tolist() == [False, True]
    reference = np.array([0.4 + 0.03, 6.0 + 0.3])
    units = np.column_stack([frontier[:, 0], np.log10(frontier[:, 1])])
    share = hypervolume(units[:2], reference) / hypervolume(units, reference)
    assert score(frontier[:2]) == pytest.approx(share)
    assert score(frontier * [1.0, 1.0] + [0.01, 0.0]) < 1


def test_a_score_counts_a_factor_of_cost_the_same_everywhere():
    frontier = np.array([[0.1, 1e6], [0.4, 1e2]])
    rescaled = Score.of(frontier * [1.0, 1000.0])
    points = np.array([[0.2, 3e4], [0.3, 5e2]])
    assert Score.of(frontier)(points) == pytest.approx(rescaled(points * [1.0, 1000.0]))


def test_quality_never_counts_a_trial_before_it_ended_and_is_scored_without_noise():
    simulated = run(trials=30)
    ends = [trial.spent for trial in simulated.finished]
    before, after, never = quality_over_budget(simulated, [min(ends) - 1e-6, max(ends), math.inf])
    assert before == 0.0
    assert 0 < after == never <= 1.0


# The search: bounds over fixed seeds, far enough from what is measured in benchmarks/search_quality.py


@pytest.fixture(scope="module")
def of_random():
    return final_quality(None, "hard")


def final_quality(halving, name, seeds=range(10)):
    return np.array(
        [quality_over_budget(run(name, halving, whole_runs=30, seed=seed), [30.0])[0] for seed in seeds]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_the_hard_problem_the_search_is_better_than_random_by_a_margin(variant, of_random):
    gains = final_quality(moasha(variant=variant), "hard") - of_random
    assert gains.mean() > 0.05
    assert (gains > 0).mean() >= 0.75
