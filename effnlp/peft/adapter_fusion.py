"""AdapterFusion: mix adapters of other tasks, at each of their places by an attention that is trained.

Source: Pfeiffer et al. (2021), https://arxiv.org/abs/2005.00247

Legend: N adapters, D width of the model.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from effnlp.method import Objective, note
from effnlp.model.delta import FILE, Delta, digest_of_base
from effnlp.model.surgery import replace_layers
from effnlp.peft.adapter import ACTIVATIONS, Bottleneck, dense_bottleneck
from effnlp.peft.freezing import freeze_all_but_head

if TYPE_CHECKING:
    from effnlp.data.encodings import Batch

REQUIRES = {"prepare": ("linear_layers",)}
REMOVES = {"prepare": ("trainable_weights",)}

QUERY_STD = 0.02
"""Of the query and key matrices at the start."""

PART = re.compile(r"(?P<place>.+)\.adapter\.(?P<part>(down|up)\.(weight|bias))")
"""The names of the entries of a dense adapter: where it stands, and which of its parts this is."""


@dataclass(frozen=True)
class SavedAdapter:
    """The trained adapter of one task.

    Attributes:
        path: The file that it was read from.
        base: Digest of the encoder that it was trained on.
        activation: A name of :data:`effnlp.peft.adapter.ACTIVATIONS`.
        places: Name of an adapted layer in the model to the state dict of its bottleneck.
    """

    path: Path
    base: str
    activation: str
    places: Mapping[str, Mapping[str, Tensor]]

    def at(self, place: str, model_width: int) -> Bottleneck:
        """The bottleneck of one place, frozen.

        Raises:
            ValueError: If it is for layers of another width.
        """
        state = self.places[place]
        width, its_width = state["down.weight"].shape
        if its_width != model_width:
            raise ValueError(f"{self.path} is for layers of width {its_width}, {place} has {model_width}")
        bottleneck = dense_bottleneck(width, model_width, self.activation)
        bottleneck.load_state_dict(dict(state))
        return bottleneck.requires_grad_(False)


def read_adapter(path: Path) -> SavedAdapter:
    """The adapter of a run, from its folder or from a delta of it; the head is left out.

    Raises:
        FileNotFoundError: If there is no delta.
        ValueError: If more or less than dense adapters was trained.
    """
    path = path / FILE if path.is_dir() else path
    delta = Delta.read(path)
    places: dict[str, dict[str, Tensor]] = {}
    for name, value in delta.entries.items():
        found = PART.fullmatch(name)
        if found:
            places.setdefault(found["place"], {})[found["part"]] = value
        elif name.startswith("encoder."):
            raise ValueError(
                f"{path} changes more than dense adapters, {name} first; adapters that are to be fused are trained "
                "by peft=pfeiffer_adapter, or by peft=houlsby_adapter peft.train_norms=false"
            )
    activation = delta.about.config.get("peft", {}).get("activation")
    if not places or activation not in ACTIVATIONS:
        raise ValueError(f"{path} has no adapter: it is of a run with another choice of peft")
    return SavedAdapter(path, delta.about.base, activation, places)


class FusedLinear(nn.Module):
    """``y + V Σₙ wₙ cₙ`` with ``y = base(x)``, cₙ what the n-th adapter adds, and w = softmax((Q y) · (K cₙ)).

    Unlike the paper, keys and values are what the adapters add, not y and that, as in the authors' code: w is the
    same either way, since y adds as much to each score. K is moved over to the query and V behind the sum, so that a
    token costs 3 D² multiplications beside the adapters' own, however many they are.

    Args:
        base: The frozen layer, with ``in_features``, ``out_features``; it may be wrapped itself.
        adapters: Frozen, each from (…, D) to (…, D).
    """

    def __init__(self, base: nn.Module, adapters: Sequence[nn.Module]) -> None:
        super().__init__()
        self.in_features, self.out_features = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        self.base, self.adapters = base, nn.ModuleList(adapters)
        width = self.out_features
        self.query = nn.Parameter(torch.empty(width, width).normal_(std=QUERY_STD))  # Q
        self.key = nn.Parameter(torch.empty(width, width).normal_(std=QUERY_STD))  # K
        self.value = nn.Parameter(torch.eye(width))  # V

    def weights(self, y: Tensor, changes: Tensor) -> Tensor:
        """How much of each adapter a token gets: ``y`` (…, D) and ``changes`` (…, N, D) to (…, N); sums to 1."""
        asked = linear(y, self.query) @ self.key  # (…, D)
        return (changes @ asked.unsqueeze(-1)).squeeze(-1).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, D)."""
        y: Tensor = self.base(x)
        changes = torch.stack([adapter(y) for adapter in self.adapters], dim=-2)  # (…, N, D)
        mixed = (self.weights(y, changes).unsqueeze(-2) @ changes).squeeze(-2)  # (…, D)
        return y + linear(mixed, self.value)

    def distance_of_value(self) -> Tensor:
        """Squared Frobenius distance of V from the identity: a scalar."""
        own = torch.eye(self.out_features, dtype=self.value.dtype, device=self.value.device)
        return (self.value - own).square().sum()


