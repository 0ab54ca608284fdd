import random

import pytest

from effnlp.record import COMPLETED, FAILED, STOPPED, Record
from effnlp.report.candidates import pool
from effnlp.report.read import Loaded, Reading, read_records
from effnlp.report.summary import (
    choice_counts,
    described,
    frontier,
    label,
    overlap,
    parse_objective,
    short_names,
    spent,
    summarise,
    within_noise,
)

ACCURACY, FLOPS = "val/accuracy", "infer/single_stream/flops"
OBJECTIVES = {ACCURACY: "maximize", FLOPS: "minimize"}


@pytest.fixture
def summary(runs):
    return summarise(read_records([runs]))


@pytest.fixture
def docstrings(summary):
    return next(section for section in summary.sections if section.task == "docstrings")


def reading_of(*records, tmp_path):
    return Reading([Loaded(record, tmp_path / str(number)) for number, record in enumerate(records)])


def beats(a, b):
    pairs = [
        (a.values[ACCURACY].mean, b.values[ACCURACY].mean),
        (-a.values[FLOPS].mean, -b.values[FLOPS].mean),
    ]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def test_nobody_on_the_frontier_is_beaten_and_everybody_off_it_is(docstrings):
    lacking = [candidate for candidate, _ in docstrings.lacking]
    ranked = [candidate for candidate in docstrings.candidates if candidate not in lacking]
    assert 1 < len(docstrings.frontier) < len(ranked)
    for candidate in ranked:
        beaten = any(beats(other, candidate) for other in ranked)
        assert beaten == (candidate not in docstrings.frontier)


def test_the_frontier_runs_from_the_best_quality_to_the_least_cost(docstrings):
    accuracies = [candidate.values[ACCURACY].mean for candidate in docstrings.frontier]
    flops = [candidate.values[FLOPS].mean for candidate in docstrings.frontier]
    assert accuracies == sorted(accuracies, reverse=True)
    assert flops == sorted(flops, reverse=True)


def test_the_summary_does_not_depend_on_the_order_of_the_records(runs):
    reading = read_records([runs])
    shuffled = random.Random(1).sample(reading.loaded, len(reading.loaded))
    first, second = summarise(reading), summarise(Reading(shuffled, sweeps=reading.sweeps))
    assert [s.frontier for s in first.sections] == [s.frontier for s in second.sections]
    assert [(e.stage, e.quantity, pytest.approx(e.amount)) for e in first.spent] == [
        (e.stage, e.quantity, e.amount) for e in second.spent
    ]


def test_tasks_of_other_texts_or_splits_are_never_pooled_even_under_one_name(make_record, tmp_path):
    records = [make_record(fingerprint="a" * 16), make_record(fingerprint="b" * 16)]
    records[1].identity["config_hash"] = records[0].identity["config_hash"]
    sections = summarise(reading_of(*records, tmp_path=tmp_path)).sections
    assert [section.fingerprint for section in sections] == ["a" * 16, "b" * 16]
    assert all(len(section.candidates) == 1 for section in sections)


def test_figures_of_another_evaluator_are_never_pooled(make_record, tmp_path):
    records = [make_record(seed=0), make_record(seed=1)]
    records[1].identity["evaluator"] = "2"
    assert len(summarise(reading_of(*records, tmp_path=tmp_path)).sections) == 2


def test_who_lacks_an_objective_is_listed_with_the_reason_and_not_ranked(docstrings):
    ((candidate, missing),) = docstrings.lacking
    assert missing == {FLOPS: "aten::mystery has no formula"}
    assert candidate not in docstrings.frontier


def test_measured_and_estimated_energy_never_share_an_axis(make_record, tmp_path):
    key = "infer/single_stream/energy_joules"
    records = [make_record(energy="measured"), make_record(peft="lora", energy="estimated")]
    reading = reading_of(*records, tmp_path=tmp_path)
    (section,) = summarise(reading, {ACCURACY: "maximize", key: "minimize"}).sections
    assert list(section.objectives) == [ACCURACY, f"{key} [measured]"]
    ((_, missing),) = section.lacking
    assert missing == {f"{key} [measured]": "estimated here; the two kinds never share an axis"}
    (other,) = summarise(reading, {ACCURACY: "maximize", f"{key} [estimated]": "minimize"}).sections
    assert [candidate.choices["peft"] for candidate in other.frontier] == ["lora"]


