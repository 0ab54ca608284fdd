"""The methods of a config, and which of them act at which moment."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import instantiate

from effnlp.legality import Step


def methods_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config group to method, for PEFT and every compression slot."""
    compression = config["compression"]
    nodes = {"peft": config["peft"]}
    nodes |= {f"compression/{slot}": compression[slot] for slot in compression["order"]}
    return {group: instantiate(node, _convert_="all") for group, node in nodes.items()}


def groups_at(steps: Sequence[Step], moment: str) -> list[str]:
    """The config groups that act at a moment, in the order in which legality was checked; parts act in their own."""
    return [step.choice.group for step in steps if step.moment == moment and not step.is_part]
