"""Tables of learning curves: written and read as they are, made from a sweep, and simulated on."""

import gzip
import logging

import optuna
import pytest
from optuna.trial import TrialState

from effnlp.record import COMPLETED, Record
from effnlp.search.attributes import OVERRIDES, SLOT
from effnlp.search.curves import (
    JOULES,
    SECONDS,
    SHIPPED,
    Curve,
    Table,
    distance,
    from_sweep,
    main,
    problem_of,
    read,
    write,
)
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.ledger import Rules, replay
from effnlp.search.problems import Look, dense_frontier, mean_seconds, whole
from effnlp.search.simulate import quality_over_budget, simulate
from effnlp.search.space import parse
from effnlp.search.state import Sweep, open_study, trial_folder

ACCURACY, FLOPS, BYTES, LATENCY = "val/accuracy", "infer/single_stream/flops", "model/bytes", "infer/latency"
OBJECTIVES = {ACCURACY: "maximize", FLOPS: "minimize"}
FRACTIONS = (1 / 9, 1 / 3, 1.0)
DIMENSIONS = {
    "model": "small,large",
    "data/filter": "none,[exact,near]",
    "width": "range(2,6)",
    "model=large": {"rate": "tag(log,interval(1e-4,1e-2))"},
}


def random_proposals(space, seed):
    return optuna.samplers.RandomSampler(seed)


def curve(point, accuracy, seconds=9.0, seed=0, joules=18.0):
    flops = float(int(point["width"]) * (100 if point["model"] == "large" else 1))
    looks = [
        Look(
            f,
            {ACCURACY: accuracy * f**0.1, FLOPS: flops, BYTES: 4 * flops},
            seconds * f,
            joules and joules * f,
        )
        for f in FRACTIONS
    ]
    return Curve(point, seed, tuple(looks))


@pytest.fixture
def table():
    curves = []
    for width in range(2, 6):
        for chosen in ("none", "[exact,near]"):
            small = {"model": "small", "data/filter": chosen, "width": str(width)}
            curves.append(curve(small, 0.5 + 0.01 * width, seconds=9.0 * width))
            curves.append(
                curve({**small, "model": "large", "rate": "0.001"}, 0.7 + 0.02 * width, seconds=30.0)
            )
    return Table("toy", parse(DIMENSIONS, [])[0], OBJECTIVES, tuple(curves), "sixteen points")


@pytest.mark.parametrize("name", ["curves.csv", "curves.csv.gz"])
def test_a_table_that_is_written_and_read_is_the_same(table, tmp_path, name):
    write(table, tmp_path / name)
    again = read(tmp_path / name)
    assert (again.name, again.about, again.space, again.objectives) == (
        table.name, table.about, table.space, table.objectives,
    )  # fmt: skip
    assert [(c.point, c.seed) for c in again.curves] == [(c.point, c.seed) for c in table.curves]
    for mine, read_again in zip(table.curves, again.curves, strict=True):
        assert [look.fraction for look in read_again.looks] == list(FRACTIONS)
        for a, b in zip(mine.looks, read_again.looks, strict=True):
            assert b.values == pytest.approx(a.values, rel=1e-6)
            assert (b.seconds, b.joules) == pytest.approx((a.seconds, a.joules), rel=1e-6)
    write(again, tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_what_is_not_known_stays_unknown(tmp_path):
    found = curve({"model": "small", "data/filter": "none", "width": "2"}, 0.5, joules=None)
    end = Look(1.0, {**found.looks[-1].values, LATENCY: 0.1}, 9.0)
    write(
        Table(
            "toy", parse(DIMENSIONS, [])[0], OBJECTIVES, (Curve(found.point, 0, (*found.looks[:-1], end)),)
        ),
        tmp_path / "t.csv",
    )
    looks = read(tmp_path / "t.csv").curves[0].looks
    assert [look.joules for look in looks] == [None] * 3
    assert [LATENCY in look.values for look in looks] == [False, False, True]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text.partition("\n")[2], "is not a table of curves"),
        (lambda text: text.splitlines()[0] + "\n" + text.splitlines()[1] + "\n", "holds no curves"),
        (
            lambda text: text.rsplit(",", 4)[0],
            "line 50 is not a look",
        ),
        (lambda text: "\n".join(text.splitlines()[:-1]), "has no end"),
        (lambda text: text.replace(",9,", ",nine,", 1), "is not a look at a run"),
    ],
    ids=["no head", "no rows", "torn", "no end", "no number"],
)
def test_a_damaged_table_is_refused_with_the_reason(table, tmp_path, damage, says):
    path = tmp_path / "t.csv"
    write(table, path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=says):
        read(path)


