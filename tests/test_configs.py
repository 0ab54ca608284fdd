"""conf/, effnlp/ and tests/ are mirror images, and every config fits what it configures."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from effnlp.fitting import fits
from effnlp.menu import conf_dir

ROOT = Path(__file__).parents[1]
CONF = conf_dir()
CONFIGS = sorted(
    path
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.relative_to(CONF).parts[0] != "hydra"
)
assert CONFIGS

PRESETS = {
    "tracking/csv",
    "tracking/mlflow",
    "tracking/tensorboard",
    "task/ag_news",
    "task/hate_offensive",
    "task/snli",
    "task/sst2",
    "task/stsb",
    "task/trec",
}
"""Settings of a module that others share: ``effnlp/task/preset.py``, ``effnlp/tracking/lightning.py``."""

SETTINGS = ("trainer/", "meter/", "search/", "peft/parts/")
"""Groups of settings, not of methods: what they configure is no module of the same name."""


def name_of(path):
    return path.relative_to(CONF).with_suffix("").as_posix()


def load(path):
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def keys_of(config):
    return {key: value for key, value in config.items() if key[0] != "_" and key != "defaults"}


every_config = pytest.mark.parametrize("path", CONFIGS, ids=name_of)
METHODS = [
    path for path in CONFIGS if name_of(path) not in PRESETS and not name_of(path).startswith(SETTINGS)
]
every_method = pytest.mark.parametrize("path", METHODS, ids=name_of)
WITH_TARGET = [path for path in CONFIGS if "_target_" in load(path)]


def test_the_exceptions_are_still_there():
    names = {name_of(path) for path in CONFIGS}
    assert names >= PRESETS
    assert all(any(name.startswith(group) for name in names) for group in SETTINGS)
    assert len(METHODS) > 20


@every_method
def test_a_method_lies_at_the_path_of_its_config(path):
    target = get_object(load(path)["_target_"])
    assert target.__module__ == "effnlp." + name_of(path).replace("/", ".")


@every_method
def test_a_method_has_a_test_of_its_name_or_in_the_tests_of_its_group(path):
    name = name_of(path)
    group = name.rpartition("/")[0]
    if (ROOT / "tests" / group / f"test_{path.stem}.py").exists():
        return
    # Others are named by the tests of their group, or have those that list all configs of it.
    folder = ROOT / "tests" / name.partition("/")[0]
    texts = [file.read_text(encoding="utf-8") for file in folder.rglob("test_*.py")]
    listing = re.compile(rf"""["']{folder.name}["']\)?\.?r?glob|["']{folder.name}["']\)\.rglob""")
    own_name = re.compile(rf"\b{re.escape(path.stem)}\b")
    pattern = listing if path.stem == "none" else own_name
    assert any(pattern.search(text) for text in texts), f"{name} has no test"


@pytest.mark.parametrize("path", WITH_TARGET, ids=name_of)
def test_keys_are_parameters_and_values_are_of_their_types(path):
    config = load(path)
    target = get_object(config["_target_"])
    keys = keys_of(config)
    # A partial accepts a misspelt key in silence; binding it to the signature does not.
    inspect.signature(target).bind_partial(**keys)
    try:
        hints = inspect.get_annotations(target.__init__ if inspect.isclass(target) else target, eval_str=True)
    except NameError:
        hints = {}
    for key, value in keys.items():
        if key in hints and not re.search(r"\$\{|\?\?\?", str(value)):
            assert fits(value, hints[key]), f"{key}: {value!r} is no {hints[key]}"


@pytest.mark.parametrize("path", [p for p in WITH_TARGET if name_of(p) not in PRESETS], ids=name_of)
def test_a_default_of_the_signature_is_the_value_of_the_config(path):
    config = load(path)
    if not config["_target_"].startswith("effnlp."):
        pytest.skip("a class of a library, whose defaults are its own")
    keys = keys_of(config)
    for name, parameter in inspect.signature(get_object(config["_target_"])).parameters.items():
        default = parameter.default
        if name in keys and default is not inspect.Parameter.empty:
            assert keys[name] == (list(default) if isinstance(default, tuple) else default), name


def test_the_trainers_settings_are_those_of_its_class():
    from effnlp.compose import PLAIN_SETTINGS

    for section, target in PLAIN_SETTINGS.items():
        keys = load(CONF / section / "default.yaml")
        parameters = inspect.signature(get_object(target)).parameters
        assert keys == {name: parameter.default for name, parameter in parameters.items()}


@every_config
def test_every_key_has_a_comment_that_says_what_it_is(path):
    keys = keys_of(load(path))
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.partition(":")[0]
        if key in keys and name_of(path) not in UNCOMMENTED and not UNCOMMENTED_KEYS & {key}:
            assert " # " in line, line


UNCOMMENTED = {
    "search/sampler/tpe",
    "tracking/csv",
    "search/sampler/random",
    "tracking/wandb",
    "search/space/only_overrides",
}
"""Parameters of libraries, documented there, and spaces, whose keys are overrides."""

UNCOMMENTED_KEYS = {"epochs", "batch_size", "name", "path", "label", "idle_watts", "cores", "dimensions"}
"""Keys whose name says it all."""


def test_every_group_of_the_defaults_has_its_default():
    from effnlp.compose import default_choices

    for top in ("run", "sweep"):
        for group, default in default_choices(top).items():
            for name in default if isinstance(default, list) else [default]:
                assert (CONF / group / f"{name}.yaml").is_file(), f"{group}={name}"


def test_every_group_of_conf_is_in_the_defaults_or_a_part_of_a_choice():
    from effnlp.compose import default_choices
    from effnlp.menu import choices, groups

    known = set(default_choices("run")) | set(default_choices("sweep"))
    parts = {part for group in groups([CONF]) for choice in choices(group, [CONF]) for part in choice.parts}
    assert set(groups([CONF])) == known | parts


def test_no_module_is_left_that_neither_a_config_nor_a_verb_nor_a_module_nor_an_experiment_uses():
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "effnlp").rglob("*.py")}
    texts = "\n".join(
        [*files.values(), *(path.read_text() for path in (ROOT / "hydra_plugins").rglob("*.py"))]
    )
    targets = {load(path)["_target_"].rpartition(".")[0] for path in WITH_TARGET}
    experiments = "\n".join(path.read_text() for path in (ROOT / "experiments").rglob("*.yaml"))
    targets |= set(re.findall(r"function: (effnlp[\w.]+)\.\w+", experiments))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__init__"
    }
    assert len(modules) > 50
    unused = {
        module
        for module in modules - targets - {"effnlp.cli"}
        if not re.search(rf"(from|import) {re.escape(module)}\b|[\"']{re.escape(module)}[\"']", texts)
        and not re.search(
            rf"from {module.rpartition('.')[0]} import .*\b{module.rpartition('.')[2]}\b", texts
        )
    }
    assert unused == set()


def test_packages_mirror_the_groups_and_every_module_has_a_docstring():
    modules = sorted((ROOT / "effnlp").rglob("*.py"))
    assert modules
    for file in modules:
        text = file.read_text(encoding="utf-8")
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), file
    for path in METHODS:
        importlib.import_module("effnlp." + ".".join(path.parent.relative_to(CONF).parts))
