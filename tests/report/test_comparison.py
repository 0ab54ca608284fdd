"""Differences are paired where they can be, verdicts follow the direction of a key, what cannot be said is not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from effnlp.evaluation.predictions import Predictions
from effnlp.record import COMPLETED, Record
from effnlp.report.answers import example_scores
from effnlp.report.candidates import pool
from effnlp.report.compared import answers_in_words, components_in_words, difference_text, how_text
from effnlp.report.comparison import Row, compare, components_of, verdict_of
from effnlp.report.read import Loaded
from effnlp.report.sides import Side, chosen_keys, differences_in_place
from effnlp.statistics import Interval


def run(values, init=0, order=None, energy="estimated", absent=None, **identity):
    record = Record(
        COMPLETED,
        {"config_hash": "c", "seed_init": init, "seed_order": init if order is None else order,
         "task": "t", "task_fingerprint": "f", "evaluator": "1", "recipe": {"seed": 0}, **identity},
        notes={"energy/method": energy, "labels": ["no", "yes"]},
    )  # fmt: skip
    record.put(values, absent)
    return Loaded(record, Path(f"{init}-{order}"))


def side(label, runs, predictions=()):
    return Side(label, pool(runs)[0], predictions)


def over_seeds(label, key, values, first=0, **more):
    return side(label, [run({key: value}, init=first + i, **more) for i, value in enumerate(values)])


def row(a, b, key):
    return compare(a, b, [key]).rows[0]


def predicted(right, count=400, seed=0, sure=3.0):
    """Predictions of two classes, right in this share of the examples, at random places."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=torch.Generator().manual_seed(99))
    answers = torch.where(torch.rand(count, generator=draw) < right, labels, 1 - labels)
    return Predictions.of(sure * torch.nn.functional.one_hot(answers, 2).float(), labels)


def answering(label, predictions, **more):
    runs, kept = [], []
    for i, each in enumerate(predictions):
        means = {f"val/{name}": float(scores.mean()) for name, scores in example_scores(each).items()}
        runs.append(run(means, init=i, **more))
        kept.append({"val": each})
    return side(label, runs, kept)


# One key


def test_pairing_by_seed_finds_a_difference_that_unpaired_seeds_hide():
    luck = [0.0, 0.1, 0.2, 0.3]
    a = over_seeds("a", "val/macro_f1", [0.5 + x for x in luck])
    b_values = [0.51 + x + noise for x, noise in zip(luck, [0.001, -0.001, 0, 0.001], strict=True)]
    paired, unpaired = (
        row(a, over_seeds("b", "val/macro_f1", b_values, first), "val/macro_f1") for first in (0, 10)
    )
    assert paired.difference.how == "t over seeds"
    assert paired.verdict == "better"
    assert unpaired.difference.how == "Welch, unpaired seeds"
    assert unpaired.verdict == "undecided"
    assert paired.difference.mean == pytest.approx(unpaired.difference.mean)
    assert unpaired.lacking > 10


def test_the_runs_of_a_larger_side_that_have_no_partner_are_left_out_and_counted():
    a, b = over_seeds("a", "val/macro_f1", [1, 2, 3, 100]), over_seeds("b", "val/macro_f1", [2, 3.5, 4])
    found = row(a, b, "val/macro_f1")
    assert found.runs == (3, 3)
    assert found.a == 2.0
    assert found.difference.mean == pytest.approx(3.5 / 3)


def test_seeds_are_paired_by_what_they_are_not_by_their_order():
    a = side("a", [run({"val/macro_f1": v}, init=i) for i, v in ((0, 0.1), (1, 0.5), (2, 0.9))])
    b = side("b", [run({"val/macro_f1": v}, init=i) for i, v in ((2, 0.8), (1, 0.4), (0, 0.0))])
    found = row(a, b, "val/macro_f1")
    assert found.difference.mean == pytest.approx(-0.1)
    assert found.difference.width == pytest.approx(0, abs=1e-9)
    assert found.verdict == "worse"


