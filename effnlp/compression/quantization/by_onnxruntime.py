"""ONNX Runtime as the back-end of integer layers: a graph of one product for each.

Legend: I width in, O width out, R rows (the tokens of all texts of a batch).
"""

import functools
import importlib.util
import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from effnlp.compression.quantization.backends import PackedProduct

_SESSIONS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_KEYS = itertools.count()


def missing() -> str | None:
    """What is to be installed first; None: nothing."""
    lacking = [name for name in ("onnxruntime", "onnx") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(lacking)} (pip install 'effnlp[onnx]')" if lacking else None


class Product(PackedProduct):
    """A session whose graph multiplies uint8, what is shifted up, by int8, and turns the sums into floats."""

    name = "onnxruntime"

    def pack(self, integers: Tensor, scales: Tensor, bias: Tensor | None) -> Any:
        """The number under which the session is found, and the session, which lives as long as the layer."""
        key, session = next(_KEYS), make_session(integers, scales, bias, self.zero_point)
        _SESSIONS[key] = session
        return key, session

    def multiply(self, numbers: Tensor, packed: Any) -> Tensor:
        """As one operator, which the meter of operations knows."""
        key, session = packed
        if not len(numbers):
            return numbers.new_zeros(0, session.get_outputs()[0].shape[1])
        out: Tensor = torch.ops.effnlp.int8_by_onnxruntime(numbers, key, self.zero_point)
        return out


def make_session(integers: Tensor, scales: Tensor, bias: Tensor | None, zero_point: int) -> Any:
    """Weights (O, I), their scales (O,) and a bias (O,) as a session that has as many threads as torch."""
    import onnxruntime
    from onnx import TensorProto, checker, helper, numpy_helper

    outputs, inner = integers.shape
    constants = {"integers": integers.t().contiguous(), "scales": scales.float()}
    nodes = [
        helper.make_node("MatMulInteger", ["numbers", "integers", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scales"], ["product"]),
    ]
    if bias is not None:
        constants["bias"] = bias.float()
        nodes.append(helper.make_node("Add", ["product", "bias"], ["biased"]))
    zero = helper.make_tensor("zero", TensorProto.UINT8, [], [zero_point])
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("numbers", TensorProto.UINT8, ["R", inner])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["R", outputs])],
        [
            zero,
            *(
                numpy_helper.from_array(value.detach().cpu().numpy(), name)
                for name, value in constants.items()
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    share_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Every layer is a session: with memory of their own, for each length of texts, all would keep what one needs.
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    # Without it sums of int8 saturate on processors without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@functools.cache
def share_memory() -> None:
    """Make one place for this process from which sessions that say so take their memory."""
    import onnxruntime

    kind, use = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, use), None)


@torch.library.custom_op("effnlp::int8_by_onnxruntime", mutates_args=())
def int8_by_onnxruntime(numbers: Tensor, key: int, zero_point: int) -> Tensor:
    """Float (R, I), integers from ``-zero_point`` on, to what the session gives for them, (R, O)."""
    shifted = numbers.add(zero_point).to(torch.uint8)
    return torch.from_numpy(_SESSIONS[key].run(None, {"numbers": shifted.numpy()})[0])
