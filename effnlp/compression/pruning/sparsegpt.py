"""SparseGPT: after training, zero weights and let the others of their rows make good for the output.

Source: Frantar and Alistarh (2023), https://arxiv.org/abs/2301.00774
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments
from effnlp.compression.pruning.activations import with_all
from effnlp.compression.pruning.mask import (
    check_sparsity,
    check_texts,
    keep_highest,
    refuse_whole_layers,
    sparsity_of,
)
from effnlp.compression.pruning.surgeon import Choose, prune_columns, reconstruction_error
from effnlp.data.encodings import Batch
from effnlp.method import note
from effnlp.model.surgery import encoder_layers

REQUIRES = {"finish": ("linear_layers", "float_linear_layers")}


def share_of_each_block(sparsity: float) -> Choose:
    """Drop the same share of every block, so that of all blocks together the count is exact."""

    def choose(scores: Tensor, start: int) -> Tensor:
        rows, columns = scores.shape
        before, after = (round(sparsity * rows * column) for column in (start, start + columns))
        return keep_highest(scores, after - before)

    return choose


def prune_and_repair(
    model: nn.Module, sparsity: float, hessians: Mapping[str, Tensor], block: int, damping: float
) -> nn.Module:
    """Prune the encoder's linear layers, in place, and return ``model``; sparsity zero changes nothing.

    Args:
        sparsity: Fraction of each layer set to zero, in [0, 1); counts are exact.
        hessians: Name of the layer to X^T X of its inputs, (I, I); a layer without is pruned by magnitude.
        block: Columns whose zeros are chosen at once.
        damping: Times the mean of the diagonal of a Hessian is added to it.
    """
    linears = encoder_layers(model, nn.Linear)
    hessians = with_all(hessians, linears, "outer")
    errors = []
    for name, layer in linears.items():
        if sparsity > 0:
            before = layer.weight.detach().clone()
            after = prune_columns(before, hessians[name], share_of_each_block(sparsity), block, damping)
            with torch.no_grad():
                layer.weight.copy_(after)
            errors.append(reconstruction_error(before, after, hessians[name]))
    told = sparsity_of([layer.weight for layer in linears.values()])
    if errors:
        told["mean_relative_squared_error"] = sum(errors) / len(errors)
    note(model, "compression/pruning", told)
    return model


class SparseGPT:
    """Zeros are chosen by what they would cost the output of their layer, and the weights to their right updated.

    Unlike the paper, inputs are those of the whole model and not of one whose lower layers are pruned already: one
    pass over the texts is enough. Embeddings, biases, norms and the head are not pruned.

    Args:
        sparsity: Fraction of each layer's weights set to zero, in [0, 1); counts are exact.
        block: Columns whose zeros are chosen at once (B_s in the paper; B is the same here).
        damping: Times the mean of the diagonal of H is added to it (lambda): keeps the inverse finite where there are
            fewer tokens than inputs.
        calibration_texts: How many training texts are seen.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self, sparsity: float = 0.5, block: int = 128, damping: float = 0.01, calibration_texts: int = 128
    ) -> None:
        self.sparsity = check_sparsity(sparsity)
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        if not damping > 0:
            raise ValueError(f"damping must be above 0, got {damping}")
        self.block, self.damping = block, damping
        self.calibration_texts = check_texts(calibration_texts)
        self._hessians: dict[str, Tensor] | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check that something would be left of each layer; the model is left as it is."""
        refuse_whole_layers(encoder_layers(model, nn.Linear), self.sparsity)
        return model

    def calibrate(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        """Look at the inputs of the linear layers."""
        self._hessians = input_moments(model, encoder_layers(model, nn.Linear), batches, "outer")

    def finish(self, model: nn.Module) -> nn.Module:
        """Prune the trained model.

        Raises:
            ValueError: If no texts were seen.
        """
        if self._hessians is None:
            raise ValueError("sparsegpt has seen no texts: it is calibrated before it finishes")
        return prune_and_repair(model, self.sparsity, self._hessians, self.block, self.damping)
