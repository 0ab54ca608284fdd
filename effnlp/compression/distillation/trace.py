"""What happens inside a classifier while it reads a batch: states of layers, and what linear layers give.

Legend: B batch, T tokens of the text, D width, L layers, H heads, E width of a head, W width of a linear layer's
output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.classifier import Classifier, LayeredEncoder
from effnlp.model.prompted import prompt_length


@dataclass(frozen=True)
class LayerTrace:
    """What one layer of a classifier made of a batch.

    Attributes:
        hidden: (B, T, D), its output.
        given: Role to what the linear layer in it gave: (B, T, W).
        mask: (B, T), 1 for tokens.
    """

    hidden: Tensor
    given: Mapping[str, Tensor]
    mask: Tensor


@dataclass(frozen=True)
class Trace:
    """What a classifier made of a batch; of a prompt before the text nothing is kept.

    Attributes:
        hidden: (B, T, D) the input of the first layer, then the output of each: L + 1 of them.
        pooled: Index of these to (B, D): what the model pools of it, with a prompt.
        given: Role to what the linear layers in it gave, layer by layer: (B, T, W) each.
        logits: (B, C).
        mask: (B, T), 1 for tokens.
        depth: L.
    """

    hidden: Sequence[Tensor]
    pooled: Callable[[int], Tensor]
    given: Mapping[str, Sequence[Tensor]]
    logits: Tensor
    mask: Tensor
    depth: int

    def at(self, layer: int) -> LayerTrace:
        """Of one layer, from 1 on."""
        given = {role: outputs[layer - 1] for role, outputs in self.given.items()}
        return LayerTrace(self.hidden[layer], given, self.mask)


def trace(model: nn.Module, batch: Batch, roles: Sequence[str] = ()) -> Trace:
    """Read a batch layer by layer and keep what happens.

    Args:
        roles: Of linear layers whose outputs are kept (:data:`effnlp.model.families.ROLES`).

    Raises:
        ValueError: If the model cannot be run layer by layer, or a layer has nothing in one of the roles.
    """
    depth_of(model)
    encoder: Any = model.encoder
    before = prompt_length(getattr(encoder, "prompt", None))
    with listening(encoder, roles) as heard:
        states = [encoder.embed(batch)]
        for index in range(encoder.depth):
            states.append(encoder.layer(index, states[-1]))
    _check_heard(encoder, heard, encoder.depth)
    return Trace(
        hidden=[state.hidden[:, before:] for state in states],
        pooled=lambda index: encoder.pool(states[index]),
        given={role: [output[:, before:] for output in outputs] for role, outputs in heard.items()},
        logits=model.head(model.dropout(encoder.pool(states[-1]))),  # type: ignore[operator]
        mask=batch["attention_mask"],
        depth=encoder.depth,
    )


def trace_layer(model: nn.Module, batch: Batch, layer: int, roles: Sequence[str] = ()) -> LayerTrace:
    """Read a batch as far as a layer, from 1 on, and keep what that layer makes of it; no layer above it acts.

    Args:
        roles: Of linear layers whose outputs are kept.

    Raises:
        ValueError: If the model cannot be run layer by layer, or a layer has nothing in one of the roles.
    """
    depth_of(model)
    encoder: Any = model.encoder
    before = prompt_length(getattr(encoder, "prompt", None))
    with listening(encoder, roles) as heard:
        state = encoder.embed(batch)
        for index in range(layer):
            state = encoder.layer(index, state)
    _check_heard(encoder, heard, layer)
    given = {role: outputs[-1][:, before:] for role, outputs in heard.items()}
    return LayerTrace(state.hidden[:, before:], given, batch["attention_mask"])


def _check_heard(encoder: Any, heard: Mapping[str, Sequence[Tensor]], layers: int) -> None:
    for role, outputs in heard.items():
        if len(outputs) != layers:
            raise ValueError(
                f"distillation of {role} needs one such linear layer in each of {layers} layers, "
                f"{type(encoder).__name__} has {len(outputs)}"
            )


def depth_of(model: nn.Module) -> int:
    """L.

    Raises:
        ValueError: If the model cannot be run layer by layer.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(model, Classifier) or not isinstance(encoder, LayeredEncoder):
        kind = type(encoder or model).__name__
        raise ValueError(f"distillation of layers needs a model that can be run layer by layer, got {kind}")
    return encoder.depth


@contextmanager
def listening(encoder: Any, roles: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Role to what its linear layers give while the block lasts, in the order of the calls."""
    heard: dict[str, list[Tensor]] = {role: [] for role in roles}
    handles = []
    names = encoder.linear_roles() if roles else {}
    for role in roles:

        def keep(_module: nn.Module, _inputs: Any, output: Tensor, role: str = role) -> None:
            heard[role].append(output)

        handles += [encoder.get_submodule(name).register_forward_hook(keep) for name in names.get(role, ())]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def head_count(encoder: Any) -> int:
    """H, of the queries, in every layer.

    Raises:
        ValueError: If it is not known, or some were removed.
    """
    config = getattr(getattr(encoder, "model", None), "config", None)
    if config is not None and hasattr(config, "num_attention_heads"):
        heads = int(config.num_attention_heads)
        known = (getattr(config, name, None) for name in ("head_dim", "d_kv"))
        whole = heads * int(next((width for width in known if width), config.hidden_size // heads))
        modules = [encoder.get_submodule(name) for name in encoder.linear_roles().get("query", ())]
        if any(getattr(module, "out_features", whole) != whole for module in modules):
            raise ValueError(f"attention cannot be compared head by head: not all {heads} heads are there")
        return heads
    mixers: list[Any] = [getattr(layer, "mixer", None) for layer in getattr(encoder, "layers", ())]
    counts = {int(mixer.heads) for mixer in mixers if hasattr(mixer, "heads")}
    if len(counts) != 1:
        raise ValueError(f"the number of attention heads of {type(encoder).__name__} is not known")
    return counts.pop()


def mean_over_tokens(of_token: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``of_token`` (B, T) over the tokens of all texts, without padding: a scalar."""
    weights = mask.to(of_token.dtype)  # (B, T)
    return (of_token * weights).sum() / weights.sum().clamp_min(1)


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The mean squared difference of (B, T, D) over the tokens, without padding, and over D: a scalar."""
    return mean_over_tokens((student - teacher).square().mean(-1), mask)
