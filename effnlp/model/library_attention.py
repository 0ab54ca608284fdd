"""Reach into the attention of models of the ``transformers`` library, whatever the family.

The library lets a configuration name the function that computes attention from queries, keys and values, after
positions are in them and before groups of heads are spread. :func:`let_read_prefix` puts one before it which adds
what the module's attribute ``prefix`` gives (:mod:`effnlp.model.prefixed`), and which leaves a module without one as
it is.

Legend: B batch, T tokens, P tokens of the prefix, H heads of the queries, K heads of the keys, E width of a head.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from effnlp.model.families import FAMILIES
from effnlp.model.prefixed import read_prefix

KINDS = ("eager", "sdpa")
"""Implementations of attention before which a prefix can be put."""

OUT_OF_REACH = frozenset({"deberta", "deberta-v2", "mpnet"})
"""Known families that compute attention within their own modules."""

PREFIXED = "prefixed_"
RECORDING = "recording"


def attend_with_prefix(
    kind: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The library's attention of some kind, over the prefix of ``module`` and the text.

    Args:
        query: (B, H, T, E).
        key: (B, K, T, E).
        value: (B, K, T, E).
        attention_mask: (B or 1, 1 or H, T or 1, T): boolean or added, as the kind has it.
        options: Passed on. ``position_bias`` (1, H, T, T) is added to the scores; that of the prefix is 0.
    """
    prefix = getattr(module, "prefix", None)
    if prefix is not None:
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        causal = causal and query.shape[2] == key.shape[2]  # a single token that reads on reads all
        key, value, attention_mask = read_prefix(prefix, key, value, attention_mask, causal)
        length = key.shape[2] - query.shape[2]
        if kind == "eager" and attention_mask is not None and attention_mask.dtype == torch.bool:
            lowest = torch.finfo(query.dtype).min
            attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(
                ~attention_mask, lowest
            )
        if options.get("position_bias") is not None:
            options["position_bias"] = pad(options["position_bias"], (length, 0))
    return _plain(kind, module)(module, query, key, value, attention_mask, **options)


def _plain(kind: str, module: Any) -> Callable[..., Any]:
    """What computes attention without a prefix: for ``eager``, a function of the file of the family."""
    if kind == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[kind]


def _record(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    """Write down which module computes attention, with the width of its keys and of its values."""
    module.config.attentions_seen.append((module, *(t.shape[1] * t.shape[3] for t in (key, value))))
    return query.transpose(1, 2), None  # (B, T, H, E), as attention gives it


for _kind in KINDS:
    ALL_ATTENTION_FUNCTIONS.register(PREFIXED + _kind, partial(attend_with_prefix, _kind))
    ALL_MASK_ATTENTION_FUNCTIONS.register(PREFIXED + _kind, ALL_MASK_ATTENTION_FUNCTIONS[_kind])
ALL_ATTENTION_FUNCTIONS.register(RECORDING, _record)


def let_read_prefix(model: nn.Module) -> dict[str, int]:
    """Make the attention of a model read what is the attribute ``prefix`` of its modules, in place.

    Which modules compute attention is found by running the model on two tokens.

    Returns:
        Names of these modules inside ``model``, in the order in which they are run first, to the width K·E of keys
        and values.

    Raises:
        ValueError: If attention is computed out of reach, or in a way that has no room for a prefix.
    """
    configs = _configs(model)
    kinds = [str(config._attn_implementation).removeprefix(PREFIXED) for config in configs]
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"a prefix needs attn_implementation {' or '.join(KINDS)}, got {kind!r}")
    seen = _attentions(model, configs)
    if not seen:
        known = ", ".join(sorted(set(FAMILIES) - OUT_OF_REACH))
        raise ValueError(
            "a prefix needs attention whose keys and values can be reached, which that of "
            f"{type(model).__name__} is not; families whose can: {known}"
        )
    for config, kind in zip(configs, kinds, strict=True):
        config._attn_implementation = PREFIXED + kind
    names = {module: name for name, module in model.named_modules()}
    for module, keys, values in seen:
        if keys != values:
            raise ValueError(
                f"a prefix needs keys and values of one width, {names[module]} has {keys}, {values}"
            )
    return {names[module]: width for module, width, _ in seen}


def _configs(model: nn.Module) -> list[PretrainedConfig]:
    """Each configuration that a module of the model reads, once; parts may have copies."""
    found = (getattr(module, "config", None) for module in model.modules())
    return list({id(config): config for config in found if isinstance(config, PretrainedConfig)}.values())


def _attentions(model: nn.Module, configs: list[PretrainedConfig]) -> list[tuple[nn.Module, int, int]]:
    """Modules that compute attention by the library's interface, with the widths of their keys and values."""
    seen: list[tuple[nn.Module, int, int]] = []
    kinds = [config._attn_implementation for config in configs]
    ids = torch.ones(1, 2, dtype=torch.int64, device=next(model.parameters()).device)
    try:
        for config in configs:
            config._attn_implementation = RECORDING
            config.attentions_seen = seen
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout must not move the run's randomness
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for config, kind in zip(configs, kinds, strict=True):
            config._attn_implementation = kind
            del config.attentions_seen
    return list({module: (module, keys, values) for module, keys, values in seen}.values())
