"""LayerNorm tuning: train the gains and biases of the norms and the head, and nothing else.

Source: Qi et al. (2022), https://arxiv.org/abs/2212.08253; Zhao et al. (2024), https://arxiv.org/abs/2312.11420
"""

from torch import nn

from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import check_factor, freeze_all_but_head, is_norm, thaw

REQUIRES = {"prepare": ("biases",)}
REMOVES = {"prepare": ("trainable_weights",)}


class LayerNormTuning:
    """Every norm of the encoder is trained, its gain and, where it has one, its bias; the rest stays.

    Args:
        learning_rate_factor: Multiplies the base rate for the norms, and replaces a factor that the model gave
            them: they bear, and need, a higher rate than weights that are fine-tuned.

    Raises:
        ValueError: If ``learning_rate_factor`` is not positive.
    """

    def __init__(self, learning_rate_factor: float = 1.0) -> None:
        self.learning_rate_factor = check_factor(learning_rate_factor)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze all but the norms and the head, in place.

        Raises:
            ValueError: If the encoder has no norm.
        """
        freeze_all_but_head(model)
        encoder = encoder_of(model)
        norms = [module for module in encoder.modules() if is_norm(module)]
        if not norms:
            raise ValueError(f"nothing to train: {type(encoder).__name__} has no norm")
        thaw((p for norm in norms for p in norm.parameters(recurse=False)), self.learning_rate_factor)
        return model
