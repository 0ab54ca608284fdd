"""Our memories where models of the ``transformers`` library look for their cache."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from effnlp.model.memory import Memory, Past, Places


class LibraryCache:
    """Takes up keys and values layer by layer. Masks and positions must be given to the model: it knows neither.

    Args:
        remember: Makes the memory of a layer.
        past: What was read before.
        places: Where the new tokens belong.
    """

    def __init__(self, remember: Callable[[], Memory], past: Past, places: Places) -> None:
        self._remember, self._past, self._places = remember, past, places

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """New keys and values (B, K, T, E) of a layer to all of them, (B, K, S, E)."""
        return self._past.recall(layer_idx, self._remember, self._places).append(key_states, value_states)

    def get_seq_length(self, *_: Any) -> int:
        """How many slots there were before."""
        return max(self._places.starts)
