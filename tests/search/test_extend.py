import itertools
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.record import COMPLETED, Record
from effnlp.search.attributes import DECISION, OUTSIDE, OVERRIDES, PAUSED, REASON, REJECTED, RUNG, SLOT, UNDER
from effnlp.search.constraints import violations
from effnlp.search.extend import check_extension, differences, extend, extend_study, next_name
from effnlp.search.samplers import make_sampler
from effnlp.search.space import parse
from effnlp.search.state import Sweep, frontier_slots, open_study, trial_folder

FILE = {
    "model": "bag,backbone",
    "rate": "tag(log, interval(1e-4, 1e-2))",
    "model=backbone": {"peft": "none,lora", "peft=lora": {"peft.rank": "range(1,9)"}},
}
OBJECTIVES = {"val/accuracy": "maximize", "model/bytes": "minimize"}
TPE = {"_target_": "optuna.samplers.TPESampler", "_partial_": True, "n_startup_trials": 3}


@pytest.fixture(autouse=True)
def silence():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def spec(file=None, overrides=("task=embedded",), **more):
    space, fixed = parse(FILE if file is None else file, list(overrides))
    settings = {
        "name": "s", "command": [], "objectives": dict(OBJECTIVES), "fixed": fixed,
        "dimensions": [dict(d.__dict__) for d in space.dimensions], "first": [], "trials": 30, "workers": 2,
        "threads": 1, "seeds": 1, "seed": 0, "sampler": TPE, "test": True, "config_dir": None, "session": "one",
        "parent": (1, "here"), "study": "s",
    }  # fmt: skip
    return Sweep(**{**settings, **more})


@pytest.fixture
def old():
    return spec()


def values_of(slot):
    return {"val/accuracy": 0.1 * slot, "model/bytes": 10.0 * slot, "model/params": 100.0 - slot}


@pytest.fixture
def searched(old, tmp_path):
    """A study with a trial of every kind, and the records of those that ran to their end."""
    study = open_study(tmp_path, old)
    study.set_user_attr("told", "something")
    slot = itertools.count()
    for kind in ["complete"] * 8 + ["rejected", "stopped", "failed", "paused", "running", "waiting"]:
        if kind == "waiting":
            study.enqueue_trial(
                {"model": "backbone", "model=backbone/peft": "lora"}, user_attrs={"first": True}
            )
            continue
        trial = study.ask()
        overrides = [*old.fixed, *(f"{key}={value}" for key, value in old.space.sample(trial).items())]
        if kind == "rejected":
            trial.set_user_attr(REJECTED, "known already")
            study.tell(trial, state=TrialState.FAIL)
            continue
        number = next(slot)
        trial.set_user_attr(OVERRIDES, overrides)
        trial.set_user_attr(SLOT, number)
        shown = {"values": values_of(number), "cost": {}, "step": 1, "steps": 9, "at": 0.0}
        trial.set_user_attr(f"{RUNG}0", shown)
        trial.set_user_attr(f"{DECISION}0", {"verdict": "continue", "saw": "0", "position": 0})
        if kind == "complete":
            values = values_of(number)
            record = Record(COMPLETED, {"overrides": overrides}, {}, {"depth": number % 3 + 1}, values)
            folder = trial_folder(tmp_path, number)
            folder.mkdir(parents=True)
            record.save(folder)
            for key, amount in violations(old.constraints, values).items():
                trial.set_constraint(key, amount)
            study.tell(trial, [values[key] for key in old.objectives])
        elif kind == "stopped":
            study.tell(trial, state=TrialState.PRUNED)
        elif kind == "failed":
            trial.set_user_attr(REASON, "oom: too large")
            study.tell(trial, state=TrialState.FAIL)
        elif kind == "paused":
            trial.set_user_attr(PAUSED, 0)
    return study


def extended(old, new, folder):
    after = extend(new, old, folder)
    return after, open_study(folder, after)


def kept(trial):
    return {key: value for key, value in trial.user_attrs.items() if key != OUTSIDE}


def test_extending_by_nothing_changes_nothing(old, searched, tmp_path):
    after, study = extended(old, old, tmp_path)
    assert (after.study, study.study_name) == ("s@2", "s@2")
    assert after == replace(old, study="s@2")
    assert study.directions == searched.directions
    assert study.user_attrs == searched.user_attrs == {"told": "something"}
    assert len(study.trials) == len(searched.trials) == 14
    for before, now in zip(searched.trials, study.trials, strict=True):
        for name in ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs",
                     "datetime_start", "datetime_complete"):  # fmt: skip
            assert getattr(now, name) == getattr(before, name), name


def test_a_wider_space_keeps_all_parameters_in_its_own_distributions(old, searched, tmp_path):
    wider = {
        "model": "bag,backbone,pretrained",
        "rate": "tag(log, interval(1e-5, 1e-1))",
        "model=backbone": {"peft": "none,bitfit,lora", "peft=lora": {"peft.rank": "range(1,65)"}},
    }
    new = spec(wider)
    after, study = extended(old, new, tmp_path)
    for before, now in zip(searched.trials, study.trials, strict=True):
        assert now.params == before.params
        assert kept(now) == before.user_attrs
        assert OUTSIDE not in now.user_attrs
        for name, distribution in now.distributions.items():
            assert distribution == {d.name: d.distribution() for d in new.space.dimensions}[name]
    study.sampler = make_sampler(TPE, after.space, 0)
    for _ in range(12):
        trial = study.ask()
        point = after.space.sample(trial)
        study.tell(trial, [0.5, 1.0])
        assert set(point) == {d.key for d in after.space.there(point)}
    assert frontier_slots(study, OBJECTIVES) != []


