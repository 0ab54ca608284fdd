import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.menu import choice_names, conf_dir
from effnlp.search.samplers import (
    LEARNS_ONLY_FROM_FINISHED,
    coordinates,
    cut,
    is_exhausted,
    make_sampler,
    sobol,
)
from effnlp.search.space import parse

FILE = {
    "model": "a,b,c",
    "q": "none,8,4",
    "rate": "tag(log, interval(1e-4, 1e-2))",
    "model=b": {"peft": "none,lora", "peft=lora": {"rank": "tag(log, int(interval(1,64)))"}},
    "model=c": {"width": "range(4,8)", "drop": "interval(0.0,0.5)"},
    "setting": "7",
}
FINITE = {
    "model": "a,b",
    "n": "range(0,3)",
    "model=b": {"peft": "none,lora", "peft=lora": {"rank": "2,4"}},
    "setting": "7",
}
SAMPLERS = choice_names("search/sampler", [conf_dir()])
OURS = ("quasi_random", "grid")
assert set(OURS) < set(SAMPLERS)


@pytest.fixture(autouse=True)
def silence():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def config(name, **settings):
    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "search" / "sampler" / f"{name}.yaml"))
    return {**loaded, **settings}


def search(space, name, seed=0, **settings):
    """A study of two objectives that any worker may open with a sampler of its own."""
    storage = optuna.storages.InMemoryStorage()

    def opened(worker=0):
        study = optuna.create_study(
            storage=storage, study_name="s", directions=["minimize", "maximize"], load_if_exists=True
        )
        study.sampler = make_sampler(config(name, **settings), space, seed, worker, len(study.trials))
        return study

    return opened


