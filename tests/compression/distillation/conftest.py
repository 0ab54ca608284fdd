"""Classifiers that teach and learn: of our backbone, and pretrained ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention


@pytest.fixture
def make_teacher() -> Callable[..., Classifier]:
    """A classifier for the batches of ``make_batch``, deeper and wider than ``make_classifier`` gives, if not told."""

    def make(depth: int = 6, width: int = 48, heads: int = 2, seed: int = 5, classes: int = 3) -> Classifier:
        torch.manual_seed(seed)
        size = Size(depth=depth, width=width, heads=heads, feedforward_width=2 * width)
        return Classifier(BackboneEncoder(size, Attention, 60, max_length=24, dropout=0.0), classes).eval()

    return make


@pytest.fixture
def loss_with() -> Callable[..., torch.Tensor]:
    """``loss_with(method, student, teacher, batch)``: of a student that was prepared, when labels do not count."""

    def loss(method: Any, student: nn.Module, teacher: nn.Module, batch: Any) -> torch.Tensor:
        method.lessons.learn_from(teacher)
        nothing: Any = lambda model, given: model(given).sum() * 0.0  # noqa: E731
        return method.objective(nothing)(method.prepare(student), batch)

    return loss
