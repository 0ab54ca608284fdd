"""Several PEFT methods in one model: each trains its own, and none overwrites another's.

Source: He et al. (2022), https://arxiv.org/abs/2110.04366

Their mix-and-match adapter is a prefix with a bottleneck at the feed-forward layer:
``peft/parts=[prefix,pfeiffer_adapter]``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from effnlp import method
from effnlp.peft.freezing import freeze_all_but_head

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from effnlp.data.encodings import Batch

RATE = "learning_rate_factor"


class Combined:
    """What is trained is what the parts train together; each acts in the given order.

    A parameter that two parts train (the bias of a norm, by ``bitfit`` and ``layer_norm``) belongs to the first of
    them, with its learning rate. What a later part wraps is finished before it, since the earlier part is inside:
    LoRA around an (IA)³ layer merges into a plain layer.

    Attributes:
        settled_after: The latest share of the training steps that a part names (:mod:`effnlp.method`).
        changes_at_start: Whether a part changes the logits before any training.

    Args:
        parts: Name to method, in the order in which each prepares.

    Raises:
        ValueError: If there is no part.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        if not parts:
            raise ValueError("nothing to combine: parts is empty")
        self.parts = dict(parts)
        self.settled_after = method.settled_after(self._methods)
        self.changes_at_start = any(getattr(part, "changes_at_start", False) for part in self._methods)

    @property
    def _methods(self) -> list[Any]:
        return list(self.parts.values())

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let each part prepare, and train the head and what any of them trains.

        Raises:
            ValueError: If a part takes out of the model what an earlier one trains.
        """
        trained: list[nn.Parameter] = []
        rates: dict[int, Any] = {}  # by identity: a part may give parameters other names by wrapping them
        for name, part in self.parts.items():
            freeze_all_but_head(model)
            model = under_own_name(method.prepare([part], model), name)
            there = {id(parameter) for parameter in model.parameters()}
            if lost := sum(id(parameter) not in there for parameter in trained):
                raise ValueError(f"{name} removes {lost} tensors that a part before it trains: put it first")
            for parameter in model.parameters():
                if parameter.requires_grad and id(parameter) not in rates:
                    trained.append(parameter)
                    rates[id(parameter)] = getattr(parameter, RATE, None)
        for parameter in trained:
            parameter.requires_grad_(True)
            own: Any = parameter
            if rates[id(parameter)] is not None:
                own.learning_rate_factor = rates[id(parameter)]
            elif hasattr(parameter, RATE):
                del own.learning_rate_factor
        return model

    def callbacks(self) -> "list[Callback]":
        """Those of all parts, in order."""
        return method.callbacks(self._methods)

    def objective(self, base: method.Objective) -> method.Objective:
        """The loss, wrapped by each part that wants to, in order."""
        return method.objective(self._methods, base)

    def settle(self, model: nn.Module) -> nn.Module:
        """Let each part leave what it keeps."""
        for name, part in self.parts.items():
            model = under_own_name(method.settle([part], model), name)
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Let each part finish: an earlier one is inside of a later one, and goes first."""
        for name, part in self.parts.items():
            model = under_own_name(method.finish(part, model), name)
        return model

    def preview(
        self, model: nn.Module, step: int, steps: int, batches: "Iterable[Mapping[str, Tensor]]" = ()
    ) -> nn.Module:
        """What the parts would make of a model in training (:func:`effnlp.method.preview`)."""
        seen: Sequence[Batch] = [dict(batch) for batch in batches]
        for name, part in self.parts.items():
            shows = hasattr(part, "preview")
            shown = part.preview(model, step, steps, seen) if shows else method.finish(part, model)
            model = under_own_name(shown, name)
        return model


def under_own_name(model: nn.Module, part: str) -> nn.Module:
    """Move what a part has just noted of itself as ``peft`` to ``peft/parts/<part>``, beside the others'."""
    noted = method.applied(model)
    if "peft" in noted:
        place = f"peft/parts/{part}"
        rest = {name: values for name, values in noted.items() if name != "peft"}
        model.applied = {**rest, place: {**rest.get(place, {}), **noted["peft"]}}  # type: ignore[assignment]
    return model
