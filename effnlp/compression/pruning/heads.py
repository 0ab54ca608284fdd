"""Head pruning: remove the heads of attention on which the loss depends least, and make the layers smaller.

Source: Michel et al. (2019), https://arxiv.org/abs/1905.10650
"""

from torch import nn

from effnlp.compression.pruning.by_importance import ByImportance
from effnlp.model.parts import Part, heads_of

REQUIRES = {
    "prepare": ("linear_layers", "float_linear_layers", "attention_heads"),
    "finish": ("linear_layers", "float_linear_layers", "attention_heads"),
}
REMOVES = {"prepare": ("all_heads",)}


class Heads(ByImportance):
    """The importance of a head is the mean of |dL/dxi| over texts, normalised for each layer (section 4.1).

    Query, key and value lose the head's rows, the output layer its columns: nothing of it is left to compute. Where
    several heads share a key and a value, they are removed together.

    Unlike in the paper, no layer loses its last head: each keeps its best.

    Args:
        sparsity: Fraction of the heads removed, in [0, 1); counts are exact.
        scope: ``layer``: that fraction of each layer; ``global``: of all layers together.
        rounds: In how many equal steps, each with importances of what is left; 1 is one shot.
        calibration_texts: How many training texts the importance is the mean of.
        moment: ``finish`` cuts the trained model; ``prepare`` the base, which then is fine-tuned as it is left, with
            importances by a head of the model that has not learnt yet, unless it has.

    Raises:
        ValueError: If a value is outside its range.
    """

    kind = "heads"

    def parts_of(self, model: nn.Module) -> list[Part]:
        """The heads of each layer."""
        return heads_of(model)
