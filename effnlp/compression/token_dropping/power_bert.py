"""PoWER-BERT: tokens that receive little attention leave layer by layer, as many as the model learned to do without.

Source: Goyal et al. (2020), https://arxiv.org/abs/2001.08950

Legend: N tokens of the longest text that can be read, with those of a prompt, L layers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from effnlp.compression.token_dropping.dropping import TokenDroppingEncoder
from effnlp.data.encodings import Batch
from effnlp.method import Objective, note, progress
from effnlp.model.classifier import Classifier, LayeredEncoder
from effnlp.model.parts import heads_of
from effnlp.model.prompted import prompt_length

if TYPE_CHECKING:
    from effnlp.data.prepare import Prepared
    from effnlp.gathering import Around

REQUIRES = {
    "prepare": ("layer_outputs", "softmax_attention", "linear_layers"),
    "during": ("uninterrupted_training",),
}
REMOVES = {"prepare": ("layer_outputs",)}

FAMILIES = ("albert", "bart", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Pretrained models in which a token knows its place by itself, so that others may leave."""


def counts_of(retention: Tensor, protected: int) -> list[int]:
    """How many tokens to keep after each layer: the mass of its retention, rounded up, never rising with depth.

    Args:
        retention: (L - 1, N), in [0, 1].
        protected: The least that can be left.
    """
    # Just below: a sum of ones and zeros that float32 puts a hair above a whole number is that number.
    masses = (retention.detach().double().sum(1) - 1e-4).ceil().long().clamp(min=protected)  # (L - 1,)
    return masses.cummin(0).values.tolist()


def penalty_of(retention: Tensor) -> Tensor:
    """The sum of the masses of the layers, each times its number: deep layers let go first (section 3.4)."""
    numbers = torch.arange(1, len(retention) + 1, dtype=retention.dtype, device=retention.device)
    return (numbers * retention.sum(1)).sum()


def dropping_encoder(model: nn.Module) -> TokenDroppingEncoder | None:
    """The encoder of a prepared model, wherever it is inside; None if there is none."""
    return next((module for module in model.modules() if isinstance(module, TokenDroppingEncoder)), None)


