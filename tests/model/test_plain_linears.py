import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from effnlp.model.plain_linears import Enclosed, FusedLinears, linear_from, plain_linears


@pytest.mark.parametrize("heads", [None, 2])
def test_three_layers_give_what_the_fused_one_gave(heads):
    fused = nn.Linear(6, 12)
    weight, bias = fused.weight.detach(), fused.bias.detach()
    if heads is None:
        parts = list(zip(weight.chunk(3), bias.chunk(3), strict=True))
    else:  # head by head: q, k, v of the first, then of the second
        rows = torch.arange(12).view(heads, 3, 2)
        parts = [(weight[rows[:, i].flatten()], bias[rows[:, i].flatten()]) for i in range(3)]
    split = FusedLinears(*(linear_from(*part) for part in parts), heads=heads)
    x = torch.randn(5, 7, 6)
    torch.testing.assert_close(split(x), fused(x))


def test_a_fused_projection_becomes_three_layers_and_another_becomes_one():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = Conv1D(18, 6), Conv1D(4, 6)  # outputs, inputs

        def forward(self, x):
            return self.c_attn(x), self.c_proj(x)

    model = Attention()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    x = torch.randn(3, 6)
    before, params = model(x), sum(p.numel() for p in model.parameters())
    plain_linears(model)
    assert not any(isinstance(module, Conv1D) for module in model.modules())
    assert {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} == {
        "c_attn.query", "c_attn.key", "c_attn.value", "c_proj",
    }  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == params
    torch.testing.assert_close(model(x), before)


def test_twice_is_once(each_tiny_family):
    model = each_tiny_family.model.encoder.model
    names = [name for name, _ in model.named_modules()]
    plain_linears(model)
    assert [name for name, _ in model.named_modules()] == names


def test_an_enclosed_layer_shows_no_weight():
    layer = nn.Linear(3, 2)
    enclosed = Enclosed(layer)
    assert enclosed.weight is None
    x = torch.randn(4, 3)
    assert torch.equal(enclosed(x), layer(x))


@pytest.mark.parametrize("name", ["gpt2", "deberta"])
def test_biases_of_split_layers_are_named_as_such(name, tiny_family):
    encoder = tiny_family(name).model.encoder
    roles = encoder.linear_roles()
    for role in ("query", "value"):
        for layer in roles[role]:
            assert encoder.get_parameter(f"{layer}.bias").abs().max() > 0
    assert not any(parameter.endswith(("q_bias", "v_bias")) for parameter, _ in encoder.named_parameters())
