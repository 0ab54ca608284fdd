"""Every method of ``compression`` either has a form without effnlp that answers as it does, or refuses clearly."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from effnlp import method
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.export import random_batch, tolerance
from effnlp.model.exported import MARGIN, arrays, write_export
from effnlp.model.mixer.attention import Attention
from effnlp.model.stages import ExportError
from effnlp.model.standalone import Exported
from effnlp.model.storage import Deployed
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe

CONF = Path(__file__).parents[2] / "conf" / "compression"
CONFIGS = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name != "distillation"]
"""Distillation changes how a model learns, and leaves a model of the same parts."""
CONFIGS.remove(CONF / "quantization" / "kv_cache.yaml")  # of language models alone, which are refused as such

REFUSED = {"token_dropping/power_bert": "PoWER-BERT decides by the attention"}
"""What has no form as graphs, and how it says so."""

assert len(CONFIGS) > 20


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


def deployed(path):
    torch.manual_seed(0)
    texts = [f"word{i} word{i + 1} and more" for i in range(20)]
    tokenizer = SubwordTokenizer(train_byte_bpe(texts, 300), 16, PAD_ID)
    size = Size(depth=3, width=32, heads=2, feedforward_width=64)
    model = Classifier(BackboneEncoder(size, Attention, tokenizer.vocabulary_size, 16), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made = Deployed(model.eval(), tokenizer, ("x", "y", "z"))
    batch = random_batch(made, 16, 14, seed=3)
    batch = {**batch, "labels": torch.arange(16) % 3, "rows": torch.arange(16)}
    chosen = instantiate(OmegaConf.to_container(OmegaConf.load(path)), _convert_="all")
    if hasattr(chosen, "read_counts"):  # of the texts of a task
        counts = np.bincount(batch["input_ids"].flatten(), minlength=tokenizer.vocabulary_size)
        chosen.read_counts(counts, np.array([PAD_ID]), None, counts)
    made.model = method.prepare([chosen], made.model, [batch]).eval()
    made.model = method.finish(chosen, made.model, [batch]).eval()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_method_is_exported_with_the_same_logits_or_refuses(path, kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    made = deployed(path)
    if (said := REFUSED.get(name_of(path))) is not None:
        with pytest.raises(ExportError, match=said):
            write_export(tmp_path / "made", made, kind, {})
        assert list(tmp_path.iterdir()) == []
        return
    write_export(tmp_path / "made", made, kind, {})
    reader = Exported(tmp_path / "made")
    batch = random_batch(made, 20, 13, seed=77)
    with torch.inference_mode():
        expected = copy.deepcopy(made.model)(batch).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3
    given = reader.answer(arrays(batch))
    sure = reader.last_margins >= MARGIN
    assert sure.any()
    assert np.abs(given - expected)[sure].max() <= tolerance(made.model)
