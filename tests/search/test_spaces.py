"""What the spaces of the project owe."""

import optuna
import pytest
from omegaconf import OmegaConf

from effnlp.compose import compose, hydra_context
from effnlp.legality import check
from effnlp.menu import choice_names, conf_dir, read_choice
from effnlp.search.space import parse

RATE = "finetuning.learning_rate"
NEED_OTHERS = {"combined", "hf", "adapter_fusion"}
"""Choices that are nothing by themselves: of methods, of a type of the package peft, of trained adapters."""
WITHOUT_SIZE = {"none", "head_only", "bitfit", "layer_norm"}
"""What they train follows from the model."""


@pytest.fixture(scope="module")
def space():
    config = OmegaConf.to_container(OmegaConf.load(conf_dir() / "search" / "space" / "peft.yaml"))
    parsed, fixed = parse(config["dimensions"], [])
    assert fixed == []
    assert len(config["first"]) == len({point["peft"] for point in config["first"]})
    assert {point["peft"] for point in config["first"]} == set(parsed.dimensions[1].choices)
    return parsed


def of_choice(space, name):
    return {d.key: d for d in space.dimensions if d.condition == ("peft", name)}


def test_every_way_to_fine_tune_is_in_the_space_of_peft(space):
    (peft,) = [dimension for dimension in space.dimensions if dimension.key == "peft"]
    there = set(choice_names("peft", [conf_dir()]))
    assert there >= NEED_OTHERS
    assert set(peft.choices) == there - NEED_OTHERS


def test_each_has_rates_of_its_own_over_a_power_of_ten_and_one_more_dimension_where_it_has_a_size(space):
    for name in set(choice_names("peft", [conf_dir()])) - NEED_OTHERS:
        own = of_choice(space, name)
        rate = own.pop(RATE)
        assert rate.log
        assert rate.high / rate.low >= 10 * (1 - 1e-9)
        assert len(own) == (name not in WITHOUT_SIZE)
        keys = read_choice("peft", name, [conf_dir()]).keys
        assert all(dimension.varies and key.removeprefix("peft.") in keys for key, dimension in own.items())


def test_what_is_new_bears_higher_rates_than_the_weights_of_the_model(space):
    of_weights = of_choice(space, "none")[RATE]
    for name in ("lora", "ia3", "bitfit", "prompt", "compacter", "head_only"):
        assert of_choice(space, name)[RATE].high >= 5 * of_weights.high


def test_its_points_are_legal_runs(space):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seen = set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with hydra_context():
        while len(seen) < len(choice_names("peft", [conf_dir()])) - len(NEED_OTHERS):
            point = space.sample(study.ask())
            if point["peft"] in seen:
                continue
            seen.add(point["peft"])
            composed = compose(["task=sst2", *(f"{key}={value}" for key, value in point.items())])
            check(composed.config, composed.chosen, [conf_dir()])
            assert composed.config["finetuning"]["learning_rate"] == float(point[RATE])
