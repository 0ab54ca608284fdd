"""The backbone read from left to right: no token sees one that follows it, so that the next one can be predicted.

Source: Radford et al. (2018), https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf

Blocks and sizes are those of :mod:`effnlp.model.backbone`. The tokenizer is trained on the task's own texts like
the backbone's, but loses nothing: its tokens are the bytes of the texts as given, capital letters included.
Built for classes, it pools over its tokens as the backbone does.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import pandas as pd
from torch import nn

from effnlp.model.backbone import SIZES, BackboneEncoder
from effnlp.model.classifier import Classifier
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe

PROVIDES = {
    "build": (
        "embeddings",
        "linear_layers",
        "float_linear_layers",
        "trainable_weights",
        "biases",
        "layer_outputs",
        "uninterrupted_training",
        "next_tokens",
    )
}


class Decoder:
    """The choice ``model=decoder``.

    Args:
        mixer: What mixes the tokens, called as ``mixer(width=…, heads=…, causal=True)``.
        size: ``tiny``, ``small`` or ``base``.
        max_length: Longest input in tokens; what is longer is cut.
        vocabulary_size: V at most; a small training split gives fewer.
        dropout: Rate on the embeddings, on each residual branch and before a head of classes, in [0, 1).
        positions: ``learned`` or ``sinusoidal``.

    Raises:
        ValueError: If there is no such size.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]] = ("max_length", "vocabulary_size")

    def __init__(
        self,
        mixer: Callable[..., nn.Module],
        size: str = "tiny",
        max_length: int = 128,
        vocabulary_size: int = 8192,
        dropout: float = 0.1,
        positions: str = "learned",
    ) -> None:
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        self.mixer = mixer
        self.size = size
        self.max_length = max_length
        self.vocabulary_size = vocabulary_size
        self.dropout = dropout
        self.positions = positions

    def tokenizer(self, train: pd.DataFrame) -> SubwordTokenizer:
        """Learn byte-level BPE that loses nothing from the texts of the training split (of pairs, both)."""
        is_pair = "text_pair" in train.columns
        texts = [*train["text"], *(train["text_pair"] if is_pair else ())]
        backend = train_byte_bpe(texts, self.vocabulary_size, is_lossless=True)
        return SubwordTokenizer(backend, self.max_length, PAD_ID, type_ids=is_pair)

    def build(self, tokenizer: SubwordTokenizer, classes: int) -> Classifier:
        """A model with fresh weights for what ``tokenizer`` gives."""
        encoder = BackboneEncoder(
            SIZES[self.size],
            partial(self.mixer, causal=True),
            tokenizer.vocabulary_size,
            tokenizer.max_length,
            self.dropout,
            self.positions,
            pairs=tokenizer.type_ids,
        )
        return Classifier(encoder, classes, self.dropout)
