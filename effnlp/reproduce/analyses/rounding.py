"""One language model in few bits: rounding to the nearest against GPTQ, and int8 products with planted outliers.

Source: Frantar et al. (2023), https://arxiv.org/abs/2210.17323; Dettmers et al. (2022),
https://arxiv.org/abs/2208.07339

Legend: I width in, O width out, R tokens.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from effnlp.compression.inputs import input_moments, see_inputs
from effnlp.compression.quantization.gptq import reconstruction_errors, solve
from effnlp.compression.quantization.llm_int8 import DecomposedLinear
from effnlp.compression.quantization.packed import PackedLinear, Rounded, round_rows
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.data.encodings import Batch
from effnlp.model.language import LanguageModel
from effnlp.model.surgery import encoder_layers, replace_layers
from effnlp.reproduce.analyses.kept import Kept
from effnlp.reproduce.cells import Runs, Table

FLOAT, NEAREST, SOLVED = "float", "RTN", "GPTQ"
"""First words of the rows; the bits follow."""

PER_CENT = 100.0

OUTLIER = 6.0
"""Magnitude from which LLM.int8() calls an input an outlier."""


def perplexities(
    runs: Mapping[str, Runs], row: str, bits: Sequence[int], calibration_texts: int = 128
) -> Table:
    """What the linear layers of the encoder in few bits do to a language model, its tables staying float.

    Rows of weights have one scale and one zero each; GPTQ is given the inputs of the first training texts.

    Args:
        row: Whose runs kept a language model.

    Returns:
        Rows ``float``, ``RTN 4``, ``GPTQ 4`` … to ``perplexity`` on the validation texts; those in few bits also to
        ``rise``, by how much that is above ``float`` in per cent; and those of GPTQ to ``error to nearest``, the
        squared error of all layers as a share of that of rounding to the nearest, and ``worst layer``, the largest
        such share of one layer. One value a seed.

    Raises:
        ValueError: If a run kept no language model.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs[row]:
        for name, columns in _of_one(Kept.of(run), bits, calibration_texts).items():
            for column, value in columns.items():
                table.setdefault(name, {}).setdefault(column, {})[run.seed] = value
    return table


def _of_one(kept: Kept, bits: Sequence[int], calibration_texts: int) -> dict[str, dict[str, float]]:
    model = language_model(kept)
    texts = list(kept.batches("validation"))
    layers = encoder_layers(model, nn.Linear)
    products = input_moments(model, layers, kept.batches("train", calibration_texts), "outer")
    whole = perplexity(model, texts)
    found = {FLOAT: {"perplexity": whole}}
    for each in bits:
        plain = {
            name: round_rows(layer.weight.detach(), each, symmetric=False) for name, layer in layers.items()
        }
        solved = {name: solve(layer.weight.detach(), products[name], each) for name, layer in layers.items()}
        for word, rounded in ((NEAREST, plain), (SOLVED, solved)):
            value = perplexity(with_weights(model, rounded), texts)
            found[f"{word} {each}"] = {"perplexity": value, "rise": PER_CENT * (value / whole - 1)}
        errors = {
            name: [
                float(reconstruction_errors(layer.weight.detach(), of[name], products[name]).sum())
                for of in (solved, plain)
            ]
            for name, layer in layers.items()
        }
        found[f"{SOLVED} {each}"] |= {
            "error to nearest": sum(mine for mine, _ in errors.values())
            / sum(of for _, of in errors.values()),
            "worst layer": max(mine / nearest for mine, nearest in errors.values()),
        }
    return found


def language_model(kept: Kept) -> LanguageModel:
    """The model that was kept.

    Raises:
        ValueError: If it predicts no next tokens.
    """
    if not isinstance(kept.model, LanguageModel):
        raise ValueError(
            f"perplexity needs a language model (finetuning=causal_lm), got a {type(kept.model).__name__}"
        )
    return kept.model


def with_weights(model: LanguageModel, rounded: Mapping[str, Rounded]) -> LanguageModel:
    """A copy of the model with these weights in its encoder's layers, by name."""
    changed = copy.deepcopy(model)
    layers = encoder_layers(changed, nn.Linear)
    for name, weights in rounded.items():
        replace_layers(changed, [layers[name]], partial(PackedLinear, rounded=weights))
    return changed


def perplexity(model: LanguageModel, batches: Iterable[Batch]) -> float:
    """The exponential of the nats of a token, over all predicted tokens of all texts."""
    with torch.inference_mode():
        nats, tokens = sum(model(batch).double().sum(0) for batch in batches)
    return math.exp(float(nats / tokens))


def outliers(
    runs: Mapping[str, Runs], row: str, planted: int = 4, factor: float = 20.0, texts: int = 64
) -> Table:
    """What outliers do to int8 products of every layer of an encoder, and what taking them out undoes.

    Outliers are planted such that the float layer gives the same: in each layer the ``planted`` inputs of largest
    magnitude are multiplied by ``factor``, and their weights divided by it.

    Args:
        row: Whose runs kept their models.
        texts: Training texts whose tokens are the inputs.

    Returns:
        Rows ``absmax int8``, ``LLM.int8()``, and both with ``, planted`` to ``int8 error``, the mean over the layers
        of the error of their outputs in per cent of these (roots of sums of squares); one value a seed.

    Raises:
        ValueError: If a run kept no model.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs[row]:
        kept = Kept.of(run)
        layers = encoder_layers(kept.model, nn.Linear)
        seen = inputs_of(kept, layers, texts)
        errors: dict[str, list[float]] = {}
        for name, layer in layers.items():
            inputs = seen[name]  # (R, I)
            for ending, (linear, x) in {
                "": (layer, inputs),
                ", planted": plant(layer, inputs, planted, factor),
            }.items():
                whole = DynamicInt8Linear(linear)
                apart = DecomposedLinear(linear, x.abs().amax(0) >= OUTLIER)
                errors.setdefault(f"absmax int8{ending}", []).append(relative_error(whole, linear, x))
                errors.setdefault(f"LLM.int8(){ending}", []).append(relative_error(apart, linear, x))
        for name, values in errors.items():
            table.setdefault(name, {}).setdefault("int8 error", {})[run.seed] = (
                PER_CENT * sum(values) / len(values)
            )
    return table


def inputs_of(kept: Kept, layers: Mapping[str, nn.Module], texts: int) -> dict[str, Tensor]:
    """What each layer is given by the tokens of the first training texts: (R, I)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def see(name: str, x: Tensor) -> None:
        seen[name].append(x)

    see_inputs(kept.model, layers, kept.batches("train", texts), see)
    return {name: torch.cat(parts) for name, parts in seen.items()}


def plant(linear: nn.Linear, x: Tensor, count: int, factor: float) -> tuple[nn.Linear, Tensor]:
    """A layer that gives the same for inputs of which ``count`` are ``factor`` times as large, and these inputs.

    Args:
        x: (R, I); those of largest magnitude are enlarged.
    """
    largest = x.abs().amax(0).topk(count).indices  # (count,)
    by = x.new_ones(x.shape[1])  # (I,)
    by[largest] = factor
    changed = copy.deepcopy(linear)
    with torch.no_grad():
        changed.weight.div_(by)
    return changed, x * by


def relative_error(layer: nn.Module, linear: nn.Linear, x: Tensor) -> float:
    """The norm of what ``layer`` gives otherwise than ``linear``, as a share of what this gives without its bias."""
    with torch.inference_mode():
        wanted = nn.functional.linear(x, linear.weight, linear.bias)
        given = wanted if linear.bias is None else wanted - linear.bias
        return float((layer(x) - wanted).norm() / given.norm())
