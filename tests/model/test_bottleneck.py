import pytest
import torch

from effnlp.model.bottleneck import Bottleneck
from effnlp.model.bottleneck_encoder import MOBILEBERT, MOBILEBERT_TINY, NORMS, BottleneckEncoder, Shape
from effnlp.model.classifier import Classifier, count_params
from effnlp.peft.prompt import PromptTuning

SMALL = Shape(2, 24, 8, 6, 2, 10, 3)
VOCABULARY = 50


def closed_form(shape, vocabulary, length, pairs):
    """Parameters of the encoder: tables, the layer that widens, and of each layer its linear layers and norms."""
    d, e, w, f = shape.width, shape.inner_width, shape.embedding_width, shape.feedforward_width
    tables = vocabulary * w + (length + 2 * pairs) * d + (3 * w * d + d) + 2 * d
    entrances = (2 if shape.wide_values else 1) * (d * e + e + 2 * e)
    values = (d if shape.wide_values else e) * e + e
    attention = 3 * (e * e + e) + values + 2 * e
    feedforward = (e * f + f) + (f * e + e) + 2 * e
    return tables + shape.depth * (
        entrances + attention + shape.feedforwards * feedforward + (e * d + d) + 2 * d
    )


def of_library(shape, norm="layer", length=16, vocabulary=VOCABULARY):
    """The same model of transformers, with its own weights."""
    from transformers import MobileBertConfig, MobileBertModel

    return MobileBertModel(
        MobileBertConfig(
            vocab_size=vocabulary, hidden_size=shape.width, num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads, intermediate_size=shape.feedforward_width,
            max_position_embeddings=length, embedding_size=shape.embedding_width,
            intra_bottleneck_size=shape.inner_width, num_feedforward_networks=shape.feedforwards,
            use_bottleneck_attention=not shape.wide_values, key_query_shared_bottleneck=shape.wide_values,
            normalization_type={"layer": "layer_norm", "affine": "no_norm"}[norm], layer_norm_eps=1e-5,
            classifier_activation=False,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("shape", [SMALL, Shape(3, 20, 20, 8, 4, 6, 1, False), MOBILEBERT, MOBILEBERT_TINY])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_number_of_parameters_is_the_closed_form(shape, pairs):
    with torch.device("meta"):
        encoder = BottleneckEncoder(shape, 8192, 128, pairs=pairs)
    assert count_params(encoder) == closed_form(shape, 8192, 128, pairs)


@pytest.mark.parametrize(("shape", "printed"), [(MOBILEBERT, 25.3e6), (MOBILEBERT_TINY, 15.1e6)])
def test_the_published_configurations_have_the_parameters_of_the_library_and_nearly_those_printed(
    shape, printed
):
    """24.6 and 15.5 million where the paper prints 25.3 and 15.1; it does not say what it counts."""
    with torch.device("meta"):
        ours = count_params(BottleneckEncoder(shape, 30522, 512, pairs=True))
        theirs = count_params(of_library(shape, length=512, vocabulary=30522))
    assert ours == theirs
    assert ours == pytest.approx(printed, rel=0.03)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [SMALL, Shape(2, 24, 8, 6, 2, 10, 1, False)], ids=["wide", "narrow"])
def test_it_computes_what_the_library_does_with_the_same_weights(shape, norm):
    torch.manual_seed(0)
    ours = BottleneckEncoder(shape, VOCABULARY, 16, dropout=0.0, norm=norm, pairs=True).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs = of_library(shape, norm)
    theirs.load_state_dict(
        {named(name, shape.feedforwards): value for name, value in ours.state_dict().items()}
    )
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    ids, types = torch.randint(1, VOCABULARY, (3, 9)), torch.randint(2, (3, 9))
    mask = torch.ones_like(ids)
    expected = theirs(ids, mask, token_type_ids=types, output_hidden_states=True).hidden_states
    state = ours.embed({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    torch.testing.assert_close(state.hidden, expected[0])
    for index in range(ours.depth):
        state = ours.layer(index, state)
        torch.testing.assert_close(state.hidden, expected[index + 1])


def named(name, feedforwards):
    """Our name of a tensor, as the library has it."""
    top = {
        "tokens": "embeddings.word_embeddings", "widen": "embeddings.embedding_transformation",
        "positions": "embeddings.position_embeddings", "types": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
    }  # fmt: skip
    inside = {
        "enter": "bottleneck.input.dense", "enter_norm": "bottleneck.input.LayerNorm",
        "compare": "bottleneck.attention.dense", "compare_norm": "bottleneck.attention.LayerNorm",
        "mixer.query": "attention.self.query", "mixer.key": "attention.self.key",
        "mixer.value": "attention.self.value", "mixer.output": "attention.output.dense",
        "mixer_norm": "attention.output.LayerNorm", "leave": "output.bottleneck.dense",
        "leave_norm": "output.bottleneck.LayerNorm",
    }  # fmt: skip
    for i in range(feedforwards):
        last, before = i == feedforwards - 1, f"ffn.{i}."
        inside[f"feedforwards.{i}.up"] = "intermediate.dense" if last else before + "intermediate.dense"
        inside[f"feedforwards.{i}.down"] = "output.dense" if last else before + "output.dense"
        inside[f"feedforwards.{i}.norm"] = "output.LayerNorm" if last else before + "output.LayerNorm"
    module, _, kind = name.rpartition(".")
    if not module.startswith("layers."):
        return f"{top[module]}.{kind}"
    _, index, rest = module.split(".", 2)
    return f"encoder.layer.{index}.{inside[rest]}.{kind}"


def test_padding_is_no_neighbour_of_the_last_token():
    torch.manual_seed(0)
    encoder = BottleneckEncoder(SMALL, VOCABULARY, 16, dropout=0.0).eval()
    ids = torch.randint(1, VOCABULARY, (1, 5))
    padded = torch.cat([ids, torch.tensor([[7, 9]])], 1)
    alone = encoder.embed({"input_ids": ids, "attention_mask": torch.ones(1, 5)}).hidden
    beside = encoder.embed({"input_ids": padded, "attention_mask": torch.tensor([[1] * 5 + [0] * 2])}).hidden
    torch.testing.assert_close(beside[:, :5], alone)
    other = encoder.embed({"input_ids": padded, "attention_mask": torch.ones(1, 7)}).hidden
    changed = (other[:, :5] - alone).abs().amax(-1)[0] > 1e-4
    assert changed.tolist() == [False] * 4 + [True], "a token is read with its two neighbours"


def test_a_prompt_comes_before_the_text_and_is_no_part_of_its_vector():
    torch.manual_seed(0)
    model = Classifier(BottleneckEncoder(SMALL, VOCABULARY, 16, dropout=0.0), 3).eval()
    batch = {"input_ids": torch.randint(1, VOCABULARY, (2, 5)), "attention_mask": torch.ones(2, 5)}
    before = model(batch)
    prepared = PromptTuning(length=3).prepare(model).eval()
    assert prepared.encoder.embed(batch).hidden.shape == (2, 8, 24)
    assert prepared.encoder.embed(batch).mask.shape == (2, 8)
    assert (prepared(batch) - before).abs().max() > 1e-4


def test_it_reads_the_tokens_of_a_pretrained_model_where_it_is_told_to(minilm):
    import pandas as pd

    choice = Bottleneck(depth=1, vocabulary="minilm", max_length=40)
    tokenizer = choice.tokenizer(pd.DataFrame({"text": ["whatever"], "label": [0]}))
    expected = minilm.batch(["An ordinary text about hammers"])["input_ids"]
    assert torch.equal(tokenizer.encode(["An ordinary text about hammers"]).batch([0])["input_ids"], expected)
    assert choice.build(tokenizer, 2).encoder.tokens.num_embeddings == tokenizer.vocabulary_size
    assert tokenizer.max_length == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "model.depth must be at least 1, got 0"),
        ({"inner_width": 300}, "inner_width must be at most the width 256, got 300"),
        ({"heads": 3}, "model.heads must divide the inner_width 64, got 3"),
        ({"norm": "batch"}, "model.norm must be one of layer, affine, got 'batch'"),
        ({"feedforwards": 0}, "model.feedforwards must be at least 1"),
    ],
)
def test_values_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Bottleneck(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("wide_values", [True, False])
def test_it_is_exported_and_answers_as_before(tmp_path, toy, wide_values):
    from effnlp.model.export import export_onnx
    from effnlp.model.storage import Deployed

    choice = Bottleneck(
        depth=2, width=24, inner_width=8, heads=2, vocabulary_size=300, wide_values=wide_values
    )
    tokenizer = choice.tokenizer(toy)
    deployed = Deployed(choice.build(tokenizer, 2).eval(), tokenizer, ("fruit", "tool"), False)
    assert export_onnx(deployed, tmp_path / "model.onnx") < 1e-4, "the largest difference of a logit"
