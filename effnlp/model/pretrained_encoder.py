"""A pretrained Hugging Face model as an encoder: states of tokens, one vector a text, layers by their role.

Legend: B batch, T tokens, D width.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from effnlp.data.encodings import Batch
from effnlp.model.classifier import LayerState
from effnlp.model.families import FAMILIES, Family, describe_linears, match_roles
from effnlp.model.hub import Checkpoint
from effnlp.model.library_attention import KINDS, PREFIXED, let_read_prefix
from effnlp.model.library_cache import LibraryCache
from effnlp.model.memory import KeysAndValues, Memory, Past, as_added
from effnlp.model.plain_linears import plain_linears
from effnlp.model.pooling import POOLINGS, check_pooling
from effnlp.model.prompted import before_text, prompt_length, prompted


class _FirstLayerReached(Exception):  # noqa: N818 - it stops a forward pass, nothing went wrong
    """Carries the arguments of the first layer out of a forward pass."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.args_of_layer = args
        self.kwargs_of_layer = kwargs


class PretrainedEncoder(nn.Module):
    """A Hugging Face model that gives one vector a text; known families can be run layer by layer.

    Attributes:
        model: The library's model; its embeddings are ``model.get_input_embeddings()``.
        is_causal: Whether no token sees those that follow it.
        pooling: What is done with the states of the tokens; never ``auto``.
        checkpoint: Where it came from; None if it was made here.
        prompt: Puts trained tokens before those of a text (:mod:`effnlp.model.prompted`), or None.
        remember: Makes what keeps a layer's keys and values of a text that is read bit by bit.

    Args:
        model: Gives hidden states (B, T, D). What it fuses is taken apart, in place.
        pooling: ``mean`` over the tokens, ``max``, ``cls``, the first token, ``last``, the last one, or ``auto``:
            ``last`` where ``is_causal``, else ``mean``.
        roles: Role to a pattern of names of linear layers, for families that :mod:`effnlp.model.families`
            does not know.
        checkpoint: Where it came from.
    """

    prompt: nn.Module | None
    remember: Callable[[], Memory] = KeysAndValues

    def __init__(
        self,
        model: PreTrainedModel,
        pooling: str = "auto",
        roles: dict[str, str] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        super().__init__()
        check_pooling(pooling)
        if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
            model.register_module("pooler", None)  # it belongs to pre-training; ours has no weights
        config = model.config
        config.use_cache = False  # nothing is generated
        plain_linears(model)
        self.model = model
        self.prompt = None
        self.is_causal = is_causal(config)
        self.pooling = pooling if pooling != "auto" else "last" if self.is_causal else "mean"
        self.checkpoint = checkpoint
        self.model_type: str = config.model_type
        self.layer_count = int(config.num_hidden_layers)  # how many the checkpoint has
        # OPT may give states of the width of its embeddings.
        self.width = int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)
        self.roles = match_roles(roles, self._linears()) if roles else None
        accepted = inspect.signature(model.forward).parameters
        wanted = ("input_ids", "attention_mask", *(("token_type_ids",) if reads_types(config) else ()))
        self.inputs = [name for name in wanted if name in accepted]

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
        family, layers = self._layers()
        return self.layer_count if family.is_repeated else len(layers)

    def _layers(self) -> tuple[Family, nn.ModuleList]:
        family = self.family
        if family is None:
            raise ValueError(
                f"models of type {self.model_type!r} cannot be run layer by layer; "
                f"those that can: {', '.join(sorted(FAMILIES))}"
            )
        if family.between and attrgetter(family.between)(self.model) is not None:
            raise ValueError(
                f"this model of type {self.model_type!r} cannot be run layer by layer: its {family.between} "
                "acts between two layers"
            )
        return family, self._list_of(family)

    def _list_of(self, family: Family) -> nn.ModuleList:
        layers = self.model.get_submodule(family.layers)
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
        found: dict[str, list[str]] = {role: [] for role in self.family.roles}
        for index, layer in enumerate(self._list_of(self.family)):
            names = [name for name, _ in layer.named_modules()]
            for role, patterns in self.family.roles.items():
                inside = [n for pattern in patterns.split("|") for n in names if fnmatchcase(n, pattern)]
                found[role] += [f"model.{self.family.layers}.{index}.{name}" for name in inside]
        return found

    def prefix_readers(self) -> dict[str, int]:
        """Names of the modules that compute attention, which from now on read a prefix, to the width of its keys.

        Raises:
            ValueError: If the family computes attention out of reach.
        """
        return {f"model.{name}": width for name, width in let_read_prefix(self.model).items()}

    @property
    def position_count(self) -> int:
        """How many tokens can be told apart by their position."""
        return longest_input(self.model.config)

    def word_embeddings(self) -> nn.Module:
        """The table of the tokens."""
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def embed(self, batch: Batch) -> LayerState:
        """The input of layer 0; where there is a prompt, T is its tokens and those of the text.

        The library's own forward is run up to its first layer, so that positions, types and the attention
        mask are made as it makes them.
        """

        def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _FirstLayerReached(args, kwargs)

        family, layers = self._layers()
        handle = layers[0].register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        try:
            self._run(batch)
        except _FirstLayerReached as reached:
            hidden, *rest = reached.args_of_layer
            context = {str(position): value for position, value in enumerate(rest)} | reached.kwargs_of_layer
            # In a tuple a tensor keeps all its rows when examples leave the batch.
            context |= {name: (context[name],) for name in family.shared & set(context)}
            return LayerState(hidden, self._mask(batch), context)
        finally:
            handle.remove()
        raise RuntimeError(f"{type(self.model).__name__} ran without its first layer")

    def layer(self, index: int, state: LayerState) -> LayerState:
        """Run layer ``index`` (0-based)."""
        family, layers = self._layers()
        given = {name: value[0] if name in family.shared else value for name, value in state.context.items()}
        positional = [value for name, value in given.items() if name.isdecimal()]
        named = {name: value for name, value in given.items() if not name.isdecimal()}
        output = layers[index * len(layers) // self.depth](state.hidden, *positional, **named)
        if isinstance(output, Tensor):
            return replace(state, hidden=output)
        carried = {name: output[place] for name, place in family.carried.items()}
        return replace(state, hidden=output[0], context={**state.context, **carried})

    def pool(self, state: LayerState) -> Tensor:
        """(B, D): one vector a text, from the output of any layer."""
        before = prompt_length(self.prompt)
        hidden = state.hidden[:, before:]
        for name in self._layers()[0].after:
            part = attrgetter(name)(self.model)
            hidden = hidden if part is None else part(hidden)
        return self._pool(hidden, state.mask[:, before:])

    def states(self, batch: Batch) -> Tensor:
        """(B, T, D): of each token of the text, as the last layer and what comes after it leave them."""
        hidden: Tensor = self._run(batch).last_hidden_state
        return hidden[:, prompt_length(self.prompt) :]

    def check_reads_on(self) -> None:
        """Refuse to read bit by bit where that is not known to be reading at once.

        Raises:
            ValueError: If tokens see those that follow, or keys and values of the family cannot be kept.
        """
        if not self.is_causal:
            raise ValueError(
                f"models of type {self.model_type!r} read tokens that follow, and so cannot read on"
            )
        accepted = inspect.signature(self.model.forward).parameters
        if self.family is None or not {"past_key_values", "position_ids"} <= set(accepted):
            raise ValueError(
                f"models of type {self.model_type!r} are not known to read on from keys and values that are kept"
            )
        kind = str(self.model.config._attn_implementation).removeprefix(PREFIXED)
        if kind not in KINDS:
            raise ValueError(f"reading on needs attn_implementation {' or '.join(KINDS)}, got {kind!r}")

    def read_on(self, batch: Batch, past: Past) -> Tensor:
        """(B, T, D): the states of tokens that follow those of ``past``, which takes them up. No gradients.

        Raises:
            ValueError: If a text gets longer than ``position_count``, or than a window of the attention.
        """
        prompt = None if past.lengths else self.prompt
        before = prompt_length(prompt)
        window = getattr(self.model.config, "sliding_window", None) or self.position_count
        places = past.places(batch["attention_mask"], before, min(self.position_count, window))
        words = prompted(prompt, self.word_embeddings()(batch["input_ids"]), self.position_count)  # (B, T, E)
        device = words.device
        hidden: Tensor = self.model(
            inputs_embeds=words,
            attention_mask=as_added(places.read(device), words),
            position_ids=places.positions(device),
            past_key_values=LibraryCache(self.remember, past, places),
            use_cache=True,
            return_dict=True,
        ).last_hidden_state
        past.lengths = places.ends
        return hidden[:, before:]

    def forward(self, batch: Batch) -> Tensor:
        """(B, D)."""
        return self._pool(self.states(batch), batch["attention_mask"])

    def _mask(self, batch: Batch) -> Tensor:
        """(B, T): 1 for tokens, those of the prompt included."""
        return before_text(batch["attention_mask"], prompt_length(self.prompt), 1)

    def _run(self, batch: Batch) -> Any:
        inputs = {name: batch[name] for name in self.inputs if name in batch}
        if self.prompt is not None:
            words = self.word_embeddings()(inputs.pop("input_ids"))  # (B, T, E)
            inputs = {
                name: before_text(value, prompt_length(self.prompt), 0) for name, value in inputs.items()
            }
            inputs["attention_mask"] = self._mask(batch)
            inputs["inputs_embeds"] = prompted(self.prompt, words, self.position_count)
        return self.model(**inputs, return_dict=True)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return POOLINGS[self.pooling](hidden, mask)


def is_causal(config: Any) -> bool:
    """Whether in a model with this ``config`` no token sees those that follow it."""
    if config.is_encoder_decoder:
        return False
    kind = config.model_type
    only_causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(getattr(config, "is_decoder", False)) or only_causal


def reads_types(config: Any) -> bool:
    """Whether a model with this ``config`` tells the texts of a pair apart by type ids."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def longest_input(config: Any) -> int:
    """How many tokens a model with this ``config`` has positions for."""
    rows = getattr(config, "max_position_embeddings", None)
    if rows is None or rows < 1:
        return 10**9
    family = FAMILIES.get(config.model_type)
    return rows - (config.pad_token_id + 1 if family and family.positions_after_pad else 0)