def test_a_file_that_is_no_gzip_is_refused(tmp_path):
    (tmp_path / "t.csv.gz").write_text("model,width\n")
    with pytest.raises(ValueError, match="is not a table of curves"):
        read(tmp_path / "t.csv.gz")
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(b"# {}\n"))
    with pytest.raises(ValueError, match="is not a table of curves"):
        read(tmp_path / "u.csv.gz")


# As a problem


def test_a_recorded_point_is_answered_by_its_own_curve_and_another_one_by_the_nearest(table):
    problem = problem_of(table)
    own = {"model": "large", "data/filter": "none", "width": "3", "rate": "0.001"}
    assert whole(problem, own) == next(c for c in table.curves if c.point == own).looks[-1]
    near = {**own, "rate": "0.00015"}
    assert problem.identity(near) == problem.identity(own)
    assert problem.identity({**own, "width": "4"}) != problem.identity(own)


def test_distances_count_choices_whole_and_numbers_by_their_range(table):
    space = table.space
    small = {"model": "small", "data/filter": "none", "width": "2"}
    assert distance(space, small, small) == 0
    assert distance(space, small, {**small, "data/filter": "[exact,near]"}) == 1
    assert distance(space, small, {**small, "width": "5"}) == pytest.approx(1.0)
    assert distance(space, small, {**small, "width": "3"}) == pytest.approx(1 / 3)
    large = {**small, "model": "large", "rate": "0.001"}
    assert distance(space, small, large) == distance(space, large, small) == 2
    assert distance(space, large, {**large, "rate": "0.0001"}) == pytest.approx(0.5)


def test_replicates_are_seeds_and_the_truth_is_their_mean():
    point = {"model": "small", "data/filter": "none", "width": "2"}
    curves = (curve(point, 0.6, seed=0), curve(point, 0.7, seed=1))
    problem = problem_of(Table("toy", parse(DIMENSIONS, [])[0], OBJECTIVES, curves))
    seen = [whole(problem, point, seed).values[ACCURACY] for seed in range(4)]
    assert seen == [0.6, 0.7, 0.6, 0.7]
    assert problem.truth(point)[ACCURACY] == pytest.approx(0.65)


def test_a_rung_where_the_table_has_no_look_is_refused_with_what_there_is(table):
    with pytest.raises(ValueError, match=r"has looks at 0\.111, 0\.333, 1 of a schedule, none at 0\.037"):
        simulate(problem_of(table), random_proposals, moasha(max_resource=27), trials=3)


def test_other_objectives_may_be_asked_of_a_table_and_unknown_ones_are_refused(table):
    by_bytes = problem_of(table, {ACCURACY: "maximize", BYTES: "minimize"})
    assert list(by_bytes.objectives) == [ACCURACY, BYTES]
    with pytest.raises(ValueError, match=r"has no val/acuracy; did you mean 'val/accuracy'"):
        problem_of(table, {"val/acuracy": "maximize"})


@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_a_table_is_searched_to_its_last_point_and_scored_by_its_own_frontier(table, variant):
    problem = problem_of(table)
    assert mean_seconds(problem) == pytest.approx(sum(c.looks[-1].seconds for c in table.curves) / 16)
    searched = simulate(problem, random_proposals, moasha(variant=variant), trials=99)
    assert searched.trials == 16
    assert replay(searched.study, lambda _: Rules(problem.objectives, moasha(variant=variant))) == []
    everything = simulate(problem, random_proposals, None, trials=99)
    assert everything.joules == pytest.approx(16 * 18.0)
    assert everything.spent == pytest.approx(16.0)
    assert quality_over_budget(everything, [99.0]) == pytest.approx([1.0])
    assert dense_frontier(problem).shape[1] == 2


# From a sweep