def test_a_trial_outside_of_a_narrower_space_stays_in_the_budget_and_says_so(old, searched, tmp_path):
    narrower = {"model": "bag,backbone", "rate": "tag(log, interval(1e-4, 1e-3))"}
    new = spec(narrower, ["task=embedded", "peft=none"])
    _, study = extended(old, new, tmp_path)
    found = {"inside": 0, "outside": 0}
    for before, now in zip(searched.trials, study.trials, strict=True):
        if now.state == TrialState.WAITING or SLOT not in now.user_attrs:
            continue
        assert now.user_attrs[SLOT] == before.user_attrs[SLOT]
        assert (now.state, now.values) == (before.state, before.values)
        outside = now.user_attrs.get(OUTSIDE, {})
        assert ("rate" in outside) == (before.params["rate"] > 1e-3)
        assert ("peft" in outside) == (before.params.get("model=backbone/peft") == "lora")
        assert ("rate" in now.params) == ("rate" not in outside)
        assert now.params["model"] == before.params["model"]
        found["outside" if outside else "inside"] += 1
    assert min(found.values()) > 0
    (waited,) = [trial for trial in study.trials if trial.number == 13]
    assert waited.state == TrialState.FAIL
    assert waited.user_attrs[REJECTED] == "not in the extended space: peft=lora"


def test_a_dimension_that_was_fixed_or_left_at_its_default_gets_what_each_trial_had(searched, old, tmp_path):
    new = spec({**FILE, "depth": "range(1,4)", "task": "embedded,other"}, [])
    _, study = extended(old, new, tmp_path)
    for trial in study.trials:
        slot = trial.user_attrs.get(SLOT)
        if slot is not None:
            assert trial.params["task"] == "embedded"
            has_record = trial.state == TrialState.COMPLETE
            assert trial.params.get("depth") == (slot % 3 + 1 if has_record else None)


def test_other_objectives_are_read_from_the_records(searched, old, tmp_path):
    objectives = {"model/params": "minimize", "val/accuracy": "maximize", "model/bytes": "minimize"}
    new = spec(objectives=objectives)
    _, study = extended(old, new, tmp_path)
    assert [d.name.lower() for d in study.directions] == list(objectives.values())
    assert [t.state for t in study.trials] == [t.state for t in searched.trials]
    for trial in study.trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [values_of(trial.user_attrs[SLOT])[key] for key in objectives]
        else:
            assert trial.values is None


def test_a_trial_that_lacks_an_objective_has_failed_with_the_reason_until_it_is_dropped(
    searched, old, tmp_path
):
    lacking = spec(objectives={"val/accuracy": "maximize", "val/loss": "minimize"})
    after, study = extended(old, lacking, tmp_path)
    for before, now in zip(searched.trials, study.trials, strict=True):
        if before.state == TrialState.COMPLETE:
            assert now.state == TrialState.FAIL
            assert "val/loss is not in the record" in now.user_attrs[REASON]
            assert now.user_attrs[SLOT] == before.user_attrs[SLOT]
    again, back = extended(after, replace(old, study=""), tmp_path)
    assert again.study == "s@3"
    assert [(t.state, t.values, t.params) for t in back.trials] == [
        (t.state, t.values, t.params) for t in searched.trials
    ]
    assert [t.user_attrs.get(REASON) for t in back.trials] == [
        t.user_attrs.get(REASON) for t in searched.trials
    ]


def test_a_record_that_is_gone_fails_its_trial_only_if_it_is_needed(searched, old, tmp_path):
    (trial_folder(tmp_path, 3) / "record.json").unlink()
    _, same = extended(old, spec({**FILE, "depth": "range(1,4)"}), tmp_path)
    assert same.trials[3].state == TrialState.COMPLETE
    _, other = extended(old, spec(objectives={"model/params": "minimize"}), tmp_path)
    assert other.trials[3].user_attrs[REASON].startswith("error: its record cannot be read")
    assert other.trials[2].values == [98.0]


def test_other_constraints_are_told_anew(searched, old, tmp_path):
    new = spec(constraints=["model/bytes <= 45"])
    after, study = extended(old, new, tmp_path)
    feasible = {
        t.user_attrs[SLOT]
        for t in study.trials
        if t.constraints and all(v <= 0 for v in t.constraints.values())
    }
    assert feasible == {0, 1, 2, 3, 4}
    assert set(frontier_slots(study, OBJECTIVES)) <= feasible
    _, back = extended(after, replace(old, study=""), tmp_path)
    assert all(not trial.constraints for trial in back.trials)


