"""What every task owes: a config that binds, and a version of its source."""

import importlib
import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

CONFIGS = sorted(Path("conf/task").glob("*.yaml"))
assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_sets_exactly_the_parameters_of_a_task_that_tells_the_version_of_its_source(path):
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert config["_partial_"] is True
    target = get_object(config["_target_"])
    assert target.__name__ == target.__module__.rsplit(".", 1)[1]
    parameters = {name for name in config if name[0] != "_"}
    assert parameters == set(inspect.signature(target).parameters)
    version = importlib.import_module(target.__module__).source_version
    inspect.signature(version).bind(**{name: config[name] for name in parameters})