class AdapterFusion:
    """Only the attention over the adapters and the head are trained: 3 D² parameters a place.

    What is kept of it is that alone: whoever loads it needs the adapters' files too.

    Args:
        adapters: Folders of runs that trained an adapter each, or their deltas; all of the base that is fine-tuned now.
        value_penalty: Multiplies the squared distance of each V from the identity, in the loss.

    Raises:
        ValueError: If no adapter is named, or ``value_penalty`` is negative.
        FileNotFoundError: If there is nothing at a path.
    """

    def __init__(self, adapters: Sequence[str] = (), value_penalty: float = 0.01) -> None:
        if isinstance(adapters, str) or not adapters:
            raise ValueError(
                "adapters must be a list of folders of runs with peft=pfeiffer_adapter, as in "
                f"peft.adapters=[DIR,DIR], got {adapters!r}"
            )
        if value_penalty < 0:
            raise ValueError(f"value_penalty must be at least 0, got {value_penalty}")
        self.paths = [Path(path).expanduser() for path in adapters]
        for path in self.paths:
            if not path.exists():
                raise FileNotFoundError(f"peft.adapters: there is no {path}")
        self.value_penalty = value_penalty

    def prepare(self, model: nn.Module) -> nn.Module:
        """Put all adapters and an attention over them where they stood, and freeze the rest, in place.

        Raises:
            ValueError: If the adapters are of another base or width, or do not stand at the same places.
        """
        adapters = [read_adapter(path) for path in self.paths]
        check_same_base(adapters, digest_of_base(model))
        fused = {}
        for place in adapters[0].places:
            layer = model.get_submodule(place)
            width = int(layer.out_features)  # type: ignore[arg-type]
            fused[layer] = FusedLinear(layer, [adapter.at(place, width) for adapter in adapters])
        freeze_all_but_head(model)
        return replace_layers(model, list(fused), lambda layer: fused[layer])

    def objective(self, base: Objective) -> Objective:
        """The loss, and what it costs to leave the identity."""

        def with_penalty(model: nn.Module, batch: "Batch") -> Tensor:
            loss = base(model, batch)
            for layer in fused_layers(model):
                loss = loss + self.value_penalty * layer.distance_of_value()
            return loss

        return with_penalty if self.value_penalty else base

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is: neither adapters nor their mixture are linear, so that they stay."""
        layers = fused_layers(model)
        if not layers:
            raise ValueError(f"nothing was inserted: {type(model).__name__} has no fused adapters")
        note(model, "peft", {"layers": len(layers), "merged_layers": 0, "adapters": len(layers[0].adapters)})
        return model


def fused_layers(model: nn.Module) -> list[FusedLinear]:
    """The places of a model where adapters are mixed."""
    return [module for module in model.modules() if isinstance(module, FusedLinear)]


def check_same_base(adapters: Sequence[SavedAdapter], base: str) -> None:
    """Raise unless adapters go together and with the base of this digest.

    Raises:
        ValueError: If one is of another base or stands at other places than the first.
    """
    for adapter in adapters:
        if adapter.base != base:
            raise ValueError(
                f"{adapter.path} was trained on another base than this model: the same model, seed and task texts "
                "build the same base, and no other method may come before adapter_fusion"
            )
        if set(adapter.places) != set(adapters[0].places):
            raise ValueError(
                f"{adapter.path} has adapters at {len(adapter.places)} places and {adapters[0].path} at "
                f"{len(adapters[0].places)}, not the same: train them with the same peft.targets"
            )
