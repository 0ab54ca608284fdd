"""Trainable parameters: counted modules against the formulae of the papers, and formulae against modules."""

import pytest
import torch
from torch import nn

from effnlp.reproduce.analytic import lora
from effnlp.reproduce.analytic.encoders import count, on_meta, shape

ROBERTAS = ["roberta-base", "roberta-large"]


@pytest.mark.parametrize("of", [*ROBERTAS, "deberta-xxlarge"])
@pytest.mark.parametrize("rank", [1, 8])
def test_lora_on_query_and_value_trains_what_its_formula_says(of, rank):
    matrices = 2 * shape(of).depth
    assert lora.lora(of, rank) == 2 * matrices * shape(of).width * rank


def test_our_own_backbone_of_that_shape_trains_as_much_by_lora():
    from effnlp.model.backbone import SIZES, BackboneEncoder
    from effnlp.model.classifier import Classifier
    from effnlp.model.mixer.attention import Attention
    from effnlp.peft.lora import LoRA

    with torch.device("meta"):
        encoder = BackboneEncoder(SIZES["base"], Attention, vocabulary_size=100, max_length=16)
        model = LoRA(rank=8).prepare(Classifier(encoder, classes=2))
    trained = count(parameter for parameter in model.encoder.parameters() if parameter.requires_grad)
    assert trained == lora.lora("roberta-base", rank=8)


@pytest.mark.parametrize("of", ROBERTAS)
def test_bitfit_trains_one_bias_for_each_output_of_a_layer_and_of_a_norm(of):
    width, depth = shape(of).width, shape(of).depth
    in_a_layer = 4 * width + 4 * width + width + 2 * width  # attention, feed-forward up and down, norms
    assert lora.bitfit(of) == depth * in_a_layer + width  # and the norm of the embeddings


@pytest.mark.parametrize("of", ROBERTAS)
def test_the_encoder_has_all_of_the_model_but_its_pooler(of):
    width = shape(of).width
    assert count(on_meta(shape(of)).parameters()) - lora.full(of) == width * width + width


@pytest.mark.parametrize(("bottleneck", "per_layer", "layers"), [(48, 1, None), (8, 2, 5)])
def test_adapters_count_what_modules_of_that_shape_have(bottleneck, per_layer, layers):
    width, depth = shape("roberta-base").width, shape("roberta-base").depth
    with torch.device("meta"):
        adapters = nn.ModuleList(
            nn.Sequential(nn.Linear(width, bottleneck), nn.GELU(), nn.Linear(bottleneck, width))
            for _ in range(per_layer * (depth if layers is None else layers))
        )
    assert lora.adapters("roberta-base", bottleneck, per_layer, layers) == count(adapters.parameters())


def test_the_head_is_that_of_roberta_for_sequence_classification():
    from transformers import RobertaConfig
    from transformers.models.roberta.modeling_roberta import RobertaClassificationHead

    with torch.device("meta"):
        head = RobertaClassificationHead(RobertaConfig(hidden_size=768, num_labels=3))
    assert lora.pretraining_head("roberta-base", classes=3) == count(head.parameters())


def test_no_layer_with_adapters_has_none_and_more_than_there_are_is_an_error():
    assert lora.adapters("roberta-base", 48, 1, layers=0) == 0
    with pytest.raises(ValueError, match=r"layers must be in 0 … 12 for roberta-base, got 13"):
        lora.adapters("roberta-base", 48, 1, layers=13)


def test_an_unknown_method_names_near_ones():
    with pytest.raises(ValueError, match="did you mean 'adapters'"):
        lora.table({"row": {"method": "adapter", "of": "roberta-base"}})


def test_the_share_is_of_all_parameters_of_the_encoder():
    cells = lora.table({"all": {"method": "full", "of": "roberta-base"}})["all"]
    assert cells["share"] == 100
    assert cells["trainable with head"] > cells["trainable"]


@pytest.mark.parametrize("of", ["bert-large", *ROBERTAS])
@pytest.mark.parametrize("bottleneck", [8, 64])
def test_our_adapters_train_what_the_formula_of_the_paper_says(of, bottleneck):
    norms = (2 * shape(of).depth + 1) * 2 * shape(of).width
    assert lora.houlsby(of, bottleneck) == lora.adapters(of, bottleneck, per_layer=2)
    assert lora.houlsby(of, bottleneck, train_norms=True) == lora.houlsby(of, bottleneck) + norms
    assert lora.pfeiffer(of, bottleneck) == lora.adapters(of, bottleneck, per_layer=1)


@pytest.mark.parametrize("of", ROBERTAS)
def test_compacter_and_ia3_train_what_their_papers_say(of):
    depth, width = shape(of).depth, shape(of).width
    assert lora.compacter(of, 24, products=4) == 4**3 + depth * 2 * 3 * (width + 24)
    assert lora.ia3(of) == depth * (2 * width + 4 * width)


@pytest.mark.parametrize("of", ["bert-large", *ROBERTAS])
def test_the_layers_are_the_encoder_without_its_embeddings(of):
    of_shape = shape(of)
    types = 2 if of_shape.family == "bert" else 1
    rows = of_shape.vocabulary_size + of_shape.positions + types
    assert lora.full(of) - lora.in_layers(of) == (rows + 2) * of_shape.width  # and their norm