def test_runs_that_share_crossed_seeds_have_a_wider_interval_than_as_many_of_their_own():
    draw = np.random.default_rng(0)
    luck = draw.normal(size=3)
    values = {(i, o): luck[i] for i in range(3) for o in range(3)}
    a = side("a", [run({"val/macro_f1": 0.0}, i, o) for i, o in values])
    b = side("b", [run({"val/macro_f1": v}, i, o) for (i, o), v in values.items()])
    own_a = over_seeds("a", "val/macro_f1", [0.0] * 9)
    own_b = over_seeds("b", "val/macro_f1", list(values.values()))
    shared, own = row(a, b, "val/macro_f1"), row(own_a, own_b, "val/macro_f1")
    assert shared.difference.width > 2 * own.difference.width


@pytest.mark.parametrize(
    ("key", "higher_is"),
    [("val/accuracy", "better"), ("val/loss", "worse"), ("robustness/x/drop", "worse"), ("model/bytes", "worse"),
     ("infer/offline/examples_per_second", "better"), ("fairness/x/flip_rate", "worse"), ("val/ece", "worse"),
     ("infer/single_stream/latency_seconds_p50", "worse"), ("reference/val/label_loyalty", "better")],
)  # fmt: skip
def test_the_verdict_follows_the_direction_of_the_key(key, higher_is):
    other = {"better": "worse", "worse": "better"}[higher_is]
    assert verdict_of(key, Interval(2, 1, 3, 5, "")) == higher_is
    assert verdict_of(key, Interval(-2, -3, -1, 5, "")) == other
    assert verdict_of(key, Interval(1, -1, 3, 5, "")) == "undecided"
    assert verdict_of(key, Interval(0, 0, 0, 5, "")) == "equal"
    assert verdict_of(key, None) == "undecided"


def test_what_is_counted_and_the_same_under_all_seeds_is_exact():
    a, b = over_seeds("a", "model/bytes", [10, 10]), over_seeds("b", "model/bytes", [7, 7])
    found = row(a, b, "model/bytes")
    assert (found.difference.how, found.difference.low, found.difference.high) == ("exact", -3, -3)
    assert found.verdict == "better"
    assert row(a, a, "model/bytes").verdict == "equal"
    varying = row(a, over_seeds("b", "model/bytes", [7, 9]), "model/bytes")
    assert varying.difference.how == "t over seeds"
    timed = row(
        *(over_seeds(n, "cost/total/own/seconds", [v]) for n, v in (("a", 1), ("b", 2))),
        "cost/total/own/seconds",
    )
    assert (timed.difference, timed.verdict) == (None, "undecided")


def test_single_runs_have_the_intervals_of_their_repeats():
    key = "infer/single_stream/latency_seconds_p50"
    a = side("a", [run({key: 10.0, f"{key}_low": 9.0, f"{key}_high": 11.0})])
    b = side("b", [run({key: 5.0, f"{key}_low": 4.0, f"{key}_high": 6.0})])
    found = row(a, b, key)
    assert found.difference.how == "repeats within each run"
    assert found.difference.high == pytest.approx(-5 + 2**0.5)
    assert found.verdict == "better"


# Predictions


def test_runs_with_predictions_are_paired_by_example():
    before = predicted(0.8, seed=1)
    better = Predictions(before.logits.copy(), before.labels)
    wrong = np.flatnonzero(before.logits.argmax(1) != before.labels)[:12]
    better.logits[wrong] = better.logits[wrong, ::-1]
    a, b = answering("a", [before]), answering("b", [better])
    found = row(a, b, "val/accuracy")
    assert found.difference.how == "bootstrap over examples"
    assert found.difference.n == 400
    assert found.difference.mean == pytest.approx(12 / 400)
    assert found.verdict == "better"
    right = np.roll(better.logits.argmax(1) == better.labels, 57)  # as good, at other examples
    answers = np.where(right, better.labels, 1 - better.labels)
    other = Predictions(3.0 * np.eye(2, dtype=np.float32)[answers], better.labels)
    far = row(a, answering("b", [other]), "val/accuracy")
    assert far.difference.mean == pytest.approx(12 / 400)
    assert far.verdict == "undecided"
    assert far.lacking_what == "examples"
    assert far.difference.width > 2 * found.difference.width
    assert "of these very models" in compare(a, b, ["val/accuracy"]).notes[0]


