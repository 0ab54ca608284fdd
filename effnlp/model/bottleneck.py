"""A thin encoder: what flows from layer to layer is wide, what a layer computes with is narrow (MobileBERT).

Source: Sun et al. (2020), https://arxiv.org/abs/2004.02984

Each layer has linear bottlenecks at its entrance and at its exit; between them are one attention and several
feed-forward layers, which keeps the balance of the two. The table of embeddings is narrow, too. Layers are post-norm,
with ReLU. Unlike the paper's, a text's vector is the mean over its tokens, padding is no neighbour of the last token,
and there are no weights that were pre-trained: it learns from labels, or from a teacher
(``compression/distillation=mobilebert``).

Legend: D width, E inner width, W width of the embeddings, F width of a feed-forward layer, V vocabulary.
"""

from typing import ClassVar

import pandas as pd

from effnlp.model.bottleneck_encoder import NORMS, BottleneckEncoder, Shape
from effnlp.model.classifier import Classifier
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe
from effnlp.model.vocabulary import tokenizer_of

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
        "both_directions",
        "attention_heads",
        "all_heads",
        "softmax_attention",
    )
}


class Bottleneck:
    """The choice ``model=bottleneck``. The paper's has 24 layers of width 512, with 128 inside and at the embeddings.

    Args:
        depth: Layers.
        width: D.
        inner_width: E, at most D.
        embedding_width: W.
        heads: Of attention; a divisor of ``inner_width``.
        feedforward_width: F.
        feedforwards: Feed-forward layers after each attention.
        wide_values: Whether values are read at width D.
        norm: ``layer`` or ``affine``.
        max_length: Longest input in tokens; what is longer is cut.
        vocabulary: Whose tokens it reads: None, those learned from the training split; or those of a pretrained model,
            ``minilm``, a folder or a name on the hub. A teacher that is looked at layer by layer reads the same.
        vocabulary_size: V at most, where it is learned.
        dropout: Rate on the embeddings, at the exit of each layer and before the head, in [0, 1).

    Raises:
        ValueError: If a value is outside its range.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]] = ("max_length", "vocabulary", "vocabulary_size")

    def __init__(
        self,
        depth: int = 4,
        width: int = 256,
        inner_width: int = 64,
        embedding_width: int = 64,
        heads: int = 4,
        feedforward_width: int = 256,
        feedforwards: int = 4,
        wide_values: bool = True,
        norm: str = "layer",
        max_length: int = 128,
        vocabulary: str | None = None,
        vocabulary_size: int = 8192,
        dropout: float = 0.1,
    ) -> None:
        sizes = {
            "depth": depth, "width": width, "inner_width": inner_width, "embedding_width": embedding_width,
            "heads": heads, "feedforward_width": feedforward_width, "feedforwards": feedforwards,
        }  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"model.{name} must be at least 1, got {size}")
        if inner_width > width:
            raise ValueError(f"model.inner_width must be at most the width {width}, got {inner_width}")
        if inner_width % heads:
            raise ValueError(f"model.heads must divide the inner_width {inner_width}, got {heads}")
        if norm not in NORMS:
            raise ValueError(f"model.norm must be one of {', '.join(NORMS)}, got {norm!r}")
        self.shape = Shape(**sizes, wide_values=wide_values)
        self.norm = norm
        self.max_length = max_length
        self.vocabulary = vocabulary
        self.vocabulary_size = vocabulary_size
        self.dropout = dropout

    def tokenizer(self, train: pd.DataFrame) -> SubwordTokenizer:
        """That of ``vocabulary``, or byte-level BPE learned from the texts of the training split (of pairs, both)."""
        if self.vocabulary is not None:
            return tokenizer_of(self.vocabulary, self.max_length)
        is_pair = "text_pair" in train.columns
        texts = [*train["text"], *(train["text_pair"] if is_pair else ())]
        return SubwordTokenizer(
            train_byte_bpe(texts, self.vocabulary_size), self.max_length, PAD_ID, type_ids=is_pair
        )

    def build(self, tokenizer: SubwordTokenizer, classes: int) -> Classifier:
        """A model with fresh weights for what ``tokenizer`` gives."""
        encoder = BottleneckEncoder(
            self.shape,
            tokenizer.vocabulary_size,
            tokenizer.max_length,
            self.dropout,
            self.norm,
            pairs=tokenizer.type_ids,
        )
        return Classifier(encoder, classes, self.dropout)
