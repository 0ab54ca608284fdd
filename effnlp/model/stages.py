"""A model as graphs: one, or a chain of them where texts leave early; each of fixed operators, for any batch.

Legend: B texts of a batch, T tokens of the longest, K texts still inside, C classes, D width.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from effnlp.data.encodings import Batch
from effnlp.model.classifier import LayerState

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

QUIETED = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")


class ExportError(ValueError):
    """The model cannot be exported; the message says why."""


@dataclass(frozen=True)
class Stage:
    """One graph.

    Attributes:
        reads: Names of its inputs.
        gives: Names of its outputs; ``logits`` (K, C) is among them and, where texts may leave, ``doubt`` (K,).
    """

    program: ExportedProgram
    reads: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """The graphs of a model, in their order.

    Attributes:
        of_texts: Names of values whose first dimension is K; the others belong to no text.
        threshold: A text leaves after a graph where its doubt is below; None: nobody does.
    """

    stages: tuple[Stage, ...]
    of_texts: tuple[str, ...] = ()
    threshold: float | None = None


def leaves_early(model: nn.Module) -> bool:
    """Whether texts leave a model in the middle, by the doubt of an exit after each layer."""
    return bool(getattr(model, "exits_in_use", False))


def cut(model: nn.Module, example: Batch, other: Batch) -> Chain:
    """The graphs of a model in its form for export.

    Args:
        example: At least 2 texts of at least 2 tokens.
        other: One of another number and length of texts: what differs between the two is free.

    Raises:
        ExportError: If it cannot be traced; says where.
    """
    names = tuple(name for name in INPUTS if name in example)
    given = [[batch[name] for name in names] for batch in (example, other)]
    if not leaves_early(model):
        return Chain((Stage(trace(Whole(model, names), *given), names, ("logits",)),))
    return _cut_by_layers(model, names, given)


class Whole(nn.Module):
    """Takes the tensors of a batch one by one, as a graph has its inputs."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """Logits (B, C)."""
        return (self.model(dict(zip(self.names, tensors, strict=True))),)


class Flow:
    """How a layer's state and what a rule remembers are taken apart into named tensors and put together again."""

    def __init__(self, state: LayerState, memory: Tensor | None) -> None:
        direct = [state.hidden, state.mask, memory, *state.context.values()]
        leaves, self._spec = pytree.tree_flatten((state.hidden, state.mask, dict(state.context), memory))
        self._constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        if any(isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool) for leaf in leaves):
            raise ExportError("between two layers flows a number that depends on the batch")
        self.names = {i: f"state_{i}" for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        ids = {id(value) for value in direct if isinstance(value, Tensor)}
        self.direct = tuple(name for i, name in self.names.items() if id(leaves[i]) in ids)

    def named(self, state: LayerState, memory: Tensor | None) -> dict[str, Tensor]:
        """The tensors of a state that is built like the one this was made from."""
        leaves, _ = pytree.tree_flatten((state.hidden, state.mask, dict(state.context), memory))
        return {name: leaves[i] for i, name in self.names.items()}

    def state(self, named: dict[str, Tensor]) -> tuple[LayerState, Tensor | None]:
        """The other way."""
        leaves = {**self._constants, **{i: named[name] for i, name in self.names.items()}}
        in_order = [leaves[i] for i in range(len(leaves))]
        hidden, mask, context, memory = pytree.tree_unflatten(in_order, self._spec)
        return LayerState(hidden, mask, context), memory


@dataclass
class Seen:
    """What a layer was seen to give while it was traced; the tracer undoes what is set on a module itself.

    Attributes:
        gives: Names of its outputs.
        flow: How the state after it is taken apart; None: it is the last.
    """

    gives: tuple[str, ...] = ()
    flow: Flow | None = None


class Layer(nn.Module):
    """One layer of a model that texts leave early, with its exit.

    Args:
        names: Of the tensors that it is given.
        flow: How they make up a state; None: they are the batch, and this is the first layer.
    """

    def __init__(self, model: nn.Module, index: int, names: Sequence[str], flow: Flow | None) -> None:
        super().__init__()
        self.model: Any = model
        self.index, self.names, self.flow = index, names, flow
        self.seen = Seen()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits (K, C) and, but for the last layer, doubt (K,) and what the state has that it had not."""
        model, given = self.model, dict(zip(self.names, tensors, strict=True))
        state, memory = (model.encoder.embed(given), None) if self.flow is None else self.flow.state(given)
        state = model.encoder.layer(self.index, state)
        pooled = model.encoder.pool(state)  # (K, D)
        is_last = self.index == model.encoder.depth - 1
        logits = (model.head if is_last else model.exits[self.index])(pooled)  # (K, C)
        if is_last:
            self.seen.gives = ("logits",)
            return (logits,)
        doubt, memory = model.rule(pooled, logits, memory)
        flow = Flow(state, memory)
        known = {} if self.flow is None else given
        after = flow.named(state, memory).items()
        # A graph names a value once, so that what it is given cannot be an output under another name.
        changed = {
            name: value.clone() if any(value is one for one in tensors) else value
            for name, value in after
            if known.get(name) is not value
        }
        self.seen.gives, self.seen.flow = ("logits", "doubt", *changed), flow
        return logits, doubt, *changed.values()


def _cut_by_layers(model: Any, names: tuple[str, ...], given: list[list[Tensor]]) -> Chain:
    values = [dict(zip(names, tensors, strict=True)) for tensors in given]
    counts = [len(tensors[0]) for tensors in given]
    stages: list[Stage] = []
    flow: Flow | None = None
    of_texts: set[str] = set()
    with torch.no_grad():
        for index in range(model.encoder.depth):
            layer = Layer(model, index, names, flow)
            program = trace(layer, *([one[name] for name in names] for one in values))
            stages.append(Stage(program, names, layer.seen.gives))
            if layer.seen.flow is None:
                break
            graph = program.module()
            for one in values:
                one.update(zip(layer.seen.gives, graph(*(one[name] for name in names)), strict=True))
            flow = layer.seen.flow
            names = tuple(flow.names.values())
            of_texts |= {
                name
                for name in flow.direct
                if all(one[name].shape[:1] == (count,) for one, count in zip(values, counts, strict=True))
            }
    return Chain(tuple(stages), tuple(sorted(of_texts)), float(model.threshold))


def trace(module: nn.Module, example: Sequence[Tensor], other: Sequence[Tensor]) -> ExportedProgram:
    """The operators of a module; dimensions in which ``other`` differs from ``example`` are free.

    Raises:
        ExportError: If it cannot be traced; names the module where that failed.
    """
    free = tuple(
        {dim: torch.export.Dim.DYNAMIC for dim in range(one.dim()) if one.shape[dim] != two.shape[dim]}
        for one, two in zip(example, other, strict=True)
    )
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(module, tuple(example), dynamic_shapes=(free,))
        except ExportError:
            raise
        except Exception as error:  # whatever a tracer trips over is a model that cannot be traced
            cause = error.__cause__ or error
            said = str(cause).strip().splitlines() or [type(cause).__name__]
            where = _where(error.__traceback__) or type(getattr(module, "model", module)).__name__
            raise ExportError(f"{where} cannot be traced: {said[0]}") from error


def _where(trail: TracebackType | None) -> str | None:
    """The innermost module of ours that was being run, and what brought it."""
    found = None
    while trail is not None:
        candidate = trail.tb_frame.f_locals.get("self")
        if isinstance(candidate, nn.Module) and not isinstance(candidate, Whole | Layer):
            found = origin(type(candidate)) or found
        trail = trail.tb_next
    return found


def origin(kind: type) -> str | None:
    """A kind of module with the slot that it comes from; None where it is none of a method of ours."""
    parts = kind.__module__.split(".")
    if parts[0] == "effnlp" and parts[1] in ("compression", "peft"):
        return f"{kind.__name__} ({'/'.join(parts[1:])})"
    return None


def user_of(program: ExportedProgram, operator: str) -> str:
    """In words, the module of ours that computes with an operator; empty where none is known.

    Args:
        operator: Its name, or that of the part into which the exporter took it apart, as ``prims.bessel_j0``.
    """
    name = operator.rpartition(".")[2]
    for node in program.graph.nodes:
        if node.op != "call_function" or name not in str(node.target):
            continue
        for _, kind in reversed(list(node.meta.get("nn_module_stack", {}).values())):
            path = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
            module, _, of = path.rpartition(".")
            if module.startswith(("effnlp.compression.", "effnlp.peft.")):
                return f"{of} ({'/'.join(module.split('.')[1:])})"
    return ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say about themselves."""
    loggers = [logging.getLogger(name) for name in QUIETED]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
