"""Linear probing: train the head, and nothing of the encoder.

Source: Alain and Bengio (2017), https://arxiv.org/abs/1610.01644
"""

from torch import nn

from effnlp.peft.freezing import freeze_all_but_head

REMOVES = {"prepare": ("trainable_weights", "learning_layers")}


class HeadOnly:
    """What the encoder gives for a text never changes; the head learns to read it."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze the encoder, in place."""
        freeze_all_but_head(model)
        return model
