"""Weight-only int8: embeddings and linear weights are stored in int8 and become floats when they are used.

Source: Dettmers et al. (2022), https://arxiv.org/abs/2208.07339; on a frozen base that LoRA trains:
Dettmers et al. (2023), https://arxiv.org/abs/2305.14314
"""

from torch import nn

from effnlp.compression.quantization.integer import Int8Linear, quantize_tables
from effnlp.compression.quantization.moment import check_moment
from effnlp.method import note
from effnlp.model.surgery import encoder_of, replace_layers

REQUIRES = {"prepare": ("embeddings",), "finish": ("embeddings",)}
REMOVES = {
    "prepare": ("float_linear_layers", "trainable_weights"),
    "finish": ("float_linear_layers", "trainable_weights"),
}


class Int8WeightOnly:
    """Unlike the papers, all weights are rounded alike: one scale a row, no outlier columns, no 4-bit floats.

    Args:
        moment: ``finish`` rounds the trained model; ``prepare`` rounds the base before fine-tuning, which
            then is frozen: only what a parameter-efficient method adds or frees is trained.

    Raises:
        ValueError: If ``moment`` is neither.
    """

    def __init__(self, moment: str = "finish") -> None:
        self.moment = check_moment(moment)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Round the base, if that is the moment."""
        return quantize_weights(model) if self.moment == "prepare" else model

    def finish(self, model: nn.Module) -> nn.Module:
        """Round the trained model, if that is the moment."""
        return quantize_weights(model) if self.moment == "finish" else model


def quantize_weights(model: nn.Module) -> nn.Module:
    """Keep the encoder's tables and linear weights in int8, in place; biases, norms and head stay float.

    Raises:
        ValueError: If the encoder has no embedding table.
    """
    table_weights = quantize_tables(model)
    linears = [module for module in encoder_of(model).modules() if isinstance(module, nn.Linear)]
    replace_layers(model, linears, Int8Linear)
    weights = sum(linear.weight.numel() for linear in linears) + table_weights
    note(model, "compression/quantization", {"layers": len(linears), "int8_weights": weights})
    return model
