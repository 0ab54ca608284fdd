"""Folders that answer as the model did, with nothing of effnlp, and texts that leave early there as they did."""

import json
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.early_exit.pabee import PABEE
from effnlp.compression.pruning.magnitude import prune_by_magnitude
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.model import standalone
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.classifier import Classifier
from effnlp.model.export import examples, export_form, random_batch, to_onnx
from effnlp.model.exported import arrays, read_exported, write_export
from effnlp.model.mixer.attention import Attention
from effnlp.model.packaged import read_deployed, read_package
from effnlp.model.stages import ExportError, Whole, cut, trace
from effnlp.model.standalone import Exported, unpacked
from effnlp.model.storage import Deployed
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe

WORDS = [f"word{i}" for i in range(40)]
dice = np.random.default_rng(0)
TEXTS = [" ".join(dice.choice(WORDS, size)) for size in (1, 3, 9, 30, 5, 5)] + ["", "é\u2028 unknown"]


def made(kind, pair=False):
    """A small model of real tokens whose answers differ from text to text."""
    torch.manual_seed(0)
    table = pd.DataFrame({"text": TEXTS * 4, "label": [0] * 4 * len(TEXTS)})
    if kind == "ngrams":
        choice = BagOfNgrams(buckets=4096, width=16, max_length=16)
        tokenizer = choice.tokenizer(table.assign(text_pair=table["text"]) if pair else table)
        model = choice.build(tokenizer, 3)
    else:
        tokenizer = SubwordTokenizer(train_byte_bpe(TEXTS, 300), 16, PAD_ID)
        size = Size(depth=3, width=16, heads=2, feedforward_width=24)
        encoder = BackboneEncoder(size, Attention, tokenizer.vocabulary_size, 16, pairs=pair)
        model = Classifier(encoder, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Deployed(model.eval(), tokenizer, ("x", "y", "ÿ"), pair)


def with_exits(method):
    deployed = made("subwords")
    deployed.model = method.prepare(deployed.model)
    with torch.no_grad():
        for parameter in deployed.model.exits.parameters():
            parameter.add_(torch.randn_like(parameter))
    deployed.model = method.finish(deployed.model).eval()
    return deployed


KINDS = ["torch", pytest.param("onnx", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True, scope="module")
def _onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")


def alone(folder, code, given=""):
    """Run code in a process to which effnlp cannot be imported; what it wrote."""
    blocked = "import sys; sys.modules['effnlp'] = None; sys.path.insert(0, '.')\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=folder, input=given, capture_output=True, text=True, timeout=300,
        check=False, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected_of(deployed, texts, pairs=None):
    with torch.inference_mode():
        return deployed.model(deployed.tokenizer.encode(texts, pairs).batch(range(len(texts)))).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("what", "pair"),
    [
        ("ngrams", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("ngrams", True), ("subwords", True))),
    ],
)
def test_a_moved_folder_answers_texts_where_effnlp_cannot_be_imported(what, pair, kind, tmp_path):
    deployed = made(what, pair)
    content = write_export(tmp_path / "made", deployed, kind, {"task": "mine"})
    shutil.move(tmp_path / "made", tmp_path / "elsewhere")
    names = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    assert set(content["files"]) == names - {"model.json"}
    pairs = TEXTS[::-1] if pair else None
    logits = expected_of(deployed, TEXTS, pairs)
    assert (logits.amax(0) - logits.amin(0)).min() > 1e-2
    said = alone(
        tmp_path / "elsewhere",
        f"""
        from run import Exported
        import json
        print(json.dumps(Exported(".").logits({TEXTS!r}, {pairs!r}, batch_size=3).tolist()))
        """,
    )
    assert torch.tensor(json.loads(said)).double().sub(logits).abs().max() < 1e-4
    package = read_package(tmp_path / "elsewhere")
    assert (package.labels, package.is_pair) == (("x", "y", "ÿ"), pair)
    assert torch.allclose(package.probabilities(TEXTS, pairs)[0], logits.softmax(1), atol=1e-5)


