"""Parts of the parent of a sweep, without trials."""

from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.search.attributes import OWNER, PAUSED, REASON, SLOT
from effnlp.search.early_stopping.moasha import moasha
from effnlp.search.space import parse
from effnlp.search.sweeper import _launch_phase, _say_failures, advise, check_space, specify
from effnlp.search.worker import FAILURES_TO_GIVE_UP, hopeless

TWO = {"val/accuracy": "maximize", "model/bytes": "minimize"}
LATENCY = {"infer/single_stream/latency_seconds_p50": "minimize"}


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["maximize", "minimize"])


def trial(study, slot, state=None, session="s", **attributes):
    made = study.ask()
    made.set_user_attr(OWNER, {"session": session})
    for key, value in attributes.items():
        made.set_user_attr(key, value)
    made.set_user_attr(SLOT, slot)
    if state == TrialState.COMPLETE:
        study.tell(made, [0.5, 1.0])
    elif state is not None:
        study.tell(made, state=state)
    return made


def spec(objectives=TWO, sampler="optuna.samplers.TPESampler", halving=None, workers=2):
    return SimpleNamespace(
        objectives=objectives, halving=halving or moasha(), sampler={"_target_": sampler}, workers=workers
    )


def specified(*overrides):
    from hydra import compose

    from effnlp.compose import hydra_context

    with hydra_context():
        config = compose("sweep", overrides=list(overrides), return_hydra_config=True)
    return specify(config, overrides, None)


def test_a_space_may_switch_early_stopping_off_and_the_command_line_on_again():
    assert specified("search/space=quickstart").halving is None
    assert specified("search/space=small_models").halving is not None
    typed = specified("search/space=quickstart", "search/early_stopping=moasha")
    assert typed.halving is not None


def test_nothing_is_advised_where_all_is_as_it_should_be():
    assert advise(spec()) == []


def test_a_sampler_that_learns_from_finished_trials_alone_is_warned_of_beside_early_stopping():
    (line,) = advise(spec(sampler="optuna.samplers.NSGAIISampler"))
    assert "NSGAIISampler learns only from finished trials" in line
    without = SimpleNamespace(**{**spec(sampler="optuna.samplers.NSGAIISampler").__dict__, "halving": None})
    assert advise(without) == []


def test_more_than_three_objectives_are_warned_of():
    four = {**TWO, "model/params": "minimize", "infer/single_stream/flops": "minimize"}
    (line,) = advise(spec(four))
    assert line.startswith(
        "more than 3 objectives: trials are stopped early by the first of them, val/accuracy"
    )
    assert "infer/single_stream/flops" not in line


def test_latency_stops_nothing_and_that_is_said():
    (line,) = advise(spec({**TWO, **LATENCY}))
    assert line == (
        "trials are stopped early by val/accuracy, model/bytes, "
        "and not by infer/single_stream/latency_seconds_p50"
    )
    (line,) = advise(spec(LATENCY))
    assert "none is stopped early" in line


class TerminatedWorkerError(RuntimeError):
    __module__ = "joblib.externals.loky.process_executor"


def returned(error=None):
    def value():
        if error:
            raise error

    class Return:
        return_value = property(lambda self: value())

    return Return()


def test_lost_workers_are_replaced_as_long_as_something_has_gone_on(study):
    running = trial(study, 0)
    launched = []

    def launch(jobs, first):
        launched.append(jobs)
        if len(launched) == 1:
            return [returned(TerminatedWorkerError("a worker died")), returned()]
        study.tell(running, [0.5, 1.0])
        return [returned(), returned()]

    _launch_phase(launch, ["search.name=x", "task=trec"], "trials", spec(), study)
    assert len(launched) == 2
    assert launched[0] == [
        ["search.name=x", f"search.worker={i}", "search.phase=trials"] for i in range(2)
    ]  # fmt: skip


def test_workers_that_only_die_are_not_launched_for_ever(study):
    trial(study, 0)
    launched = []

    def launch(jobs, first):
        launched.append(jobs)
        return [returned(TerminatedWorkerError("a worker died"))]

    with pytest.raises(TerminatedWorkerError):
        _launch_phase(launch, [], "trials", spec(), study)
    assert len(launched) == 2


