import numpy as np
import optuna
import pytest

from effnlp.compose import ConfigError
from effnlp.record import COMPLETED, FAILED, Record
from effnlp.search.early_stopping.moasha import positions
from effnlp.search.pareto import hypervolume
from effnlp.search.space import parse
from effnlp.search.transfer import first_points_from, fit, is_transferred, saved_by_transfer

OBJECTIVES = {"val/accuracy": "maximize", "model/bytes": "minimize"}
FILE = {
    "model": "bag_of_ngrams,backbone",
    "data/filter": "none,[exact_dedup,minhash_dedup]",
    "finetuning.learning_rate": "tag(log, interval(1e-4, 1e-2))",
    "model=backbone": {
        "model.size": "tiny,small",
        "peft": "none,lora",
        "peft=lora": {"peft.rank": "tag(log,int(interval(2,64)))"},
    },
    "model=bag_of_ngrams": {"model.ngrams": "1,2,3"},
}


@pytest.fixture
def space():
    return parse(FILE, ["task=embedded"])[0]


@pytest.fixture
def leave(tmp_path):
    """Leave a record in ``tmp_path/other/NAME``."""

    def save(name, accuracy=0.5, size=100.0, overrides=(), choices=None, config=None, **more):
        identity = {
            "config_hash": name,
            "seed_init": 0,
            "seed_order": 0,
            "task": "t",
            "task_fingerprint": "f",
        }
        identity |= {"overrides": list(overrides), "started": name} | more.pop("identity", {})
        values = {"val/accuracy": accuracy, "model/bytes": size}
        record = Record(more.pop("status", COMPLETED), identity, choices or {}, config or {}, values, **more)
        folder = tmp_path / "other" / name
        folder.mkdir(parents=True)
        record.save(folder)
        return folder.parent

    return save


def test_the_best_come_first_in_the_order_of_the_ranking(space, leave):
    generator = np.random.default_rng(0)
    values = generator.random((20, 2))
    for i, (accuracy, size) in enumerate(values):
        rate = f"finetuning.learning_rate={1e-3 + 1e-5 * i!r}"
        folder = leave(
            f"{i:03d}", accuracy, size, [f"model={'backbone' if i % 2 else 'bag_of_ngrams'}", rate]
        )
    order = np.argsort(
        positions(np.stack([-values[:, 0], values[:, 1]], axis=1), np.arange(20)), kind="stable"
    )
    found = first_points_from(folder, space, OBJECTIVES, 6)
    assert found.sources == [f"{i:03d}" for i in order[:6]]
    assert [float(p["finetuning.learning_rate"]) for p in found.points] == [
        1e-3 + 1e-5 * i for i in order[:6]
    ]
    assert found.left_out == []
    assert len(first_points_from(folder, space, OBJECTIVES, 100).points) == 20


def test_a_point_is_read_from_what_was_typed_and_else_from_choices_and_config(space, leave):
    folder = leave(
        "one",
        overrides=["model=backbone", "model.size=small", "data/filter=[exact_dedup, minhash_dedup]"],
        choices={"model": "backbone", "peft": "lora", "data/filter": "exact_dedup+minhash_dedup"},
        config={"model": {"size": "small"}, "peft": {"rank": 8}, "finetuning": {"learning_rate": 0.001}},
    )
    expected = {
        "model": "backbone", "model.size": "small", "data/filter": "[exact_dedup,minhash_dedup]",
        "peft": "lora", "peft.rank": "8", "finetuning.learning_rate": "0.001",
    }  # fmt: skip
    found = first_points_from(folder, space, OBJECTIVES, 5)
    assert found.points == [expected]
    untyped = leave(
        "other", 0.9,
        choices={"model": "backbone", "peft": "lora", "data/filter": "exact_dedup+minhash_dedup"},
        config={"model": {"size": "small"}, "peft": {"rank": 8}, "finetuning": {"learning_rate": 0.001}},
    )  # fmt: skip
    found = first_points_from(untyped, space, OBJECTIVES, 5)
    assert found.points == [expected]
    assert found.left_out == ["one: here it is the same as other"]


