"""Where the parts of the known families of pretrained models are, by their ``model_type``.

Names are those after :func:`effnlp.model.plain_linears.plain_linears`, which takes apart what a family fuses.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

ROLES = (
    "query",
    "key",
    "value",
    "attention_output",
    "feedforward_up",
    "feedforward_down",
    "feedforward_gate",
)
"""What a linear layer is for. A gated feed-forward layer multiplies what ``feedforward_up`` gives by the activation of
what ``feedforward_gate`` gives."""


@dataclass(frozen=True)
class Family:
    """The parts of a model that runs as: embed, layer after layer, what comes after them.

    Attributes:
        layers: Name of the list of layers inside the model.
        roles: Role to the name of the linear layer inside a layer (``*`` for anything, ``|`` between
            alternatives); a layer that lacks it has nothing in that role.
        after: Names of what the last layer's output goes through, in order; what is None is skipped.
        is_repeated: Whether the model runs a list of fewer layers than its depth, each several times.
        carried: Argument of a layer to the place, in the output of the layer before, where it comes from.
        shared: Arguments of a layer that belong to no example.
        between: Name of a part that acts between layers; a model that has it cannot be run layer by layer.
        positions_after_pad: Whether positions are counted from the padding id on, which leaves fewer of them than
            the table has rows.
    """

    layers: str
    roles: Mapping[str, str]
    after: tuple[str, ...] = ()
    is_repeated: bool = False
    carried: Mapping[str, int] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    between: str | None = None
    positions_after_pad: bool = False


BERT = Family(
    "encoder.layer",
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "feedforward_up": "intermediate.dense",
        "feedforward_down": "output.dense",
    },
)
ROBERTA = replace(BERT, positions_after_pad=True)
DEBERTA = replace(
    BERT,
    roles={role: name.replace("self.", "self.in_proj.") for role, name in BERT.roles.items()},
    shared=frozenset({"rel_embeddings", "relative_pos"}),
)
DEBERTA_V2 = replace(
    DEBERTA,
    roles={role: f"{name}_proj" if "self." in name else name for role, name in BERT.roles.items()},
    between="encoder.conv",
)
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
ALBERT = Family(
    "encoder.albert_layer_groups",
    {
        "query": "albert_layers.*.attention.query",
        "key": "albert_layers.*.attention.key",
        "value": "albert_layers.*.attention.value",
        "attention_output": "albert_layers.*.attention.dense",
        "feedforward_up": "albert_layers.*.ffn",
        "feedforward_down": "albert_layers.*.ffn_output",
    },
    is_repeated=True,
)
GPT2 = Family(
    "h",
    {
        "query": "attn.c_attn.query",
        "key": "attn.c_attn.key",
        "value": "attn.c_attn.value",
        "attention_output": "attn.c_proj",
        "feedforward_up": "mlp.c_fc",
        "feedforward_down": "mlp.c_proj",
    },
    after=("ln_f",),
)
OPT = Family(
    "decoder.layers",
    {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_output": "self_attn.out_proj",
        "feedforward_up": "fc1",
        "feedforward_down": "fc2",
    },
    after=("decoder.final_layer_norm", "decoder.project_out"),
)
LLAMA = Family(
    "layers",
    {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_output": "self_attn.o_proj",
        "feedforward_up": "mlp.up_proj",
        "feedforward_down": "mlp.down_proj",
        "feedforward_gate": "mlp.gate_proj",
    },
    after=("norm",),
)
BART = replace(OPT, layers="layers", after=())
T5 = Family(
    "encoder.block",
    {
        "query": "layer.0.SelfAttention.q",
        "key": "layer.0.SelfAttention.k",
        "value": "layer.0.SelfAttention.v",
        "attention_output": "layer.0.SelfAttention.o",
        "feedforward_up": "layer.1.DenseReluDense.wi|layer.1.DenseReluDense.wi_1",
        "feedforward_down": "layer.1.DenseReluDense.wo.layer",
        "feedforward_gate": "layer.1.DenseReluDense.wi_0",
    },
    after=("encoder.final_layer_norm", "encoder.dropout"),
    carried={"1": 1},  # the bias of positions, which the first layer makes
)

FAMILIES = {
    "albert": ALBERT,
    "bart": BART,
    "bert": BERT,
    "camembert": ROBERTA,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA_V2,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "mpnet": MPNET,
    "mt5": T5,
    "opt": OPT,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "roberta": ROBERTA,
    "t5": T5,
    "xlm-roberta": ROBERTA,
}


def match_roles(patterns: Mapping[str, str], linears: Iterable[str]) -> dict[str, list[str]]:
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