def test_over_seeds_and_examples_the_wider_interval_counts():
    a = answering("a", [predicted(0.8, seed=i, count=4000) for i in range(3)])
    b = answering("b", [predicted(r, seed=9 + i, count=4000) for i, r in enumerate((0.6, 0.8, 0.95))])
    found = row(a, b, "val/accuracy")
    assert found.difference.how == "t over seeds"
    assert found.verdict == "undecided"
    assert found.lacking_what == "seeds"


def test_predictions_of_other_texts_or_that_do_not_make_up_the_value_are_not_used():
    a, b = answering("a", [predicted(0.9)]), answering("b", [predicted(0.5)])
    other = answering("b", [predicted(0.5)], task_fingerprint="g")
    assert row(a, b, "val/accuracy").difference is not None
    assert row(a, other, "val/accuracy").difference is None
    assert compare(a, other, ["val/accuracy"]).answers == []
    b.candidate.runs[0].record.values["val/accuracy"] += 0.1
    assert row(a, b, "val/accuracy").difference is None


def test_losses_and_squared_errors_of_examples_have_the_recorded_means():
    found = predicted(0.7)
    loss = torch.nn.functional.cross_entropy(*map(torch.from_numpy, found))
    assert example_scores(found)["loss"].mean() == pytest.approx(float(loss))
    numbers = Predictions.of(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0]))
    assert example_scores(numbers)["mse"].tolist() == [1.0, 4.0]


def test_changed_answers_are_shown_beside_those_that_seeds_change():
    a = answering("a", [predicted(0.9, seed=i) for i in range(2)])
    b = answering("b", [predicted(0.6, seed=7 + i) for i in range(2)])
    found = compare(a, b, ["val/accuracy"]).answers[0]
    firsts = [each["val"].logits.argmax(1) for each in (*a.predictions, *b.predictions)]
    changed = np.mean([float((firsts[i] != firsts[i + 2]).mean()) for i in range(2)])
    assert found.values["changed"] == pytest.approx(changed)
    assert found.among_a == pytest.approx(float((firsts[0] != firsts[1]).mean()))
    assert found.pairs == 2
    text = " ".join(answers_in_words(found, "a"))
    assert "between seeds of a" in text
    assert "most where: reference_wrong" in text
    assert compare(a, a, []).answers[0].values["label_loyalty"] == 1.0


# Keys, places, words


def test_keys_are_chosen_by_pattern_and_ends_of_intervals_are_none():
    key = "infer/single_stream/latency_seconds_p50"
    values = {key: 1, f"{key}_low": 1, f"{key}_high": 1, "val/accuracy": 1, "val/class/no/f1": 1, "train/steps": 1,
              "robustness/x/drop": 1, "robustness/perturbations/typos/0.1/accuracy": 1,
              "infer/single_stream/energy_joules": 1, "cost/total/own/energy_joules": 1}  # fmt: skip
    a = side("a", [run(values)])
    assert chosen_keys([a]) == [
        "val/accuracy",
        "robustness/x/drop",
        key,
        "cost/total/own/energy_joules [estimated]",
    ]
    assert chosen_keys([a], ["val/*"]) == ["val/accuracy", "val/class/no/f1"]
    assert chosen_keys([a], ["infer/single_stream/energy_joules"]) == [
        "infer/single_stream/energy_joules [estimated]"
    ]
    with pytest.raises(
        ValueError, match=r"no record has a value 'val/acuracy' \(did you mean 'val/accuracy'"
    ):
        chosen_keys([a], ["val/acuracy"])


def test_energies_found_in_different_ways_are_not_compared():
    a = over_seeds("a", "infer/x/energy_joules", [1.0, 2.0])
    b = over_seeds("b", "infer/x/energy_joules", [1.0, 2.0], energy="measured by a meter")
    found = compare(a, b, chosen_keys([a, b], ["infer/*"]))
    assert found.rows == []
    assert len(found.missing) == 2
    assert "found in another way" in found.missing["infer/x/energy_joules [estimated]"]


