"""BitFit: train the bias terms and the head, and nothing else.

Source: Ben Zaken et al. (2022), https://arxiv.org/abs/2106.10199
"""

from torch import nn

from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import check_factor, freeze_all_but_head, thaw

REQUIRES = {"prepare": ("biases",)}
REMOVES = {"prepare": ("trainable_weights",)}


class BitFit:
    """Every bias of the encoder is trained, those of the norms included; the weights stay.

    Args:
        learning_rate_factor: Multiplies the base rate for the biases, and replaces a factor that the model
            gave them: biases bear, and need, a higher rate than weights that are fine-tuned (section 3.1).

    Raises:
        ValueError: If ``learning_rate_factor`` is not positive.
    """

    def __init__(self, learning_rate_factor: float = 1.0) -> None:
        self.learning_rate_factor = check_factor(learning_rate_factor)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze all but the biases and the head, in place.

        Raises:
            ValueError: If the encoder has no bias.
        """
        freeze_all_but_head(model)
        encoder = encoder_of(model)
        biases = [p for name, p in encoder.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
        if not biases:
            raise ValueError(f"nothing to train: {type(encoder).__name__} has no bias")
        thaw(biases, self.learning_rate_factor)
        return model