@pytest.fixture
def swept(tmp_path):
    """The folder of a sweep: two whole trials with rungs, one that was stopped, one that failed."""
    space = parse(DIMENSIONS, [])[0]
    folder = tmp_path / "sweep"
    folder.mkdir()
    Sweep(
        name="toy", command=[], objectives={**OBJECTIVES, LATENCY: "minimize"}, fixed=["task=files"],
        dimensions=[dict(d.__dict__) for d in space.dimensions], first=[], trials=4, workers=1, threads=1, seeds=1,
        seed=0, sampler={"_target_": "optuna.samplers.RandomSampler", "_partial_": True}, test=False,
        config_dir=None, session="s", parent=(1, "host"), study="toy",
        early_stopping={"_target_": "effnlp.search.early_stopping.moasha.moasha"},
    ).save(folder)  # fmt: skip
    study = open_study(folder, Sweep.load(folder))
    for slot in range(4):
        trial = study.ask()
        trial.set_user_attr(SLOT, slot)
        extra = ["rate=0.002"] if slot == 1 else []
        model = "large" if slot == 1 else "small"
        overrides = ["task=files", f"model={model}", "data/filter=[exact,near]", f"width={slot + 2}", *extra]
        trial.set_user_attr(OVERRIDES, overrides)
        for rung, level in enumerate((1, 3)[: 1 if slot == 2 else 2]):
            shown = {
                "values": {ACCURACY: 0.1 * level + slot / 100, FLOPS: 7.0, "val/loss": 2.0},
                "cost": {SECONDS: level * 2.0, JOULES: level * 3.0},
                "level": level, "step": level * 10, "steps": 90, "at": 1.0,
            }  # fmt: skip
            trial.set_user_attr(f"rung:{rung}", shown)
        values = {ACCURACY: 0.9 + slot / 100, FLOPS: 7.0, LATENCY: 0.01, "val/loss": 1.0, "train/steps": 90.0}
        record = Record(COMPLETED, {"seed_init": 0}, values={**values, SECONDS: 20.0, JOULES: 30.0})
        trial_folder(folder, slot).mkdir(parents=True)
        record.save(trial_folder(folder, slot))
        if slot < 2:
            study.tell(trial, [values[ACCURACY], 7.0, 0.01])
        else:
            study.tell(trial, state=TrialState.PRUNED if slot == 2 else TrialState.FAIL)
    return folder


def test_a_sweep_gives_the_curves_of_the_trials_that_came_through(swept, caplog):
    with caplog.at_level(logging.INFO):
        found = from_sweep(swept)
    assert "2 of 4 trials have no whole curve" in caplog.text
    assert [c.point for c in found.curves] == [
        {"model": "small", "data/filter": "[exact,near]", "width": "2"},
        {"model": "large", "data/filter": "[exact,near]", "width": "3", "rate": "0.002"},
    ]
    looks = found.curves[1].looks
    assert [look.fraction for look in looks] == [1 / 9, 1 / 3, 1.0]
    assert [look.values[ACCURACY] for look in looks] == pytest.approx([0.11, 0.31, 0.91])
    assert [look.seconds for look in looks] == [2.0, 6.0, 20.0]
    assert [look.joules for look in looks] == [3.0, 9.0, 30.0]
    assert found.keys == [LATENCY, FLOPS, ACCURACY, "val/loss"]  # those of every look, and the objectives


def test_the_command_makes_a_table_that_can_be_simulated_on(swept, tmp_path, capsys):
    assert main([str(swept), str(tmp_path / "new" / "t.csv.gz"), "--about", "a toy"]) == 0
    assert "2 curves" in capsys.readouterr().out
    table = read(tmp_path / "new" / "t.csv.gz")
    assert table.about == "a toy"
    assert simulate(problem_of(table), random_proposals, moasha(), trials=9).trials == 2


def test_a_sweep_without_a_whole_curve_is_refused(swept):
    spec = Sweep.load(swept)
    Sweep(**{**spec.__dict__, "study": "another"}).save(swept)
    with pytest.raises(ValueError, match="has no trial that ran to its end and was looked at"):
        from_sweep(swept)


@pytest.mark.skipif(not SHIPPED.is_file(), reason="no grid is shipped")
def test_the_table_that_is_shipped_can_be_read_and_searched():
    problem = problem_of(read(SHIPPED))
    simulated = simulate(problem, random_proposals, moasha(), trials=20)
    assert simulated.trials == 20
    assert SHIPPED.stat().st_size < 500_000