def test_one_three_and_reversed_objectives_are_ranked_too(runs):
    reading = read_records([runs / "multirun/quickstart"])
    best = max(
        (run for run in reading.loaded if run.record.values.get(ACCURACY)),
        key=lambda run: run.record.values[ACCURACY],
    )
    (section,) = summarise(reading, {ACCURACY: "maximize"}).sections
    assert [candidate.runs[0].folder for candidate in section.frontier] == [best.folder]
    (turned,) = summarise(reading, {ACCURACY: "minimize"}).sections
    assert turned.frontier != section.frontier
    two = summarise(reading, OBJECTIVES).sections[0].frontier
    three = summarise(reading, OBJECTIVES | {"model/bytes": "minimize"}).sections[0].frontier
    assert {candidate.config_hash for candidate in two} <= {candidate.config_hash for candidate in three}


def test_an_objective_that_no_record_knows_is_refused_with_near_ones(runs):
    with pytest.raises(ValueError, match=r"no record has the key val/acuracy; near: val/accuracy"):
        summarise(read_records([runs]), {"val/acuracy": "maximize"})


def test_the_objectives_of_a_sweep_are_used_and_one_that_differs_is_mentioned(make_record, tmp_path):
    reading = reading_of(make_record(), tmp_path=tmp_path)
    reading.sweeps[tmp_path / "a"] = {"objectives": {ACCURACY: "maximize", "model/bytes": "minimize"}}
    reading.sweeps[tmp_path / "b"] = {"objectives": {ACCURACY: "maximize"}}
    summary = summarise(reading)
    assert list(summary.sections[0].objectives) == [ACCURACY, "model/bytes"]
    assert f"{tmp_path / 'b'} differ" in summary.notes[0]
    assert list(summarise(reading, {FLOPS: "minimize"}).sections[0].objectives) == [FLOPS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val/accuracy", ("val/accuracy", "maximize")),
        ("model/bytes", ("model/bytes", "minimize")),
        ("val/accuracy:min", ("val/accuracy", "minimize")),
        ("model/bytes:maximize", ("model/bytes", "maximize")),
    ],
)
def test_an_objective_is_a_key_and_perhaps_a_direction(text, expected):
    assert parse_objective(text) == expected


@pytest.mark.parametrize("text", ["", ":max", "val/accuracy:up", "val/accuracy:"])
def test_an_objective_that_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="an objective is KEY, KEY:max or KEY:min, got"):
        parse_objective(text)


def test_failed_runs_are_counted_and_charged_but_not_ranked(summary, docstrings):
    assert sorted(run.record.reason for run in summary.failures) == ["nan", "nan", "oom"]
    failed = {run.folder for run in summary.failures}
    assert not failed & {run.folder for candidate in docstrings.candidates for run in candidate.runs}
    total = next(entry for entry in summary.spent if (entry.stage, entry.quantity) == ("total", "seconds"))
    assert total.amount == pytest.approx(
        sum(run.record.values.get("cost/total/own/seconds", 0) for run in summary.reading.loaded)
    )


def test_costs_are_summed_by_stage_peaks_are_maxima_and_reuse_is_not_charged_twice(tmp_path):
    records = [Record(FAILED, {}), Record(FAILED, {})]
    for number, record in enumerate(records, start=1):
        record.put(
            {
                "cost/finetuning/own/seconds": number,
                "cost/finetuning/own/peak_memory_bytes": 10 * number,
                "cost/data/amortised/seconds": 100,
                "cost/strange": 1,
            }
        )
    entries = spent(reading_of(*records, tmp_path=tmp_path).loaded)
    assert {(e.stage, e.quantity): (e.amount, e.runs) for e in entries} == {
        ("finetuning", "seconds"): (3.0, 2),
        ("finetuning", "peak_memory_bytes"): (20.0, 2),
    }


