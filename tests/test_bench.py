"""``effnlp export`` and ``effnlp bench`` as a user types them, on a small model."""

import json

import pandas as pd
import pytest
import torch

from effnlp import bench, export
from effnlp.evaluation.bench import made_up, scenario_names
from effnlp.evaluation.measured import Measured
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.packaged import read_package, write_package
from effnlp.model.storage import Deployed

WORDS = ["lovely", "awful", "film", "plot", "the", "a"]


@pytest.fixture
def picked(tmp_path, private_folders):
    """A folder as ``effnlp pick`` writes it."""
    texts = [" ".join(WORDS[:n]) for n in range(1, 7)] * 4
    choice = BagOfNgrams(max_length=16)
    tokenizer = choice.tokenizer(pd.DataFrame({"text": texts, "label": [0] * len(texts)}))
    torch.manual_seed(0)
    deployed = Deployed(choice.build(tokenizer, 2).eval(), tokenizer, ("bad", "good"))
    write_package(tmp_path / "picked", deployed, "torch", {})
    return tmp_path / "picked"


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(WORDS[:n]) for n in range(1, 7)) + "\n")
    return path


@pytest.fixture
def call(capsys):
    """A verb with its words; exit code, output, errors."""

    def go(verb, *words):
        code = verb.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


QUICK = ("--requests", 3, "--budget-seconds", 5)


def test_every_scenario_is_a_row_of_the_table_and_its_figures_are_in_the_file(picked, texts, call, tmp_path):
    code, out, err = call(bench, picked, "--file", texts, *QUICK, "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    rows = {line.split()[0] for line in out.splitlines()}
    assert set(scenario_names()) <= rows
    assert len(scenario_names()) >= 4
    said = json.loads((tmp_path / "bench.json").read_text())
    assert said["runtime"] == "torch"
    assert said["versions"] == {"torch": torch.__version__}
    assert said["values"]["model/file_bytes"] == (picked / "deployed.pt").stat().st_size
    for name in scenario_names():
        assert said["values"][f"infer/{name}/examples_per_second"] > 0
        assert said["values"][f"infer/{name}/is_quiet"] == 1
    assert "infer/single_stream/latency_seconds_p99" in said["absent"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_exported_folder_is_timed_by_what_it_holds(kind, picked, texts, call, tmp_path):
    pytest.importorskip("onnxscript")
    code, out, err = call(export, picked, "--format", kind, "--into", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "effnlp bench" in out
    code, out, err = call(bench, tmp_path / "out", "--tokens", 7, "--scenario", "single_stream", *QUICK)
    assert (code, err) == (0, "")
    runtime = {"torch": "torch.export (torch ", "onnx": "onnxruntime (onnxruntime "}[kind]
    assert out.startswith(runtime)
    assert "7 tokens (median)" in out
    assert "fixed_batch" not in out


def test_made_up_texts_have_the_lengths_and_ids_that_the_model_reads(picked):
    model = read_package(picked)
    found = made_up([0, 3, 900], model)
    assert found.lengths.tolist() == [1, 3, 16]
    assert 0 <= found.ids.min() <= found.ids.max() < model.tokenizer.vocabulary_size


def test_a_figure_that_is_absent_is_a_dash_and_a_busy_machine_is_said():
    runtime = {"runtime": "torch", "versions": {"torch": "2"}, "threads": 2}
    found = {"offline": Measured({"examples_per_second": 2.5, "is_quiet": 0.0})}
    lines = bench.table(runtime, 2_000_000, "texts", found)
    assert lines[0] == "torch (torch 2), 2 threads, 2.00 MB; texts"
    assert lines[2].split() == ["offline", "-", "-", "-", "2.5", "-"]
    assert lines[3].startswith("Other runs worked")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--tokens", "4"], "there is no folder nowhere"),
        (["{tmp}", "--tokens", "4"], "holds no model"),
        (
            ["{picked}", "--scenario", "single_steam"],
            "no scenario 'single_steam'; did you mean 'single_stream'?",
        ),
        (["{picked}"], "name a --file of texts, or their length by --tokens"),
        (["{picked}", "--file", "nothing.txt"], "there is no file nothing.txt"),
        (["{picked}", "--tokens", "0"], "--tokens must be above 0, got 0"),
        (["{picked}", "--tokens", "4", "--threads", "-1"], "--threads must be above 0, got -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, said, picked, call, tmp_path):
    code, out, err = call(bench, *(word.format(tmp=tmp_path, picked=picked) for word in words))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_what_cannot_be_exported_is_one_line(picked, call, tmp_path, monkeypatch):
    assert call(export, tmp_path / "nowhere")[::2] == (
        2, f"effnlp export: there is no folder {tmp_path / 'nowhere'}\n",
    )  # fmt: skip
    from effnlp.model import export as onnx

    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    code, _, err = call(export, picked, "--format", "onnx")
    assert code == 2
    assert "ONNX files need onnx, onnxscript, onnxruntime" in err
    assert not (picked / "exported-onnx").exists()