def test_the_reader_is_a_command_too_that_writes_a_label_a_line(tmp_path):
    deployed = made("ngrams")
    write_export(tmp_path / "made", deployed, "torch", {})
    texts = [text for text in TEXTS if "\u2028" not in text]
    labels = [deployed.labels[row] for row in expected_of(deployed, texts).argmax(1)]
    code = "import runpy; sys.argv = ['run.py', '--batch-size', '2']; runpy.run_path('run.py', run_name='__main__')"
    said = alone(
        tmp_path / "made",
        f"try:\n    {code}\nexcept SystemExit as e:\n    assert e.code == 0",
        "".join(f"{text}\n" for text in texts),
    )
    assert said.splitlines() == labels
    assert len(set(labels)) > 1


class Checked:
    """An early-exit model whose threshold splits the texts."""

    def __init__(self, method, folder, kind):
        self.deployed = with_exits(method)
        self.content = write_export(folder, self.deployed, kind, {})
        self.reader = Exported(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "method",
    [pytest.param(DeeBERT(threshold=0.75), marks=pytest.mark.slow), PABEE(patience=1)],
    ids=["deebert", "pabee"],
)
def test_texts_leave_early_in_the_folder_as_they_do_in_the_model(method, kind, tmp_path):
    checked = Checked(method, tmp_path / "made", kind)
    model, reader = checked.deployed.model, checked.reader
    assert len(checked.content["stages"]) == model.encoder.depth
    batch = random_batch(checked.deployed, 40, 12, seed=9)
    with torch.inference_mode():
        logits = model(batch)
    given = reader.answer(arrays(batch))
    together = reader.last_depths
    assert len(set(together)) > 1, "some leave early and some do not"
    assert (together == model.last_depths.numpy()).all()
    assert np.abs(given - logits.numpy()).max() < 1e-4
    for row in range(0, 40, 7):
        length = int(batch["attention_mask"][row].sum())
        one = {name: value[row : row + 1, :length].numpy() for name, value in batch.items()}
        assert np.abs(reader.answer(one) - given[row]).max() < 1e-4
        assert reader.last_depths[0] == together[row]


@pytest.mark.slow
def test_a_text_that_left_is_not_computed_any_more(tmp_path):
    reader = Checked(DeeBERT(threshold=0.75), tmp_path / "made", "torch").reader
    sizes = []

    def counting(graph):
        def counted(given):
            sizes.append(len(given[0]))
            return graph(given)

        return counted

    reader._graphs = [counting(graph) for graph in reader._graphs]
    deployed = made("subwords")
    reader.answer(arrays(random_batch(deployed, 40, 12, seed=9)))
    inside = [int((reader.last_depths >= depth).sum()) for depth in range(1, len(sizes) + 1)]
    assert sizes == inside
    assert sizes[0] > sizes[1] > 0


@pytest.mark.slow
def test_weights_that_are_zero_take_no_room_and_shared_ones_are_stored_once(tmp_path):
    def bytes_of(change):
        deployed = made("subwords")
        change(deployed.model)
        write_export(tmp_path / change.__name__, deployed, "torch", {})
        return (tmp_path / change.__name__ / "weights.safetensors").stat().st_size

    def same(model):
        return model

    def sparse(model):
        return prune_by_magnitude(model, 0.9)

    def tied(model):
        model.encoder.layers[1] = model.encoder.layers[0]
        return model

    whole = bytes_of(same)
    assert bytes_of(sparse) < 0.75 * whole  # the table and the head keep their weights
    layer = sum(p.numel() * 4 for p in made("subwords").model.encoder.layers[0].parameters())
    assert whole - bytes_of(tied) > 0.9 * layer


@pytest.mark.parametrize("left", [0.5, 0.01])
def test_a_packed_tensor_is_read_back_bit_for_bit(left):
    from effnlp.model import sparse

    torch.manual_seed(0)
    tensor = torch.randn(30, 40) * (torch.rand(30, 40) < left)
    entry = sparse.pack_tensor(tensor)
    assert isinstance(entry, dict)
    stored = {f"w#{part}": value for part, value in sparse.tensors_of(entry).items()}
    assert torch.equal(unpacked(stored, "w", list(tensor.shape)), tensor)


