"""The menu reads configs and modules as text, and is complete."""

import subprocess
import sys

import pytest

from effnlp.menu import (
    CAPABILITIES,
    MOMENTS,
    choice_names,
    choices,
    conf_dir,
    config_folders,
    describe,
    groups,
    main,
    menu_lines,
    read_choice,
    stacked_groups,
    suggest,
)

CONF = [conf_dir()]
CHOICES = [choice for group in groups(CONF) for choice in choices(group, CONF)]
assert CHOICES

every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda c: f"{c.group}={c.name}")
HEAVY = ("torch", "hydra", "pandas", "numpy", "optuna", "transformers", "rich", "pytorch_lightning")


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["--version"], ["run", "--help"], ["peft"]])
def test_looking_around_imports_nothing_heavy(arguments):
    program = (
        "import sys\n"
        "from effnlp.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print('imported:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout


@every_choice
def test_every_choice_says_in_a_line_what_it_is(choice):
    assert choice.summary
    assert "\n" not in choice.summary


OF_NO_PAPER = {
    "task": "data sets made or read here",
    "tracking": "files of our own",
    "search": "settings of the search",
    "trainer": "settings of the training",
    "meter": "settings of the meter",
}


STACKS = ("data/filter", "evaluation/robustness", "evaluation/fairness")


@every_choice
def test_a_method_names_its_paper_or_page(choice):
    if choice.name == "none" and choice.group in STACKS:
        return  # none of a stack does nothing at all
    if choice.group.partition("/")[0] not in OF_NO_PAPER:
        assert "https://" in choice.source
        assert "(" in choice.source or choice.group == "data/filter"


@every_choice
def test_capabilities_are_words_of_the_vocabulary(choice):
    for declared in (choice.requires, choice.provides, choice.removes):
        assert set(declared) <= set(MOMENTS)
        for names in declared.values():
            assert set(names) <= set(CAPABILITIES)
            assert len(set(names)) == len(names)


def test_every_word_of_the_vocabulary_is_provided_by_some_model():
    provided = {name for choice in CHOICES for names in choice.provides.values() for name in names}
    assert provided == set(CAPABILITIES)


def test_nothing_can_be_removed_that_nobody_provides_or_needed_that_is_never_there():
    provided = {name for choice in CHOICES for names in choice.provides.values() for name in names}
    for choice in CHOICES:
        for declared in (choice.requires, choice.removes):
            assert {name for names in declared.values() for name in names} <= provided


def test_the_menu_shows_every_choice_once_and_the_neutral_one_first():
    lines = list(menu_lines(groups(CONF), CONF))
    for choice in CHOICES:
        assert any(line.split()[:1] == [choice.name] and choice.summary in line for line in lines)
    assert choice_names("peft", CONF)[0] == "none"
    assert sum(line.startswith("  ") and not line.startswith("   ") for line in lines) == len(CHOICES)


def test_a_group_above_others_shows_all_of_them(capsys):
    assert main(["compression"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line and line[0] != " "]
    assert shown == [group for group in groups(CONF) if group.startswith("compression/")]
    assert len(shown) >= 3


def test_the_whole_menu_explains_its_words(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for name, sentence in CAPABILITIES.items():
        assert name in out
        assert sentence in out


def test_an_unknown_group_gets_near_matches(capsys):
    assert main(["pfet"]) == 2
    error = capsys.readouterr().err
    assert "no group 'pfet'" in error
    assert "did you mean 'peft'" in error
    assert error.count("\n") == 1


def test_an_unknown_choice_gets_near_matches():
    with pytest.raises(ValueError, match="peft has no choice 'lorra'; did you mean 'lora'"):
        read_choice("peft", "lorra", CONF)


def test_a_word_like_none_of_the_known_gets_all_of_them():
    assert suggest("zzz", ["lora", "bitfit"]) == "; there is lora, bitfit"
    assert suggest("zzz", []) == ""


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="is not a folder"):
        config_folders(tmp_path / "nowhere")
    assert main(["--config-dir", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_choice_of_a_users_folder_is_in_the_menu_with_what_its_module_says(tmp_path, capsys, monkeypatch):
    (tmp_path / "conf" / "peft").mkdir(parents=True)
    (tmp_path / "conf" / "peft" / "menu_mine.yaml").write_text("_target_: menu_mine.mine\n_partial_: true\n")
    (tmp_path / "menu_mine.py").write_text(
        '"""My own method: does it.\n\nSource: Me (2020), https://example.org\n"""\n'
        'raise RuntimeError("imported")\nREQUIRES = {"prepare": ("biases",)}\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["peft", "--config-dir", str(tmp_path / "conf")]) == 0
    out = capsys.readouterr().out
    assert "My own method: does it." in out
    assert "Me (2020), https://example.org" in out
    assert "needs biases (prepare)" in out
    assert "lora" in out


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        ('REQUIRES = {"prepare": names()}', "literal"),
        ('REQUIRES = {"sometimes": ("biases",)}', "must map moments"),
        ('REQUIRES = {"prepare": ("biases")}', "mind the comma"),
        ('REMOVES: dict = {"prepare": ["biases"]}', "tuples"),
        ('REQUIRES_UNLESS = {"prepare": ("biases",)}', "must map moments"),
        ('REQUIRES_UNLESS = {"schedule": {"prepare": ("biases",)}}', "must map a pair"),
        ('REQUIRES_UNLESS = ("schedule", "one_shot")', "must map a pair"),
        ('REQUIRES_UNLESS = {("a", 1): {"sometimes": ("biases",)}}', "must map moments"),
    ],
)
def test_constants_that_are_not_of_the_form_are_refused_by_name(tmp_path, monkeypatch, constant, message):
    (tmp_path / "menu_wrong.py").write_text(f'"""Wrong."""\n{constant}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    describe.cache_clear()
    with pytest.raises(ValueError, match=message) as caught:
        describe("menu_wrong.method")
    assert "menu_wrong" in str(caught.value)
    describe.cache_clear()


def test_a_target_without_a_module_is_refused_by_name():
    with pytest.raises(ValueError, match=r"there is no module 'effnlp\.peft\.nowhere'"):
        describe("effnlp.peft.nowhere.nothing")


def test_groups_whose_choices_have_packages_of_their_own_are_the_stacked_ones():
    stacked = stacked_groups(CONF)
    assert {"data/filter", "evaluation/scenarios"} <= set(stacked)
    for group in groups(CONF):
        own = [
            path.read_text().startswith(f"# @package {group.replace('/', '.')}.{path.stem}\n")
            for path in (CONF[0] / group).glob("*.yaml")
        ]
        assert all(own) == any(own) == (group in stacked)


def test_an_edited_config_is_read_again(tmp_path):
    (tmp_path / "peft").mkdir()
    path = tmp_path / "peft" / "mine.yaml"
    for rank in (1, 2):
        path.write_text(f"rank: {rank}\n")
        assert read_choice("peft", "mine", [tmp_path]).keys == {"rank": rank}


def test_a_config_that_is_not_a_mapping_is_refused_by_name(tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "mine.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match=r"peft/mine\.yaml must hold a mapping, got list"):
        read_choice("peft", "mine", [tmp_path])
    (tmp_path / "peft" / "mine.yaml").write_text("a: [\n")
    with pytest.raises(ValueError, match=r"peft/mine\.yaml is not YAML"):
        read_choice("peft", "mine", [tmp_path])
