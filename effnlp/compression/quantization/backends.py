"""Who multiplies int8 by int8: torch's plain product, or fbgemm's on packed weights where a machine has it.

The numbers are the same: activations are rounded alike, and sums of integers are exact. fbgemm comes with torch; it
reads weights in blocks that are made once, and gives floats where the plain product gives integers that further passes
turn into floats.

Source: Khudia et al. (2021), https://arxiv.org/abs/2101.05615

Legend: I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("reference", "torch")
"""``reference``: ``torch._int_mm`` and plain operators. ``torch``: the packed product of fbgemm, which torch brings."""

ELSEWHERE = {
    "onnxruntime": "effnlp pick --format onnx writes the model for ONNX Runtime, integer products included",
    "torchao": "its layers keep weights in forms of their own, and cannot stand for these",
}
"""What multiplies integers, too, but whole models or with numbers of its own."""

ZERO_POINT = (
    128  # fbgemm multiplies uint8 by int8: activations are shifted up, and the shift is taken off the sums
)

FEWEST_ROWS = 256
"""Rows below which the reference is used in any case: for few, what a call costs by itself outweighs the passes that
are saved. Since the answers are the same, a text may be computed by either."""

log = logging.getLogger(__name__)


def check_backend(backend: str) -> str:
    """``backend``, if it is ``auto`` or a name that this machine has.

    Raises:
        ValueError: Naming those that it has.
    """
    known = ("auto", *NAMES)
    here = f"this machine has {', '.join(available())}"
    if backend not in known:
        why = f" ({ELSEWHERE[backend]})" if backend in ELSEWHERE else ""
        raise ValueError(f"backend must be one of {', '.join(known)}, got {backend!r}{why}; {here}")
    if backend != "auto" and backend not in available():
        raise ValueError(f"backend {backend!r} is not exact on this machine, or not there; {here}")
    return backend


@functools.cache
def available() -> tuple[str, ...]:
    """Names whose products are exact on this machine, the reference first."""
    return tuple(name for name in NAMES if _IS_EXACT[name]())


def integer_products_are_exact() -> bool:
    """Whether ``torch._int_mm`` sums up without saturating, as x86 before VNNI does in 16 bits."""
    left, right = _extremes()
    return bool((torch._int_mm(left, right.t()) == _SUM).all())


def packed_products_are_exact() -> bool:
    """Whether fbgemm is there and sums up without saturating."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    left, right = _extremes()
    try:
        found = PackedWeights().product(left.float(), right, torch.ones(len(right)))
    except (AttributeError, RuntimeError):  # an engine or an operator that this torch does not have
        return False
    return bool((found == float(_SUM)).all())


_SUM = -64 * 127 * 127


def _extremes() -> tuple[Tensor, Tensor]:
    left = torch.full((32, 64), 127, dtype=torch.int8)
    return left, -left


_IS_EXACT = {"reference": integer_products_are_exact, "torch": packed_products_are_exact}


class PackedWeights:
    """The weights of one layer in the blocks of fbgemm: made when first used and when they change, never stored."""

    def __init__(self) -> None:
        self._made_of: list[tuple[Tensor | None, int]] = []
        self._packed: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedWeights, ()

    def product(
        self,
        numbers: Tensor,
        integers: Tensor,
        scales: Tensor,
        input_scale: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """``numbers @ integers.T * (input_scale * scales) + bias``, the sums exact.

        Args:
            numbers: Float (R, I): integers from -127 to 127.
            integers: Weights, int8 (O, I).
            scales: Of the weights, float32 (O,).
            input_scale: Of all numbers, float32 ().
            bias: Float32 (O,).

        Returns:
            Float32 (R, O).
        """
        made_of = [(part, _version(part)) for part in (integers, scales, input_scale, bias)]
        if not _are_same(made_of, self._made_of):
            both = scales if input_scale is None else input_scale * scales
            self._packed, self._made_of = pack_weights(integers, both, bias), made_of
        out: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            numbers, 1.0, ZERO_POINT, self._packed
        )
        return out


def _version(tensor: Tensor | None) -> int:
    """How often a tensor was written to; one of inference mode does not count it."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _are_same(some: Sequence[tuple[Tensor | None, int]], others: Sequence[tuple[Tensor | None, int]]) -> bool:
    return len(some) == len(others) and all(
        one is other and times == other_times
        for (one, times), (other, other_times) in zip(some, others, strict=True)
    )


def pack_weights(integers: Tensor, scales: Tensor, bias: Tensor | None) -> Any:
    """What fbgemm's operators read."""
    zero_points = torch.zeros(len(scales), dtype=torch.long)
    with _engine("fbgemm"), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.quantize_per_tensor"
        )  # will go; the probe then finds nothing
        weights = torch._make_per_channel_quantized_tensor(integers, scales.double(), zero_points, 0)
        return torch.ops.quantized.linear_prepack(weights, bias)


@contextlib.contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def usable(packed: PackedWeights | None, on: Tensor) -> PackedWeights | None:
    """The packed weights of a layer where they can be used for these inputs; None: the reference takes its place.

    A model that was made elsewhere and asks for what this machine lacks is computed by the reference, which is logged.
    """
    if packed is None or on.device.type != "cpu" or len(on) < FEWEST_ROWS:
        return None
    if "torch" not in available():
        _tell_once()
        return None
    return packed


@functools.cache
def _tell_once() -> None:
    log.warning("this machine lacks fbgemm, for which the model was made: plain products take its place")


def use_backend(model: nn.Module, backend: str) -> dict[str, float]:
    """Let the integer layers of ``model`` be computed by ``backend``; ``auto`` is the fastest that is here.

    Args:
        model: Its layers that have an attribute ``packed`` are those.

    Returns:
        For the record: ``layers_by_torch`` or ``layers_by_reference``.
    """
    name = available()[-1] if backend == "auto" else backend
    layers = [module for module in model.modules() if hasattr(module, "packed")]
    for layer in layers:
        layer.packed = PackedWeights() if name == "torch" else None  # type: ignore[assignment]
    return {f"layers_by_{name}": len(layers)}


def in_use(model: nn.Module) -> dict[str, int]:
    """How many integer layers of a model each back-end computes on this machine."""
    layers = [module for module in model.modules() if hasattr(module, "packed")]
    by_torch = sum(layer.packed is not None for layer in layers) if "torch" in available() else 0
    found = {"reference": len(layers) - by_torch, "torch": by_torch}
    return {name: count for name, count in found.items() if count}


def times_as_fast(turns: int = 9, rows: int = 256, width: int = 384, outputs: int = 1536) -> dict[str, float]:
    """How many times as fast as float32 each back-end computes one layer here and now: fastest turn by fastest turn."""
    from effnlp.compression.quantization.products import DynamicInt8Linear

    linear, x = nn.Linear(width, outputs), torch.randn(rows, width)
    layers: dict[str, nn.Module] = {"float32": linear}
    for name in available():
        layers[name] = DynamicInt8Linear(linear)
        use_backend(layers[name], name)
    fastest = dict.fromkeys(layers, float("inf"))
    with torch.inference_mode():
        for _ in range(turns):
            for name, layer in layers.items():
                start = time.perf_counter()
                layer(x)
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    return {name: fastest["float32"] / fastest[name] for name in available()}