def test_decisions_stand_with_the_rules_under_which_they_were_taken(searched, old, tmp_path):
    new = spec(objectives={"model/params": "minimize"}, reference={"model/params": 50.0})
    after, _ = extended(old, new, tmp_path)
    _, last = extended(after, replace(new, study="", reference={}), tmp_path)
    seen = 0
    for trial in last.trials:
        if f"{DECISION}0" in trial.user_attrs:
            entry = trial.user_attrs[f"{DECISION}0"]
            assert entry[UNDER] == {"objectives": OBJECTIVES, "reference": {}}
            assert (entry["verdict"], entry["saw"]) == ("continue", "0")
            seen += 1
    assert seen > 5


def test_a_kill_in_the_middle_leaves_the_old_study_in_force_and_the_same_command_goes_on(
    searched, old, tmp_path, monkeypatch
):
    before = [(t.number, t.state, t.params, t.user_attrs) for t in searched.trials]
    old.save(tmp_path)
    new = spec(objectives={"model/params": "minimize"})
    for after in (0, 1, 7, 13):
        with monkeypatch.context() as patched:
            original, calls = optuna.Study.add_trial, itertools.count()

            def add(self, trial, original=original, calls=calls, after=after):
                if next(calls) == after:
                    raise KeyboardInterrupt
                original(self, trial)

            patched.setattr(optuna.Study, "add_trial", add)
            with pytest.raises(KeyboardInterrupt):
                extend(new, old, tmp_path)
        still = open_study(tmp_path, Sweep.load(tmp_path))
        assert [(t.number, t.state, t.params, t.user_attrs) for t in still.trials] == before
    _, study = extended(old, new, tmp_path)
    assert [t.number for t in study.trials] == list(range(14))


def test_names_count_up_and_the_study_itself_is_never_overwritten(searched, old):
    assert [next_name(name) for name in ("s", "s@2", "s@9", "a@b")] == ["s@2", "s@3", "s@10", "a@b@2"]
    with pytest.raises(ValueError, match="needs a name of its own, got s"):
        extend_study(searched, old, old, searched._storage, "s", lambda slot: None)


# What differs


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (spec(), []),
        (spec(dict(reversed(FILE.items()))), []),
        (spec(overrides=["task='embedded'"]), []),
        (
            spec({**FILE, "model": "bag,backbone,pretrained"}),
            ["dimension model: was bag,backbone, is bag,backbone,pretrained (+pretrained)"],
        ),
        (
            spec({**FILE, "model": "backbone,bag"}),
            ["dimension model: was bag,backbone, is backbone,bag (in another order)"],
        ),
        (
            spec({**FILE, "rate": "interval(1e-4,1e-2)", "depth": "1,2"}),
            ["dimension depth=1,2 is new", "dimension rate: was 0.0001..0.01 (log), is 0.0001..0.01"],
        ),
        (
            spec(overrides=["task=embedded", "model=bag", "x=1"]),
            [
                "dimension model=bag,backbone is gone",
                "dimension model=backbone/peft=none,lora is gone",
                "dimension model=backbone/peft=lora/peft.rank=1..8 is gone",
                "override model=bag is new",
                "override x=1 is new",
            ],
        ),
        (spec(overrides=["task=other"]), ["override task: was embedded, is other"]),
        (
            spec(objectives={"val/accuracy": "minimize", "model/params": "minimize"}),
            [
                "objective model/bytes:minimize is gone",
                "objective model/params:minimize is new",
                "objective val/accuracy was maximize, is minimize",
            ],
        ),
        (
            spec(objectives=dict(reversed(OBJECTIVES.items()))),
            [
                "objectives were in the order val/accuracy, model/bytes, are in the order model/bytes, "
                "val/accuracy"
            ],
        ),
        (spec(constraints=["model/bytes <= 1"]), ["constraint model/bytes <= 1 is new"]),
        (spec(reference={"val/accuracy": 0.5}), ["reference.val/accuracy: was not set, is 0.5"]),
        (spec(seed=3), ["seed: was 0, is 3"]),
        (spec(trials=99, workers=1, session="two", command=["x"]), []),
    ],
)
def test_each_line_says_what_was_and_what_is(new, lines, old):
    assert differences(old, new) == lines


def test_what_survives_the_file_makes_no_difference(old, tmp_path):
    old.save(tmp_path)
    assert differences(Sweep.load(tmp_path), old) == differences(old, Sweep.load(tmp_path)) == []


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (spec(overrides=["task=other"]), "task was embedded, is other: figures of different tasks"),
        (spec(overrides=["task=embedded", "task.train_size=9"]), "task.train_size was not set, is 9"),
        (spec({**FILE, "task.train_size": "9"}), "task.train_size was not set, is 9"),
    ],
)
def test_another_task_is_no_extension(new, said, old, searched, tmp_path):
    with pytest.raises(ConfigError, match=said):
        extend(new, old, tmp_path)
    assert optuna.study.get_all_study_names(searched._storage) == ["s"]


def test_a_task_that_comes_to_vary_or_to_be_fixed_is_an_extension(old):
    varied = spec({**FILE, "task": "embedded,other"}, [])
    check_extension(old, varied)
    check_extension(varied, old)
