"""Dynamic int8: integer weights, activations rounded token by token, products in integer arithmetic.

Source: Zafrir et al. (2019), https://arxiv.org/abs/1910.06188
"""

from torch import nn

from effnlp.compression.quantization.backends import check_backend, use_backend
from effnlp.compression.quantization.integer import quantize_tables
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers", "embeddings")}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}


def quantize_dynamically(model: nn.Module, embeddings: bool = True, backend: str = "auto") -> nn.Module:
    """Turn every linear layer of the encoder into an integer one, in place; the head stays float.

    Unlike the paper, nothing is trained with the rounding, and norms and softmax stay float. A text's logits
    do not depend on its batch, but for this: where float sums in another order (other padding, say) move an
    activation across the border between two integers, it moves by a whole scale.

    Args:
        embeddings: Keep the embedding tables in int8, too; their rows become floats when they are read.
        backend: Who multiplies: one of :data:`effnlp.compression.quantization.backends.NAMES`, or ``auto``, the
            first of :data:`effnlp.compression.quantization.backends.AUTO` that is there; the numbers are the same.

    Raises:
        ValueError: If this machine lacks the back-end, or the encoder has no linear layer or, with ``embeddings``,
            no table.
        RuntimeError: If the integer products of this machine are wrong.
    """
    check_backend(backend)
    linears = encoder_layers(model, nn.Linear)
    table_weights = quantize_tables(model) if embeddings else 0
    replace_layers(model, linears.values(), DynamicInt8Linear)
    weights = sum(linear.weight.numel() for linear in linears.values()) + table_weights
    noted = {"layers": len(linears), "int8_weights": weights, **use_backend(model, backend)}
    note(model, "compression/quantization", noted)
    return model


class Int8Dynamic:
    """What :func:`quantize_dynamically` makes of the trained model.

    Args:
        embeddings: As there.
        backend: As there; one that this machine lacks is refused before anything is trained.

    Raises:
        ValueError: If this machine lacks the back-end.
        RuntimeError: If the integer products of this machine are wrong.
    """

    def __init__(self, embeddings: bool = True, backend: str = "auto") -> None:
        self.embeddings, self.backend = embeddings, check_backend(backend)

    def finish(self, model: nn.Module) -> nn.Module:
        """Round the trained model, in place."""
        return quantize_dynamically(model, self.embeddings, self.backend)
