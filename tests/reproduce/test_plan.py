import json
import shutil

import pytest

from effnlp import provenance
from effnlp.compose import ConfigError, compose, hydra_context
from effnlp.identity import config_hash
from effnlp.record import EVALUATOR, Record
from effnlp.reproduce.experiment import Experiment, Layer
from effnlp.reproduce.plan import Finder, bind, distinct, make_plans, overrides_of
from effnlp.reproduce.versions import versions_here

COMMON = ("task=docstrings", "model=bag_of_ngrams", "evaluation.latency=false")


def experiment(name="tried", rows=None, common=COMMON, seeds=((0, 0),), **more):
    layer = Layer("small", common=common, rows=rows or {"plain": []}, seeds=seeds, **more)
    return Experiment(name, "model", "", "", "", [], {"small": layer}, [])


def plans(*experiments):
    return make_plans([(each, "small") for each in experiments])


def test_a_run_is_and_lies_where_the_command_beside_it_puts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [plan] = plans(experiment(rows={"wide": ["model.width=24"]}, seeds=[(3, 4)]))
    [run] = plan.runs
    with hydra_context():
        by_hand = compose(run.command.split()[2:])
    assert run.composed == by_hand
    assert run.folder == tmp_path / by_hand.folder
    assert run.folder.name == f"{config_hash(by_hand.config)}-i3-o4"
    assert run.key == {"config_hash": config_hash(by_hand.config), "seed_init": 3, "seed_order": 4}


def test_seeds_are_named_once_where_initialisation_and_order_have_the_same():
    [plan] = plans(experiment(seeds=[(0, 0), (0, 1), (2, 2)]))
    assert list(plan.rows["plain"]) == ["0", "0-1", "2"]


def test_a_row_may_have_seeds_of_its_own():
    rows = {"plain": [], "often": ["model.width=8"]}
    [plan] = plans(experiment(rows=rows, seeds=[(1, 1)], seeds_of={"often": [(0, 0), (1, 1), (2, 3)]}))
    assert {row: list(runs) for row, runs in plan.rows.items()} == {
        "plain": ["1"],
        "often": ["0", "1", "2-3"],
    }


def test_a_layer_that_names_no_seeds_has_one():
    [plan] = plans(experiment(seeds=()))
    assert list(plan.rows["plain"]) == ["0"]


def test_what_rows_and_experiments_share_is_one_run():
    first = experiment("first", {"a": ["model.width=24"], "b": ["model.width=8"]})
    second = experiment("second", {"c": ["model.width=8.0"], "d": ["model.width=4"]})
    made = plans(first, second)
    assert made[0].rows["b"]["0"] is made[1].rows["c"]["0"]
    assert [len(plan.runs) for plan in made] == [2, 2]
    assert len(distinct(made)) == 3
    assert [run.group for run in distinct(made)] == ["first", "first", "second"]


def test_what_a_row_says_itself_takes_the_place_of_what_all_rows_say():
    assert overrides_of(["peft=lora", "a.b=1"], ["a.b=2"]) == ["peft=lora", "a.b=2"]
    assert overrides_of(["peft=lora", "+a.b=1"], []) == ["peft=lora", "+a.b=1"]
    with pytest.raises(ConfigError, match="given twice"):
        overrides_of(["a.b=1", "a.b=2"], [])


def test_a_row_may_name_the_run_of_a_row_above_it_with_its_own_seeds():
    rows = {"first": ["model.width=8"], "second": ["evaluation.reference=@{first}"]}
    [plan] = plans(experiment(rows=rows, seeds=[(0, 0), (1, 2)]))
    for seed in ("0", "1-2"):
        first, second = plan.rows["first"][seed], plan.rows["second"][seed]
        assert first.after == ()
        assert second.after == (first.folder,)
        assert second.composed.config["evaluation"]["reference"] == first.composed.folder


@pytest.mark.parametrize("row", ["secnd", "later", "first"])
def test_a_row_names_no_other_than_those_above_it(row):
    rows = {"second": [], "first": [f"evaluation.reference=@{{{row}}}"], "later": []}
    with pytest.raises(ConfigError, match=rf"row first: @\{{{row}\}} is no row above this one"):
        plans(experiment(rows=rows))


@pytest.mark.parametrize(
    "override", ["seed.init=1", "search.trials=3", "hydra.run.dir=x", "hydra/launcher=y"]
)
def test_a_row_has_overrides_of_a_run_alone(override):
    with pytest.raises(ConfigError, match=override):
        overrides_of([], [override])


def test_a_row_is_one_run_for_each_seed():
    with pytest.raises(ConfigError, match=r"model\.width=4,8 has several values"):
        overrides_of(["model.width=4,8"], [])


