import os

import optuna
import pytest

from effnlp.compose import ConfigError
from effnlp.search.attributes import COST, RUNG, SLOT
from effnlp.search.budget import Budget, Spent, cost_of, running, spent, wall_seconds


def values(flops, joules, labels):
    return {"cost/total/own/flops": flops, "cost/total/own/energy_joules": joules, "data/labels": labels}


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["maximize", "minimize"])


def trial(study, slot, **attributes):
    made = study.ask()
    for key, value in attributes.items():
        made.set_user_attr(key.replace("_", ":") if key.startswith("rung") else key, value)
    made.set_user_attr(SLOT, slot)
    return made


def test_all_that_was_spent_counts_whatever_became_of_it(study, tmp_path):
    done = trial(study, 0, **{COST: cost_of(values(10.0, 1.8e6, 100))})
    study.tell(done, [0.5, 1.0])
    failed = trial(study, 1, **{COST: cost_of(values(5.0, 3.6e6, 50))})
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    shown = {
        "values": {"data/labels": 70.0},
        "cost": {"cost/total/own/flops": 2.0, "cost/total/own/energy_joules": 0.0},
    }
    stopped = trial(study, 2, **{f"{RUNG}0": {"values": {}, "cost": {}}, f"{RUNG}1": shown})
    study.tell(stopped, state=optuna.trial.TrialState.PRUNED)
    trial(study, 3)
    rejected = study.ask()
    study.tell(rejected, state=optuna.trial.TrialState.FAIL)
    study.set_user_attr(f"{COST}:000-s1", cost_of(values(1.0, 3.6e6, 100)))
    found = spent(study, tmp_path)
    assert found == Spent(trials=4, hours=0.0, kilowatt_hours=2.5, flops=18.0, labels=100)


def test_a_text_is_labelled_once(study, tmp_path):
    for slot, labels in enumerate((100, 300, 200)):
        study.tell(trial(study, slot, **{COST: {"labels": labels}}), [0.5, 1.0])
    assert spent(study, tmp_path).labels == 300


def test_what_no_record_has_is_not_known(study, tmp_path):
    study.tell(trial(study, 0, **{COST: {"flops": 1.0}}), [0.5, 1.0])
    assert spent(study, tmp_path).kilowatt_hours is None
    assert Budget(5, kilowatt_hours=1.0).reached(spent(study, tmp_path)) is None


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"hours": 1.0}, "2 of 1 hours are spent"),
        ({"kilowatt_hours": 2.0}, "3 of 2 kWh are spent"),
        ({"flops": 1e6}, "4e+06 of 1e+06 FLOPs are spent"),
        ({"labels": 500}, "500 of 500 labels are spent"),
    ],
)
def test_the_first_limit_that_is_reached_ends_the_search(limit, said):
    used = Spent(trials=1, hours=2.0, kilowatt_hours=3.0, flops=4e6, labels=500)
    assert Budget(5, **limit).reached(used) == said
    doubled = {name: 5 * amount for name, amount in limit.items()}
    assert Budget(5, **doubled).reached(used) is None
    assert Budget(1, **doubled).reached(used) == "1 of 1 trials are spent"


@pytest.mark.parametrize(
    ("trials", "more", "said"),
    [
        (0, {}, "search.trials must be a whole number of at least 1, got 0"),
        (True, {}, "search.trials must be a whole number"),
        (2.5, {}, "got 2.5"),
        (1, {"hours": 0}, "search.hours must be a number above 0 or null, got 0"),
        (1, {"flops": -1.0}, "search.flops must be"),
        (1, {"kilowatt_hours": float("nan")}, "search.kilowatt_hours must be"),
        (1, {"labels": "many"}, "search.labels must be a number above 0 or null, got 'many'"),
    ],
)
def test_a_limit_that_is_none_is_refused(trials, more, said):
    with pytest.raises(ConfigError) as caught:
        Budget(trials, **more)
    assert said in str(caught.value)


def test_hours_are_those_of_all_starts_also_of_one_that_was_killed(tmp_path):
    with running(tmp_path, "one"):
        pass
    (tmp_path / "starts" / "killed.json").write_text('{"began": 0, "seconds": 3600.0}')
    (tmp_path / "starts" / "torn.json").write_text('{"began"')
    assert 3600 <= wall_seconds(tmp_path) < 3660
    pid = os.fork()
    if pid == 0:
        with running(tmp_path, "two", every_seconds=0.01):
            import time

            time.sleep(0.3)
            os._exit(0)  # as a kill does: nothing is written at the end
    os.waitpid(pid, 0)
    assert wall_seconds(tmp_path) >= 3600.1
