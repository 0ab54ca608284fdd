"""Which orders of compression methods hold, by what the methods declare."""

from collections.abc import Sequence
from itertools import permutations

from effnlp.compose import compose, hydra_context
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import config_folders
from effnlp.reproduce.cells import Table

SLOTS = {"pruning": "prune", "distillation": "distil", "quantization": "quantize"}
"""What is put into all orders, as it is called in a row."""

ALL, LATE = "all orders", "pruning after quantization"


def legal(common: Sequence[str], quantization: str) -> Table:
    """Every order in which pruning, distillation and quantization can finish.

    Args:
        common: Overrides of all orders, with a choice of pruning and one of distillation.
        quantization: The choice of quantization.

    Returns:
        A row an order, ``prune, distil, quantize``, with ``legal``, 1 or 0. The rows ``all orders`` and ``pruning after
        quantization`` have ``orders``, how many there are of them, and ``refused``, how many of these are illegal.
    """
    table: dict[str, dict[str, float]] = {ALL: {"orders": 0, "refused": 0}, LATE: {"orders": 0, "refused": 0}}
    chosen = [*common, f"compression/quantization={quantization}"]
    with hydra_context():
        places: list[str] = compose(chosen).config["compression"]["order"]
        for order in permutations(SLOTS):
            is_legal = _is_legal([*chosen, f"compression.order=[{','.join(placed(places, order))}]"])
            table[", ".join(SLOTS[slot] for slot in order)] = {"legal": float(is_legal)}
            is_late = order.index("pruning") > order.index("quantization")
            for row in (ALL, LATE) if is_late else (ALL,):
                table[row]["orders"] += 1
                table[row]["refused"] += not is_legal
    return table


def placed(places: Sequence[str], order: Sequence[str]) -> list[str]:
    """All slots, those of ``order`` in that order at the places that they share, the others where they are."""
    left = iter(order)
    return [next(left) if slot in order else slot for slot in places]


def _is_legal(overrides: Sequence[str]) -> bool:
    composed = compose(list(overrides))
    try:
        check(composed.config, composed.chosen, config_folders(None))
    except IllegalCombinationError:
        return False
    return True
