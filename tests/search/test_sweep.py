"""What a sweep owes, in one process; with processes and signals see test_processes.py."""

import json

import pytest
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.record import Record
from effnlp.search.attributes import ATTEMPTS, REASON, REJECTED
from effnlp.search.children import Ended
from effnlp.search.state import Sweep, frontier_slots, trial_folder
from effnlp.search.trial import BUSY
from effnlp.search.worker import DiskFullError

WIDTHS = "model.width=2,4,8,16"
BY_BYTES = "search.objectives=[val/accuracy:max,model/bytes:min]"


def record(sweep, number, replicate=0):
    return Record.load(trial_folder(sweep.folder, number, replicate))


def trials_run(calls):
    return [arguments[1].name for name, arguments in calls if name == "run_trial"]


def states(sweep):
    return [sweep.slots[number].state for number in sorted(sweep.slots)]


def test_there_are_exactly_as_many_trials_as_asked_and_all_differ(sweep_here, in_this_process):
    sweep = sweep_here(WIDTHS, BY_BYTES, trials=4, workers=2)
    assert sweep.code == 0
    assert sorted(sweep.slots) == [0, 1, 2, 3]
    assert trials_run(in_this_process) == ["000", "001", "002", "003"]
    assert {record(sweep, n).config["model"]["width"] for n in range(4)} == {2, 4, 8, 16}


def test_the_same_command_does_nothing_more_and_a_higher_budget_goes_on(sweep_here, in_this_process):
    sweep_here(WIDTHS, trials=2)
    in_this_process.clear()
    assert sweep_here(WIDTHS, trials=2).code == 0
    assert trials_run(in_this_process) == []
    assert sorted(sweep_here(WIDTHS, trials=3).slots) == [0, 1, 2]
    assert trials_run(in_this_process) == ["002"]


def test_what_is_illegal_or_known_is_outside_of_the_budget(sweep_here):
    sweep = sweep_here("peft=none,bitfit", WIDTHS, trials=4)
    assert len(sweep.slots) == 4
    assert set(states(sweep)) == {TrialState.COMPLETE}
    refusals = [t.user_attrs[REJECTED] for t in sweep.study.get_trials() if REJECTED in t.user_attrs]
    assert any("bitfit" in refusal for refusal in refusals)
    assert {record(sweep, n).choices["peft"] for n in range(4)} == {"none"}
    content = json.loads((sweep.folder / "sweep.json").read_text())
    assert content["outcome"]["rejected_proposals"] == len(refusals)


def test_an_exhausted_space_ends_with_every_point_tried_once_and_a_warning(sweep_here, caplog):
    sweep = sweep_here("model.width=2,4,8", trials=9)
    assert sweep.code == 0
    assert {record(sweep, n).config["model"]["width"] for n in sweep.slots} == {2, 4, 8}
    assert len(sweep.slots) == 3
    assert "exhausted" in caplog.text


def test_the_first_points_are_tried_first_in_their_order(sweep_here):
    first = "search.first=[{model.width: 8},{model.width: 2}]"
    sweep = sweep_here(WIDTHS, first, trials=3)
    assert [record(sweep, n).config["model"]["width"] for n in range(2)] == [8, 2]


def test_a_first_point_outside_of_the_space_is_refused_before_anything_runs(sweep_here, in_this_process):
    with pytest.raises(ConfigError, match=r"search\.first: model\.width=7 is not in the space"):
        sweep_here(WIDTHS, "search.first=[{model.width: 7}]")
    with pytest.raises(ConfigError, match=r"model\.widht is not a dimension.*did you mean 'model\.width'"):
        sweep_here(WIDTHS, "search.first=[{model.widht: 4}]")
    assert in_this_process == []


def test_a_failing_trial_does_not_end_the_sweep_and_is_named(sweep_here, capsys):
    sweep = sweep_here("finetuning.learning_rate=1e-2,1e30", trials=2)
    assert sweep.code == 0
    failed = [t for t in sweep.slots.values() if t.state == TrialState.FAIL]
    assert len(failed) == 1
    assert failed[0].user_attrs[REASON].startswith("nan: ")
    assert "1 of 2 trials failed" in capsys.readouterr().err
    assert frontier_slots(sweep.study, {"val/accuracy": "maximize", "x": "minimize"}) != []


def test_if_all_trials_fail_so_does_the_sweep_with_a_table_of_reasons(sweep_here, capsys):
    sweep = sweep_here(WIDTHS, "finetuning.learning_rate=1e30", trials=2)
    assert sweep.code == 1
    said = capsys.readouterr().err
    assert "2 of 2 trials failed" in said
    assert "2 x nan" in said
    assert "Traceback" not in said


