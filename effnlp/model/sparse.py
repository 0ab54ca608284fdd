"""Compact forms for tensors with many zeros: the values that are not zero, and where they are.

Where they are is a mask of one bit an entry, or, where one in 32 or fewer is left, the place of each.

Legend: n entries of a tensor, s of them zero, w bytes each.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MASK, PLACES, VALUES, SHAPE = "nonzero_bits", "nonzero_places", "values", "shape"
PLACE_BYTES = 4


def pack(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Store each tensor as it is or, where that takes fewer bytes, as its non-zero values and where they are.

    Exact to the byte: an entry is zero when all its bits are, so that -0.0 is a value. In place of w n bytes a
    tensor takes w (n - s), and n / 8 for a mask or 4 (n - s) for places: half of them zero is enough.

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
    left = int(nonzero.sum())
    mask_bytes = math.ceil(flat.numel() / 8)
    place_bytes = PLACE_BYTES * left if flat.numel() <= torch.iinfo(torch.int32).max else mask_bytes
    if min(mask_bytes, place_bytes) >= (flat.numel() - left) * flat.element_size():
        return tensor
    kept = {VALUES: flat[nonzero], SHAPE: list(tensor.shape)}
    if place_bytes < mask_bytes:
        return {PLACES: nonzero.nonzero().squeeze(1).int(), **kept}  # (n - s,)
    return {MASK: torch.from_numpy(np.packbits(nonzero.numpy())), **kept}  # (ceil(n / 8),) uint8


def unpack_tensor(entry: Mapping[str, Any]) -> Tensor:
    """The tensor that :func:`pack_tensor` took apart."""
    size = math.prod(entry[SHAPE])
    if PLACES in entry:
        nonzero = entry[PLACES].long()  # (n - s,)
    else:
        nonzero = torch.from_numpy(np.unpackbits(entry[MASK].numpy(), count=size)).bool()  # (n,)
    flat = torch.zeros(size, dtype=entry[VALUES].dtype)  # (n,)
    flat[nonzero] = entry[VALUES]
    return flat.view(entry[SHAPE])


def tensors_of(entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a packed entry consists of besides its shape, by the name of the part."""
    return {part: value for part, value in entry.items() if part != SHAPE}


def stored_bytes(packed: Mapping[str, Any]) -> int:
    """Bytes of the tensors in what :func:`pack` gave; names and shapes are not counted."""
    tensors = [
        part
        for entry in packed.values()
        for part in ([entry] if isinstance(entry, Tensor) else tensors_of(entry).values())
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