def test_a_key_of_one_side_alone_is_named_with_the_reason():
    a = side("a", [run({"val/accuracy": 0.5, "robustness/x/accuracy": 0.4})])
    b = side("b", [run({"val/accuracy": 0.5}, absent={"robustness/x/accuracy": "no labels map"})])
    found = compare(a, b, ["val/accuracy", "robustness/x/accuracy"])
    assert [r.key for r in found.rows] == ["val/accuracy"]
    assert found.missing == {"robustness/x/accuracy": "b lacks it (no labels map)"}


def test_what_makes_figures_incomparable_is_named_with_both_values():
    a = run({}).record
    b = run({}, evaluator="2", recipe={"seed": 1}, task_fingerprint="g").record
    assert differences_in_place([a, b]) == {
        "recipe.seed": ["0", "1"], "task_fingerprint": ["f", "g"], "evaluator": ["1", "2"],
    }  # fmt: skip
    assert differences_in_place([a, a]) == {}


def test_components_of_crossed_seeds_are_found_and_others_have_a_reason():
    crossed = side("a", [run({"val/accuracy": 0.5 + 0.1 * i}, i, o) for i in range(2) for o in range(2)])
    parts = components_of(crossed, ["val/accuracy", "model/bytes"])
    assert list(parts) == ["val/accuracy"]
    assert parts["val/accuracy"].init.mean == pytest.approx(0.005)
    assert parts["val/accuracy"].order.mean == 0
    own = components_of(over_seeds("b", "val/accuracy", [0.1, 0.2, 0.3]), ["val/accuracy"])
    assert own["val/accuracy"].init is None
    assert "not crossed" in components_in_words({"b": own})[0]
    assert components_of(over_seeds("b", "val/accuracy", [0.1]), ["val/accuracy"]) == {}


def test_what_intervals_leave_out_is_said():
    one_order = side("a", [run({"val/macro_f1": 0.1 * i}, i, 0) for i in range(3)])
    crossed = side("b", [run({"val/macro_f1": 0.1 * i}, i, o) for i in range(2) for o in range(2)])
    ragged = side("c", [run({"val/macro_f1": 0.1}, i, o) for i, o in ((0, 0), (0, 1), (1, 0))])
    own = over_seeds("d", "val/macro_f1", [1, 2, 3])
    assert "a: all runs have one seed of data order" in compare(one_order, own, []).notes[0]
    assert compare(crossed, own, []).notes == []
    assert "c: runs share seeds that are not crossed" in compare(own, ragged, []).notes[0]
    here, there = (
        side(name, [run({"infer/x/latency_seconds_p50": 1.0}, machine={"cpu": name})])
        for name in ("A1", "B2")
    )
    assert compare(here, there, ["infer/x/latency_seconds_p50"]).notes == [
        "Time and energy are of different machines: A1 and B2."
    ]


def test_differences_are_written_in_one_unit_with_what_would_decide():
    ms = Row(
        "infer/x/latency_seconds_p50",
        0.01,
        0.012,
        Interval(2e-3, -1e-3, 5e-3, 3, "t over seeds"),
        "undecided",
        (3, 3),
        9,
    )
    assert difference_text(ms) == "+2.00 [-1.00, +5.00] ms"
    assert how_text(ms) == "t over seeds, 3 runs a side; ≈ 9 more seeds would decide"
    share = Row(
        "val/accuracy",
        0.8,
        0.79,
        Interval(-0.01, -0.02, 0.0, 3, "bootstrap over examples"),
        "undecided",
        (1, 1),
        None,
        "examples",
    )
    assert difference_text(share) == "-0.0100 [-0.0200, 0]"
    assert how_text(share) == "bootstrap over examples; no number of examples in sight would decide"
    exact = Row("model/bytes", 2e6, 1e6, Interval(-1e6, -1e6, -1e6, 1, "exact"), "better", (1, 1))
    assert (difference_text(exact), how_text(exact)) == ("-1.00 MB exact", "counted")
    unknown = Row("cost/total/own/seconds", 2.0, 1.0, None, "undecided", (1, 1))
    assert difference_text(unknown) == "-1.00 s [?]"
    assert "2 seeds a side" in how_text(unknown)
