import os
import subprocess
import sys
from pathlib import Path

import pytest

from effnlp.report.command import main

ROOT = Path(__file__).parents[2]


def test_a_report_ends_with_where_its_files_are(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([str(runs)]) == 0
    out = capsys.readouterr().out
    assert "configurations are on the frontier of val/accuracy ↑" in " ".join(out.split())
    named = [line.split(maxsplit=1)[1] for line in out.splitlines()[-2:]]
    assert [Path(path).name for path in named] == ["frontier.csv", "report.html"]
    assert all(Path(path).is_file() for path in named)


def test_objectives_and_the_place_of_the_files_can_be_chosen(runs, capsys, tmp_path):
    out = tmp_path / "there"
    chosen = ["--objective", "val/loss", "--objective", "model/bytes:min", "--out", str(out)]
    assert main([str(runs / "multirun"), *chosen]) == 0
    assert "val/loss ↓ · model/bytes ↓" in capsys.readouterr().out.replace("\n", " ")
    assert sorted(path.name for path in out.iterdir()) == ["frontier.csv", "report.html"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{runs}/nowhere"], "nowhere is not a folder"),
        (["{empty}"], "no record.json below"),
        (["{runs}", "--objective", "val/acuracy"], "near: val/accuracy"),
        (["{runs}", "--objective", "val/accuracy:up"], "KEY:max or KEY:min"),
        (["{runs}", "--out", "{runs}/multirun/quickstart/sweep.json"], "sweep.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(runs, tmp_path_factory, capsys, arguments, said):
    empty = tmp_path_factory.mktemp("empty")
    assert main([argument.format(runs=runs, empty=empty) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1


def test_help_has_examples_and_needs_nothing_heavy():
    code = (
        "import sys; from effnlp.report.command import parser; parser().print_help();"
        "heavy = {'rich', 'plotly', 'pandas', 'numpy', 'scipy', 'torch', 'jinja2'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "effnlp report multirun/quickstart" in done.stdout
    assert "--objective KEY[:max|min]" in done.stdout
