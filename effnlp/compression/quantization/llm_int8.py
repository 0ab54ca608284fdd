"""LLM.int8(): inputs with outliers stay float, and all others are multiplied as int8, one scale a token.

Source: Dettmers et al. (2022), https://arxiv.org/abs/2208.07339

Legend: I width in, O width out, K inputs with outliers, R rows (the tokens of all texts of a batch).
"""

from functools import partial

import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments
from effnlp.compression.quantization.integer import quantize_rows, quantize_tables
from effnlp.compression.quantization.moment import check_texts
from effnlp.compression.quantization.packed import weights_in
from effnlp.compression.quantization.plain_product import integer_product
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers, replace_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers", "embeddings")}
REMOVES = {"finish": ("float_linear_layers", "trainable_weights")}


class DecomposedLinear(nn.Module):
    """A linear layer for inference in two products: of K inputs in float, of the others in int8.

    Weights have one scale an output, activations one a row, both without the inputs that stay float. There is no
    gradient.

    Args:
        outliers: Which inputs stay float, bool (I,).

    Attributes:
        weight_count: The weights in int8; those in float are a buffer, too.
    """

    export_tolerance = 0.05
    """How far a logit may be from this one's where sums are made in another order."""

    integers: Tensor
    scales: Tensor
    floats: Tensor
    kept: Tensor
    outliers: Tensor

    def __init__(self, linear: nn.Linear, outliers: Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight_count = linear.weight.numel()
        weight = linear.weight.detach().float()
        integers, scales = quantize_rows(weight[:, ~outliers]) if not outliers.all() else _nothing(weight)
        self.register_buffer("integers", integers)  # (O, I - K)
        self.register_buffer("scales", scales.squeeze(1))  # (O,)
        self.register_buffer("floats", weight[:, outliers])  # (O, K)
        self.register_buffer("kept", (~outliers).nonzero().squeeze(1).int())  # (I - K,)
        self.register_buffer("outliers", outliers.nonzero().squeeze(1).int())  # (K,)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        rows = x.detach().reshape(-1, self.in_features).float()  # (R, I)
        parts: list[Tensor] = [] if self.bias is None else [self.bias]
        if len(self.kept):
            of_kept = rows.index_select(1, self.kept) if len(self.outliers) else rows
            integers, scales = quantize_rows(of_kept)  # (R, I - K), (R, 1)
            parts.append(integer_product(integers, self.integers) * scales * self.scales)
        if len(self.outliers):
            parts.append(rows.index_select(1, self.outliers) @ self.floats.t())
        return sum(parts[1:], parts[0]).view(*x.shape[:-1], self.out_features).to(x.dtype)


def _nothing(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight.new_zeros(len(weight), 0, dtype=torch.int8), weight.new_ones(len(weight), 1)


class LLMInt8:
    """Which inputs have outliers is found once, on calibration texts.

    Unlike the paper, which looks at each batch: the answer to a text would then depend on the others of its batch,
    and every weight would have to be at hand in both forms. What an input of int8 brings beyond the threshold
    afterwards widens the scale of its token.

    Args:
        threshold: An input that reaches this magnitude anywhere stays float; above 0.
        calibration_texts: How many training texts are read.
        embeddings: Keep the embedding tables in int8.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(self, threshold: float = 6.0, calibration_texts: int = 128, embeddings: bool = True) -> None:
        if threshold <= 0:
            raise ValueError(f"threshold must be above 0, got {threshold}")
        self.threshold = threshold
        self.calibration_texts, self.embeddings = check_texts(calibration_texts), embeddings
        self._largest: dict[str, Tensor] | None = None

    def calibrate(self, model: nn.Module, batches: list[Batch]) -> None:
        """Find the largest magnitude of every input of every layer."""
        self._largest = input_moments(model, encoder_layers(model, nn.Linear), batches, "max")

    def finish(self, model: nn.Module) -> nn.Module:
        """Take every linear layer of the encoder apart, in place; one that no text reached has no outliers.

        Raises:
            ValueError: If it has seen no texts, or the encoder has no linear layer.
            RuntimeError: If the integer products of this machine are wrong.
        """
        if self._largest is None:
            raise ValueError("llm_int8 needs to know where outliers are: it must see calibration texts first")
        linears = encoder_layers(model, nn.Linear)
        tables = quantize_tables(model) if self.embeddings else 0
        floats = 0
        for name, linear in linears.items():
            largest = self._largest.get(name, torch.zeros(linear.in_features))
            outliers = (largest >= self.threshold).to(linear.weight.device)
            floats += int(outliers.sum()) * linear.out_features
            replace_layers(model, [linear], partial(DecomposedLinear, outliers=outliers))
        weights = weights_in(linears.values())
        noted = {"layers": len(linears), "int8_weights": weights - floats + tables, "float_weights": floats}
        noted |= {"layers_without_inputs": len(linears) - len(self._largest)}
        note(model, "compression/quantization", noted)
        self._largest = None
        return model
