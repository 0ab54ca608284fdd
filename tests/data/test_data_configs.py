"""What every filter and order owes: a config that binds; filters stack."""

import inspect
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

CONF = Path("conf")
FILTERS = sorted((CONF / "data" / "filter").glob("*.yaml"))
ORDERS = sorted((CONF / "data" / "order").glob("*.yaml"))
assert FILTERS
assert ORDERS


@pytest.mark.parametrize("path", FILTERS + ORDERS, ids=lambda path: path.stem)
def test_a_config_names_its_method_and_exactly_the_parameters_that_a_user_may_set(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    target = get_object(config["_target_"])
    assert target.__module__ == ".".join(["effnlp", *path.relative_to(CONF).with_suffix("").parts])
    given = {"table", "steps", "batch_size", "generator"}
    assert {name for name in config if name[0] != "_"} == set(inspect.signature(target).parameters) - given


def test_filters_stack_in_the_order_of_the_override_and_an_order_takes_its_package():
    with initialize_config_dir(str((CONF / "data").resolve()), version_base="1.3"):
        config = compose(overrides=["+filter=[minhash_dedup,exact_dedup]", "+order=competence"])
    assert list(config.data.filter) == ["minhash_dedup", "exact_dedup"]
    table = pd.DataFrame({"text": ["a text", "a text", "A text", "another"], "label": [0, 0, 0, 1]})
    for method in instantiate(config.data.filter, _convert_="all").values():
        table = method(table).table
    assert len(table) == 2
    order = instantiate(config.order, _convert_="all")
    assert len(order(table, steps=5, batch_size=2, generator=torch.Generator())) == 5
