"""Who multiplies int8 by int8: the plain product, fbgemm's on packed weights, ONNX Runtime, or torchao, compiled.

The numbers are the same: activations are rounded alike, and sums of integers are exact. fbgemm comes with torch; it
reads weights in blocks that are made once, and gives floats where the plain product gives integers that further passes
turn into floats. The two others are packages of their own (:data:`MODULES`).

Processors without dot products of int8 sum up pairs of products in 16 bits, which saturate: there fbgemm is exact for
activations of seven bits alone, whose pairs fit (``largest=63``).

Source: Khudia et al. (2021), https://arxiv.org/abs/2101.05615

Legend: I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import contextlib
import functools
import importlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effnlp.compression.quantization.integer import LARGEST

NAMES = ("reference", "torch", "onnxruntime", "torchao")
"""``reference``: the product that every machine has (``plain_product.py``), and plain operators. ``torch``: the packed
product of fbgemm, which torch brings.
``onnxruntime``: a graph a layer. ``torchao``: its product, compiled by torch, which takes a C++ compiler."""

MODULES = {
    "onnxruntime": "effnlp.compression.quantization.by_onnxruntime",
    "torchao": "effnlp.compression.quantization.by_torchao",
}
"""Where the back-ends are that are packages of their own; read when they are asked for."""

OWN = NAMES[:2]
"""What comes with torch."""

AUTO = ("torch", "onnxruntime", "reference")
"""``auto`` is the first of these that this machine has. Where torch's packed products are not exact the reference
has no dot products of int8 either, and multiplies floats: ONNX Runtime does better there."""

FEWEST_ROWS = 256
"""Rows below which the reference is used where it has dot products of int8: for few, what a call costs by itself
outweighs the passes that are saved. Since the answers are the same, a text may be computed by either."""

SEVEN_BITS = 63
"""The largest activation whose products with two weights fit into 16 bits together: (63 + 64) * 2 * 127 < 2^15."""

log = logging.getLogger(__name__)


def check_backend(backend: str, largest: int = LARGEST) -> str:
    """``backend``, if it is ``auto`` or a name that this machine has for activations from -``largest`` to ``largest``.

    Raises:
        ValueError: Naming those that it has.
    """
    if backend == "auto" or (backend in NAMES and has(backend, largest)):
        return backend
    here = f"this machine has {', '.join(available(largest))}"
    if backend not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(('auto', *NAMES))}, got {backend!r}; {here}")
    raise ValueError(f"backend {backend!r} {why_not(backend, largest)}; {here}")


@functools.cache
def has(name: str, largest: int = LARGEST) -> bool:
    """Whether the products of a back-end are there and exact on this machine."""
    return why_not(name, largest) is None


def available(largest: int = LARGEST) -> tuple[str, ...]:
    """Names of the back-ends that this machine has, the reference first."""
    return tuple(name for name in NAMES if has(name, largest))


def why_not(name: str, largest: int = LARGEST) -> str | None:
    """What keeps this machine from a back-end; None: nothing does."""
    if name not in OWN:
        missing = _module(name).missing()
        if missing is not None:
            return f"needs {missing}"
    if name == "reference" or packed_products_are_exact(name, largest):
        return None
    way_out = (
        "; for activation_bits=7 it is" if packed_products_are_exact(name, SEVEN_BITS) else ", or not there"
    )
    return f"is not exact on this machine{way_out}"


def version_of(name: str) -> str:
    """The version of the package that a back-end is part of."""
    return metadata.version("torch" if name in OWN else name)


def packed_products_are_exact(name: str = "torch", largest: int = LARGEST) -> bool:
    """Whether a back-end works here and sums up without saturating, as x86 before VNNI does in 16 bits.

    It is tried in a thread of its own: the first to ask may be a layer whose operators are being counted or recorded.
    """
    if name == "torch" and "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_is_exact, name, largest).result()


def _is_exact(name: str, largest: int) -> bool:
    weights = torch.full((32, 64), LARGEST, dtype=torch.int8)
    numbers = torch.full((32, 64), float(largest))
    try:
        found = make_packed(name, largest).product(numbers, -weights, torch.ones(len(weights)))
    except (AttributeError, RuntimeError):  # an engine or an operator that this torch does not have
        return False
    return bool((found == -64.0 * largest * LARGEST).all())


def _module(name: str) -> Any:
    return importlib.import_module(MODULES[name])


def make_packed(name: str, largest: int = LARGEST) -> "PackedProduct":
    """What multiplies for one layer, for activations to ``largest``; of a back-end that is not the reference."""
    made: PackedProduct = PackedWeights(largest) if name == "torch" else _module(name).Product(largest)
    return made


class PackedProduct(ABC):
    """The weights of one layer in a form of a back-end: made when first used and when they change, never stored.

    Args:
        largest: No activation is beyond it or below its negative.
    """

    name: ClassVar[str]

    def __init__(self, largest: int = LARGEST) -> None:
        self.largest = largest
        self._made_of: list[tuple[Tensor | None, int]] = []
        self._packed: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return make_packed, (self.name, self.largest)

    @property
    def zero_point(self) -> int:
        """Uint8 is multiplied by int8: activations are shifted up by so much, and the shift is taken off the sums."""
        return self.largest + 1

    @abstractmethod
    def pack(self, integers: Tensor, scales: Tensor, bias: Tensor | None) -> Any:
        """What :meth:`multiply` reads, of weights (O, I), scales (O,) and a bias (O,)."""

    @abstractmethod
    def multiply(self, numbers: Tensor, packed: Any) -> Tensor:
        """Float (R, I), integers to ``largest``, to float32 (R, O): the product times the scales, and the bias."""

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
            numbers: Float (R, I): integers from -``largest`` to ``largest``.
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
            self._packed, self._made_of = self.pack(integers, both, bias), made_of
        return self.multiply(numbers, self._packed)


class PackedWeights(PackedProduct):
    """The blocks of fbgemm."""

    name = "torch"

    def pack(self, integers: Tensor, scales: Tensor, bias: Tensor | None) -> Any:
        """What fbgemm's operators read."""
        return pack_weights(integers, scales, bias)

    def multiply(self, numbers: Tensor, packed: Any) -> Tensor:
        """By fbgemm, which rounds once more, by a scale of 1."""
        out: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            numbers, 1.0, self.zero_point, packed
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


