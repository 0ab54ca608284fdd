"""The ready-made launchers, as a sweep is composed with them; what runs through them is in the tests beside."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from effnlp.compose import explain, hydra_context
from effnlp.launch import is_sweep_override
from effnlp.menu import conf_dir

LAUNCHERS = sorted((conf_dir() / "hydra" / "launcher").glob("*.yaml"))
assert LAUNCHERS
every_launcher = pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)

PACKAGES = {
    "one_machine": "hydra_joblib_launcher",
    "ray_cluster": "hydra_ray_launcher",
    "slurm": "hydra_submitit_launcher",
    "slurm_here": "hydra_submitit_launcher",
}

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for line in DOCUMENT.partition("## Launchers")[2].partition("## Storage")[0].splitlines()
    if line.startswith("    effnlp sweep ")
]
assert COMMANDS


def launcher_of(*overrides, name="sweep"):
    """The launcher's settings as it gets them."""
    with hydra_context():
        whole = hydra_compose(name, overrides=list(overrides), return_hydra_config=True)
        return OmegaConf.to_container(whole, resolve=False), OmegaConf.to_container(
            whole.hydra.launcher, resolve=True
        )


@pytest.fixture
def installed():
    """Skip where the package of a launcher is not there."""

    def check(launcher):
        if importlib.util.find_spec(f"hydra_plugins.{PACKAGES[launcher]}") is None:
            pytest.skip(f"needs {PACKAGES[launcher]}")

    return check


@every_launcher
def test_a_launcher_builds_on_another_of_a_package_and_takes_the_place_of_none(path):
    base, own = OmegaConf.load(path).defaults
    assert own == "_self_"
    assert base != path.stem
    assert path.stem not in {"basic", "joblib", "ray", "ray_aws", "submitit_local", "submitit_slurm", "rq"}
    assert path.stem in PACKAGES


@every_launcher
def test_every_setting_of_a_launcher_says_what_it_is_and_the_file_how_to_use_it(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert "effnlp sweep" in lines[1]
    settings = [line for line in lines[2:] if re.match(r" *\w+: \S", line)]
    assert all("  #" in line or " # " in line for line in settings), settings
    assert f"`{path.stem}`" in DOCUMENT


@every_launcher
def test_a_launcher_is_composed_with_what_the_search_says(path, installed):
    installed(path.stem)
    choice = f"hydra/launcher={path.stem}"
    _, settings = launcher_of("search/space=quickstart", choice, "search.workers=7", "search.threads=3")
    at_once = {
        "one_machine": settings.get("n_jobs"),
        "slurm": settings.get("array_parallelism"),
    }
    assert at_once.get(path.stem, 7) == 7
    cpus = {
        "ray_cluster": settings.get("ray", {}).get("remote", {}).get("num_cpus"),
        "slurm": settings.get("cpus_per_task"),
    }
    assert cpus.get(path.stem, 3) == 3
    assert settings["_target_"].startswith(f"hydra_plugins.{PACKAGES[path.stem]}.")


@every_launcher
def test_a_launcher_serves_a_multirun_too(path, installed):
    installed(path.stem)
    _, settings = launcher_of(f"hydra/launcher={path.stem}", name="run")
    assert settings.get("n_jobs", -1) == -1
    assert settings.get("cpus_per_task", 1) in (1, None)


def test_a_sweep_runs_on_one_machine_unless_it_is_told_otherwise():
    whole, settings = launcher_of("search.workers=5")
    assert whole["hydra"]["runtime"]["choices"]["hydra/launcher"] == "one_machine"
    assert settings["n_jobs"] == 5


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_document_compose(command, installed):
    overrides = shlex.split(command)[2:]
    chosen = dict(override.partition("=")[::2] for override in overrides)
    installed(chosen.get("hydra/launcher", "one_machine"))
    assert OverridesParser.create().parse_overrides(overrides)
    _, settings = launcher_of(*(o for o in overrides if not is_sweep_override(o)))
    for key, value in chosen.items():
        if key.startswith("hydra.launcher."):
            assert str(settings[key.rpartition(".")[2]]) == value


def test_the_settings_that_the_document_names_are_there(installed):
    text = DOCUMENT.partition("## Launchers")[2].partition("## Storage")[0]
    named = set(re.findall(r"hydra\.launcher\.([a-z_.]+)", text))
    assert named
    for launcher in ("ray_cluster", "slurm"):
        installed(launcher)
    _, ray = launcher_of("hydra/launcher=ray_cluster")
    _, slurm = launcher_of("hydra/launcher=slurm")
    for key in named:
        settings, steps = (ray, key.split(".")) if key.startswith("ray.") else (slurm, [key])
        for step in steps:
            assert step in settings, key
            settings = settings[step]


def test_a_launcher_whose_package_is_missing_says_what_to_install():
    with hydra_context():
        said = explain("Could not find 'hydra/launcher/ray'", ["hydra/launcher=ray_cluster"], [conf_dir()])
        other = explain("Could not find 'hydra/launcher/slurn'", ["hydra/launcher=slurn"], [conf_dir()])
    assert said == (
        "hydra/launcher=ray_cluster builds on 'ray', which is not there: pip install 'effnlp[ray]'"
    )
    assert other.startswith("hydra/launcher has no choice 'slurn'; did you mean")


def test_workers_get_the_whole_path_of_the_folder_whatever_is_in_its_name(tmp_path, monkeypatch):
    from hydra_plugins.effnlp_pareto.pareto import for_workers

    folder = tmp_path / "it's a \\ 'name', with=all"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with hydra_context():
        whole = hydra_compose("sweep", overrides=["search.name=s"], return_hydra_config=True)
        override = for_workers(whole).hydra.overrides.hydra[-1]
        again = hydra_compose("sweep", overrides=[override], return_hydra_config=True)
    assert again.hydra.sweep.dir == str(folder / "multirun" / "s")
    assert override not in whole.hydra.overrides.hydra
