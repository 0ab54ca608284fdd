"""The README keeps its word: its method in three files works, and its table is the menu."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from effnlp.menu import choice_names, conf_dir, groups

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name):
    found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block {name}"
    return found.group(1)


@pytest.fixture
def with_norms(tmp_path):
    """The README's three files, outside of the repository: a package on the path and a folder of configs."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "norms.py").write_text(block("norms.py"))
    (tmp_path / "configs" / "peft").mkdir(parents=True)
    config = block("norms.yaml").replace("effnlp.peft.norms", "mine.norms")
    (tmp_path / "configs" / "peft" / "norms.yaml").write_text(config)
    (tmp_path / "test_norms.py").write_text(block("test_norms.py").replace("effnlp.peft.norms", "mine.norms"))
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "texts.csv").write_text(
        "text,label\n" + "\n".join(f"{w} number {i},{w}" for i in range(60) for w in ("good", "bad"))
    )

    def run(*words):
        environment = {
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "EFFNLP_CACHE": str(tmp_path / "cache"),
            "EFFNLP_LOCK_DIR": str(tmp_path / "locks"),
        }
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_the_method_of_the_readme_is_checked_and_refused_like_any_other(with_norms):
    legal = with_norms("-m", "effnlp.cli", "check", "--config-dir", "configs", "peft=norms")
    assert legal.returncode == 0, legal.stderr
    assert "peft=norms" in legal.stdout
    refused = with_norms(
        "-m", "effnlp.cli", "check", "--config-dir", "configs", "peft=norms", "compression/pruning=movement"
    )
    assert refused.returncode == 2
    assert "peft=norms takes away" in refused.stderr


@pytest.mark.slow
def test_the_method_of_the_readme_runs_and_its_test_passes(with_norms):
    run = with_norms(
        "-m", "effnlp.cli", "run", "--config-dir", "configs", "peft=norms", "task=files", "task.path=texts.csv",
        "trainer.epochs=1", "evaluation.latency=false",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    test = with_norms("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_norms.py")
    assert test.returncode == 0, test.stdout


def test_the_table_of_the_readme_names_every_choice():
    folders = [conf_dir()]
    own = [group for group in groups(folders) if group not in ("trainer", "search")]
    assert own
    for group in own:
        assert f"`{group}`" in README, f"the README's table lacks {group}"
        for name in choice_names(group, folders):
            assert f"`{name}`" in README, f"the README's table lacks {group}={name}"
