"""Whole sweeps in one process: with other samplers, constraints, a warm start, an extension."""

import json
import shutil

import pytest
from optuna.trial import TrialState

from effnlp.compose import ConfigError
from effnlp.record import Record
from effnlp.search.attributes import SLOT
from effnlp.search.state import Sweep, frontier_slots, trial_folder

WIDTHS = "model.width=2,4,8"
BY_BYTES = "search.objectives=[val/accuracy:max,model/bytes:min]"
BY_PARAMS = "search.objectives=[val/accuracy:max,model/params:min]"


def widths(sweep):
    return [
        Record.load(trial_folder(sweep.folder, slot)).config["model"]["width"] for slot in sorted(sweep.slots)
    ]


@pytest.mark.parametrize(
    "sampler",
    [
        "grid",
        pytest.param("quasi_random", marks=pytest.mark.slow),
        pytest.param("nsga2", marks=pytest.mark.slow),
    ],
)
def test_any_sampler_works_off_a_small_space_and_goes_on_after_a_restart(
    sampler, sweep_here, in_this_process
):
    sweep = sweep_here(WIDTHS, BY_BYTES, f"search/sampler={sampler}", trials=2)
    resumed = sweep_here(WIDTHS, BY_BYTES, f"search/sampler={sampler}", trials=9)
    assert (sweep.code, resumed.code) == (0, 0)
    assert sorted(widths(resumed)) == [2, 4, 8]


@pytest.mark.slow
def test_the_frontier_holds_only_what_satisfies_the_constraints(sweep_here):
    free = sweep_here(WIDTHS, BY_BYTES, "search/early_stopping=none", trials=3)
    sizes = sorted(Record.load(trial_folder(free.folder, slot)).values["model/bytes"] for slot in free.slots)
    shutil.rmtree(free.folder)
    bound = f'search.constraints=["model/bytes <= {sizes[1]}"]'
    sweep = sweep_here(WIDTHS, BY_BYTES, bound, "search/early_stopping=none", trials=3)
    feasible = {
        slot for slot in sweep.slots
        if Record.load(trial_folder(sweep.folder, slot)).values["model/bytes"] <= sizes[1]
    }  # fmt: skip
    assert len(feasible) == 2
    frontier = frontier_slots(sweep.study, Sweep.load(sweep.folder).objectives)
    assert frontier
    assert set(frontier) <= feasible


def test_a_warm_start_tries_the_best_of_another_search_first(sweep_here, tmp_path):
    first = sweep_here(WIDTHS, BY_BYTES, trials=3)
    best = frontier_slots(first.study, Sweep.load(first.folder).objectives)
    known = dict(zip(sorted(first.slots), widths(first), strict=True))
    shutil.move(first.folder, tmp_path / "small")
    sweep = sweep_here(
        "model.width=2,4,8,16,32", "model.ngrams=1,2", BY_BYTES, f"search.warm_start.from={tmp_path / 'small'}",
        "search.warm_start.points=2", trials=3,
    )  # fmt: skip
    taken = min(2, len(best))
    assert set(widths(sweep)[:taken]) <= {known[slot] for slot in best}
    outcome = json.loads((sweep.folder / "sweep.json").read_text())["outcome"]["transfer"]
    assert outcome["points"] == 2
    assert outcome["overlap"] == "2 points with model.width, model.ngrams"
    assert outcome["spent"] > 0


def test_an_extended_search_goes_on_with_all_that_was_tried(sweep_here, in_this_process):
    first = sweep_here("model.width=2,4", BY_BYTES, trials=2)
    with pytest.raises(
        ConfigError, match=r"dimension model\.width: was 2,4, is 2,4,8 \(\+8\).*search\.extend=true"
    ):
        sweep_here(WIDTHS, BY_PARAMS, trials=3)
    in_this_process.clear()
    sweep = sweep_here(WIDTHS, BY_PARAMS, "search.extend=true", trials=3)
    assert [arguments[1].name for name, arguments in in_this_process if name == "run_trial"] == ["002"]
    assert widths(sweep)[:2] == widths(first)
    assert widths(sweep)[2] == 8
    assert Sweep.load(sweep.folder).study == sweep.study.study_name != first.study.study_name
    for slot, trial in sweep.slots.items():
        assert trial.user_attrs[SLOT] == slot
        if trial.state == TrialState.COMPLETE:
            values = Record.load(trial_folder(sweep.folder, slot)).values
            assert trial.values == [values["val/accuracy"], values["model/params"]]
    in_this_process.clear()
    assert sweep_here(WIDTHS, BY_PARAMS, trials=3).code == 0
    assert in_this_process == [] or {name for name, _ in in_this_process} == {"measure_final"}