def test_what_a_worker_raises_itself_is_not_tried_again(study):
    def launch(jobs, first):
        return [returned(ConfigError("no such task"))]

    with pytest.raises(ConfigError, match="no such task"):
        _launch_phase(launch, [], "trials", spec(), study)


def test_paused_trials_need_no_new_workers(study):
    trial(study, 0, **{PAUSED: 0})
    launched = []
    _launch_phase(lambda jobs, first: launched.append(jobs) or [], [], "trials", spec(), study)
    assert len(launched) == 1


def test_if_the_first_trials_of_a_start_all_fail_no_more_are_started(study):
    for slot in range(FAILURES_TO_GIVE_UP - 1):
        trial(study, slot, TrialState.FAIL, **{REASON: "error: no such file"})
    assert hopeless(study, "s") is None
    trial(study, 8, TrialState.FAIL, **{REASON: "nan: the loss is nan"})
    assert hopeless(study, "s") is None  # what one configuration did says nothing of the next
    trial(study, 9, TrialState.FAIL, **{REASON: "error: no such file"})
    assert hopeless(study, "s") == f"the first {FAILURES_TO_GIVE_UP} trials of this start all failed"
    assert hopeless(study, "another") is None
    trial(study, 10, TrialState.COMPLETE)
    assert hopeless(study, "s") is None


def test_failures_are_told_by_class_with_an_example(study, capsys):
    trial(study, 0, TrialState.FAIL, **{REASON: "oom: not enough memory\nmore"})
    trial(study, 1, TrialState.FAIL, **{REASON: "nan: the loss is nan"})
    trial(study, 2, TrialState.FAIL, **{REASON: "oom: not enough memory"})
    trial(
        study,
        3,
        TrialState.COMPLETE,
        attempts=[{"how": "killed", "why": "signal 9"}, {"how": "stopped", "why": "-"}],
    )
    _say_failures(study)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "3 of 4 trials failed:"
    assert lines[1].split() == ["2", "x", "oom", "trial", "000:", "not", "enough", "memory"]
    assert lines[2].split()[:3] == ["1", "x", "nan"]
    assert lines[3].split() == ["1", "x", "taken", "up", "again", "trial", "003:", "signal", "9"]


def test_an_illegal_corner_is_reported_with_its_overrides():
    space, fixed = parse({"model": "bag_of_ngrams,backbone", "peft": "none,bitfit"}, [])
    legal, refusals = check_space(space, fixed, None)
    assert legal >= 2
    (said,) = [refusal for refusal in refusals if "bag_of_ngrams" in refusal.partition("[")[2]]
    assert "[model=bag_of_ngrams peft=bitfit]" in said


def test_a_space_without_a_legal_point_is_refused_before_anything_runs():
    space, fixed = parse({"peft": "bitfit,lora"}, ["model=bag_of_ngrams"])
    with pytest.raises(ConfigError, match="no legal point among 2 of the space"):
        check_space(space, fixed, None)


def test_an_objective_of_classes_is_refused_where_numbers_are_scored_and_the_other_way_round():
    numbers = ("task=stsb", "finetuning=regress", "evaluation/quality=[regression]")
    with pytest.raises(
        ConfigError, match=r"val/accuracy is measured by .*\[regression\]; val/pearson:max goes"
    ):
        specified(*numbers)
    judged = specified(*numbers, "search.objectives=[val/pearson:max,model/bytes:min]")
    assert list(judged.objectives) == ["val/pearson", "model/bytes"]
    texts = ("model=decoder", "finetuning=causal_lm", "evaluation/quality=[language]")
    with pytest.raises(
        ConfigError, match=r"val/accuracy is measured by .*\[language\]; val/bits_per_byte:min goes"
    ):
        specified(*texts)
    assert list(specified(*texts, "search.objectives=[val/bits_per_byte:min]").objectives) == [
        "val/bits_per_byte"
    ]
    with pytest.raises(ConfigError, match=r"val/pearson is measured by evaluation/quality=regression"):
        specified("search.objectives=[val/pearson:max]")
