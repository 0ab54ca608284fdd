import pytest
import torch

from effnlp.model.export import export_onnx
from effnlp.model.storage import Deployed

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deberta", "gpt2", "llama", "t5"])  # split, fused, rotated and relative
def test_the_onnx_form_of_a_family_answers_as_the_model(name, tiny_family, tmp_path):
    tiny = tiny_family(name)
    with torch.no_grad():
        tiny.model.head.weight.normal_()
    assert export_onnx(Deployed(tiny.model, tiny.tokenizer, ("a", "b", "c")), tmp_path / "model.onnx") < 1e-3
