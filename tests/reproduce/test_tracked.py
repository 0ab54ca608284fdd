import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effnlp.compose import ConfigError
from effnlp.reproduce.table import tabulate
from effnlp.reproduce.tracked import claims_of, log_table, overrides_for, rows_of

WANDB = shutil.which("wandb") or str(Path(sys.executable).with_name("wandb"))


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No login, settings or network of this machine."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)


def test_a_tracker_is_told_the_group_if_it_knows_of_groups_and_must_exist():
    assert overrides_for("wandb", "e", "table") == [
        "tracking=wandb",
        "tracking.group=e",
        "tracking.job_type=table",
    ]
    assert overrides_for("wandb", "e") == ["tracking=wandb", "tracking.group=e"]
    assert overrides_for("files", "e", "table") == ["tracking=files"]
    with pytest.raises(ConfigError, match=r"--tracking: .*'wandbb'; did you mean 'wandb'"):
        overrides_for("wandbb", "e")


def test_rows_have_our_figures_and_those_of_the_paper_as_the_table_has_them(experiment, small):
    table = tabulate(experiment, small)
    rows = rows_of(table)
    assert [row["row"] for row in rows] == list(table.rows)
    ours = paper = 0
    for row in rows:
        for column in table.columns:
            entry = table.entry(row["row"], column)
            name = f"{column.name} ({column.unit})" if column.unit else column.name
            assert row.get(name) == (entry.ours.mean if entry.ours else None)
            assert row.get(f"{name}, paper") == (entry.paper.value if entry.paper else None)
            ours, paper = ours + bool(entry.ours), paper + bool(entry.paper)
    assert ours > 0
    assert paper > 0


def test_the_table_is_one_more_run_of_the_group_with_its_verdicts_counted(experiment, small, tmp_path):
    log_table(experiment, small, "wandb", tmp_path / "result")
    [folder] = (tmp_path / "result").rglob("offline-run-*")
    command = [WANDB, "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    [run] = [line["run"] for line in map(json.loads, lines) if line["type"] == "run"]
    assert (run["run_group"], run["job_type"]) == (experiment.name, "table")
    command = [*command[:3], "--summary", *command[3:]]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    counted = {key: value for key, value in told["summary"].items() if key.startswith("claims/")}
    assert sum(counted.values()) == len(small.claims)
    assert counted["claims/holds"] == sum(claim.finding.verdict == "holds" for claim in small.claims)
    tables = [json.loads(path.read_text()) for path in folder.rglob("*.table.json")]
    rows, claims = (next(t for t in tables if t["columns"][0] == name) for name in ("row", "claim"))
    assert len(rows["data"]) == len(tabulate(experiment, small).rows)
    assert len(claims["data"]) == len(claims_of(small)) == len(small.claims)
    assert small.claims


def test_a_tracker_that_takes_no_tables_is_left_alone(experiment, small, tmp_path):
    log_table(experiment, small, "files", tmp_path / "result")
    assert not (tmp_path / "result").exists()