def drawn(space, name, count, seed=0, workers=1, tell=True, **settings):
    """Points, proposed in turn by workers, each with a sampler that it made itself."""
    opened = search(space, name, seed, **settings)
    studies = [opened(worker) for worker in range(workers)]
    points, waiting = [], []
    for i in range(count):
        study = studies[i % workers]
        trial = study.ask()
        points.append(space.sample(trial))
        waiting.append((study, trial))
        if tell and len(waiting) >= workers:  # others run meanwhile
            study, trial = waiting.pop(0)
            study.tell(trial, [float(trial.number % 7), float(trial.number % 5)])
    return points


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_proposes_points_of_the_space_with_several_workers_and_objectives(name):
    space, _ = parse(FILE, [])
    points = drawn(space, name, 40, workers=3)
    for point in points:
        assert set(point) == {d.key for d in space.there(point)}
        assert all(d.fitting(point[d.key]) == point[d.key] for d in space.there(point))
    assert len({tuple(point.items()) for point in points}) > 30
    assert {point["model"] for point in points} == {"a", "b", "c"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_proposes_the_same_and_another_one_something_else(name):
    space, _ = parse(FILE, [])
    once = drawn(space, name, 12)
    assert drawn(space, name, 12) == once
    assert drawn(space, name, 12, seed=1) != once


@pytest.mark.parametrize("name", SAMPLERS)
def test_points_to_try_first_are_tried_as_they_are_and_completed(name):
    space, _ = parse(FILE, [])
    study = search(space, name)()
    first = {"model": "b", "peft": "lora"}
    study.enqueue_trial(space.parameters(first))
    point = space.sample(study.ask())
    assert point.items() >= first.items()
    assert set(point) == {d.key for d in space.there(point)}


# Quasi-random


@pytest.mark.parametrize("name", OURS)
def test_what_is_proposed_hangs_on_neither_the_workers_nor_restarts_nor_what_came_of_it(name):
    space, _ = parse(FILE, [])
    once = drawn(space, name, 30)
    assert drawn(space, name, 30, workers=4) == once
    assert drawn(space, name, 30, workers=30) == once
    assert drawn(space, name, 30, tell=False) == once


def test_a_sobol_point_is_the_same_however_many_are_made():
    late = sobol(3, 5, 700)
    assert np.array_equal(late, sobol(3, 5, 700))
    points = np.array([sobol(3, 5, i) for i in range(256)])
    again = np.array([sobol(3, 5, i) for i in range(300)])[:256]
    from effnlp.search.samplers import _sobol

    assert np.array_equal(points, again)
    assert np.array_equal(points, _sobol(3, 5, 10)[:256])
    assert points.min() >= 0
    assert points.max() < 1
    assert not np.array_equal(points, np.array([sobol(4, 5, i) for i in range(256)]))


def discrepancy(values, grid=16):
    """Largest difference between shares of boxes at the origin and their areas, for (n, 2) in [0, 1)."""
    corners = np.arange(1, grid + 1) / grid
    return max(
        abs(np.mean((values[:, 0] < a) & (values[:, 1] < b)) - a * b)
        for a, b in itertools.product(corners, corners)
    )


@pytest.mark.parametrize(
    "dimensions",
    [
        {"x": "interval(0.0,1.0)", "y": "interval(0.0,1.0)"},
        {"m": "a,b", "m=b": {"x": "interval(0.0,1.0)", "p": "u,v", "p=v": {"y": "interval(0.0,1.0)"}}},
    ],
    ids=["always there", "in choices within choices"],
)
def test_quasi_random_points_are_more_even_than_random_ones(dimensions):
    space, _ = parse(dimensions, [])
    found = {}
    for name in ("quasi_random", "random"):
        found[name] = []
        for seed in range(8):
            points = [p for p in drawn(space, name, 256, seed=seed) if "y" in p]
            assert len(points) >= 50
            found[name].append(discrepancy(np.array([[float(p["x"]), float(p["y"])] for p in points])))
    assert np.mean(found["quasi_random"]) < 0.7 * np.mean(found["random"])


def test_every_value_of_a_choice_is_proposed_as_often_as_any_other():
    space, _ = parse({"a": "1,2", "b": "w,x,y,z", "c": "p,q,r", "n": "range(0,8)"}, [])
    points = drawn(space, "quasi_random", 64)
    for key, n in (("a", 2), ("b", 4), ("n", 8)):
        counts = Counter(point[key] for point in points)
        assert set(counts.values()) == {64 // n}
    thirds = Counter(point["c"] for point in points)
    assert max(thirds.values()) - min(thirds.values()) <= 2


def test_dimensions_share_a_coordinate_only_if_they_never_meet():
    space, _ = parse(FILE, [])
    found = coordinates(space)
    assert set(found) == {d.name for d in space.dimensions if d.varies}
    for point in drawn(space, "random", 200):
        there = [found[d.name] for d in space.there(point) if d.varies]
        assert len(set(there)) == len(there)
    assert found["model=b/peft"] == found["model=c/width"]
    assert max(found.values()) + 1 == 5


# Grid


@pytest.mark.parametrize("workers", [1, 3])
def test_a_grid_proposes_every_point_once_and_is_exhausted_then(workers):
    space, _ = parse(FINITE, [])
    size = space.combinations()
    opened = search(space, "grid")
    studies = [opened(worker) for worker in range(workers)]
    points = []
    for i in range(size):
        assert not is_exhausted(studies[i % workers])
        points.append(space.sample(studies[i % workers].ask()))
    assert sorted(map(str, points)) == sorted(map(str, space.points()))
    assert [str(p) for p in points] != [str(p) for p in space.points()]
    assert all(map(is_exhausted, studies))


def test_a_grid_goes_on_after_a_restart_and_passes_over_what_was_tried_first():
    space, _ = parse(FINITE, [])
    opened = search(space, "grid")
    study = opened()
    first = {"n": "1", "model": "b", "peft": "lora", "rank": "4", "setting": "7"}
    study.enqueue_trial(space.parameters(first))
    points = [space.sample(study.ask()) for _ in range(4)]
    assert points[0] == first
    study.tell(2, state=TrialState.FAIL)  # what was refused or failed is not proposed again
    again = opened(worker=1)
    while not is_exhausted(again):
        points.append(space.sample(again.ask()))
    assert sorted(str(sorted(p.items())) for p in points) == sorted(
        str(sorted(p.items())) for p in space.points()
    )


def test_a_grid_cuts_what_is_continuous_or_logarithmic_and_lists_the_rest():
    space, _ = parse(
        {"x": "interval(0.0,1.0)", "r": "tag(log,interval(1e-4,1e-2))", "k": "tag(log,int(interval(1,64)))",
         "n": "range(0,9)", "few": "tag(log,range(1,3))"}, [],
    )  # fmt: skip
    values = {d.key: [float(v) for v in cut(d, 3).values()] for d in space.dimensions}
    assert values["x"] == [0, 0.5, 1]
    assert values["r"] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert values["k"][0] == 1
    assert values["k"][-1] == 64
    assert len(values["k"]) == 3
    assert values["n"] == list(range(9))
    assert values["few"] == [1, 2]
    points = drawn(parse({"x": "interval(0.0,1.0)", "m": "a,b"}, [])[0], "grid", 10, points_per_dimension=5)
    assert {float(p["x"]) for p in points} == {0, 0.25, 0.5, 0.75, 1}
    assert len({str(p) for p in points}) == 10


def test_a_grid_that_cannot_be_worked_off_is_refused_with_its_size():
    space, _ = parse({f"k{i}": "a,b,c,d" for i in range(10)}, [])
    with pytest.raises(ConfigError, match=f"the grid has {4**10} points"):
        make_sampler(config("grid"), space, 0)
    with pytest.raises(Exception, match="points_per_dimension must be at least 2, got 1"):
        make_sampler(config("grid", points_per_dimension=1), parse(FINITE, [])[0], 0)


def test_no_other_sampler_is_ever_exhausted():
    assert not is_exhausted(SimpleNamespace(sampler=optuna.samplers.RandomSampler()))


def test_a_grid_with_points_that_wait_is_not_exhausted_and_a_proposer_then_goes_no_further():
    from effnlp.search.proposals import Proposer

    space, _ = parse({"x": "interval(0.0,1.0)"}, [])
    study = search(space, "grid", points_per_dimension=3)()
    study.enqueue_trial({"x": 0.123})
    proposer = Proposer(space, lambda point: [f"x={point['x']}"], lambda overrides: (None, overrides[0]))
    taken = []
    while (made := proposer(study, {})) is not None:
        taken.append(made[1][0])
        study.tell(made[0], [1.0, 1.0])
    assert taken[0] == "x=0.123"
    assert sorted(taken) == ["x=0.0", "x=0.123", "x=0.5", "x=1.0"]
    assert len(study.trials) == 4


# All


def test_samplers_that_see_no_stopped_trial_are_those_that_are_declared_so():
    """A stopped trial that the study holds, or does not hold, changes what they propose next: or it does not."""
    space, _ = parse({"x": "interval(0.0,1.0)", "m": "a,b,c"}, [])

    def proposals(name, stopped):
        study = search(space, name)()
        for i in range(30):
            trial = study.ask()
            space.sample(trial)
            if i % 2 and stopped:
                study.tell(trial, state=TrialState.PRUNED)
            elif i % 2:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, [float(trial.params["x"]), float(i)])
        study.sampler = make_sampler(config(name), space, 5)
        return [space.sample(study.ask()) for _ in range(5)]

    learns_from_stopped = {name: proposals(name, True) != proposals(name, False) for name in ("tpe", "nsga2")}
    assert learns_from_stopped == {"tpe": True, "nsga2": False}
    targets = {name: config(name)["_target_"] for name in SAMPLERS}
    assert {name for name in SAMPLERS if targets[name] in LEARNS_ONLY_FROM_FINISHED} == {"nsga2"}