def test_measured_and_estimated_joules_are_added_up_apart(make_record, tmp_path):
    records = [make_record(energy="measured"), make_record(peft="lora", energy="estimated")]
    found = spent(reading_of(*records, tmp_path=tmp_path).loaded)
    kinds = {entry.quantity: entry.runs for entry in found if "joules" in entry.quantity}
    assert kinds == {"energy_joules [measured]": 1, "energy_joules [estimated]": 1}


def test_each_ranked_candidate_is_counted_under_one_choice_of_each_group(docstrings):
    counts = choice_counts(docstrings)
    assert set(counts) == {"model", "peft", "compression/pruning", "compression/quantization"}
    ranked = len(docstrings.candidates) - len(docstrings.lacking)
    for choices in counts.values():
        assert sum(on for on, _ in choices.values()) == len(docstrings.frontier)
        assert sum(tried for _, tried in choices.values()) == ranked
        assert all(on <= tried for on, tried in choices.values())


def test_a_part_that_only_one_model_has_is_counted_among_its_own(make_record, tmp_path):
    records = [make_record("bag_of_ngrams"), make_record("backbone"), make_record("backbone", "lora")]
    for record in records[1:]:
        record.choices["model/mixer"] = "attention"
    (section,) = summarise(reading_of(*records, tmp_path=tmp_path)).sections
    assert "model/mixer" not in section.groups  # wherever there is a mixer, it is the same
    records[2].choices["model/mixer"] = "performer"
    (section,) = summarise(reading_of(*records, tmp_path=tmp_path)).sections
    assert {choice: tried for choice, (_, tried) in choice_counts(section)["model/mixer"].items()} == {
        "attention": 1, "performer": 1,
    }  # fmt: skip


def test_nested_identities_are_described_in_words():
    machine = {"cpu": "Example", "cores": 2, "memory_bytes": 8e9, "gpus": [], "gpu": None}
    assert described(machine) == "cpu Example, cores 2, 8.00 GB"


def test_labels_tell_candidates_apart_by_what_differs(docstrings):
    labels = [label(candidate, docstrings) for candidate in docstrings.candidates]
    assert len(set(labels)) == len(labels)
    assert not any("none" in text or "shuffle" in text for text in labels)
    assert any("peft.rank=64" in text for text in labels)


def test_groups_are_called_by_their_last_part_where_that_is_clear():
    assert short_names(["model", "compression/pruning", "a/x", "b/x"]) == {
        "model": "model", "compression/pruning": "pruning", "a/x": "a/x", "b/x": "b/x",
    }  # fmt: skip


def test_without_a_completed_run_there_is_no_section_and_no_error(tmp_path):
    summary = summarise(reading_of(Record(FAILED, {}, reason="oom"), tmp_path=tmp_path))
    assert summary.sections == []
    assert len(summary.failures) == 1


def test_when_no_candidate_has_all_objectives_the_frontier_is_empty(make_record, tmp_path):
    candidates = pool(reading_of(make_record(), tmp_path=tmp_path).loaded)
    on, lacking = frontier(candidates, {"val/unheard_of": "maximize"})
    assert on == []
    assert lacking == [(candidates[0], {"val/unheard_of": "not recorded"})]


# Early stopping, constraints, noise


@pytest.fixture
def searched_section(searched):
    (section,) = summarise(read_records([searched])).sections
    return section


def test_stopped_runs_are_neither_candidates_nor_failures_but_what_they_cost_counts(searched):
    reading = read_records([searched])
    summary = summarise(reading)
    (section,) = summary.sections
    assert len(summary.stopped) == len(section.stopped) == 5
    assert {run.record.status for run in summary.failures} == {FAILED}
    assert {run.record.status for c in section.candidates for run in c.runs} == {COMPLETED}
    total = next(entry for entry in summary.spent if (entry.stage, entry.quantity) == ("total", "seconds"))
    assert total.runs == 20
    without = spent(run for run in reading.loaded if run.record.status != STOPPED)
    assert total.amount > next(e for e in without if (e.stage, e.quantity) == ("total", "seconds")).amount


