"""No pre-training: the model begins as its choice builds it.

Source: Glorot and Bengio (2010), https://proceedings.mlr.press/v9/glorot10a.html
"""

from effnlp.model.classifier import ModelChoice, Tokenizer
from effnlp.pretraining.stage import Start


class NoPretraining:
    """The stage does nothing and costs nothing."""

    def learn(self, start: Start) -> tuple[ModelChoice, Tokenizer | None]:
        """The choice as it is; its tokenizer is learned on the texts of the task, or came with it."""
        return start.choice, None
