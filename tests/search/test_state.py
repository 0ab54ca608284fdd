import pytest
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.record import COMPLETED, Record
from effnlp.search.attributes import SLOT, VALUES, slots
from effnlp.search.extend import differences
from effnlp.search.space import parse
from effnlp.search.state import (
    Sweep,
    frontier_slots,
    locked,
    objective_values,
    open_study,
    parse_objectives,
    trial_folder,
)

OBJECTIVES = {"val/accuracy": "maximize", "model/bytes": "minimize"}


@pytest.fixture
def sweep():
    space, fixed = parse({"model": "a,b", "model=b": {"x": "interval(0.0,1.0)"}}, ["trainer.epochs=1"])
    return Sweep(
        name="s", command=["model=a,b"], objectives=dict(OBJECTIVES), fixed=fixed,
        dimensions=[dict(d.__dict__) for d in space.dimensions], first=[], trials=8, workers=2, threads=1,
        seeds=1, seed=0, sampler={"_target_": "optuna.samplers.RandomSampler", "_partial_": True}, test=True,
        config_dir=None, session="one", parent=(1, "here"),
    )  # fmt: skip


def test_what_is_saved_is_what_is_loaded_with_its_space(sweep, tmp_path):
    sweep.save(tmp_path)
    loaded = Sweep.load(tmp_path)
    assert differences(loaded, sweep) == differences(sweep, loaded) == []
    assert loaded.space == sweep.space
    assert loaded.parent == (1, "here")


def test_a_higher_budget_or_other_workers_make_no_other_search(sweep):
    later = Sweep(**{**sweep.__dict__, "trials": 99, "workers": 1, "session": "two", "command": []})
    assert differences(sweep, later) == []


def test_the_order_of_objectives_is_that_of_the_study_and_matters(sweep):
    turned = Sweep(**{**sweep.__dict__, "objectives": dict(reversed(OBJECTIVES.items()))})
    assert [line.partition(" ")[0] for line in differences(sweep, turned)] == ["objectives"]


def test_objectives_are_keys_with_a_direction():
    assert parse_objectives(["val/accuracy:max", "infer/x/flops:min"]) == {
        "val/accuracy": "maximize",
        "infer/x/flops": "minimize",
    }


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["val/accuracy"], "KEY:max or KEY:min, got 'val/accuracy'"),
        (["val/accuracy:up"], "KEY:max or KEY:min, got 'val/accuracy:up'"),
        ([":max"], "KEY:max or KEY:min"),
        (["a:max", "a:min"], "names a twice"),
        ([], "is empty"),
        (["test/accuracy:max"], "nothing selects on the test split; val/accuracy is meant for it"),
    ],
)
def test_other_objectives_are_refused(texts, said):
    with pytest.raises(ConfigError, match=said):
        parse_objectives(texts)


def test_a_record_without_an_objective_says_why(sweep):
    record = Record(COMPLETED, {})
    record.put({"val/accuracy": 0.5, "model/bytes": None}, {"model/bytes": "it was not stored"})
    with pytest.raises(KeyError, match="model/bytes is not in the record: it was not stored"):
        objective_values(record, OBJECTIVES)
    with pytest.raises(KeyError, match="did you mean 'val/accuracy'"):
        objective_values(record, {"val/acuracy": "maximize"})
    record.put({"model/bytes": 9})
    assert objective_values(record, OBJECTIVES) == [0.5, 9.0]


def take(study, sweep, slot, values=None, state=TrialState.COMPLETE):
    trial = study.ask()
    sweep.space.sample(trial)
    trial.set_user_attr(SLOT, slot)
    study.tell(trial, values, state=state)


def test_the_frontier_holds_completed_trials_that_no_other_dominates(sweep, tmp_path):
    study = open_study(tmp_path, sweep)
    assert frontier_slots(study, OBJECTIVES) == []
    for slot, values in enumerate([(0.9, 10), (0.8, 5), (0.8, 6), (0.9, 10), (0.1, 99)]):
        take(study, sweep, slot, values)
    take(study, sweep, 5, state=TrialState.FAIL)
    assert frontier_slots(study, OBJECTIVES) == [0, 1, 3]


def test_a_trial_with_other_seeds_is_on_the_frontier_by_its_means(sweep, tmp_path):
    study = open_study(tmp_path, sweep)
    for slot, values in enumerate([(0.9, 10), (0.8, 10), (0.7, 5)]):
        take(study, sweep, slot, values)
    assert frontier_slots(study, OBJECTIVES) == [0, 2]
    study.set_user_attr(f"{VALUES}:000-s1", [0.6, 10])  # lucky: 0.75 in the mean
    assert frontier_slots(study, OBJECTIVES) == [1, 2]
    study.set_user_attr(f"{VALUES}:001-s1", [0.6, 10])
    study.set_user_attr(f"{VALUES}:001-s2", [0.6, 10])
    assert frontier_slots(study, OBJECTIVES) == [0, 2]


def test_rejected_proposals_have_no_slot(sweep, tmp_path):
    study = open_study(tmp_path, sweep)
    study.tell(study.ask(), state=TrialState.FAIL)
    take(study, sweep, 0, (0.5, 1))
    assert list(slots(study)) == [0]


def test_a_study_opened_again_is_the_same_and_draws_other_points(sweep, tmp_path):
    study = open_study(tmp_path, sweep)
    take(study, sweep, 0, (0.5, 1))
    drawn = []
    for worker in (0, 1):
        again = open_study(tmp_path, sweep, worker)
        assert [t.values for t in slots(again).values()] == [[0.5, 1]]
        drawn.append([again.sampler._rng.rng.random() for _ in range(3)])
    first = open_study(tmp_path / "..", Sweep(**{**sweep.__dict__, "name": "other"}))
    drawn.append([first.sampler._rng.rng.random() for _ in range(3)])
    assert len({tuple(numbers) for numbers in drawn}) == 3


def test_only_one_is_alone_with_the_state(sweep, tmp_path, most_at_once):
    def enter(held):
        for _ in range(20):
            with locked(tmp_path, sweep), held():
                pass

    assert most_at_once(enter) == 1


def test_folders_sort_as_their_numbers_do(tmp_path):
    names = [trial_folder(tmp_path, number).name for number in range(120)]
    assert names == sorted(names)
    assert trial_folder(tmp_path, 7, 2).name == "007-s2"
