"""Where the parts of the known families of pretrained encoders are, by their ``model_type``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

ROLES = ("query", "key", "value", "attention_output", "feedforward_up", "feedforward_down")


@dataclass(frozen=True)
class Family:
    """The parts of an encoder whose layers all get the same arguments.

    Attributes:
        layers: Name of the list of layers inside the model.
        roles: Role to the name of the linear layer inside a layer.
        positions_after_pad: Whether positions are counted from the padding id on, which leaves fewer of
            them than the table has rows.
    """

    layers: str
    roles: dict[str, str]
    positions_after_pad: bool = False


BERT_ROLES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "feedforward_up": "intermediate.dense",
    "feedforward_down": "output.dense",
}
BERT = Family("encoder.layer", BERT_ROLES)
ROBERTA = Family("encoder.layer", BERT_ROLES, positions_after_pad=True)
DISTILBERT = Family(
    "transformer.layer",
    {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "feedforward_up": "ffn.lin1",
        "feedforward_down": "ffn.lin2",
    },
)
MPNET = Family(
    "encoder.layer",
    {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_output": "attention.attn.o",
        "feedforward_up": "intermediate.dense",
        "feedforward_down": "output.dense",
    },
    positions_after_pad=True,
)

FAMILIES = {
    "bert": BERT,
    "electra": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
}


def match_roles(patterns: dict[str, str], linears: Iterable[str]) -> dict[str, list[str]]:
    """The names among ``linears`` that each role's pattern (``*`` for anything) matches, in order.

    Raises:
        ValueError: If a role is unknown or a pattern matches nothing.
    """
    names = list(linears)
    unknown = sorted(set(patterns) - set(ROLES))
    if unknown:
        raise ValueError(f"roles must be among {', '.join(ROLES)}, got {', '.join(unknown)}")
    matched = {role: [n for n in names if fnmatchcase(n, pattern)] for role, pattern in patterns.items()}
    for role, found in matched.items():
        if not found:
            raise ValueError(
                f"roles: {patterns[role]!r} for {role} matches none of the linear layers:\n"
                + describe_linears(names)
            )
    return matched


def describe_linears(linears: Iterable[str]) -> str:
    """One line for each name with its layer numbers replaced by ``*``, which is a pattern for roles."""
    patterns = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in linears)
    return "\n".join(f"  {pattern}" for pattern in patterns)
