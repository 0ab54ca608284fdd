"""BitFit: train the bias terms and the head, and nothing else.

Source: Ben Zaken et al. (2022), https://arxiv.org/abs/2106.10199
"""

from typing import Any

from torch import nn

from effnlp.model.surgery import encoder_of
from effnlp.peft.freezing import freeze_all_but_head

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
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.learning_rate_factor = learning_rate_factor

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze all but the biases and the head, in place.

        Raises:
            ValueError: If the encoder has no bias.
        """
        freeze_all_but_head(model)
        encoder = encoder_of(model)
        biases: list[Any] = [p for name, p in encoder.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
        if not biases:
            raise ValueError(f"nothing to train: {type(encoder).__name__} has no bias")
        for bias in biases:
            bias.requires_grad_(True)
            bias.learning_rate_factor = self.learning_rate_factor
        return model
