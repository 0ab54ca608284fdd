"""Train whatever is trainable to predict the next token of the texts; labels are ignored.

Source: Radford et al. (2018), https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf

Legend: B batch.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from effnlp.data.encodings import Batch
from effnlp.finetuning.adamw import Descent
from effnlp.finetuning.judge import Judge
from effnlp.model.language import LanguageModel
from effnlp.model.surgery import encoder_of
from effnlp.task.task import Task

if TYPE_CHECKING:
    from pytorch_lightning import Callback

REQUIRES = {"build": ("next_tokens",)}
PROVIDES = {"build": ("continued_texts",)}
REMOVES = {"build": ("classes",)}


def view(task: Task) -> Task:
    """The task as it is learned here: its texts, without their labels."""
    return replace(task, is_language=True)


def _nats(costs: Tensor, _: Tensor) -> Tensor:
    return costs[:, 0].sum()


def _tokens(costs: Tensor, _: Tensor) -> Tensor:
    return costs[:, 1].sum()


class CausalLM:
    """Cross-entropy of each token of a text given those before it, each token of a batch counting the same.

    Args:
        learning_rate: See :class:`~effnlp.finetuning.adamw.Descent`.
        weight_decay: As above.
        warmup_fraction: As above.
        layer_decay: As above.
        gradual_unfreezing: As above.

    Raises:
        ValueError: If a value is outside its range.
    """

    judge = Judge("loss", is_better_when_higher=False, of_batch=_nats, weight_of_batch=_tokens)

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
        layer_decay: float = 1.0,
        gradual_unfreezing: float = 0.0,
    ) -> None:
        self.descent = Descent(learning_rate, weight_decay, warmup_fraction, layer_decay, gradual_unfreezing)

    def with_head(self, model: nn.Module) -> LanguageModel:
        """The encoder of a built model with a head for the next token: a fresh one, or that of its checkpoint.

        Raises:
            ValueError: If its tokens see those that follow them, or the checkpoint has no such head.
        """
        encoder = encoder_of(model)
        if not hasattr(encoder, "checkpoint"):
            return LanguageModel(encoder)
        if not encoder.is_causal:
            raise ValueError(
                "finetuning=causal_lm predicts the next token, and the tokens of this model see those that follow "
                f"them: {encoder.model_type} is no decoder"
            )
        from effnlp.model.token_head import (
            token_head_of,  # with transformers, which models of ours do without
        )

        return LanguageModel(encoder, token_head_of(encoder))

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean nats of the tokens of the batch: a scalar; 0 where no text has a token to predict."""
        nats, tokens = model(batch).sum(0)
        return nats / tokens.clamp_min(1)

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """AdamW over all parameters, and its schedule."""
        return self.descent.optimizer(model, steps)

    def callbacks(self) -> "list[Callback]":
        """What freezes and frees layers during the training."""
        return self.descent.callbacks()
