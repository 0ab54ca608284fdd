"""Turn the layers that a family of pretrained models fuses or hides into linear layers of one role each.

What reads linear layers by their role (LoRA, quantization, pruning) then works on every family alike. What the model
computes stays the same.

Legend: D width, H heads, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class FusedLinears(nn.Module):
    """Three linear layers in the place of one that gave all three outputs at once.

    Args:
        query, key, value: Each maps (…, D) to (…, H d).
        heads: H where the outputs come head by head (q, k, v of the first head, then of the second); None where
            they come one after another.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int | None = None) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, 3 H d)."""
        parts = [self.query(x), self.key(x), self.value(x)]
        if self.heads is None:
            return torch.cat(parts, dim=-1)
        by_head = [part.unflatten(-1, (self.heads, -1)) for part in parts]  # 3 of (…, H, d)
        return torch.cat(by_head, dim=-1).flatten(-2)


class Enclosed(nn.Module):
    """A layer at whose weight its surroundings cannot look, so that it may be replaced by one that has none.

    T5 asks for the type of a weight before it calls the layer, and takes None for an answer.
    """

    weight = None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        y: Tensor = self.layer(x)
        return y


def linear_from(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with copies of ``weight`` (O, I) and ``bias`` (O,)."""
    made = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def plain_linears(model: nn.Module) -> nn.Module:
    """Replace fused and hidden layers of ``model``, in place, and return it.

    ``Conv1D`` (GPT-2) becomes a linear layer, or three where it fuses query, key and value; the fused projection of
    DeBERTa becomes three, which also take the biases that lie beside it; the last layer of T5's feed-forward part
    is enclosed.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            weight, bias = module.weight.detach().T, module.bias.detach()  # (O, I), (O,)
            if name.endswith("c_attn") and weight.shape[0] == 3 * weight.shape[1]:
                query, key, value = map(linear_from, weight.chunk(3), bias.chunk(3))
                model.set_submodule(name, FusedLinears(query, key, value))
            else:
                model.set_submodule(name, linear_from(weight, bias))
        elif hasattr(module, "q_bias") and isinstance(getattr(module, "in_proj", None), nn.Linear):
            _split_in_proj(module)
        elif _is_feedforward_of_t5(module):
            module.wo = Enclosed(module.wo)
    return model


def _is_feedforward_of_t5(module: Any) -> bool:
    has_up = hasattr(module, "wi") or hasattr(module, "wi_1")
    return has_up and isinstance(getattr(module, "wo", None), nn.Linear)


def _split_in_proj(attention: Any) -> None:
    """Three layers with their biases in place of DeBERTa's ``in_proj``, ``q_bias`` and ``v_bias``."""
    heads = int(attention.num_attention_heads)
    by_head = attention.in_proj.weight.detach().unflatten(0, (heads, 3, -1))  # (H, 3, d, D)
    query, key, value = (by_head[:, index].flatten(0, 1) for index in range(3))  # (H d, D) each
    q_bias, v_bias = attention.q_bias.detach(), attention.v_bias.detach()
    attention.in_proj = FusedLinears(
        linear_from(query, q_bias), linear_from(key, None), linear_from(value, v_bias), heads
    )
    for name, bias in (("q_bias", q_bias), ("v_bias", v_bias)):
        delattr(attention, name)
        attention.register_buffer(name, torch.zeros_like(bias), persistent=False)  # the layer has added it
