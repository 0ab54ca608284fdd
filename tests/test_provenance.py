"""A record says who made it, with what, and where."""

import json
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from effnlp import provenance
from effnlp.identity import config_hash

CONFIG = {"seed": {"init": 3, "order": 5}, "peft": {"rank": 8}}


def test_a_run_is_described_by_config_seeds_packages_and_machine():
    found = provenance.describe_run(CONFIG, ["peft.rank=8"])
    assert found["config_hash"] == config_hash(CONFIG)
    assert (found["seed_init"], found["seed_order"]) == (3, 5)
    assert found["overrides"] == ["peft.rank=8"]
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == version("torch")
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 2**28
    assert json.loads(json.dumps(found)) == found


def test_the_time_is_in_utc():
    then = datetime.fromisoformat(provenance.now())
    assert then.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - then) < timedelta(minutes=1)


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    provenance.versions.cache_clear()
    assert set(provenance.versions()) == {"torch"}
    monkeypatch.undo()
    provenance.versions.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "effnlp").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "effnlp" / "provenance.py"))
    provenance.git_commit.cache_clear()
    yield tmp_path
    provenance.git_commit.cache_clear()


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_if_files_were_changed(checkout: Path):
    git(checkout, "init")
    (checkout / "a.txt").write_text("a")
    git(checkout, "add", "a.txt")
    git(checkout, "commit", "-m", "a")
    head = git(checkout, "rev-parse", "HEAD")
    assert provenance.git_commit() == head
    (checkout / "new.txt").write_text("not tracked")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == head
    (checkout / "a.txt").write_text("b")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == f"{head}+changes"


def test_outside_of_a_checkout_there_is_no_commit(checkout):
    assert provenance.git_commit() is None
    (checkout / ".git").mkdir()  # broken
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() is None
