"""ALBERT's counts against formulae written out here, and what sharing must and must not change."""

import pytest

from effnlp.reproduce.analytic import albert
from effnlp.reproduce.analytic.encoders import count, forward_flops, on_meta, shape

WIDTH, DEPTH, VOCABULARY, POSITIONS, TYPES = 768, 12, 30_000, 512, 2
ATTENTION = 4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH  # with its norm
FEEDFORWARD = 2 * 4 * WIDTH * WIDTH + 4 * WIDTH + WIDTH
NORM = 2 * WIDTH
POOLER = WIDTH * WIDTH + WIDTH


def embeddings(width):
    projection = 0 if width == WIDTH else width * WIDTH + WIDTH
    return (VOCABULARY + POSITIONS + TYPES) * width + 2 * width + projection


@pytest.mark.parametrize("width", [64, 128, 768])
@pytest.mark.parametrize(
    ("sharing", "attentions", "feedforwards", "norms"),
    [
        ("all", 1, 1, 1),
        ("none", DEPTH, DEPTH, DEPTH),
        ("attention", 1, DEPTH, DEPTH),
        ("feedforward", DEPTH, 1, DEPTH),
    ],
)
def test_the_count_is_what_the_formula_of_the_parts_gives(width, sharing, attentions, feedforwards, norms):
    counted = count(albert.encoder("albert-base", sharing, width).parameters())
    expected = embeddings(width) + attentions * ATTENTION + feedforwards * FEEDFORWARD + norms * NORM + POOLER
    assert counted == expected


def test_unshared_and_with_wide_embeddings_albert_has_the_parameters_of_bert():
    unshared = albert.encoder("albert-base", "none", WIDTH)
    assert count(unshared.parameters()) == count(on_meta(shape("bert-base")).parameters())


def test_sharing_changes_no_computation():
    flops = {
        sharing: forward_flops(albert.encoder("albert-base", sharing), 16) for sharing in albert.SHARED_PARTS
    }
    assert len(set(flops.values())) == 1
    assert flops["all"] > 0


def test_flops_of_a_forward_pass_are_two_for_each_weight_and_token_and_the_scores():
    tokens = 16
    weights = DEPTH * (4 * WIDTH * WIDTH + 8 * WIDTH * WIDTH)
    scores = DEPTH * 2 * (2 * tokens * tokens * WIDTH)
    expected = 2 * tokens * weights + scores + 2 * WIDTH * WIDTH  # and the pooler, which reads one token
    assert forward_flops(on_meta(shape("bert-base")), tokens) == expected


def test_a_table_has_millions_and_billions():
    models = {"small": {"of": "albert-base"}, "large": {"of": "bert-base"}}
    assert albert.parameters(models)["large"]["parameters"] == pytest.approx(109.08, abs=0.01)
    assert albert.forward(models, tokens=128)["small"]["forward FLOPs"] == pytest.approx(22.4, abs=0.1)


def test_an_unknown_way_of_sharing_names_those_there_are():
    with pytest.raises(ValueError, match="sharing must be one of all, none, attention, feedforward"):
        albert.encoder("albert-base", "atention")


def test_an_unknown_shape_names_near_ones():
    with pytest.raises(ValueError, match="did you mean 'albert-base'"):
        shape("albert-bas")
