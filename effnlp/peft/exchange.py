"""LoRA and (IA)³ in the format of the package peft, which the Hugging Face hub and servers of models read.

Source: the format, https://huggingface.co/docs/peft/developer_guides/checkpoint

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. The base is the encoder of the library, which
has no head: ours goes along in ``head.safetensors``, and ``README.md`` says how the two make logits.

A layer that can be exchanged has ``in_peft``: the ending of a name in the file to that of its own parameter.

Legend: I width in, O width out.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from effnlp.model.storage import written_whole
from effnlp.model.surgery import encoder_of
from effnlp.record import write_atomically

CONFIG, WEIGHTS, HEAD, README = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "head.safetensors",
    "README.md",
)
PREFIX = "base_model.model."
"""What the package puts before the name of every module of the base."""

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""What ``model.name=minilm`` is called on the hub."""

ONLY = {
    "bias": ("none",), "use_dora": (False,), "modules_to_save": (None, []), "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}), "lora_bias": (False,), "fan_in_fan_out": (False,), "megatron_config": (None,),
}  # fmt: skip
"""Settings of the package to the values of which we have the like."""


def write_adapter(
    model: nn.Module, folder: Path, base: str, labels: Sequence[str] = (), pooling: str = "mean"
) -> None:
    """Write the LoRA or (IA)³ layers of a model that is not merged, and its head.

    Args:
        base: Name of the base on the hub, or its folder.
        labels: Names of the classes.
        pooling: How the states of the tokens become the vector that the head reads.

    Raises:
        ValueError: If the model has no such layers, or trains what the format has no place for.
    """
    layers = exchanged_layers(model)
    _refuse_rest(model, layers)
    names = _library_names(model, layers)
    tensors = {
        f"{PREFIX}{names[name]}.{ending}": _outward(layer, ending).detach().cpu().contiguous()
        for name, layer in layers.items()
        for ending in layer.in_peft
    }
    config = {
        **_settings([(names[name], layer) for name, layer in layers.items()]),
        "base_model_name_or_path": MINILM if base == "minilm" else base,
        "task_type": "FEATURE_EXTRACTION", "inference_mode": True, "modules_to_save": None,
    }  # fmt: skip
    head = {name: value.detach().cpu().contiguous() for name, value in head_of(model).state_dict().items()}
    said = {"format": "pt", "labels": json.dumps(list(labels), ensure_ascii=False), "pooling": pooling}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"})),
                          (HEAD, safetensors.torch.save(head, said))):  # fmt: skip
        with written_whole(folder / name) as file:
            file.write(content)
    write_atomically(folder / README, _page(config, labels, pooling))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def read_adapter(model: nn.Module, folder: Path, kind: type[nn.Module]) -> None:
    """Put an adapter into a model that LoRA or (IA)³ has prepared for the same layers, in place; and the head with it.

    A folder that we did not write has no head: the model's own stays, as it does where the classes are others.

    Args:
        kind: Of the layers that the adapter is for.

    Raises:
        ValueError: If the folder is none, damaged, or its adapter is not of the model's layers, rank, alpha or kind.
    """
    config, tensors = _read(folder)
    layers = exchanged_layers(model, kind)
    names = _library_names(model, layers)
    expected = _settings([(names[name], layer) for name, layer in layers.items()])
    if config.get("peft_type") != expected["peft_type"]:
        raise ValueError(f"{folder} holds {config.get('peft_type')}, the model has {expected['peft_type']}")
    for key, values in ONLY.items():
        if key in config and config[key] not in values:
            raise ValueError(f"{folder}: {key} is {config[key]!r}; read is only {values[0]!r}")
    if config["peft_type"] == "LORA":
        _refuse_scale(config, expected, folder)
    found = {name.removeprefix(PREFIX) for name in tensors}
    wanted = {f"{names[name]}.{ending}" for name, layer in layers.items() for ending in layer.in_peft}
    if missing := sorted(wanted - found):
        raise ValueError(
            f"{folder} has nothing for {missing[0]}, and {len(missing) - 1} more that the model has; it adapts "
            + ", ".join(sorted({name.rpartition(".")[0].rpartition(".")[2] for name in found}))
        )
    if unexpected := sorted(found - wanted):
        raise ValueError(
            f"{folder} has {unexpected[0]}, and {len(unexpected) - 1} more that the model has not: are the targets "
            "the same?"
        )
    with torch.no_grad():
        for name, layer in layers.items():
            for ending in layer.in_peft:
                _inward(layer, ending, tensors[f"{PREFIX}{names[name]}.{ending}"], folder)
    if (folder / HEAD).is_file():
        head, own = safetensors.torch.load_file(folder / HEAD), head_of(model)
        if {n: v.shape for n, v in head.items()} == {n: v.shape for n, v in own.state_dict().items()}:
            own.load_state_dict(head)


def head_of(model: nn.Module) -> nn.Module:
    """``model.head``, known to be a module."""
    head = model.head
    assert isinstance(head, nn.Module)
    return head


