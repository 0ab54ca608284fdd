"""The verb: what it prints, writes, refuses and returns, over experiments that are made here and over our own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from effnlp.cli import main as effnlp
from effnlp.reproduce import command, store
from effnlp.reproduce import read as reading
from effnlp.reproduce import runs as running
from effnlp.reproduce.command import main
from effnlp.reproduce.read import names, read
from effnlp.reproduce.result import FAILS, HOLDS, NOT_TESTABLE, UNDECIDED, Result

SQUARES = {
    "title": "Squares",
    "citation": "Euclid (-300)",
    "question": "How large is a square?",
    "columns": [{"name": "area", "unit": "m²", "exact": True}, {"name": "drawn"}],
    "published": [
        {"row": "two", "column": "area", "value": 4, "where": "Table 1", "seen": "full_text"},
        {"row": "three", "column": "area", "value": 10, "where": "Table 1", "seen": "other_source"},
    ],
    "layers": {
        "analytic": {
            "computed": [
                {"function": "made_squares.area", "row": "two", "column": "area", "arguments": {"side": 2}},
                {"function": "made_squares.area", "row": "three", "column": "area", "arguments": {"side": 3}},
            ]
        },
        "small": {"computed": [{"function": "made_squares.drawn"}]},
    },
    "claims": [
        {"name": "true", "says": "Two is four.", "layer": "analytic", "claim": "equals",
         "of": {"row": "two", "column": "area"}, "to": "published"},
        {"name": "planted", "says": "Three is ten.", "layer": "analytic", "claim": "equals",
         "of": {"row": "three", "column": "area"}, "to": "published"},
        {"name": "borderline", "says": "It is at least five.", "layer": "small", "claim": "paired_difference",
         "of": {"row": "two", "column": "drawn"}, "to": 5, "at_least": 0.0, "frozen": "2026-11-22", "pilot": "none"},
        {"name": "elsewhere", "says": "On the moon too.", "layer": "small", "not_testable": "needs a rocket"},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Experiments of this test alone; what a command leaves goes below it too."""
    experiments = tmp_path / "experiments"
    for module in (reading, store, command):
        monkeypatch.setattr(module, "experiments_dir", lambda: experiments)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    functions = ModuleType("made_squares")

    def area(side: float):
        return side * side

    def drawn():
        return {"two": {"drawn": [4.0, 5.0, 6.0]}}

    def break_down():
        raise RuntimeError("the ruler broke")

    functions.area, functions.drawn, functions.break_down = area, drawn, break_down
    monkeypatch.setitem(sys.modules, "made_squares", functions)
    return experiments


@pytest.fixture
def write(folder):
    """Write an experiment: ``SQUARES`` with changes."""

    def go(name="squares", chapter="model", **changes):
        path = folder / chapter / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(json.dumps({**SQUARES, **changes}))
        for claim in content["claims"]:
            if "frozen" in claim:
                claim["frozen"] = yaml.safe_load(claim["frozen"])
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return go


def result(name="squares", layer="analytic", into="outputs/reproduce"):
    return Result.load(Path(into) / name / layer / "result.json")


def verdicts(found):
    return {claim.name: claim.finding.verdict for claim in found.claims}


def test_an_experiment_is_reproduced_from_its_file_to_its_verdicts(write, capsys):
    write()
    assert main(["squares"]) == 0
    shown = capsys.readouterr().out
    assert "Squares" in shown
    assert "unverified" in shown.lower()
    assert verdicts(result()) == {"true": HOLDS, "planted": FAILS}
    assert verdicts(result(layer="small")) == {"borderline": UNDECIDED, "elsewhere": NOT_TESTABLE}
    assert result().cell("three", "area").values == {"0": 9.0}
    assert all("evaluator" in result(layer=layer).versions for layer in ("analytic", "small"))


def test_a_claim_that_fails_is_an_error_only_where_that_was_asked_for(write, capsys):
    write()
    assert main(["squares", "--layer", "analytic"]) == 0
    assert main(["squares", "--layer", "analytic", "--strict"]) == 1
    assert main(["squares", "--layer", "small", "--strict"]) == 0


def test_the_command_of_a_result_makes_it_again(write, capsys):
    write()
    main(["squares", "--layer", "small", "--layer", "analytic"])
    before = result(layer="small")
    assert before.command == "effnlp reproduce squares --layer small"
    assert effnlp(shlex.split(before.command)[1:]) == 0
    assert result(layer="small").cells == before.cells
    assert "Nothing moved" in " ".join(capsys.readouterr().out.split())


