"""Switch Transformer's formulae against modules of transformers on the meta device."""

import dataclasses

import pytest
import torch

from effnlp.reproduce.analytic import switch
from effnlp.reproduce.analytic.encoders import count

SMALL = switch.Shape(width=48, feedforward_width=80, head_width=8, heads=4, layers=4)


def t5(shape):
    from transformers import T5Config, T5Model

    config = T5Config(
        d_model=shape.width,
        d_ff=shape.feedforward_width,
        d_kv=shape.head_width,
        num_heads=shape.heads,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        vocab_size=switch.VOCABULARY,
        feed_forward_proj="gated-gelu" if shape.gated else "relu",
    )
    with torch.device("meta"):
        return T5Model(config)


def switch_transformer(shape):
    from transformers import SwitchTransformersConfig, SwitchTransformersModel

    config = SwitchTransformersConfig(
        d_model=shape.width,
        d_ff=shape.feedforward_width,
        d_kv=shape.head_width,
        num_heads=shape.heads,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        num_sparse_encoder_layers=shape.expert_layers,
        num_sparse_decoder_layers=shape.expert_layers,
        num_experts=shape.experts,
        vocab_size=switch.VOCABULARY,
    )
    with torch.device("meta"):
        return SwitchTransformersModel(config)


@pytest.mark.parametrize("gated", [True, False])
def test_the_dense_count_is_that_of_t5(gated):
    shape = dataclasses.replace(SMALL, gated=gated)
    assert switch.parameters(shape) == count(t5(shape).parameters())


@pytest.mark.parametrize("every", [1, 2])
def test_the_count_with_experts_is_that_of_the_modules(every):
    shape = dataclasses.replace(SMALL, gated=False, experts=6, every=every)
    assert switch.parameters(shape) == count(switch_transformer(shape).parameters())


def test_a_token_meets_one_expert_however_many_there_are():
    flops = {switch.sequence_flops(dataclasses.replace(SMALL, experts=experts)) for experts in (1, 2, 64)}
    assert len(flops) == 1


def test_a_further_expert_adds_its_own_weights_and_a_column_of_the_router_to_each_layer():
    shape = dataclasses.replace(SMALL, experts=5, every=2)
    more = dataclasses.replace(shape, experts=6)
    added = switch.parameters(more) - switch.parameters(shape)
    assert added == 2 * shape.expert_layers * (shape.feedforward + shape.width)
    assert shape.expert_layers == 2


def test_routers_cost_more_the_more_experts_there_are_and_nothing_without():
    def of_routers(experts):
        shape = dataclasses.replace(SMALL, experts=experts)
        return switch.sequence_flops(shape, with_routers=True) - switch.sequence_flops(shape)

    assert of_routers(1) == 0
    assert 0 < of_routers(8) == of_routers(16) / 2


def test_flops_are_those_of_products_of_a_token_with_the_weights_that_it_meets():
    shape = SMALL
    weights = dict(t5(shape).named_parameters())
    matrices = {name: weight.numel() for name, weight in weights.items() if name.endswith(("q.weight", "k.weight",
        "v.weight", "o.weight", "wi_0.weight", "wi_1.weight", "wo.weight"))}  # fmt: skip
    met = sum(n * (512 if name.startswith("encoder") else 114) for name, n in matrices.items())
    output = 114 * weights["shared.weight"].numel()
    assert switch.sequence_flops(shape) == 2 * (met + output)
