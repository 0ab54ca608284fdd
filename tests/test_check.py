"""``effnlp check`` says in advance what a run would do, or why it would not."""

import pytest

from effnlp.check import main


def test_the_plan_names_who_acts_when(capsys):
    assert main(["compression/pruning=movement", "compression/quantization=int8_dynamic"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert lines["data"].startswith("task=docstrings")
    assert lines["pretraining"] == "model=backbone -> model/mixer=attention"
    assert (
        "prepare: compression/pruning=movement; during: compression/pruning=movement" in lines["finetuning"]
    )
    finish = "finish: compression/pruning=movement -> compression/quantization=int8_dynamic"
    assert lines["compression"] == finish
    assert lines["record"] == "tracking=files"
    assert "outputs/docstrings/" in lines["legal;"]


def test_a_rounded_base_comes_before_what_learns_on_it(capsys):
    base = ["compression/quantization=int8_weight_only", "compression.quantization.moment=prepare"]
    assert main([*base, "peft=lora"]) == 0
    out = capsys.readouterr().out
    assert "prepare: compression/quantization=int8_weight_only -> peft=lora; during: nothing" in out
    assert "finish: peft=lora\n" in out


def test_it_runs_nothing_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["peft=lorra"],
        ["peft=lora", "peft=none"],
        ["peft=lora", "compression/pruning=movement"],
        ["compression.order=[pruning]"],
        ["task=hub"],
        ["trainer.epochs=many"],
        ["model=pretrained", "model/mixer=performer"],
        ["--config-dir", "/nowhere"],
    ],
    ids=" ".join,
)
def test_what_cannot_run_is_refused_in_one_line_with_exit_code_2(overrides, capsys):
    assert main(overrides) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("effnlp check: ")
    assert captured.err.count("\n") == 1
