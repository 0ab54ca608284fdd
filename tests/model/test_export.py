from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.compression.pruning.magnitude import prune_by_magnitude
from effnlp.compression.quantization.int4_weight_only import quantize_to_four_bits
from effnlp.compression.quantization.int8_dynamic import quantize_dynamically
from effnlp.compression.quantization.int8_weight_only import quantize_weights
from effnlp.model import export
from effnlp.model.backbone import Backbone
from effnlp.model.bag_of_ngrams import BagOfNgrams
from effnlp.model.export import MeanOfRows, export_form, export_onnx, load_onnx, random_batch
from effnlp.model.mixer.attention import Attention
from effnlp.model.mixer.performer import Performer
from effnlp.model.pretrained import Pretrained
from effnlp.model.stages import ExportError
from effnlp.model.storage import Deployed, stored_bytes
from effnlp.peft.lora import LoRA

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra onnx")

WORDS = [f"word{i}" for i in range(50)]
SHAPES = [(1, 1), (1, 16), (2, 5), (5, 16), (33, 9), (64, 16)]


def table(pair):
    dice = np.random.default_rng(0)
    texts = [" ".join(dice.choice(WORDS, 12)) for _ in range(60)]
    return pd.DataFrame({"text": texts, "label": [0] * 60} | ({"text_pair": texts[::-1]} if pair else {}))


def deployed(choice, change=lambda model: model, pair=False):
    torch.manual_seed(0)
    tokenizer = choice.tokenizer(table(pair))
    model = choice.build(tokenizer, classes=3).eval()
    with torch.no_grad():  # so that no text is answered by a bias alone
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Deployed(change(model).eval(), tokenizer, ("x", "y", "z"), pair)


def bag():
    return BagOfNgrams(buckets=4096, width=16, max_length=16)


def backbone(mixer=Attention):
    return Backbone(mixer, size="tiny", max_length=16, vocabulary_size=300)


