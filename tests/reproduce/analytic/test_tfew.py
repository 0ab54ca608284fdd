"""T-Few's costs: by brute force over layers and tokens, and what follows from the formulae."""

import pytest
import torch
from torch import nn

from effnlp.reproduce.analytic import tfew


def test_a_decoder_spends_a_multiplication_and_an_addition_on_each_weight_and_token():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        layer, tokens = nn.Linear(64, 48, bias=False), torch.empty(10, 64)
    with FlopCounterMode(display=False) as counter:
        layer(tokens)
    assert tfew.inference_flops(layer.weight.numel(), query_tokens=10) == counter.get_total_flops()


def test_an_example_in_the_prompt_costs_what_its_tokens_cost():
    assert tfew.inference_flops(1e6, 5, shots=3, shot_tokens=7) == tfew.inference_flops(1e6, 5 + 3 * 7)


def test_encoder_and_decoder_share_the_weights_of_a_token_between_them():
    assert tfew.inference_flops(1e6, 9, encoder_decoder=True) == tfew.inference_flops(0.5e6, 9)


def test_training_costs_three_forward_passes_a_text():
    one = tfew.inference_flops(1e6, 11)
    assert tfew.training_flops(1e6, steps=4, batch_size=5, tokens=11) == pytest.approx(3 * 4 * 5 * one)


def test_the_vectors_of_ia3_are_those_of_a_t5_with_one_at_each_place():
    from transformers import T5Config, T5Model

    depth, attention_width, feedforward_width = 3, 32, 80
    config = T5Config(
        d_model=24,
        d_kv=8,
        num_heads=4,
        d_ff=feedforward_width,
        num_layers=depth,
        num_decoder_layers=depth,
        vocab_size=50,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        model = T5Model(config)
    scaled = {".k.weight": 0, ".v.weight": 0, ".wi_1.weight": 0}  # of each, one number for each output
    for name, weight in model.named_parameters():
        for end in scaled:
            scaled[end] += len(weight) if name.endswith(end) else 0
    assert all(scaled.values())
    assert tfew.ia3_parameters(depth, attention_width, feedforward_width) == sum(scaled.values())


def test_what_is_not_trained_costs_no_training():
    cells = tfew.table(
        {"big": {"parameters": 1e9}},
        {
            "parameters": 1e8,
            "steps": 2,
            "batch_size": 2,
            "depth": 1,
            "attention_width": 4,
            "feedforward_width": 8,
        },
        shots=2,
        shot_tokens=10,
        query_tokens=5,
    )
    assert [row for row in cells if cells[row]["training"] > 0] == ["T-Few"]
    assert cells["T-Few"]["inference"] == cells["T0"]["inference"] < cells["big"]["inference"]