def test_what_is_taken_can_be_tried_and_what_a_record_does_not_say_is_left_open(space, leave):
    folder = leave("a", 0.9, 9, ["model=bag_of_ngrams"], {"model": "bag_of_ngrams", "peft": "none"})
    leave("b", 0.5, 1, ["model=backbone"], {"model": "backbone", "peft": "lora"})
    found = first_points_from(folder, space, OBJECTIVES, 5)
    assert found.points == [{"model": "bag_of_ngrams"}, {"model": "backbone", "peft": "lora"}]
    assert found.overlap == (
        "2 points with model, peft; left open: data/filter, finetuning.learning_rate, model.size, model.ngrams, "
        "peft.rank"
    )
    study = optuna.create_study()
    for point in found.points:
        study.enqueue_trial(space.parameters(point))
        assert space.sample(study.ask()).items() >= point.items()


def test_a_value_that_is_not_in_the_space_leaves_the_point_out_with_the_reason(space, leave):
    folder = leave("a", 0.9, 9, ["model=pretrained"], {"model": "pretrained"})
    leave("b", 0.8, 8, ["model=backbone", "finetuning.learning_rate=0.5"])
    leave("c", 0.7, 7, ["model=backbone", "peft=prefix"])
    leave("d", 0.1, 9, ["model=backbone"])
    found = first_points_from(folder, space, OBJECTIVES, 5)
    assert found.sources == ["d"]
    assert sorted(found.left_out) == [
        "a: model=pretrained is not in this space",
        "b: finetuning.learning_rate=0.5 is not in this space",
        "c: peft=prefix is not in this space",
    ]


def test_a_proxy_may_be_smaller_and_about_another_task(leave):
    space, _ = parse({**FILE, "task.train_size": "range(1000,9000)"}, ["task=embedded"])
    folder = leave("a", overrides=["task=sst2", "task.train_size=100", "model=backbone", "model.size=minute"])
    assert first_points_from(folder, space, OBJECTIVES, 5).points == [{"model": "backbone"}]


def test_a_setting_of_the_space_is_no_part_of_a_point_and_brings_what_it_brings():
    space, _ = parse({"model": "backbone", "model=backbone": {"peft": "none,lora", "epochs": 4}}, [])
    fitted = fit(space, ["model=other", "peft=lora", "epochs=2"])
    assert fitted.point == {"peft": "lora"}
    assert (fitted.outside, fitted.unlike) == ({}, {"model": "other", "epochs": "2"})


def test_only_completed_configurations_with_all_objectives_count_each_by_its_mean(space, leave):
    folder = leave("failed", 1.0, 0.1, ["model=backbone"], status=FAILED)
    leave("stopped", 1.0, 0.1, ["model=backbone"], status="stopped")
    leave("good", 0.6, 5, ["model=bag_of_ngrams"])
    same = {"config_hash": "lucky", "seed_init": 1}
    leave("lucky", 0.9, 5, ["model=backbone"])
    leave("lucky-s1", 0.1, 5, ["model=backbone"], identity=same)
    assert first_points_from(folder, space, OBJECTIVES, 5).sources == ["good", "lucky"]


def test_runs_of_different_data_are_ranked_apart(space, leave):
    folder = leave("easy-best", 0.99, 5, ["model=backbone", "peft=none"])
    leave("easy-worse", 0.98, 6, ["model=backbone", "peft=lora"])
    leave("hard-best", 0.4, 5, ["model=bag_of_ngrams"], identity={"task_fingerprint": "g"})
    assert set(first_points_from(folder, space, OBJECTIVES, 2).sources) == {"easy-best", "hard-best"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda leave: leave("a", overrides=["x.y=1"]), "a: it says nothing of any dimension of this space"),
        (
            lambda leave: (leave("a", 0.5, 1, ["model=p"]), leave("b", 0.6, 2, ["model=q"]))[0],
            r"nothing in .*other fits into this space: .*model=p is not in this space.*There: model=(p,q|q,p)\. "
            r"Here: model=bag_of_ngrams,backbone data/filter=",
        ),
        (lambda leave: leave("a", status=FAILED), "none of 0 completed records"),
    ],
)
def test_without_any_overlap_both_spaces_are_named(make, said, space, leave):
    with pytest.raises(ConfigError, match=said):
        first_points_from(make(leave), space, OBJECTIVES, 5)


