import json
import shutil

import pytest
import torch

from effnlp.model.backbone import Backbone
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.mixer.attention import Attention
from effnlp.model.packaged import NEWEST, WEIGHTS, read_package, write_package
from effnlp.model.storage import Deployed

TEXTS = ["a fine word", "", "word", "nothing known here", "fine " * 40]


@pytest.fixture
def make_deployed():
    """A small model with its tokenizer; ``pair`` for one that reads pairs."""
    import pandas as pd

    def make(pair=False):
        choice = (
            Backbone(Attention, max_length=16, vocabulary_size=300) if pair else BagOfNgrams(max_length=16)
        )
        table = pd.DataFrame({"text": ["a fine word"] * 4, "label": [0] * 4})
        if pair:
            table["text_pair"] = table["text"]
        torch.manual_seed(0)
        tokenizer = choice.tokenizer(table)
        return Deployed(choice.build(tokenizer, 3).eval(), tokenizer, ("no", "yes", "ÿ\t"), pair)

    return make


@pytest.fixture
def folder(make_deployed, tmp_path):
    write_package(tmp_path / "made", make_deployed(), "torch", {"task": "mine"})
    return tmp_path / "made"


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_folder_that_was_moved_answers_as_the_model_did(kind, make_deployed, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    deployed = make_deployed()
    content = write_package(tmp_path / "made", deployed, kind, {"task": "mine"})
    assert set(content["files"]) == {p.name for p in (tmp_path / "made").iterdir()} - {"model.json"}
    shutil.move(tmp_path / "made", tmp_path / "elsewhere")
    package = read_package(tmp_path / "elsewhere")
    assert (package.labels, package.is_pair) == (("no", "yes", "ÿ\t"), False)
    encodings = deployed.tokenizer.encode(TEXTS)
    with torch.inference_mode():
        expected = deployed.model(encodings.batch(range(len(TEXTS)))).double().softmax(1)
    given, cut = package.probabilities(TEXTS)
    assert torch.allclose(given, expected, atol=1e-6)
    assert torch.allclose(given.sum(1), torch.ones(len(TEXTS), dtype=torch.float64))
    assert cut == 1


def test_the_folder_of_a_run_is_read_alike(make_deployed, tmp_path):
    deployed = make_deployed()
    deployed.save(tmp_path / "deployed.pt")
    expected, _ = read_package(tmp_path).probabilities(TEXTS)
    write_package(tmp_path / "made", deployed, "torch", {})
    assert torch.equal(read_package(tmp_path / "made").probabilities(TEXTS)[0], expected)


def test_pairs_are_asked_for_and_single_texts_are_not_taken_for_pairs(make_deployed, folder):
    write_package(folder, make_deployed(pair=True), "torch", {})
    package = read_package(folder)
    given, _ = package.probabilities(["a fine word", "word"], ["word", "fine"])
    assert given.shape == (2, 3)
    with pytest.raises(ValueError, match="reads pairs of texts"):
        package.probabilities(["word"])
    write_package(folder, make_deployed(), "torch", {})
    package = read_package(folder)
    with pytest.raises(ValueError, match="reads single texts"):
        package.probabilities(["word"], ["word"])


def test_writing_another_kind_leaves_nothing_of_the_kind_before(make_deployed, folder):
    pytest.importorskip("onnxscript")
    write_package(folder, make_deployed(), "onnx", {})
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.onnx", "tokenizer.pickle"}
    write_package(folder, make_deployed(), "torch", {})
    assert {path.name for path in folder.iterdir()} == {"model.json", "deployed.pt"}


def change(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-10])


DAMAGES = {
    "newer": (
        lambda f: change(f, schema=NEWEST + 1),
        rf"has schema {NEWEST + 1}, this effnlp reads up to {NEWEST}",
    ),
    "no json": (lambda f: (f / "model.json").write_text("{"), r"model\.json is damaged"),
    "no text": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), r"model\.json is damaged"),
    "a list": (lambda f: (f / "model.json").write_text("[]"), "it has no schema"),
    "labels": (lambda f: change(f, labels="x"), "labels is 'x'"),
    "format": (lambda f: change(f, format="tflite"), "format 'tflite'"),
    "cut": (lambda f: cut_short(f / "deployed.pt"), r"deployed\.pt is damaged"),
    "gone": (lambda f: (f / "deployed.pt").unlink(), r"is not whole: deployed\.pt is not there"),
    "all gone": (lambda f: [path.unlink() for path in f.iterdir()], r"holds no model .*effnlp pick DIR"),
    "no folder": (shutil.rmtree, "there is no folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_an_error_that_names_the_file(damage, folder):
    act, said = DAMAGES[damage]
    read_package(folder)
    act(folder)
    with pytest.raises(ValueError, match=said):
        read_package(folder)


def test_a_damaged_file_of_a_run_is_an_error_that_names_it(make_deployed, tmp_path):
    make_deployed().save(tmp_path / "deployed.pt")
    cut_short(tmp_path / "deployed.pt")
    with pytest.raises(ValueError, match=r"deployed\.pt cannot be read as a deployed model"):
        read_package(tmp_path)


def test_there_are_two_formats(make_deployed, tmp_path):
    with pytest.raises(ValueError, match="format must be one of torch, onnx, got 'gguf'"):
        write_package(tmp_path / "made", make_deployed(), "gguf", {})
    assert list(tmp_path.iterdir()) == []
