"""A compact form for tensors with many zeros: one bit an entry, and the values that are not zero.

Legend: n entries of a tensor.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MASK, VALUES, SHAPE = "nonzero_bits", "values", "shape"


def pack(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Store each tensor as it is or, where that takes fewer bytes, as a mask and its non-zero values.

    Exact to the byte: an entry is zero when all its bits are, so that -0.0 is a value. With s zeros, a tensor
    of n entries of w bytes takes n / 8 + w (n - s) bytes in place of w n: half of them zero is enough.

    Args:
        state: What ``state_dict()`` gives.

    Returns:
        A dict of tensors and plain containers, as ``torch.save`` writes and ``torch.load`` reads safely.
    """
    return {name: pack_tensor(tensor) for name, tensor in state.items()}


def unpack(packed: Mapping[str, Any]) -> dict[str, Tensor]:
    """What :func:`pack` was given."""
    return {
        name: entry if isinstance(entry, Tensor) else unpack_tensor(entry) for name, entry in packed.items()
    }


def pack_tensor(tensor: Tensor) -> Tensor | dict[str, Any]:
    """One tensor in the form that takes fewer bytes."""
    if tensor.element_size() not in WORDS:
        return tensor
    flat = tensor.detach().cpu().contiguous().flatten()  # (n,)
    nonzero = flat.view(WORDS[flat.element_size()]) != 0  # (n,)
    mask_bytes = math.ceil(flat.numel() / 8)
    if mask_bytes >= (flat.numel() - int(nonzero.sum())) * flat.element_size():
        return tensor
    bits = torch.from_numpy(np.packbits(nonzero.numpy()))  # (ceil(n / 8),) uint8
    return {MASK: bits, VALUES: flat[nonzero], SHAPE: list(tensor.shape)}


def unpack_tensor(entry: Mapping[str, Any]) -> Tensor:
    """The tensor that :func:`pack_tensor` took apart."""
    size = math.prod(entry[SHAPE])
    nonzero = torch.from_numpy(np.unpackbits(entry[MASK].numpy(), count=size)).bool()  # (n,)
    flat = torch.zeros(size, dtype=entry[VALUES].dtype)  # (n,)
    flat[nonzero] = entry[VALUES]
    return flat.view(entry[SHAPE])


def stored_bytes(packed: Mapping[str, Any]) -> int:
    """Bytes of the tensors in what :func:`pack` gave; names and shapes are not counted."""
    tensors = [
        part
        for entry in packed.values()
        for part in ([entry] if isinstance(entry, Tensor) else [entry[MASK], entry[VALUES]])
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
