"""``effnlp delta`` as a user types it."""

import re

import pytest
import torch

from effnlp.deltas import main
from effnlp.model.delta import FILE, Delta
from effnlp.model.storage import Deployed
from effnlp.peft.exchange import CONFIG
from effnlp.peft.lora import LoRA
from effnlp.serving import Base

MINILM = (
    "model=pretrained",
    "model.max_length=16",
    "peft=lora",
    "peft.rank=2",
    "peft.alpha=4",
    "trainer.epochs=1",
)


def test_a_run_is_exported_and_what_is_read_of_it_is_the_deployed_model(run_tiny, tmp_path, capsys, minilm):
    record = run_tiny(*MINILM, "trainer.batch_size=128")
    assert record.status == "completed", record.message
    assert main(["export", str(record.folder), "--to", str(tmp_path / "adapter")]) == 0
    assert (tmp_path / "adapter" / CONFIG).is_file()
    deployed = Deployed.load(record.folder / "deployed.pt").model
    delta = Delta.read(record.folder / FILE)
    base = Base.build(delta.about.config, classes=3)
    read = LoRA(rank=2, alpha=4, start=str(tmp_path / "adapter")).prepare(base.model).eval()
    batch = minilm.batch(["a lovely plot", "weird"])
    torch.testing.assert_close(read(batch), deployed(batch), rtol=0, atol=1e-5)
    assert main(["show", str(record.folder / FILE)]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"base +pretrained minilm, SHA-256 {delta.about.base}", said)
    assert f"{int(record.values['model/delta_bytes']):,}" in said
    assert "good" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nowhere"], "there is no delta nowhere"),
        (["export", "nowhere"], "export needs --to FOLDER"),
        (["show", "nowhere", "--to", "there"], "--to is for export"),
        (["export", "nowhere", "--to", "."], ". is there already; --to takes a new folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert main(words) == 2
    assert capsys.readouterr().err == f"effnlp delta: {message}\n"


def test_a_delta_that_the_format_has_no_place_for_is_refused(run_tiny, tmp_path, capsys):
    record = run_tiny("model=backbone", "peft=bitfit", "trainer.epochs=1")
    assert main(["export", str(record.folder), "--to", str(tmp_path / "adapter")]) == 2
    assert "the format of the package peft has LoRA and (IA)³" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()