class Search(pl.Callback):
    """Before a step: learn how many tokens to keep, or do with as many. After it: hold retention in [0, 1]."""

    def __init__(self, method: "PowerBert") -> None:
        self.method = method

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Depends on the steps done and on what was learned, so that a resumed run is where it was."""
        self.method.advance(pl_module.model, *progress(trainer))

    def on_train_batch_end(self, _: pl.Trainer, pl_module: Any, *__: Any) -> None:
        """And so a validation or a checkpoint sees what the next step will."""
        self.method.hold(pl_module.model)


class PowerBert:
    """First it is learned how many tokens to keep, then the model learns to do with them.

    In the first part of the training each token is multiplied, after each layer but the last, by the retention of its
    rank among the tokens of its text, while a penalty draws the retention down. After it, and at every validation,
    tokens whose rank is not below the mass of the retention leave. Texts shorter than that keep all their tokens, so
    that a text's answer depends on no other text. The first token never leaves.

    Unlike in the paper, tokens leave after a layer and not in the middle of it, so that any layered encoder will do;
    nothing leaves after the last layer, where it would save nothing; and all happens in one fine-tuning, of which the
    paper makes three.

    Args:
        retention: Tokens kept after each layer but the last, not rising; None: learned. Fixed ones hold from the
            first step on.
        penalty: Weight of the penalty (lambda in the paper), at least 0.
        search: Share of the training steps in which it is learned how many to keep, in (0, 1).
        learning_rate_factor: Multiplies the base rate for the retention.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        retention: Sequence[int] | None = None,
        penalty: float = 1e-3,
        search: float = 0.4,
        learning_rate_factor: float = 50.0,
    ) -> None:
        if retention is not None:
            retention = [int(count) for count in retention]
            if not retention or min(retention) < 1 or retention != sorted(retention, reverse=True):
                raise ValueError(f"retention must be counts of at least 1 that do not rise, got {retention}")
        if not penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if not 0 < search < 1:
            raise ValueError(f"search must be in (0, 1), got {search}")
        if not learning_rate_factor > 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.retention, self.penalty, self.search = retention, penalty, search
        self.learning_rate_factor = learning_rate_factor
        self.longest: int | None = None

    def gather(self, data: "Prepared", around: "Around") -> "Prepared":  # noqa: ARG002
        """See how long a text can be: positions that no text reaches would be counted among those that are kept."""
        self.longest = getattr(data.tokenizer, "max_length", None)
        return data

    @property
    def settled_after(self) -> float:
        """From here on as many tokens leave as will."""
        return self.search if self.retention is None else 0.0

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put the encoder into one that lets tokens leave; so far none does, unless the counts are given.

        Raises:
            ValueError: If tokens cannot leave the encoder, or the counts do not fit its layers.
        """
        encoder: Any = getattr(model, "encoder", None)
        if not isinstance(model, Classifier) or not isinstance(encoder, LayeredEncoder):
            kind = type(encoder if encoder is not None else model).__name__
            raise ValueError(f"token dropping needs an encoder that can be run layer by layer, got {kind}")
        depth, longest = encoder.depth, int(getattr(encoder, "position_count", 0))
        if self.longest is not None:
            longest = min(longest, self.longest + prompt_length(getattr(encoder, "prompt", None)))
        refuse(encoder)
        head_width = next(iter(heads_of(model)[0].givers.values()))  # of the query
        between = depth - 1
        if self.retention is not None and len(self.retention) != between:
            raise ValueError(
                f"retention must have {between} counts, one for each layer but the last, got {self.retention}"
            )
        wrapped = TokenDroppingEncoder(encoder, head_width, self.retention or [longest] * between)
        if self.retention is None:
            retention: Any = nn.Parameter(
                torch.ones(between, longest, device=next(model.parameters()).device)
            )
            retention.learning_rate_factor = self.learning_rate_factor
            retention.weight_decay_factor = 0.0
            wrapped.retention, wrapped.is_soft = retention, True
        model.encoder = wrapped
        return model

    def callbacks(self) -> list[pl.Callback]:
        """What goes from learning the counts to doing with them."""
        return [Search(self)]

    def advance(self, model: nn.Module, step: int, steps: int) -> None:
        """Be in the part of the training that comes after ``step`` of ``steps``."""
        encoder = dropping_encoder(model)
        if encoder is None or encoder.retention is None:
            return
        encoder.is_soft = step < self.search * steps
        encoder.retention.requires_grad_(encoder.is_soft)
        self.hold(model)

    def hold(self, model: nn.Module) -> None:
        """Keep the retention in [0, 1], and the counts at its mass."""
        encoder = dropping_encoder(model)
        if encoder is not None and encoder.retention is not None:
            encoder.retention.data.clamp_(0, 1)
            encoder.counts = counts_of(encoder.retention, encoder.protected)

    def objective(self, base: Objective) -> Objective:
        """The loss and, while it is learned how many tokens to keep, the penalty on their mass."""

        def with_penalty(model: nn.Module, batch: Batch) -> Tensor:
            loss = base(model, batch)
            encoder = dropping_encoder(model)
            if encoder is None or encoder.retention is None or not (encoder.is_soft and model.training):
                return loss
            return loss + self.penalty * penalty_of(encoder.retention)

        return with_penalty

    def finish(self, model: nn.Module) -> nn.Module:
        """Fix the counts.

        Raises:
            ValueError: If the model was not prepared.
        """
        encoder = dropping_encoder(model)
        if encoder is None:
            raise ValueError(
                f"no token can leave: the encoder is a {type(getattr(model, 'encoder', model)).__name__}"
            )
        self.hold(model)
        encoder.retention, encoder.is_soft = None, False
        not_exported: Any = (
            "PoWER-BERT decides by the attention in a text which of its tokens are computed, which the exporter of "
            "ONNX files cannot trace; a folder of effnlp pick keeps it"
        )
        model.not_exported = not_exported
        kept = {f"tokens_after_layer_{layer}": count for layer, count in enumerate(encoder.counts, start=1)}
        note(model, "compression/token_dropping", {"layers": len(encoder.counts), **kept})
        return model


def refuse(encoder: Any) -> None:
    """Say early that tokens cannot leave an encoder.

    Raises:
        ValueError: If it has a single layer, or is of a family whose layers look at more than tokens.
    """
    if encoder.depth < 2:
        raise ValueError(f"token dropping needs at least 2 layers, got {encoder.depth}")
    family = getattr(encoder, "model_type", None)
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"tokens cannot leave models of type {family!r}, whose layers look at the distances between tokens "
            f"or are pooled at the last one; families whose can: {', '.join(FAMILIES)}"
        )