def test_an_objective_that_no_record_has_fails_with_what_was_probably_meant(sweep_here, capsys):
    sweep = sweep_here(WIDTHS, "search.objectives=[val/acuracy:max]", trials=1)
    assert sweep.code == 1
    assert "did you mean 'val/accuracy'" in capsys.readouterr().err


def test_members_of_the_frontier_alone_are_tested_timed_and_kept(sweep_here):
    sweep = sweep_here(WIDTHS, BY_BYTES, trials=4)
    objectives = Sweep.load(sweep.folder).objectives
    frontier = frontier_slots(sweep.study, objectives)
    assert frontier
    for number in sweep.slots:
        is_member = number in frontier
        values = record(sweep, number).values
        assert ("test/accuracy" in values) == is_member
        assert ("infer/single_stream/latency_seconds_p50" in values) == is_member
        assert (trial_folder(sweep.folder, number) / "deployed.pt").exists() == is_member
        if is_member:
            assert values["infer/single_stream/is_quiet"] == 1


def test_a_latency_that_the_user_asks_for_or_seeks_is_measured_in_every_trial(sweep_here):
    from effnlp.search.state import measured_quietly

    sweep = sweep_here(
        WIDTHS, "evaluation.latency=true", "evaluation.scenarios.single_stream.requests=20",
        "evaluation.scenarios.fixed_batch.requests=2", trials=2,
    )  # fmt: skip
    for number in sweep.slots:
        assert "infer/single_stream/latency_seconds_p50" in record(sweep, number).values
    assert measured_quietly("infer/single_stream/energy_joules")
    assert measured_quietly("infer/fixed_batch/peak_memory_bytes")
    assert not measured_quietly("infer/single_stream/flops")
    assert not measured_quietly("cost/total/own/energy_joules")


def test_seeds_make_replicates_of_the_frontier_alone_where_asked(sweep_here):
    sweep = sweep_here(WIDTHS, BY_BYTES, "search.seeds=2", "search.replicate=frontier", trials=3)
    frontier = frontier_slots(sweep.study, Sweep.load(sweep.folder).objectives)
    replicates = sorted(path.name for path in (sweep.folder / "trials").glob("*-s*"))
    assert {f"{number:03d}-s1" for number in frontier} <= set(replicates)  # one that fell behind has one, too
    assert len(sweep.slots) == 3
    for number in frontier:
        one, other = record(sweep, number), record(sweep, number, 1)
        assert one.identity["config_hash"] == other.identity["config_hash"]
        assert (other.identity["seed_init"], other.identity["seed_order"]) == (1, 1)
        assert "test/accuracy" in other.values


def of_replicates(monkeypatch, ends):
    """Let the first calls for a replicate end in these ways, without running it."""
    from effnlp.search import worker

    call = worker.call_in_child

    def call_or_end(processes, function, arguments, *more):
        is_replicate = function.__name__ == "run_trial" and "-s" in arguments[1].name
        return ends.pop(0) if is_replicate and ends else call(processes, function, arguments, *more)

    monkeypatch.setattr(worker, "call_in_child", call_or_end)
    monkeypatch.setattr(worker, "WAIT_FOR_OTHERS_SECONDS", 0.0)


def test_a_replicate_that_another_process_still_runs_is_tried_again(sweep_here, monkeypatch):
    ends = [Ended(BUSY), Ended(BUSY)]
    of_replicates(monkeypatch, ends)
    sweep = sweep_here("search.seeds=2", trials=1)
    assert not ends
    assert record(sweep, 0, 1).status == "completed"


def test_a_replicate_without_room_ends_the_sweep_and_is_run_by_the_same_command(sweep_here, monkeypatch):
    full = [True]
    monkeypatch.setattr("effnlp.search.worker.is_full", lambda folder: bool(full))
    of_replicates(monkeypatch, [Ended(1)])
    with pytest.raises(DiskFullError, match="trial 000 with seed 1"):
        sweep_here("search.seeds=2", trials=1)
    full.clear()
    sweep = sweep_here("search.seeds=2", trials=1)
    assert sweep.code == 0
    assert record(sweep, 0, 1).status == "completed"


def test_else_every_finished_candidate_is_replicated_outside_of_the_budget_in_trials(sweep_here):
    sweep = sweep_here(WIDTHS, BY_BYTES, "search.seeds=2", trials=3)
    replicates = sorted(path.name for path in (sweep.folder / "trials").glob("*-s*"))
    assert replicates == [f"{number:03d}-s1" for number in range(3)]
    assert len(sweep.slots) == 3


