"""Feed-forward pruning: remove the inner units on which the loss depends least, and make the layers smaller.

Source: Molchanov et al. (2017), https://arxiv.org/abs/1611.06440; of feed-forward layers in Transformers:
Prasanna et al. (2020), https://arxiv.org/abs/2005.00561
"""

from torch import nn

from effnlp.compression.pruning.by_importance import ByImportance
from effnlp.model.parts import Part, units_of

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers"),
    "finish": ("linear_layers", "float_linear_layers"),
}


class FeedForward(ByImportance):
    """The importance of a unit is the mean over texts of |sum of a · dL/da| over the tokens, a being what it gives.

    That is what the loss would lose without the unit, to first order. It is normalised for each layer. A unit of a
    gated layer goes with its gate. Unlike in the second paper, single units are removed, and not whole layers.

    Args:
        sparsity: Fraction of the inner units removed, in [0, 1); counts are exact.
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together, of which each keeps its best.
        rounds: In how many equal steps, each with importances of what is left; 1 is one shot.
        calibration_texts: How many training texts the importance is the mean of.
        moment: ``finish`` cuts the trained model; ``prepare`` the base, which then is fine-tuned as it is left, with
            importances by a head of the model that has not learnt yet, unless it has.

    Raises:
        ValueError: If a value is outside its range.
    """

    kind = "units"

    def parts_of(self, model: nn.Module) -> list[Part]:
        """The inner units of each layer."""
        return units_of(model)
