"""Wanda: after training, zero in each row the weights with the smallest product of weight and input.

Source: Sun et al. (2024), https://arxiv.org/abs/2306.11695
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from effnlp.compression.inputs import input_moments
from effnlp.compression.pruning.activations import wanda_scores, with_all
from effnlp.compression.pruning.held import HeldZeros
from effnlp.compression.pruning.mask import (
    check_sparsity,
    check_texts,
    keep_in_rows,
    refuse_whole_rows,
    sparsity_of,
)
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers")}


def prune_by_inputs(model: nn.Module, sparsity: float, squares: Mapping[str, Tensor]) -> nn.Module:
    """Zero the lowest scores of each row of the encoder's linear weights, in place, and return ``model``.

    Args:
        sparsity: Fraction of each row set to zero, in [0, 1); ``round(sparsity * I)`` of I.
        squares: Name of the layer to the sum of its squared inputs, (I,); a layer without is pruned by magnitude.
    """
    linears = encoder_layers(model, nn.Linear)
    squares = with_all(squares, linears, "squares")
    keep = {
        name: keep_in_rows(wanda_scores(layer.weight, squares[name]), round(sparsity * layer.in_features))
        for name, layer in linears.items()
    }
    HeldZeros().drop(linears, keep)
    note(model, "compression/pruning", sparsity_of([layer.weight for layer in linears.values()]))
    return model


class Wanda:
    """The weights that stay are as they were: there is neither training nor update.

    Unlike the paper, inputs are those of the whole model and not of one whose lower layers are pruned already: one
    pass over the texts is enough. Embeddings, biases, norms and the head are not pruned.

    Args:
        sparsity: Fraction of each row of the linear weights set to zero, in [0, 1).
        calibration_texts: How many training texts are seen.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(self, sparsity: float = 0.5, calibration_texts: int = 128) -> None:
        self.sparsity = check_sparsity(sparsity)
        self.calibration_texts = check_texts(calibration_texts)
        self._squares: dict[str, Tensor] | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check that something would be left of each row; the model is left as it is."""
        refuse_whole_rows(encoder_layers(model, nn.Linear), self.sparsity)
        return model

    def calibrate(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Look at the inputs of the linear layers."""
        self._squares = input_moments(model, encoder_layers(model, nn.Linear), batches, "squares")

    def finish(self, model: nn.Module) -> nn.Module:
        """Prune the trained model.

        Raises:
            ValueError: If no texts were seen.
        """
        if self._squares is None:
            raise ValueError("wanda has seen no texts: it is calibrated before it finishes")
        return prune_by_inputs(model, self.sparsity, self._squares)