@pytest.fixture
def pretrained(tmp_path):
    """A folder with a small random BERT, as its maker would publish it."""

    def make(model_type="bert"):
        words = ["[PAD]", "[UNK]", *WORDS]
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
        )
        folder = tmp_path / model_type
        tokenizer.save_pretrained(folder)
        sizes = {
            "vocab_size": len(words),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        sizes |= {"intermediate_size": 20, "max_position_embeddings": 24, "pad_token_id": 0}
        config = transformers.AutoConfig.for_model(model_type, **sizes)
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        return Pretrained(name=str(folder), max_length=16)

    return make


@torch.inference_mode()
def largest_difference(made, answer):
    differences = [0.0]
    for seed, (texts, longest) in enumerate(SHAPES):
        batch = random_batch(made, texts, longest, seed + 100)
        expected, given = made.model(batch), answer(batch)
        assert given.shape == expected.shape == (texts, 3)
        assert expected.abs().max() > 1e-3  # an answer of zeros would be met by chance
        differences.append(float((given - expected).abs().max()))
    return max(differences)


def merge_lora(model):
    method = LoRA(rank=2, targets=["query", "value"])
    model = method.prepare(quantize_weights(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.normal_()
    return method.finish(model)


CASES = {
    "bag_of_ngrams": (bag, None),
    "bag_of_ngrams in int8": (bag, quantize_weights),
    "bag_of_ngrams in int4": (bag, partial(quantize_to_four_bits, group_size=8)),
    "backbone": (backbone, None),
    "backbone, pruned": (backbone, partial(prune_by_magnitude, sparsity=0.8)),
    "backbone in int8": (backbone, quantize_weights),
    "backbone in int4": (backbone, partial(quantize_to_four_bits, group_size=64)),
    "backbone with LoRA beside int8": (backbone, merge_lora),
    "backbone with performer": (partial(backbone, partial(Performer, features=8)), None),
}
SLOW = {
    "backbone, pruned",
    "backbone in int8",
    "backbone in int4",
    "backbone with LoRA beside int8",
    "backbone with performer",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def test_the_file_answers_as_the_model_for_any_number_and_length_of_texts(name, tmp_path):
    make, change = CASES[name]
    made = deployed(make(), change or nn.Identity())
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    said = export_onnx(made, tmp_path / "model.onnx")
    difference = largest_difference(made, load_onnx(tmp_path / "model.onnx"))
    assert difference < 1e-4
    assert said < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert all(torch.equal(value, before[key]) for key, value in made.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "modernbert"])
def test_a_pretrained_model_is_exported_with_its_masks(model_type, pretrained, tmp_path):
    made = deployed(pretrained(model_type))
    export_onnx(made, tmp_path / "model.onnx")
    assert largest_difference(made, load_onnx(tmp_path / "model.onnx")) < 1e-4


@pytest.mark.slow
def test_a_pair_has_type_ids_in_the_file_too(tmp_path):
    made = deployed(backbone(), pair=True)
    assert "token_type_ids" in random_batch(made, 2, 5, 0)
    export_onnx(made, tmp_path / "model.onnx")
    answer = load_onnx(tmp_path / "model.onnx")
    assert largest_difference(made, answer) < 1e-4
    batch = random_batch(made, 3, 9, 0)
    swapped = {**batch, "token_type_ids": 1 - batch["token_type_ids"]}
    assert (answer(batch) - answer(swapped)).abs().max() > 1e-3


@pytest.mark.slow
def test_integer_products_are_integer_products_in_the_file_and_agree_but_for_rounding(tmp_path):
    import onnx

    made = deployed(backbone(), quantize_dynamically)
    export_onnx(made, tmp_path / "model.onnx")
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    operators = [node.op_type for node in nodes]
    shifted = {name for node in nodes if node.op_type == "QuantizeLinear" for name in node.output}
    multiplied = {node.input[0] for node in nodes if node.op_type == "MatMulInteger"}
    assert multiplied <= shifted  # signed bytes are slow
    linears = sum(hasattr(module, "export_tolerance") for module in made.model.modules())
    assert operators.count("MatMulInteger") == linears > 0
    assert largest_difference(made, load_onnx(tmp_path / "model.onnx")) < export.tolerance(made.model)


@torch.inference_mode()
def test_the_form_for_export_answers_bit_for_bit_and_leaves_the_model_as_it_is():
    for choice, change in ((bag(), quantize_weights), (backbone(), quantize_dynamically)):
        made = deployed(choice, change)
        form = export_form(made.model)
        kinds = [type(module) for module in made.model.modules()]
        assert [type(module) for module in form.modules()] != kinds
        for seed, (texts, longest) in enumerate(SHAPES):
            batch = random_batch(made, texts, longest, seed)
            assert (form(batch) - made.model(batch)).abs().max() < 1e-6
        assert [type(module) for module in made.model.modules()] == kinds


@torch.inference_mode()
def test_the_mean_of_rows_is_that_of_a_bag_also_for_a_text_of_padding_alone():
    torch.manual_seed(0)
    table = nn.EmbeddingBag(9, 4, mode="mean", padding_idx=0)
    ids = torch.tensor([[3, 0, 8, 8], [0, 0, 0, 0], [1, 2, 3, 4]])
    mean = MeanOfRows(nn.Embedding.from_pretrained(table.weight), 0)(ids)
    assert torch.allclose(mean, table(ids))
    assert mean[1].abs().max() == 0


def test_int8_weights_take_a_byte_each_in_the_file(tmp_path):
    choice = BagOfNgrams(buckets=4096, width=512, max_length=16)
    made = deployed(choice, quantize_weights)
    export_onnx(made, tmp_path / "model.onnx")
    assert stored_bytes(made.model) > 80_000
    assert (tmp_path / "model.onnx").stat().st_size < 1.1 * stored_bytes(made.model) + 20_000


def test_what_computes_depending_on_the_texts_is_refused_before_anything_is_written(tmp_path):
    def exits(model):
        method = DeeBERT()
        return method.finish(method.prepare(model))

    assert export.data_dependent(DeeBERT)
    with pytest.raises(ExportError, match="EarlyExitClassifier decides text by text"):
        export_onnx(deployed(backbone(), exits), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Stateful(nn.Module):
    """Answers differently from call to call, which no file can."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, batch):
        self.calls += 1
        return self.inner(batch) + self.calls


class Untraceable(Stateful):
    def forward(self, batch):
        logits = self.inner(batch)
        return logits if batch["input_ids"].sum() % 2 else -logits


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Stateful, "would not answer as the model does"), (Untraceable, "Untraceable cannot be traced")],
)
def test_a_file_that_would_answer_otherwise_is_not_written(kind, said, tmp_path):
    with pytest.raises(ExportError, match=said):
        export_onnx(deployed(bag(), kind), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model_is_an_error_with_its_name(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX model that can be read"):
        load_onnx(tmp_path / "model.onnx")


def test_a_missing_package_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"ONNX files need .*onnxruntime: pip install 'effnlp\[onnx\]'"
    ):
        export_onnx(deployed(bag()), tmp_path / "model.onnx")