def usable(packed: PackedProduct | None, on: Tensor) -> PackedProduct | None:
    """What multiplies for a layer where it can be used for these inputs; None: the reference takes its place.

    A model that was made elsewhere and asks for what this machine lacks is computed by the reference, which is logged.
    """
    if packed is None or on.device.type != "cpu" or (len(on) < FEWEST_ROWS and has("torch")):
        return None
    if not has(packed.name, packed.largest):
        _tell_once(packed.name)
        return None
    return packed


@functools.cache
def _tell_once(name: str) -> None:
    what = "fbgemm" if name == "torch" else name
    log.warning("this machine lacks %s, for which the model was made: plain products take its place", what)


def use_backend(model: nn.Module, backend: str) -> dict[str, float]:
    """Let ``backend`` compute the integer layers of ``model``; ``auto``: the first of :data:`AUTO` that is there.

    Args:
        model: Its layers that have an attribute ``packed`` are those.

    Returns:
        For the record: ``layers_by_torch``, ``layers_by_reference`` …; the record has the version of each package.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "packed")]
    largest = max((layer.largest for layer in layers), default=LARGEST)
    name = next(name for name in AUTO if has(name, largest)) if backend == "auto" else backend
    for layer in layers:
        layer.packed = None if name == "reference" else make_packed(name, layer.largest)
    return {f"layers_by_{name}": len(layers)}


def in_use(model: nn.Module) -> dict[str, int]:
    """How many integer layers of a model each back-end computes on this machine."""
    packed: list[Any] = [module.packed for module in model.modules() if hasattr(module, "packed")]

    def computes(each: PackedProduct | None) -> str:
        return "reference" if each is None or not has(each.name, each.largest) else each.name

    return dict(Counter(map(computes, packed)))


def times_as_fast(
    turns: int = 9,
    rows: int = 256,
    width: int = 384,
    outputs: int = 1536,
    names: Sequence[str] | None = None,
    largest: int = LARGEST,
) -> dict[str, float]:
    """How many times as fast as float32 each back-end computes one layer here and now: fastest turn by fastest turn."""
    from effnlp.compression.quantization.products import DynamicInt8Linear
    from effnlp.evaluation.latency import fastest_turns

    linear, x = nn.Linear(width, outputs), torch.randn(rows, width)
    layers: list[nn.Module] = [linear]
    there = [name for name in names or NAMES if has(name, largest)]
    for name in there:
        layers.append(DynamicInt8Linear(linear, largest))
        use_backend(layers[-1], name)
    float32, *others = fastest_turns([functools.partial(layer, x) for layer in layers], turns)
    return {name: float32 / seconds for name, seconds in zip(there, others, strict=True)}
