"""What docs/search.md shows works as it is shown."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from effnlp.compose import hydra_context
from effnlp.menu import choice_names, conf_dir
from effnlp.search.constraints import parse_constraints, parse_reference
from effnlp.search.space import parse
from effnlp.search.state import parse_objectives
from effnlp.search.sweeper import own_keys

TEXT = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def commands():
    joined = TEXT.replace("\\\n", " ")
    found = [shlex.split(line)[2:] for line in joined.splitlines() if line.startswith("    effnlp sweep ")]
    return [words for words in found if not any(word.startswith("--") for word in words)]


def test_the_space_is_one_with_its_first_points():
    shown = re.search(r"<!-- space -->\n```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert shown
    config = OmegaConf.to_container(OmegaConf.create(shown.group(1)))
    space, _ = parse(config["dimensions"], [])
    assert "model=pretrained/peft=lora/peft.rank" in {d.name for d in space.dimensions}
    for point in config["first"]:
        assert space.parameters({key: str(value) for key, value in point.items()})


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_a_command_is_a_sweep_with_a_space_and_constraints(arguments):
    from hydra import compose

    of_trials, of_search = own_keys(arguments)
    with hydra_context():
        config = compose("sweep", overrides=of_search)
        compose("sweep", overrides=[o for o in of_trials if "," not in o])
    search = OmegaConf.to_container(config.search, resolve=False)
    space, _ = parse(search["space"]["dimensions"], of_trials)
    assert space.dimensions
    parse_constraints(search["constraints"])
    parse_reference(search["reference"], parse_objectives(search["objectives"]))


def test_there_are_commands_and_every_sampler_is_explained():
    assert len(commands()) >= 3
    for name in choice_names("search/sampler", [conf_dir()]):
        assert f"`{name}`" in TEXT
