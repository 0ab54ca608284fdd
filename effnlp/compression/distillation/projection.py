"""Learned projections from the widths of a student to those of its teacher; they are gone when it is settled.

Legend: D width of the student, D' width of the teacher.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PLACE = "projections"
"""The attribute of a student below which they are while it learns."""


def add_projections(model: nn.Module, names: Sequence[str], teacher: nn.Module | None) -> nn.Module:
    """Give the student a linear map, without bias, from D to D' under each name; none where widths are equal.

    Args:
        teacher: None where the student is only built again, to take what it has learned: it needs none then.
    """
    width, wider = (getattr(getattr(each, "encoder", None), "width", None) for each in (model, teacher))
    if teacher is None or width is None or wider is None or width == wider:
        return model
    with torch.random.fork_rng(devices=[]):  # what other methods draw does not depend on the teacher
        made = nn.ModuleDict({name: nn.Linear(width, wider, bias=False) for name in names})
    model.add_module(PLACE, made.to(next(model.parameters()).device))
    return model


def project(model: nn.Module, name: str, hidden: Tensor) -> Tensor:
    """(…, D) to (…, D'), by the projection of this name; as it is where the student has none."""
    projections: Any = getattr(model, PLACE, None)
    return hidden if projections is None else projections[name](hidden)


def drop_projections(model: nn.Module) -> nn.Module:
    """Leave nothing of them. Twice is as once."""
    if hasattr(model, PLACE):
        delattr(model, PLACE)
    return model