def test_a_stopped_run_is_on_no_frontier_even_if_it_was_the_best_at_its_rung(searched, save, make_record):
    best = make_record("pretrained", "lora")
    best.status = STOPPED
    best.put({ACCURACY: 0.999, FLOPS: 1.0})
    save(best, "multirun/searched/trials/020")
    (section,) = summarise(read_records([searched])).sections
    assert all(c.values[ACCURACY].mean < 0.999 for c in section.frontier)
    assert len(section.stopped) == 6


def test_choices_that_were_always_stopped_count_as_tried(searched_section):
    assert choice_counts(searched_section)["peft"] == {"none": (5, 10), "bitfit": (0, 5)}


def test_a_stopped_run_whose_record_lost_its_task_stands_with_its_sweep(searched, save):
    lost = Record(STOPPED, {"overrides": ["model=backbone"]}, message="rung 1 of 2: position 9 of 9")
    save(lost, "multirun/searched/trials/021")
    (section,) = summarise(read_records([searched])).sections
    assert len(section.stopped) == 6


def test_who_violates_a_constraint_is_listed_and_not_ranked(searched_section):
    section = searched_section
    assert len(section.infeasible) == 2
    assert len(section.ranked) == len(section.candidates) - 2 == 10
    for candidate, violated in section.infeasible:
        assert candidate not in section.frontier
        (text,) = violated
        assert text.startswith("model/bytes < ")
        assert candidate.values["model/bytes"].mean >= max(
            c.values["model/bytes"].mean for c in section.ranked
        )
    for candidate in section.ranked:
        assert any(beats(other, candidate) for other in section.ranked) == (candidate not in section.frontier)


def test_who_lacks_what_a_constraint_is_about_cannot_be_ranked(make_record, tmp_path):
    records = [make_record(), make_record(peft="lora")]
    del records[1].values["model/bytes"]
    records[1].put({}, absent={"model/bytes": "it was not stored"})
    reading = reading_of(*records, tmp_path=tmp_path)
    reading.sweeps[tmp_path / "s"] = {"constraints": ["model/bytes < 1e12"]}
    (section,) = summarise(reading, OBJECTIVES).sections
    ((candidate, missing),) = section.lacking
    assert (candidate.choices["peft"], missing) == ("lora", {"model/bytes": "it was not stored"})
    assert len(section.frontier) == len(section.ranked) == 1


def of_seeds(make_record, tmp_path, **choices):
    """Three runs of each of some configurations: name to accuracies and FLOPs."""
    loaded = []
    for name, (accuracies, flops) in choices.items():
        for seed, accuracy in enumerate(accuracies):
            record = make_record(seed=seed, overrides=[f"x.name={name}"])
            record.put({ACCURACY: accuracy, FLOPS: flops})
            loaded.append(Loaded(record, tmp_path / f"{name}{seed}"))
    (section,) = summarise(Reading(loaded), OBJECTIVES).sections
    return section


def named(pairs):
    return {tuple(sorted(c.settings["x.name"] for c in pair)) for pair in pairs}


def test_members_whose_intervals_overlap_are_not_told_apart(make_record, tmp_path):
    section = of_seeds(
        make_record, tmp_path,
        best=([0.90, 0.92, 0.94], 9e6), close=([0.89, 0.91, 0.93], 5e6), far=([0.70, 0.701, 0.702], 1e6),
    )  # fmt: skip
    assert len(section.frontier) == 3
    assert named(within_noise(section)) == {("best", "close")}


def test_who_is_beaten_only_within_noise_is_named(make_record, tmp_path):
    section = of_seeds(
        make_record, tmp_path,
        best=([0.90, 0.92, 0.94], 5e6), tied=([0.89, 0.91, 0.93], 5e6), dear=([0.89, 0.91, 0.93], 9e6),
        bad=([0.70, 0.701, 0.702], 5e6),
    )  # fmt: skip
    assert [c.settings["x.name"] for c in section.frontier] == ["best"]
    assert named(within_noise(section)) == {("best", "tied")}  # a dearer one is beaten in cost beyond doubt


def test_what_was_run_once_has_no_interval_to_overlap(make_record, tmp_path):
    section = of_seeds(make_record, tmp_path, one=([0.90], 9e6), two=([0.8999], 5e6))
    assert not overlap(*section.frontier, ACCURACY)
    assert within_noise(section) == []
