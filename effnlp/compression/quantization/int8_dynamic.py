"""Dynamic int8: integer weights, activations rounded token by token, products in integer arithmetic.

Source: Zafrir et al. (2019), https://arxiv.org/abs/1910.06188
"""

from functools import partial

from torch import nn

from effnlp.compression.quantization.backends import SEVEN_BITS, check_backend, use_backend
from effnlp.compression.quantization.integer import LARGEST, quantize_tables
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers", "embeddings")}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}


LARGEST_OF = {7: SEVEN_BITS, 8: LARGEST}
"""Bits of activations to what the largest of a token becomes."""


def quantize_dynamically(
    model: nn.Module, embeddings: bool = True, backend: str = "auto", activation_bits: int = 8
) -> nn.Module:
    """Turn every linear layer of the encoder into an integer one, in place; the head stays float.

    Unlike the paper, nothing is trained with the rounding, and norms and softmax stay float. A text's logits
    do not depend on its batch, but for this: where float sums in another order (other padding, say) move an
    activation across the border between two integers, it moves by a whole scale.

    Args:
        embeddings: Keep the embedding tables in int8, too; their rows become floats when they are read.
        backend: Who multiplies: one of :data:`effnlp.compression.quantization.backends.NAMES`, or ``auto``, the
            first of :data:`effnlp.compression.quantization.backends.AUTO` that is there; the numbers are the same.
        activation_bits: 8, or 7: half as many steps, but sums that no processor saturates, so that torch's fast
            products are exact without dot products of int8, too.

    Raises:
        ValueError: If this machine lacks the back-end, the bits are others, or the encoder has no linear layer or,
            with ``embeddings``, no table.
        RuntimeError: If the integer products of this machine are wrong.
    """
    largest = largest_of(activation_bits)
    check_backend(backend, largest)
    linears = encoder_layers(model, nn.Linear)
    table_weights = quantize_tables(model) if embeddings else 0
    replace_layers(model, linears.values(), partial(DynamicInt8Linear, largest=largest))
    weights = sum(linear.weight.numel() for linear in linears.values()) + table_weights
    noted = {"layers": len(linears), "int8_weights": weights, **use_backend(model, backend)}
    note(model, "compression/quantization", noted)
    return model


def largest_of(activation_bits: int) -> int:
    """What the largest activation of a token becomes.

    Raises:
        ValueError: If the bits are neither 7 nor 8.
    """
    if activation_bits not in LARGEST_OF:
        raise ValueError(f"activation_bits must be 7 or 8, got {activation_bits}")
    return LARGEST_OF[activation_bits]


class Int8Dynamic:
    """What :func:`quantize_dynamically` makes of the trained model.

    Args:
        embeddings: As there.
        backend: As there; one that this machine lacks is refused before anything is trained.
        activation_bits: As there.

    Raises:
        ValueError: If this machine lacks the back-end, or the bits are neither 7 nor 8.
        RuntimeError: If the integer products of this machine are wrong.
    """

    def __init__(self, embeddings: bool = True, backend: str = "auto", activation_bits: int = 8) -> None:
        self.embeddings, self.activation_bits = embeddings, activation_bits
        self.backend = check_backend(backend, largest_of(activation_bits))

    def finish(self, model: nn.Module) -> nn.Module:
        """Round the trained model, in place."""
        return quantize_dynamically(model, self.embeddings, self.backend, self.activation_bits)