def test_everything_that_makes_no_run_is_said_at_once_with_experiment_layer_and_row():
    wrong = {"good": [], "unknown": ["peft=lroa"], "illegal": ["peft=lora"], "misspelt": ["model.widht=4"]}
    with pytest.raises(ConfigError) as caught:
        plans(experiment("one", wrong), experiment("two", {"other": ["model=nothing"]}))
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "one, layer small, row unknown",
        "one, layer small, row illegal",
        "one, layer small, row misspelt",
        "two, layer small, row other",
    ]
    assert "did you mean 'lora'" in lines[0]
    assert "peft=lora" in lines[1]
    assert "did you mean 'width'" in lines[2]


def test_a_value_that_does_not_fit_is_said_before_anything_runs():
    [plan] = plans(experiment(rows={"plain": [], "odd": ["model.width=wide"]}))
    with pytest.raises(ConfigError, match=r"tried: odd, seed 0: model\.width must be .* got 'wide'"):
        bind(plan.runs)
    bind([plan.rows["plain"]["0"]])


# What is there


@pytest.fixture
def done(texts_file, private_folders, tmp_path, monkeypatch):
    """A planned run, and the record of one that was done, in its folder."""
    monkeypatch.chdir(tmp_path)
    common = ["task=files", f"task.path={texts_file}", "model=bag_of_ngrams"]
    [plan] = plans(experiment(common=common))
    [run] = plan.runs
    texts = Finder().fingerprint(run.composed.config["task"])
    identity = {**run.key, "task_fingerprint": texts, "evaluator": EVALUATOR}
    run.folder.mkdir(parents=True)
    Record("completed", identity, run.composed.chosen, run.composed.config, {"val/accuracy": 0.5}).save(
        run.folder
    )
    return run


def rewritten(run, **identity):
    record = Record.load(run.folder)
    record.identity.update(identity)
    record.save(run.folder)


def test_the_record_of_the_very_run_is_found(done):
    found = Finder()(done)
    assert found.record is not None
    assert found.record.identity["evaluator"] == EVALUATOR
    assert found.remark is None


@pytest.mark.parametrize("what", [{"config_hash": "0" * 10}, {"seed_init": 7}, {"seed_order": 7}])
def test_a_record_of_another_run_is_none(done, what):
    rewritten(done, **what)
    assert Finder()(done).record is None


def test_a_failed_run_and_a_damaged_record_are_none(done):
    record = Record.load(done.folder)
    record.status = "failed"
    record.save(done.folder)
    assert Finder()(done).record is None
    (done.folder / "record.json").write_text("{")
    assert "not a record" in Finder()(done).remark


def test_a_record_of_another_evaluator_is_refused_unless_it_is_asked_for_and_named_then(done):
    rewritten(done, evaluator="0")
    refused, used = Finder()(done), Finder(anyway=True)(done)
    assert refused.record is None
    assert used.record is not None
    for found in (refused, used):
        assert f"measured by evaluator 0, this one is {EVALUATOR}" in found.remark
    assert "used all the same" in used.remark


def test_a_record_of_texts_that_have_changed_since_is_none(done, texts_file):
    texts_file.write_text(texts_file.read_text() + "one more text,good\n")
    found = Finder(anyway=True)(done)
    assert found.record is None
    assert "other texts" in found.remark
    assert not found.is_barred


def test_a_record_whose_texts_are_gone_is_neither_used_nor_to_be_written_over(done, texts_file):
    texts_file.unlink()
    found = Finder()(done)
    assert found.record is None
    assert found.is_barred
    assert "cannot be told" in found.remark


def test_texts_are_read_once_and_only_where_a_record_may_be_of_them(done, monkeypatch):
    import effnlp.data.prepare

    read, load = [], effnlp.data.prepare.load_task
    monkeypatch.setattr(effnlp.data.prepare, "load_task", lambda *a: read.append(a) or load(*a))
    find = Finder()
    assert find(done).record is not None
    assert find(done).record is not None
    assert len(read) == 1
    shutil.rmtree(done.folder)
    assert Finder()(done).record is None
    assert len(read) == 1


def test_a_plan_can_be_told_to_others(done):
    assert json.loads(json.dumps(done.composed.config)) == done.composed.config


def test_on_request_a_record_that_other_packages_made_stands_for_no_run(done):
    rewritten(done, **versions_here_as_identity())
    assert Finder(renew=True)(done).record is not None
    rewritten(done, packages={**provenance.versions(), "torch": "1.0"})
    assert Finder()(done).record is not None
    found = Finder(renew=True)(done)
    assert found.record is None
    assert found.remark == f"its record was made with torch 1.0, here {provenance.versions()['torch']}"


def versions_here_as_identity():
    here = versions_here()
    own = {name: here[name] for name in ("effnlp", "evaluator", "python")}
    return {**own, "packages": provenance.versions()}