class Odd(nn.Module):
    """Answers by an operator that ONNX lacks."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return torch.special.bessel_j0(self.inner(batch))


def test_an_operator_without_an_onnx_form_is_named(tmp_path):
    deployed = made("ngrams")
    deployed.model = Odd(deployed.model)
    with pytest.raises(ExportError, match=r"the operator \w+\.\w*bessel_j0 has no ONNX form"):
        write_export(tmp_path / "made", deployed, "onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_the_method_that_brings_such_an_operator_is_named():
    deployed = made("ngrams")
    deployed.model.head = nn.Sequential(deployed.model.head, OddLayer())
    stage = cut(export_form(deployed.model), *examples(deployed)).stages[0]
    with pytest.raises(ExportError, match=r"OddLayer \(compression/quantization/odd\) computes with it"):
        to_onnx(stage)


class OddLayer(nn.Module):
    __module__ = "effnlp.compression.quantization.odd"

    def forward(self, x):
        return torch.special.bessel_j0(x)


class Branching(nn.Module):
    __module__ = "effnlp.compression.pruning.branching"

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Doing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Branching()

    def forward(self, batch):
        return self.layer(batch["x"])


def test_the_module_that_cannot_be_traced_is_named_with_its_method():
    with pytest.raises(ExportError, match=r"Branching \(compression/pruning/branching\) cannot be traced"):
        trace(Whole(Doing(), ("x",)), [torch.randn(3, 3)], [torch.randn(2, 3)])


def test_what_refuses_and_what_answers_otherwise_leave_nothing_behind(tmp_path):
    deployed = made("ngrams")
    deployed.model.not_exported = "this one cannot"
    with pytest.raises(ExportError, match="this one cannot"):
        write_export(tmp_path / "made", deployed, "torch", {})
    del deployed.model.not_exported

    class Stateful(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, [0]

        def forward(self, batch):
            self.calls[0] += 1
            return self.inner(batch) + self.calls[0]

    deployed.model = Stateful(deployed.model)
    with pytest.raises(ExportError, match="would not answer as the model does: a logit differs by"):
        write_export(tmp_path / "made", deployed, "torch", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_not_touched_and_an_export_is_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        write_export(tmp_path / "mine", made("ngrams"), "torch", {})
    write_export(tmp_path / "made", made("ngrams"), "torch", {"turn": 1})
    (tmp_path / "made" / "graph_7.pt2").write_text("of a deeper model")
    assert write_export(tmp_path / "made", made("ngrams"), "torch", {"turn": 2})["turn"] == 2
    assert not (tmp_path / "made" / "graph_7.pt2").exists()
    assert read_package(tmp_path / "made").labels == ("x", "y", "ÿ")


def test_what_was_exported_is_not_a_module_and_a_damaged_folder_says_so(tmp_path):
    folder = tmp_path / "made"
    write_export(folder, made("ngrams"), "torch", {})
    with pytest.raises(ValueError, match="exported already"):
        read_deployed(folder)
    (folder / "graph_0.pt2").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        read_package(folder)
    about = json.loads((folder / "model.json").read_text())
    with pytest.raises(ValueError, match="cannot be read"):
        read_exported(folder, about)
    with pytest.raises(ValueError, match="holds no exported model"):
        Exported(tmp_path)


@pytest.mark.parametrize("is_better", [True, False])
def test_integers_are_multiplied_as_floats_where_that_is_faster_with_the_same_answers(is_better, monkeypatch):
    torch.manual_seed(0)
    layer, x = DynamicInt8Linear(nn.Linear(2100, 20)), torch.randn(7, 2100)
    module = torch.export.export(layer.for_export(), (x,)).module()
    expected = module(x)
    monkeypatch.setattr(standalone, "_torch_is_better", lambda *_: is_better)
    changed = standalone.with_fast_integers(module, torch)
    left = [node for node in changed.graph.nodes if node.target is torch.ops.aten._int_mm.default]
    assert len(left) == is_better
    assert torch.equal(changed(x), expected)


def test_a_product_that_saturates_is_not_better(monkeypatch):
    exact = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: exact(a, b).clamp(-(2**15), 2**15 - 1))
    assert not standalone._torch_is_better(torch, lambda left, right: time.sleep(0.1))
