"""What parameter-efficient methods share: everything is frozen but the head."""

from torch import nn


def freeze_all_but_head(model: nn.Module) -> None:
    """Leave only the parameters of ``model.head`` trainable; a method then frees or adds its own."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)
