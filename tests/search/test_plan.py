"""Plans of sweeps: how one would have done, and what its budget buys; nothing runs and nothing is written."""

import random

import pytest

from effnlp.compose import compose, hydra_context
from effnlp.launch import sweep
from effnlp.record import COMPLETED, FAILED, Record
from effnlp.search.budget import Budget
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.plan import Cost, Range, forecast, nearest, share_run

TYPED = (
    "task=docstrings",
    "model=bag_of_ngrams,backbone",
    "data/order=shuffle,length_grouped",
    "search/early_stopping=none",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def keep(here):
    """Leave a record of overrides that took some seconds."""

    def keep(*overrides, seconds=60.0, joules=3600.0, status=COMPLETED):
        with hydra_context():
            composed = compose(list(overrides))
        costs = {"cost/total/own/seconds": seconds, "cost/total/own/flops": 1e12}
        if joules is not None:
            costs["cost/total/own/energy_joules"] = joules
        number = len(list(here.rglob("record.json")))
        folder = here / "outputs" / f"run-{number}"
        folder.mkdir(parents=True)
        record = Record(status, {"config_hash": str(number)}, composed.chosen, composed.config, costs)
        record.save(folder)
        return record

    return keep


def plan(capsys, *arguments):
    code = sweep(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


# --dry-run


def test_a_dry_run_without_records_says_that_cost_is_unknown_and_writes_nothing(here, capsys):
    code, out, _ = plan(capsys, "--dry-run", *TYPED, "search.trials=7")
    assert code == 0
    assert "4 points in 2 dimensions" in out
    assert "budget    search.trials=7" in out
    assert "no record yet of model=backbone" in out
    assert "time      unknown: no record yet" in out
    assert "energy    unknown: no record yet" in out
    assert list(here.iterdir()) == []


def test_a_dry_run_takes_time_and_energy_from_earlier_records_of_the_task(keep, capsys):
    for model in ("bag_of_ngrams", "backbone"):
        keep("task=docstrings", f"model={model}", seconds=600.0, joules=3.6e5)
    keep("task=docstrings", "model=backbone", seconds=1e9, status=FAILED)
    keep("task=sst2", "model=backbone", seconds=1e9)
    code, out, _ = plan(capsys, "--dry-run", *TYPED, "search.trials=12", "search.workers=2")
    assert code == 0
    assert "1 of model=backbone, 1 of model=bag_of_ngrams" in out
    assert "trials    12 trials, ended by search.trials" in out
    assert "time      1 hours with 2 workers" in out  # 12 of 10 minutes, two at once
    assert "energy    1.2 kWh" in out  # 12 of 0.1 kWh
    assert "compute   1.2e+13 FLOPs" in out


def test_a_dry_run_says_which_limit_ends_the_sweep(keep, capsys):
    for model in ("bag_of_ngrams", "backbone"):
        keep("task=docstrings", f"model={model}", seconds=600.0, joules=3.6e5)
    _, out, _ = plan(capsys, "--dry-run", *TYPED, "search.trials=100", "search.kilowatt_hours=0.45")
    assert "budget    search.trials=100, search.kilowatt_hours=0.45" in out
    assert "trials    5 trials, ended by search.kilowatt_hours" in out


def test_where_a_model_has_no_record_the_forecast_is_a_lower_bound(keep, capsys):
    keep("task=docstrings", "model=bag_of_ngrams", seconds=600.0, joules=None)
    _, out, _ = plan(capsys, "--dry-run", *TYPED)
    assert "no record yet of model=backbone: unknown what" in out
    assert "time      at least " in out
    assert "energy    unknown: not all of these records say" in out


def test_a_dry_run_reads_only_the_folder_that_the_warm_start_is_from(keep, here, capsys):
    keep("task=docstrings", "model=bag_of_ngrams", seconds=600.0)
    (here / "other").mkdir()
    _, out, _ = plan(capsys, "--dry-run", *TYPED, "search.warm_start.from=other")
    assert "in other/: none" in out


def test_a_dry_run_refuses_what_the_sweep_would_refuse(here, capsys):
    code, _, err = plan(capsys, "--dry-run", "model=bag_of_ngrams", "model.widht=8,16")
    assert code == 2
    assert "model has no key 'widht'; did you mean 'width'?" in err
    code, _, err = plan(capsys, "--dry-run", *TYPED, "search.trials=0")
    assert code == 2
    assert "search.trials must be a whole number of at least 1" in err


def test_records_of_other_sizes_are_used_only_where_none_is_nearer(keep):
    far = keep("task=docstrings", "task.train_size=500", "model=backbone")
    near = keep("task=docstrings", "model=backbone", "data/order=length_grouped")
    with hydra_context():
        wanted = compose(["task=docstrings", "model=backbone"])
        assert nearest(wanted, [far, near]) == [near]
        assert nearest(wanted, [far]) == [far]
        assert nearest(compose(["task=docstrings", "model=bag_of_ngrams"]), [far, near]) == []


# Forecasts


def cost(seconds=100.0, joules=None, labels=10.0):
    return Cost("m", seconds, joules, 1.0, labels)


def test_without_early_stopping_a_budget_of_trials_costs_their_sum():
    found = forecast([cost(360.0)], None, Budget(10), workers=5)
    assert found.trials == Range(10, 10, 10)
    assert (found.hours.lower, found.hours.upper) == pytest.approx((0.2, 0.2))
    assert found.kilowatt_hours is None
    assert found.ended_by == {"search.trials": 1.0}


def test_limits_in_hours_and_labels_end_a_sweep_when_they_are_reached():
    assert forecast([cost(360.0)], None, Budget(100, hours=1.0), workers=2).trials.median == 20
    found = forecast([cost(labels=10.0)], None, Budget(100, labels=10.0), workers=1)
    assert found.ended_by == {"search.labels": 1.0}
    assert found.trials.median == 1


def test_early_stopping_makes_more_trials_of_the_same_hours():
    whole, stopped = (
        forecast([cost(360.0)], halving, Budget(1000, hours=5.0), workers=1).trials.median
        for halving in (None, moasha())
    )
    assert 3 < stopped / whole < 5  # a trial runs 1/9 + 2/9 · 1/3 + 6/9 · 1/9 = 0.26 of its schedule


def test_the_share_of_a_schedule_that_is_run_has_the_mean_of_the_rungs():
    source = random.Random(0)
    shares = [share_run(moasha(), source) for _ in range(20_000)]
    assert set(shares) == {1 / 9, 1 / 3, 1.0}
    assert sum(shares) / len(shares) == pytest.approx(1 / 9 + 2 / 27 + 6 / 81, rel=0.03)
    assert share_run(None, source) == 1.0


def test_a_range_is_shown_in_a_unit_that_fits():
    assert Range(2.0, 1.0, 3.0).show("hours", "minutes", 60) == "2 hours (1 to 3)"
    assert Range(0.5, 0.5, 0.5).show("hours", "minutes", 60) == "30 minutes"
    assert Range(1e13, 1e12, 2e13).show("FLOPs") == "1e+13 FLOPs (1e+12 to 2e+13)"


# --simulate


def test_a_simulation_says_how_the_search_does_against_random(here, capsys, monkeypatch):
    monkeypatch.setattr("effnlp.search.compare.SEEDS", 3)
    code, out, _ = plan(
        capsys,
        "--simulate=hard",
        "search/sampler=random",
        "search.trials=25",
        "search.workers=3",
        "model=backbone",
    )
    assert code == 0
    assert "simulated on the synthetic problem hard" in out
    assert "25 trials by 3 workers" in out
    assert any(line.split() == ["trials", "25.0", line.split()[-1]] for line in out.splitlines())
    assert "difference in hypervolume" in out
    assert "model=backbone did not matter here" in out
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--simulate=hadr"], "did you mean 'hard'"),
        (["--simulate=hard", "--dry-run"], "one at a time"),
        (["--simulate=hard", "search.trials=0"], "search.trials must be"),
        (["--simulate=hard", "search/sampler=rondom"], "rondom"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_what_would_work(here, capsys, arguments, says):
    code, out, err = plan(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_help_is_shown_even_beside_a_plan(capsys):
    code, out, _ = plan(capsys, "--simulate", "--help")
    assert code == 0
    assert "--dry-run" in out
    assert "--simulate" in out
