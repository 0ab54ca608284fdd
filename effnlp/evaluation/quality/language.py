"""How well the next token is predicted: bits per byte, perplexity, cross-entropy.

Source: perplexity, Jelinek et al. (1977), https://doi.org/10.1121/1.2016299; bits per byte as a measure that
does not depend on the tokenizer, Gao et al. (2020), https://arxiv.org/abs/2101.00027

Legend: N texts.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from effnlp.evaluation.scores import Scores
from effnlp.task.task import Task

LARGEST_LOSS = 700.0
"""In nats a token; beyond it, the perplexity is no floating-point number."""


def refuse(task: Task, **_: Any) -> None:
    """Say before the training that no next token is predicted.

    Raises:
        ValueError: If labels are learned, and not texts.
    """
    if not task.is_language:
        raise ValueError(
            "evaluation/quality=language scores next tokens, and labels are learned here: "
            "give model=decoder finetuning=causal_lm"
        )


def language(logits: Tensor, labels: Tensor, names: Sequence[str]) -> Scores:  # noqa: ARG001
    """What the texts of a split cost together: sums over all of them, not means over texts.

    Args:
        logits: (N, 2) of each text the nats of its predicted tokens, and how many those are.
        labels: (N,) UTF-8 bytes of each text, as given, as far as it was read: what was cut off counts neither
            here nor there.

    Returns:
        ``loss`` in nats a token; ``perplexity``, its exponential; ``bits_per_byte``, which two models may be
        compared by whatever their tokens are. As the note ``language``, how many texts, tokens and bytes.

    Raises:
        ValueError: If there is no token to predict, or ``logits`` are not of a language model.
    """
    if logits.shape[1] != 2:
        raise ValueError(f"nats and tokens of each text are scored, got {logits.shape[1]} numbers")
    nats, tokens = logits.double().sum(0).tolist()
    size = float(labels.double().sum())
    if not tokens or not size:
        raise ValueError(f"no token to predict in {len(labels)} texts")
    loss = nats / tokens
    values = {"loss": loss, "bits_per_byte": nats / math.log(2) / size}
    absent = {}
    if loss < LARGEST_LOSS:
        values["perplexity"] = math.exp(loss)
    else:
        absent["perplexity"] = f"the exponential of a loss of {loss:g} is beyond floating-point numbers"
    counts = {"texts": len(labels), "tokens": int(tokens), "bytes": int(size)}
    return Scores(values, absent, {"language": counts})
