"""The head with which a pretrained model was trained to predict tokens, on the states of its encoder.

Legend: B batch, T tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from effnlp.model.pretrained_encoder import PretrainedEncoder


class TokenHead(nn.Module):
    """Scores of every token of the vocabulary, at each place.

    Attributes:
        predicts_next: Whether the scores at a place are of the token after it, not of the one that is masked there.
        is_pretrained: Its weights are the checkpoint's.

    Args:
        model: The library's model with its head. Its encoder is taken out of it.
        predicts_next: See above.
    """

    is_pretrained = True

    def __init__(self, model: PreTrainedModel, predicts_next: bool) -> None:
        super().__init__()
        setattr(model, model.base_model_prefix, _GivenStates())
        self.model = model
        self.predicts_next = predicts_next

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V)."""
        scores: Tensor = self.model(inputs_embeds=states, return_dict=True).logits
        return scores


class _GivenStates(nn.Module):
    """Stands where the encoder was, and takes what it is given for the states."""

    @property
    def decoder(self) -> nn.Module:
        """OPT goes past its encoder to this part of it."""
        return self

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def token_head_of(encoder: nn.Module) -> TokenHead:
    """The head of the checkpoint that ``encoder`` came from: for the next token if it is causal, else for a masked one.

    Where the checkpoint ties the head to the embeddings, it reads those of ``encoder``: they stay one tensor. Its
    other parameters are copies and learn at the rate of the encoder's.

    Raises:
        ValueError: If there is no such head, or the checkpoint lacks its weights.
    """
    if not isinstance(encoder, PretrainedEncoder) or encoder.checkpoint is None:
        raise ValueError(
            f"a head for tokens comes from a pretrained checkpoint; {type(encoder).__name__} has none"
        )
    config, name = encoder.model.config, encoder.checkpoint.name
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if encoder.is_causal else MODEL_FOR_MASKED_LM_MAPPING_NAMES
    task = "the next token" if encoder.is_causal else "a masked token"
    # Another head of DeBERTa reads the embeddings of the encoder past its states.
    if encoder.model_type not in known or getattr(config, "legacy", True) is False:
        raise ValueError(f"{name}: models of type {encoder.model_type!r} have no head that predicts {task}")
    model, found = encoder.checkpoint.load_weights(
        AutoModelForCausalLM if encoder.is_causal else AutoModelForMaskedLM,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"the checkpoint {name} holds no head that predicts {task}: it lacks {len(missing)} of its weights, "
            f"{missing[0]} first"
        )
    table: Any = model.get_input_embeddings().weight
    head = TokenHead(model, encoder.is_causal)
    ours: Any = encoder.model.get_input_embeddings().weight
    _put(head, table, ours)
    first: Any = next(encoder.parameters())
    parameter: Any
    for parameter in head.parameters():
        if hasattr(first, "learning_rate_factor"):
            parameter.learning_rate_factor = first.learning_rate_factor
    return head.train(encoder.training)


def _put(root: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put ``new`` wherever a module of ``root`` has ``old``."""
    for module in root.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter is old:
                setattr(module, name, new)