def exchanged_layers(model: nn.Module, kind: type[nn.Module] = nn.Module) -> dict[str, Any]:
    """The layers of a model that the format knows, by their names inside the encoder.

    Args:
        kind: Others are passed over.

    Raises:
        ValueError: If there is none, or there are two kinds.
    """
    found = {
        name: module
        for name, module in encoder_of(model).named_modules()
        if hasattr(module, "in_peft") and isinstance(module, kind)
    }
    if not found:
        raise ValueError(
            "the format of the package peft has LoRA and (IA)³, and the model has neither (or merged them)"
        )
    kinds = sorted({type(layer).__name__ for layer in found.values()})
    if len(kinds) > 1:
        raise ValueError(
            f"an adapter of the package peft is of one kind, the model has {' and '.join(kinds)}"
        )
    return found


def _refuse_rest(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    own = {id(p) for layer in layers.values() for p in layer.parameters(recurse=False)}
    own |= {id(p) for p in head_of(model).parameters()}
    rest = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    if rest:
        raise ValueError(f"the format of the package peft has no place for {rest[0]}, which is trained, too")


def _library_names(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """The names of layers inside the encoder to those that the library gives them.

    Raises:
        ValueError: If the encoder is not the library's, or a layer is none of the library's own.
    """
    from transformers import AutoModel

    inner = getattr(encoder_of(model), "model", None)
    config = getattr(inner, "config", None)
    if config is None or not hasattr(config, "model_type"):
        raise ValueError(
            f"{type(encoder_of(model)).__name__} is no model of the library transformers: use the delta"
        )
    with torch.device("meta"):
        there = {name for name, _ in AutoModel.from_config(config).named_modules()}
    found: dict[str, str] = {}
    for name in layers:
        inside = re.sub(r"(\.base)+$", "", name.removeprefix("model."))  # of a layer that another one wraps
        known = inside if inside in there else inside.removesuffix(".layer")
        if known not in there:
            raise ValueError(
                f"{inside} is no layer of the library's {config.model_type}, which fuses or names it otherwise: "
                "the package peft could not find it; use the delta"
            )
        if known in found.values():
            raise ValueError(f"{known} is adapted twice, which the format of the package peft cannot say")
        found[name] = known
    return found


def _settings(layers: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What ``adapter_config.json`` says of layers by the library's names."""
    names, first = [name for name, _ in layers], layers[0][1]
    if "lora_A.weight" not in first.in_peft:
        inputs = [name for name, layer in layers if layer.scales_input]
        return {
            "peft_type": "IA3",
            "target_modules": names,
            "feedforward_modules": inputs,
            "fan_in_fan_out": False,
        }
    rank = first.a.shape[0]
    alpha = first.scale * rank
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": first.dropout.p, "target_modules": names, "bias": "none", "fan_in_fan_out": False,
        "use_rslora": False, "use_dora": False,
    }  # fmt: skip


def _outward(layer: Any, ending: str) -> Tensor:
    """A parameter in the shape that the package gives it: the scales of outputs are (O, 1), of inputs (1, I)."""
    own: Tensor = getattr(layer, layer.in_peft[ending])
    if ending != "ia3_l":
        return own
    return own[None, :] if layer.scales_input else own[:, None]


def _inward(layer: Any, ending: str, value: Tensor, folder: Path) -> None:
    there = _outward(layer, ending)
    if there.shape != value.shape:
        shapes = [" × ".join(map(str, tensor.shape)) for tensor in (value, there)]
        raise ValueError(f"{folder}: {ending} is {shapes[0]}, that of the model {shapes[1]}")
    there.copy_(value)


def _refuse_scale(config: Mapping[str, Any], expected: Mapping[str, Any], folder: Path) -> None:
    """Rank and alpha are settings of the method, not entries of a delta: they must be those of the adapter."""
    rank = config["r"]
    alpha = config["lora_alpha"] * (math.sqrt(rank) if config.get("use_rslora") else 1)
    if rank != expected["r"] or not math.isclose(alpha, expected["lora_alpha"]):
        raise ValueError(
            f"the adapter {folder} has rank={rank} and alpha={alpha:g}; set the same, got "
            f"rank={expected['r']} and alpha={expected['lora_alpha']:g}"
        )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no adapter of the package peft: it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return config, safetensors.torch.load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error


def _page(config: Mapping[str, Any], labels: Sequence[str], pooling: str) -> str:
    vector = (
        {
            "mean": "the mean of the token states under the attention mask",
            "cls": "the state of the first token",
        }
    ).get(pooling, f"the pooling {pooling!r} of effnlp")
    classes = f" The rows of the head are {', '.join(labels)}, in this order." if labels else ""
    return f"""---
base_model: {config["base_model_name_or_path"]}
library_name: peft
---

# An adapter made with effnlp

`peft.PeftModel.from_pretrained(AutoModel.from_pretrained("{config["base_model_name_or_path"]}"), FOLDER)` reads it.

The base has no head for a task. It is in `{HEAD}`: `logits = vector @ weight.T + bias`, where the vector of a text is
{vector}.{classes}
"""
