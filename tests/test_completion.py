"""Tab completion knows verbs, groups, choices and the keys of what is on the line."""

import json
import os
import subprocess
import sys

import pytest

from effnlp.completion import main, overrides_starting
from effnlp.menu import choice_names, conf_dir, groups


def complete(line, folder):
    """What a shell is offered at the end of ``line``, by argcomplete's own protocol, and what was imported."""
    answer = folder / "answer"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "effnlp.cli"],
        env={
            **os.environ, "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_LINE": line, "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_COMP_WORDBREAKS": "\"'><;|&(: ", "ARGCOMPLETE_USE_TEMPFILES": "1",
        },
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    offered = answer.read_text().split("\n") if answer.exists() else []
    return [word.strip() for word in offered if word.strip()], imported


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("effnlp ru", ["run"]),
        ("effnlp run pe", ["peft=", "peft/parts="]),
        ("effnlp run peft=", [f"peft={name}" for name in choice_names("peft", [conf_dir()])]),
        ("effnlp run peft=lo", ["peft=lora"]),
        ("effnlp run finetuning.lea", ["finetuning.learning_rate="]),
        ("effnlp run peft=lora peft.ra", ["peft.rank="]),
        ("effnlp sweep search.tri", ["search.trials="]),
        ("effnlp methods comp", [g for g in groups([conf_dir()]) if g.startswith("compression/")]),
    ],
)
def test_the_shell_is_offered_what_can_follow_and_nothing_heavy_is_imported(line, expected, tmp_path):
    offered, imported = complete(line, tmp_path)
    assert sorted(offered) == sorted(expected)
    assert "argcomplete" in imported
    assert not imported & {"torch", "hydra", "omegaconf", "numpy", "pandas", "rich", "optuna"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("effnlp pick run --dr", ["--dry-run"]),
        ("effnlp pick run --format o", ["onnx"]),
        ("effnlp pick run --max model/", ["model/bytes", "model/params"]),
        ("effnlp pick run --best val/", ["val/accuracy"]),
        ("effnlp pick empty --best val/", []),
        ("effnlp pick ru", ["run/"]),
        ("effnlp predict run --sc", ["--scores"]),
        ("effnlp predict run --file te", ["texts.csv"]),
    ],
)
def test_verbs_with_options_are_offered_these_and_the_keys_of_the_records_below(
    line, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts.csv").touch()
    record = {"status": "completed", "values": {"val/accuracy": 1, "model/bytes": 2, "model/params": 3}}
    (tmp_path / "run" / "record.json").write_text(json.dumps(record))
    offered, imported = complete(line, tmp_path)
    assert sorted(offered) == expected
    assert not imported & {"torch", "hydra", "omegaconf", "numpy", "pandas", "rich", "optuna"}


def test_a_users_folder_on_the_line_adds_its_choices(tmp_path):
    (tmp_path / "own" / "peft").mkdir(parents=True)
    (tmp_path / "own" / "peft" / "mine.yaml").write_text("scale: 1\n")
    offered, _ = complete(f"effnlp run --config-dir {tmp_path / 'own'} peft=mi", tmp_path)
    assert offered == ["peft=mine"]


def test_every_choice_of_every_group_is_offered():
    for group in groups([conf_dir()]):
        names = choice_names(group, [conf_dir()])
        assert names
        assert overrides_starting(f"{group}=") == sorted(f"{group}={name}" for name in names)


def test_everything_offered_begins_with_what_was_typed():
    for prefix in ("", "p", "peft=", "model", "compression.", "seed.", "nonsense", "data/filter=[e"):
        assert all(word.startswith(prefix) for word in overrides_starting(prefix))
    assert overrides_starting("nonsense") == []


def test_keys_follow_the_choice_on_the_line():
    assert "peft.rank=" in overrides_starting("peft.", ["peft=lora"])
    assert overrides_starting("peft.") == []
    assert overrides_starting("model.mixer.", ["model/mixer=performer"]) == ["model.mixer.features="]
    assert overrides_starting("model.mixer.", ["model=bag_of_ngrams"]) == []
    stacked = overrides_starting("data.filter.", ["data/filter=[exact_dedup,minhash_dedup]"])
    assert "data.filter.minhash_dedup.threshold=" in stacked
    assert "data.filter.exact_dedup.ignore_case_and_space=" in stacked


def test_lists_go_on_after_a_comma():
    assert overrides_starting("peft=none,lo") == ["peft=none,lora"]
    assert overrides_starting("data/filter=[exact_dedup,min") == ["data/filter=[exact_dedup,minhash_dedup"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_for_the_shell_is_about_effnlp(shell, capsys):
    assert main([shell]) == 0
    assert "effnlp" in capsys.readouterr().out