def test_what_cannot_be_read_is_refused(space, leave, tmp_path):
    with pytest.raises(ConfigError, match=r"search\.warm_start\.from: .*nowhere is not a folder"):
        first_points_from(tmp_path / "nowhere", space, OBJECTIVES, 5)
    folder = leave("a", overrides=["model=backbone"])
    with pytest.raises(ConfigError, match="has val/acuracy; did you mean 'val/accuracy'"):
        first_points_from(folder, space, {"val/acuracy": "maximize"}, 5)
    with pytest.raises(ConfigError, match="points must be a whole number of at least 1, got 0"):
        first_points_from(folder, space, OBJECTIVES, 0)


def test_the_trials_that_were_transferred_are_known_by_their_overrides():
    points = [{"model": "backbone", "peft": "lora"}, {"model": "bag_of_ngrams"}]
    assert is_transferred(points, ["task=t", "model=backbone", "peft=lora", "peft.rank=4"])
    assert not is_transferred(points, ["model=backbone", "peft=none"])
    assert not is_transferred([], ["model=backbone"])


# What it was worth


def test_what_a_transfer_saved_is_what_others_needed_for_as_much():
    values = np.array([[1.0, 4.0], [3.0, 3.0], [2.0, 2.0], [np.nan, np.nan], [1.0, 1.0], [0.5, 0.5]])
    transferred = np.array([True, False, True, False, False, False])
    cost = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    saved = saved_by_transfer(values, cost, transferred, np.array([5.0, 5.0]))
    assert saved.hypervolume == pytest.approx(hypervolume(values[[0, 2]], np.array([5.0, 5.0])))
    assert saved.spent == 1 + 3
    assert saved.spent_without == 2 + 4 + 5


def test_it_is_none_if_own_proposals_never_reached_as_much():
    values = np.array([[1.0, 1.0], [2.0, 2.0]])
    saved = saved_by_transfer(values, np.ones(2), np.array([True, False]), np.array([3.0, 3.0]))
    assert (saved.hypervolume, saved.spent, saved.spent_without) == (4.0, 1.0, None)


def test_it_agrees_with_going_through_the_trials_one_by_one():
    generator = np.random.default_rng(3)
    for _ in range(40):
        values = generator.random((30, 2))
        values[generator.random(30) < 0.3] = np.nan
        cost, transferred = generator.random(30), generator.random(30) < 0.2
        reference = np.array([1.0, 1.0])
        saved = saved_by_transfer(values, cost, transferred, reference)
        done = ~np.isnan(values).any(axis=1)
        goal = hypervolume(values[transferred & done], reference)
        assert saved.hypervolume == pytest.approx(goal)
        spent, needed = 0.0, 0.0 if goal == 0 else None
        for i in np.flatnonzero(~transferred):
            spent += cost[i]
            so_far = (~transferred) & done & (np.arange(30) <= i)
            if needed is None and hypervolume(values[so_far], reference) >= goal * (1 - 1e-12):
                needed = spent
        assert saved.spent_without == (None if needed is None else pytest.approx(needed))


def test_by_default_also_the_ends_of_a_frontier_count():
    values = np.array([[0.0, 10.0], [10.0, 0.0], [5.0, 5.0]])
    for ends in ([True, False, False], [False, True, False]):
        saved = saved_by_transfer(values, np.ones(3), np.array(ends))
        assert saved.reference == (11.0, 11.0)
        assert saved.hypervolume == pytest.approx(11.0)
    same = saved_by_transfer(np.array([[2.0, 3.0]]), np.ones(1), np.array([True]), np.array([4.0, np.inf]))
    assert same.reference == pytest.approx((4.0, 3.3))
    assert same.hypervolume == pytest.approx(2 * 0.3)


def test_nothing_transferred_or_finished_saves_nothing():
    nothing = saved_by_transfer(np.full((3, 2), np.nan), np.ones(3), np.array([True, False, False]))
    assert (nothing.hypervolume, nothing.spent, nothing.spent_without) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="do not fit"):
        saved_by_transfer(np.zeros((3, 2)), np.ones(2), np.ones(3, dtype=bool))