def test_filters_stack_as_one_choice_of_the_space(sweep_here):
    sweep = sweep_here("data/filter=none,[exact_dedup,minhash_dedup]", trials=2)
    filters = [record(sweep, number).choices["data/filter"] for number in sweep.slots]
    assert sorted(filters) == ["exact_dedup+minhash_dedup", "none"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["model.width=2,4"], r"dimension model\.width: was 2,4,8,16, is 2,4 \(-8 -16\)"),
        (
            [WIDTHS, "search.objectives=[val/loss:min]"],
            "objective val/accuracy:maximize is gone; .*objective val/loss:minimize is new",
        ),
        ([WIDTHS, "finetuning.learning_rate=1e-3"], "override finetuning.learning_rate: was 1e-2, is 1e-3"),
    ],
)
def test_another_search_in_the_same_folder_is_refused_with_what_differs(changed, said, sweep_here):
    sweep_here(WIDTHS, trials=1)
    with pytest.raises(ConfigError, match=said):
        sweep_here(*changed, trials=1)


def test_the_order_of_what_is_typed_makes_no_other_search(sweep_here, in_this_process):
    sweep_here(WIDTHS, "trainer.batch_size=64", trials=1)
    assert sweep_here("trainer.batch_size=64", WIDTHS, trials=1).code == 0
    assert len(trials_run(in_this_process)) == 1


def test_two_sweeps_in_one_folder_at_once_are_refused(sweep_here, tmp_path):
    import filelock

    (tmp_path / "sweep").mkdir()
    with (
        filelock.FileLock(tmp_path / "sweep" / "sweep.lock"),
        pytest.raises(ConfigError, match="this sweep runs already"),
    ):
        sweep_here(WIDTHS)


def test_a_space_without_a_legal_point_is_refused_before_anything_runs(sweep_here, in_this_process):
    with pytest.raises(ConfigError, match="no legal point"):
        sweep_here("peft=bitfit", WIDTHS)
    assert in_this_process == []


@pytest.fixture
def kill_the_first(in_this_process, monkeypatch):
    """The process of trial 000 dies each time; how often it was tried."""
    from effnlp.search import worker
    from effnlp.search.children import Ended

    original, tried = worker.call_in_child, []

    def call(processes, function, arguments, *rest):
        if function.__name__ == "run_trial" and arguments[1].name == "000":
            tried.append(arguments)
            return Ended(-9)
        return original(processes, function, arguments, *rest)

    monkeypatch.setattr(worker, "call_in_child", call)
    return tried


def test_a_trial_whose_process_dies_is_tried_again_so_often_and_no_more(sweep_here, kill_the_first):
    sweep = sweep_here(WIDTHS, "search.retries=2", trials=2)
    assert len(kill_the_first) == 3
    assert [entry["how"] for entry in sweep.slots[0].user_attrs[ATTEMPTS]] == ["killed"] * 2
    assert states(sweep) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_whose_process_dies_is_failed_and_the_others_go_on(sweep_here, kill_the_first):
    sweep = sweep_here(WIDTHS, "search.retries=0", trials=3)
    assert states(sweep) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    killed = record(sweep, 0)
    assert (killed.status, killed.reason) == ("failed", "killed")
    assert "signal 9" in killed.message


def test_a_trial_left_by_an_interrupted_sweep_is_taken_up_in_its_slot(sweep_here, monkeypatch):
    from effnlp.search import worker
    from effnlp.search.children import Ended

    original = worker.call_in_child
    with monkeypatch.context() as patched:
        calls = []

        def stop_in_the_second(processes, function, arguments, *rest):
            calls.append(arguments)
            stops = len(calls) == 2
            return Ended(None, "stopped") if stops else original(processes, function, arguments, *rest)

        patched.setattr(worker, "call_in_child", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            sweep_here(WIDTHS, trials=3)
    resumed = sweep_here(WIDTHS, trials=3)
    assert sorted(resumed.slots) == [0, 1, 2]
    assert set(states(resumed)) == {TrialState.COMPLETE}
    assert len({record(resumed, n).identity["config_hash"] for n in range(3)}) == 3
    assert list(calls[1][0]) == record(resumed, 1).identity["overrides"]


def test_a_resumed_sweep_does_not_draw_the_same_points_again(sweep_here):
    continuum = ["finetuning.learning_rate=tag(log,interval(1e-3,1e-2))", "search/sampler=random"]
    sweep_here(*continuum, trials=2)
    sweep = sweep_here(*continuum, trials=4)
    assert [t for t in sweep.study.get_trials() if REJECTED in t.user_attrs] == []
    assert len(sweep.slots) == 4


def test_a_line_for_each_trial_says_what_it_was_and_what_came_of_it(sweep_here, caplog):
    caplog.set_level("INFO")
    sweep_here(WIDTHS, "trainer.batch_size=16,32", trials=2)
    lines = [line for line in caplog.messages if "  trial 0" in line]
    assert len(lines) == 2
    assert lines[0].startswith("1/2  trial 000  accuracy ")
    assert all(
        "model.width=" in line and line.index("model.width") < line.index("batch_size") for line in lines
    )
