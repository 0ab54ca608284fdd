"""Count floating-point operations by watching the operators that PyTorch dispatches.

What an operator costs is in :mod:`effnlp.evaluation.operators`. On a CPU the counter that comes with PyTorch
gives 0 for fused attention, int8 kernels, Fourier transforms and sparse products; here an operator that has
no formula and is not zero by convention is named, and a total that would contain it is None.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from effnlp.evaluation.operators import has_formula, is_zero, operator_flops, operator_name

_METADATA = frozenset(
    {
        torch.ops.aten.sym_is_contiguous.default,
        torch.ops.aten.is_contiguous.default,
        torch.ops.aten.is_contiguous.memory_format,
        torch.ops.aten.is_strides_like_format.default,
        torch.ops.aten.is_non_overlapping_and_dense.default,
        torch.ops.aten.size.default,
        torch.ops.aten.sym_size.default,
        torch.ops.aten.stride.default,
        torch.ops.aten.sym_stride.default,
        torch.ops.aten.storage_offset.default,
        torch.ops.aten.sym_storage_offset.default,
        torch.ops.aten.numel.default,
        torch.ops.aten.sym_numel.default,
        torch.ops.aten.dim.default,
        torch.ops.prim.layout.default,
    }
)


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of some work; multiply-add = 2. Counts of two pieces of work add up.

    Attributes:
        by_operator: Operator name to FLOPs, for those that have any.
        uncounted: Operators without a formula: name to number of calls.
    """

    by_operator: Mapping[str, float] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> float | None:
        """The total; None where an operator without a formula took part."""
        return None if self.uncounted else float(sum(self.by_operator.values()))

    @property
    def reason(self) -> str | None:
        """Why there is no total; None where there is one."""
        if not self.uncounted:
            return None
        return "operators without a formula: " + ", ".join(sorted(self.uncounted))

    def __add__(self, other: "FlopCount") -> "FlopCount":
        return FlopCount(
            _add(self.by_operator, other.by_operator),
            _add(self.uncounted, other.uncounted),
        )

    def times(self, repeats: int) -> "FlopCount":
        """The count of the same work done ``repeats`` times."""
        if repeats < 0:
            raise ValueError(f"repeats must not be negative, got {repeats}")
        if repeats == 0:
            return FlopCount()
        return FlopCount(
            {name: flops * repeats for name, flops in self.by_operator.items()},
            {name: calls * repeats for name, calls in self.uncounted.items()},
        )


def _add(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


class FlopCounter(TorchDispatchMode):
    """Counts what runs inside ``with FlopCounter() as counter:``, forward and backward.

    Composite operators, which arrive whole under ``torch.inference_mode``, are taken apart. Counters nest:
    each sees everything that runs inside it. Threads that the work itself starts are not seen, except those
    of autograd.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._by_operator: dict[str, float] = {}
        self._uncounted: dict[str, int] = {}

    @property
    def count(self) -> FlopCount:
        """What was counted so far."""
        with self._lock:
            return FlopCount(dict(self._by_operator), dict(self._uncounted))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            return NotImplemented
        if isinstance(func, HigherOrderOperator):
            # What it runs inside is not seen from here, so that the total must not pretend to hold it.
            self._record(f"higher_order.{func.name()}", None)
            return func(*args, **kwargs)
        if not has_formula(func) and not is_zero(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._record_call(func, args, kwargs, result)
        return result

    def _record_call(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self._record(operator_name(func), operator_flops(func, args, kwargs, result))

    def _record(self, name: str, flops: float | None) -> None:
        with self._lock:
            if flops is None:
                self._uncounted[name] = self._uncounted.get(name, 0) + 1
            elif flops:
                self._by_operator[name] = self._by_operator.get(name, 0.0) + flops


def count_flops(work: Callable[[], Any]) -> FlopCount:
    """Do the work once and count it."""
    with FlopCounter() as counter:
        work()
    return counter.count


def batch_key(batch: Mapping[str, Any], phase: Hashable = None) -> Hashable:
    """What the FLOPs of a step depend on: the shapes of its batch, and the caller's ``phase``.

    The phase stands for everything else that changes them: which parameters are trained, which layers run.
    """
    shapes = sorted((name, tuple(value.shape)) for name, value in batch.items() if isinstance(value, Tensor))
    return (*shapes, phase)


class StepFlops:
    """Counts a step once for each key and repeats the figure for later steps with the same key.

    Watching a step makes it slower; a step whose key is known runs unwatched. Use :meth:`start` and
    :meth:`end` from Lightning's ``on_train_batch_start`` and ``on_train_batch_end``, and :meth:`abort` where
    a step may end in an exception; or ``with steps.step(key):``.

    Args:
        data_dependent: The FLOPs depend on what is in the batch (early exit, experts, token dropping):
            every step is counted and nothing is remembered.
    """

    def __init__(self, data_dependent: bool = False) -> None:
        self.data_dependent = data_dependent
        self.total = FlopCount()
        self._known: dict[Hashable, FlopCount] = {}
        self._key: Hashable = None
        self._counter: FlopCounter | None = None
        self._is_open = False

    def start(self, key: Hashable) -> None:
        """Begin a step; it is watched unless its key is known. None is the key of a step like no other."""
        if self._is_open:
            raise RuntimeError("a step is still open: end() or abort() comes before the next start()")
        self._key, self._is_open = key, True
        if self.data_dependent or key is None or key not in self._known:
            self._counter = FlopCounter()
            self._counter.__enter__()

    def end(self) -> FlopCount:
        """End the step; its count, which was also added to ``total``."""
        if not self._is_open:
            raise RuntimeError("no step is open: start() comes before end()")
        counter = self._stop_watching()
        count = self._known[self._key] if counter is None else counter.count
        if counter is not None and not self.data_dependent and self._key is not None:
            self._known[self._key] = count
        self.total = self.total + count
        return count

    def abort(self) -> None:
        """End a step that failed: what was watched of it counts, nothing is remembered. Twice is as once."""
        counter = self._stop_watching()
        if counter is not None:
            self.total = self.total + counter.count

    @contextmanager
    def step(self, key: Hashable) -> Iterator[None]:
        """The step as a block."""
        self.start(key)
        try:
            yield
        except BaseException:
            self.abort()
            raise
        self.end()

    def _stop_watching(self) -> FlopCounter | None:
        counter, self._counter, self._is_open = self._counter, None, False
        if counter is not None:
            counter.__exit__(None, None, None)
        return counter
