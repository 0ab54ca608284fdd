import itertools
import random

import pytest

from effnlp.report.importance import importance, in_words
from effnlp.report.read import Loaded
from effnlp.report.summary import section

PLACE = ("docstrings", "9f3a", "1")
OBJECTIVES = {"val/accuracy": "maximize", "model/bytes": "minimize"}
PRUNING, QUANTIZATION = ("none", "magnitude", "movement"), ("none", "int8_dynamic")


@pytest.fixture
def swept(make_record, tmp_path):
    """A function that makes a section: one configuration for each pair of choices and each rate."""

    def make(rates=("1e-3", "2e-3", "3e-3"), change=lambda record, *of: None, objectives=OBJECTIVES):
        runs, dice = [], random.Random(0)
        for number, (pruning, quantization, rate) in enumerate(
            itertools.product(PRUNING, QUANTIZATION, rates)
        ):
            overrides = [f"finetuning.learning_rate={rate}"]
            record = make_record("pretrained", "none", pruning, quantization, overrides=overrides)
            record.put(
                {
                    "val/accuracy": 0.8 - 0.05 * (pruning == "magnitude") + dice.gauss(0, 0.004),
                    "model/bytes": 9e7 * (0.25 if quantization != "none" else 1.0),
                }
            )
            change(record, pruning, quantization, rate)
            runs.append(Loaded(record, tmp_path / str(number)))
        return section(PLACE, runs, objectives)

    return make


def of(found, key):
    return next(moved for moved in found.moved if moved.objective == key)


def test_each_objective_is_moved_by_what_was_planted(swept):
    found = importance(swept())
    assert found.configurations == 18
    assert of(found, "val/accuracy").movers == ["pruning"]
    assert of(found, "model/bytes").movers == ["quantization"]
    assert of(found, "model/bytes").shares["quantization"].share == pytest.approx(1)


def test_costs_are_multiplied_and_qualities_added_to(swept):
    found = importance(swept())
    bytes_ = of(found, "model/bytes").effects
    quantized = next(effect for effect in bytes_ if effect.level.factor == "quantization")
    assert quantized.is_ratio
    assert quantized.clear
    assert quantized.estimate == pytest.approx(0.25)
    pruned = {effect.level.level: effect for effect in of(found, "val/accuracy").effects}
    assert not pruned["magnitude"].is_ratio
    assert pruned["magnitude"].low <= -0.05 <= pruned["magnitude"].high
    assert pruned["magnitude"].clear
    assert not pruned["movement"].clear


def test_every_choice_is_compared_with_none_where_there_is_one(swept):
    found = importance(swept())
    references = {effect.level.factor: effect.level.reference for effect in of(found, "model/bytes").effects}
    assert references["pruning"] == references["quantization"] == "none"
    assert references["finetuning.learning_rate"] in ("1e-3", "2e-3", "3e-3")


def test_a_rate_with_many_values_is_taken_by_thirds(swept):
    rates = [f"{rate}e-4" for rate in range(1, 10)]

    def fail_above(record, _pruning, _quantization, rate):
        record.put({"val/accuracy": record.values["val/accuracy"] - 0.2 * (float(rate) > 6.5e-4)})

    found = importance(swept(rates, fail_above))
    assert of(found, "val/accuracy").movers[0] == "finetuning.learning_rate"
    levels = {e.level.level: e for e in of(found, "val/accuracy").effects if "rate" in e.level.factor}
    low, high = sorted(levels, reverse=True)
    assert low.startswith("up to")
    assert not levels[low].clear
    assert levels[high].high < -0.1


def test_settings_of_a_choice_are_judged_with_it_and_named_where_they_did_most(swept):
    def sized(record, pruning, _quantization, rate):
        if pruning == "magnitude":
            size = "0.9" if rate == "3e-3" else "0.5"
            record.identity["overrides"].append(f"compression.pruning.sparsity={size}")
            record.put({"val/accuracy": record.values["val/accuracy"] - 0.3 * (size == "0.9")})

    found = importance(swept(("1e-3", "2e-3", "3e-3"), sized))
    assert found.slots["pruning"] == ["pruning", "compression.pruning.sparsity"]
    assert "compression.pruning.sparsity" not in of(found, "val/accuracy").shares
    assert found.slots["finetuning.learning_rate"] == ["finetuning.learning_rate"]
    assert in_words(found)[0].startswith("What moves val/accuracy: pruning ")
    assert "(compression.pruning.sparsity=0.9 −0.3" in in_words(found)[0]


def test_too_few_configurations_and_objectives_that_nothing_moves_say_nothing(swept):
    assert importance(swept(rates=("1e-3",))) is None
    constant = {"val/accuracy": "maximize", "infer/single_stream/flops": "minimize"}
    found = importance(
        swept(change=lambda record, *_: record.put({"infer/single_stream/flops": 5.0}), objectives=constant)
    )
    assert [moved.objective for moved in found.moved] == ["val/accuracy"]


def test_noise_moves_nothing(swept):
    found = importance(
        swept(change=lambda record, *of: record.put({"val/accuracy": random.Random(str(of)).random()}))
    )
    assert of(found, "val/accuracy").movers == []
    assert "nothing is shown to, over 18 configurations" in in_words(found)[0]


def test_a_sentence_names_what_moved_an_objective_and_how(swept):
    accuracy, bytes_ = in_words(importance(swept()))
    assert accuracy.startswith("What moves val/accuracy: pruning ")
    assert "magnitude −0.0" in accuracy
    assert bytes_ == "What moves model/bytes: quantization 100 % (int8_dynamic ×0.25 (0.25 to 0.25))"


def test_how_a_run_is_measured_is_no_factor(swept):
    def measured(record, *of):
        record.choices["evaluation/scenarios"] = random.Random(str(of)).choice(["single_stream", "offline"])

    assert "scenarios" not in importance(swept(change=measured)).slots
