"""The backbone read from left to right: no token sees one that follows it, so that the next one can be predicted.

Source: Radford et al. (2018), https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf

Blocks and sizes are those of :mod:`effnlp.model.backbone`. The tokenizer is trained on the task's own texts like
the backbone's, but loses nothing: its tokens are the bytes of the texts as given, capital letters included.
Built for classes, it pools over its tokens as the backbone does.
"""

from typing import ClassVar

from effnlp.model.backbone import Backbone

PROVIDES = {
    "build": (
        "embeddings",
        "token_sequence",
        "linear_layers",
        "float_linear_layers",
        "trainable_weights",
        "biases",
        "layer_outputs",
        "learning_layers",
        "uninterrupted_training",
        "own_tokenizer",
        "next_tokens",
    )
}


class Decoder(Backbone):
    """The choice ``model=decoder``; its parameters are those of the backbone.

    The mixer is called as ``mixer(width=…, heads=…, causal=True)``.
    """

    is_decoder: ClassVar[bool] = True
