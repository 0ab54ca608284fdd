"""The tokens of a pretrained model for one from scratch, which it can then teach layer by layer."""

import pandas as pd

from effnlp.model.subwords import SubwordTokenizer


def tokenizer_of(name: str, max_length: int) -> SubwordTokenizer:
    """The tokenizer of a pretrained model.

    Args:
        name: ``minilm``, a local folder, or a name on the hub.
        max_length: Longest input in tokens; what is longer is cut.

    Raises:
        ValueError: If ``max_length`` exceeds what that model reads, or its tokenizer cannot be used.
    """
    from effnlp.model.pretrained import Pretrained  # it loads transformers

    return Pretrained(name, max_length=max_length).tokenizer(pd.DataFrame())