def test_what_moved_since_the_last_time_is_said(write, capsys):
    write()
    main(["squares", "--layer", "analytic"])
    layers = json.loads(json.dumps(SQUARES["layers"]))
    layers["analytic"]["computed"][0]["arguments"]["side"] = 2.5
    write(layers=layers)
    capsys.readouterr()
    main(["squares", "--layer", "analytic"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "two, area: 4 → 6.25" in shown
    assert "The verdict of true changed: holds before, fails now." in shown


def test_half_an_experiment_is_shown_with_its_holes_and_ends_with_one(write, capsys):
    layers = json.loads(json.dumps(SQUARES["layers"]))
    layers["analytic"]["computed"][0] = {
        "function": "made_squares.break_down",
        "row": "two",
        "column": "area",
    }
    write(layers=layers)
    assert main(["squares", "--layer", "analytic"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "the ruler broke" in shown
    assert verdicts(result()) == {"true": UNDECIDED, "planted": FAILS}


def test_a_layer_that_needs_what_is_not_here_computes_nothing(write, capsys):
    layers = {**SQUARES["layers"], "full": {**SQUARES["layers"]["small"], "needs": {"gpus": 4096}}}
    claims = [{**SQUARES["claims"][2], "layer": "full"}]
    write(layers=layers, claims=claims)
    assert main(["squares", "--layer", "full"]) == 1
    found = result(layer="full")
    assert verdicts(found) == {"borderline": NOT_TESTABLE}
    assert "GPUs" in found.claims[0].finding.why
    assert not found.cells
    assert found.holes


def test_published_results_are_what_later_ones_are_held_against(write, folder, capsys):
    write()
    assert main(["squares", "--publish"]) == 0
    assert sorted(path.name for path in (folder / "results").iterdir()) == [
        "squares.analytic.json", "squares.small.json",
    ]  # fmt: skip
    assert "Squares" in (folder.parent / "docs" / "experiments.md").read_text()
    capsys.readouterr()
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "analytic: 1 holds, 1 fails" in listed
    claims = json.loads(json.dumps(SQUARES["claims"]))
    claims[2]["at_least"] = -3.0
    write(claims=claims)
    assert main(["squares"]) == 2
    assert "a threshold is never moved" in capsys.readouterr().err
    claims[2]["frozen"] = "2026-12-01"
    write(claims=claims)
    assert main(["squares", "--layer", "small"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "The rule of borderline was changed; by the old one the verdict was: undecided, now: holds." in shown
    )


def test_a_result_with_holes_is_not_published(write, folder, capsys):
    layers = json.loads(json.dumps(SQUARES["layers"]))
    layers["analytic"]["computed"][0] = {
        "function": "made_squares.break_down",
        "row": "two",
        "column": "area",
    }
    write(layers=layers)
    assert main(["squares", "--publish"]) == 1
    assert "squares, layer analytic, is not published: 1 of its cells" in capsys.readouterr().err
    assert [path.name for path in (folder / "results").iterdir()] == ["squares.small.json"]


def test_only_layers_that_are_there_are_asked_of_all(write, capsys):
    write()
    write("analytic_only", layers={"analytic": SQUARES["layers"]["analytic"]}, claims=SQUARES["claims"][:2])
    assert main(["--all", "--layer", "small"]) == 0
    assert "analytic_only" not in capsys.readouterr().out
    assert main(["analytic_only", "--layer", "small"]) == 2
    assert "analytic_only has no layer small; it has analytic" in capsys.readouterr().err
    assert main(["--all", "--layer", "full"]) == 2
    assert "no experiment has a layer full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sqares"], "no experiment 'sqares'; did you mean 'squares'"),
        (["squares", "--seeds", "x"], "--seeds must be a number of seeds"),
        (["squares", "--seeds", "3"], "none of these layers has any"),
        ([], "which experiments"),
        (["squares", "--all"], "leave the names out"),
        (["squares", "--layer", "tiny"], "invalid choice: 'tiny'"),
    ],
)
def test_what_cannot_be_meant_ends_with_two_and_a_line(arguments, message, write, capsys):
    write()
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_all_that_is_wrong_in_several_files_is_said_before_anything_is_done(write, folder, capsys):
    write(title=3)
    write("other", questoin="?")
    write("whole")
    assert main(["--all"]) == 2
    said = capsys.readouterr().err
    assert "squares.yaml" in said
    assert "other.yaml" in said
    assert not (folder.parent / "outputs").exists()


def test_a_row_that_a_claim_names_and_a_function_does_not_give_is_an_error(write, capsys):
    claims = json.loads(json.dumps(SQUARES["claims"]))
    claims[2]["of"]["row"] = "twoo"
    write(claims=claims)
    assert main(["squares", "--layer", "small"]) == 2
    assert (
        "claims.borderline: unknown row 'twoo' in the layer small; did you mean 'two'"
        in capsys.readouterr().err
    )


RUNS = {
    **SQUARES,
    "columns": [{"name": "accuracy", "key": "val/accuracy", "unit": "%", "scale": 100}],
    "published": [],
    "layers": {
        "small": {
            "common": ["task=files", "model=bag_of_ngrams", "evaluation.latency=false", "trainer.epochs=2",
                       "trainer.progress=none"],
            "rows": {"slow": ["finetuning.learning_rate=0.001"], "fast": ["finetuning.learning_rate=0.1"]},
            "seeds": 2,
        }
    },
    "claims": [
        {"name": "same", "says": "The rate does not matter.", "layer": "small", "claim": "paired_difference",
         "of": {"row": "fast", "column": "accuracy"}, "to": {"row": "slow", "column": "accuracy"},
         "within": 100, "frozen": "2026-11-22", "pilot": "none"},
    ],
}  # fmt: skip


@pytest.fixture
def runs(write, texts_file, private_folders):
    layers = json.loads(json.dumps(RUNS["layers"]))
    layers["small"]["common"].append(f"task.path={texts_file}")
    write("runs", **{**RUNS, "layers": layers})


def test_runs_that_are_missing_are_holes_with_the_command_that_makes_them(runs, capsys):
    assert main(["runs", "--jobs", "0"]) == 1
    found = result("runs", "small")
    assert {hole.row for hole in found.holes} == {"slow", "fast"}
    assert all(hole.command.startswith("effnlp run task=files") for hole in found.holes)
    assert verdicts(found) == {"same": UNDECIDED}


def test_a_launcher_that_breaks_down_leaves_what_there_is(runs, monkeypatch, capsys):
    def complete(plans, *, jobs=1, **settings):
        if jobs:
            raise RuntimeError("no node answers")
        return whole(plans, jobs=0, **settings)

    whole = running.complete
    monkeypatch.setattr(running, "complete", complete)
    assert main(["runs"]) == 1
    assert "the runs were broken off (RuntimeError: no node answers)" in capsys.readouterr().err
    assert {hole.row for hole in result("runs", "small").holes} == {"slow", "fast"}


@pytest.mark.slow
def test_runs_are_done_once_and_used_again_by_more_seeds(runs, capsys):
    assert main(["runs", "--seeds", "1"]) == 0
    first = result("runs", "small")
    assert (first.spent.runs, first.spent.reused) == (2, 0)
    assert first.command.endswith("--seeds 1")
    assert verdicts(first) == {"same": UNDECIDED}
    assert main(["runs"]) == 0
    second = result("runs", "small")
    assert (second.spent.runs, second.spent.reused) == (2, 2)
    assert set(second.cell("fast", "accuracy").values) == {"0", "1"}
    assert second.fingerprints
    assert second.spent.run_seconds > first.spent.run_seconds
    assert verdicts(second)["same"] == HOLDS


def test_help_and_the_list_need_no_heavy_package(capsys):
    for arguments in (["--list"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "effnlp.cli", "reproduce", *arguments],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "argparse" in imported
        assert not imported & {"torch", "hydra", "omegaconf", "transformers", "wandb", "matplotlib"}
        assert done.stdout


def test_all_that_can_be_counted_in_the_package_is_counted_without_a_hole(tmp_path, capsys):
    assert main(["--all", "--layer", "analytic", "--into", str(tmp_path)]) == 0
    counted = [name for name in names() if "analytic" in read(name).layers]
    assert counted
    for name in counted:
        found = result(name, into=tmp_path)
        assert found.cells
        assert found.is_whole
        assert all(cell.is_exact for cell in found.cells)
        assert UNDECIDED not in verdicts(found).values()
