"""A deployed model as an ONNX file, which other runtimes read; checked against the model before it is kept.

Modules whose forward cannot be traced, or is slow where it is (a loop over the texts, say), have a method
``for_export()`` that gives a module with the same answers and plain operators.

Source: the exchange format of https://onnx.ai, read here by https://onnxruntime.ai

Legend: B texts of a batch, T tokens of the longest, C classes, D width.
"""

import contextlib
import copy
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.stages import INPUTS, ExportError, Stage, cut, quiet, user_of
from effnlp.model.storage import Deployed

TOLERANCE = 1e-4
"""Largest difference of a logit that is put down to another order of summation."""

SHIFT = 128
"""By which signed bytes are moved up to be unsigned ones."""

LONGEST_CHECKED = 64
CHECKED = ((1, 1), (1, LONGEST_CHECKED), (2, 3), (7, 17), (32, 40))
"""Batches on which the file is compared with the model: texts, and tokens of the longest."""


class MeanOfRows(nn.Module):
    """What an ``nn.EmbeddingBag`` in mode ``mean`` gives for (B, T), without a loop over the texts.

    Args:
        rows: Maps ids (B, T) to rows (B, T, D).
        padding_idx: An id that does not count; a text of nothing else is zero.
    """

    def __init__(self, rows: nn.Module, padding_idx: int | None) -> None:
        super().__init__()
        self.rows = rows
        self.padding_idx = padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, D)."""
        rows = self.rows(ids)  # (B, T, D)
        counts = torch.ones_like(ids) if self.padding_idx is None else (ids != self.padding_idx).to(ids.dtype)
        weights = counts.unsqueeze(-1).to(rows.dtype)  # (B, T, 1)
        return (rows * weights).sum(1) / weights.sum(1).clamp_min(1)  # (B, D)


def refusal(model: nn.Module) -> str | None:
    """Why a model cannot be a fixed graph; None where nothing is known to stand against it.

    A model that knows of itself says so in its attribute ``not_exported``.
    """
    if (said := getattr(model, "not_exported", None)) is not None:
        return str(said)
    kinds = {type(module).__name__ for module in model.modules() if data_dependent(module)}
    return why_not(kinds.pop()) if kinds else None


def data_dependent(thing: Any) -> bool:
    """Whether a module, or what a method makes of a model, computes more or less depending on the texts."""
    return bool(getattr(thing, "data_dependent_compute", False))


def why_not(name: str) -> str:
    """The refusal of what computes depending on the texts."""
    return (
        f"{name} decides text by text how much is computed, which the fixed graph of an ONNX file cannot; "
        "a folder of effnlp pick keeps it"
    )


def need_packages(*names: str) -> None:
    """Check that optional packages are there.

    Raises:
        ModuleNotFoundError: If one is not; the message says what to install.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX files need {', '.join(missing)}: pip install 'effnlp[onnx]'")


def export_form(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which modules that cannot be traced well have made room for those that can."""
    form = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module in list(form.named_modules(remove_duplicate=False)):
        plain = _plain(module)
        if plain is not None and name:
            form.set_submodule(name, plain)
    return form


def _plain(module: nn.Module) -> nn.Module | None:
    if hasattr(module, "for_export"):
        return module.for_export()  # type: ignore[operator]
    if isinstance(module, nn.EmbeddingBag) and module.mode == "mean":
        return MeanOfRows(nn.Embedding.from_pretrained(module.weight.detach()), module.padding_idx)
    return None


def export_onnx(deployed: Deployed, path: Path) -> float:
    """Write the model as one ONNX file whose numbers of texts and of tokens are free.

    Its inputs are those of :data:`INPUTS` that the tokenizer gives, int64 (B, T); its output is ``logits``,
    float32 (B, C). Weights in int8 stay int8 in the file; zeros of a pruned model take their full space.

    Returns:
        The largest difference between a logit of the file and of the model, on random batches.

    Raises:
        ExportError: If the model's compute depends on the texts, cannot be traced, or the file's answers are
            not those of the model. Nothing is written then.
        ModuleNotFoundError: If the packages for it are not installed.
        OSError: If the file cannot be written.
    """
    need_packages("onnx", "onnxscript", "onnxruntime")
    if (why := refusal(deployed.model)) is not None:
        raise ExportError(why)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        to_onnx(cut(export_form(deployed.model), *examples(deployed)).stages[0]).save(beside)
        difference = compare(deployed, load_onnx(beside))
        if not difference <= tolerance(deployed.model):
            raise ExportError(
                f"the ONNX file would not answer as the model does: a logit differs by {difference:.2g}"
            )
        os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return difference


def tolerance(model: nn.Module) -> float:
    """How far a logit of the file may be from the model's: as far as the most sensitive of its layers says."""
    return max(float(getattr(module, "export_tolerance", TOLERANCE)) for module in model.modules())


def examples(deployed: Deployed) -> tuple[Batch, Batch]:
    """Two batches that differ in the number of texts and of tokens."""
    longest = min(11, int(deployed.tokenizer.max_length))
    return random_batch(deployed, 3, longest, 0), random_batch(deployed, 5, max(longest - 4, 1), 1)


def to_onnx(stage: Stage) -> Any:
    """A graph as an ``onnx`` program of torch's exporter.

    Raises:
        ExportError: If an operator has no ONNX form; names it, and the method that it comes from.
    """
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                stage.program,
                input_names=stage.reads,
                # A graph names a value once; outputs are read by their places.
                output_names=[f"new_{name}" if name in stage.reads else name for name in stage.gives],
                dynamo=True,
                custom_translation_table=_translations(),
                optimize=False,  # it would turn weights in int8 into floats; runtimes optimise when they load
                verbose=False,
            )
        except Exception as error:  # its errors have no common base
            raise ExportError(_untranslated(stage, error)) from error
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # where in which source each operator was traced
    return program


def _untranslated(stage: Stage, error: BaseException) -> str:
    causes, cause = [str(error)], error.__cause__
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", "\n".join(causes))
    if operator is None:
        return f"there is no ONNX form of the model: {(causes[-1].strip().splitlines() or ['?'])[0]}"
    user = user_of(stage.program, operator[1])
    return f"the operator {operator[1]} has no ONNX form" + (f"; {user} computes with it" if user else "")


def _translations() -> dict[Any, Callable[..., Any]]:
    """Operators that torch's exporter does not know."""
    from onnx import TensorProto
    from onnxscript import opset18

    to: Any = opset18  # its operators are typed for scripts

    def integer_product(left: Any, right: Any) -> Any:
        # Runtimes are several times as fast where the left factor has no sign: it is shifted up, and the shift off.
        shift = to.Cast(to.Constant(value_int=SHIFT), to=TensorProto.UINT8)
        numbers = to.Cast(left, to=TensorProto.FLOAT)
        return to.MatMulInteger(to.QuantizeLinear(numbers, to.Constant(value_float=1.0), shift), right, shift)

    return {torch.ops.aten._int_mm.default: integer_product}


def random_batch(deployed: Deployed, texts: int, longest: int, seed: int) -> Batch:
    """A batch of made-up ids as the tokenizer would give them; the last text is the ``longest``."""
    size = int(deployed.tokenizer.vocabulary_size)
    longest = min(longest, int(deployed.tokenizer.max_length))
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (texts,), generator=generator)  # (B,)
    lengths[-1] = longest
    mask = (torch.arange(longest) < lengths.unsqueeze(1)).long()  # (B, T)
    ids = torch.randint(0, size, (texts, longest), generator=generator)  # (B, T)
    words = ["a text"]
    sample = deployed.tokenizer.encode(words, words if deployed.is_pair else None)
    batch = {"input_ids": ids.where(mask.bool(), torch.tensor(sample.pad_id)), "attention_mask": mask}
    if sample.type_ids is not None:
        batch["token_type_ids"] = (torch.arange(longest) > lengths.unsqueeze(1) // 2).long() * mask
    return batch


def compare(deployed: Deployed, answer: Callable[[Batch], Tensor]) -> float:
    """The largest difference of a logit between the model and ``answer`` over the batches :data:`CHECKED`."""
    worst = 0.0
    with torch.inference_mode():
        for seed, (texts, longest) in enumerate(CHECKED):
            batch = random_batch(deployed, texts, longest, seed)
            worst = max(worst, float((deployed.model.eval()(batch) - answer(batch)).abs().max()))
    return worst


def load_onnx(path: Path) -> Callable[[Batch], Tensor]:
    """From a file to a function from a batch to logits (B, C), on as many threads as torch uses.

    Raises:
        ModuleNotFoundError: If onnxruntime is not installed.
        ValueError: If the file is no ONNX model of ours.
    """
    need_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Without it sums of int8 saturate on processors without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ValueError(f"{path} is no ONNX model that can be read: {error}") from error
    names = [entry.name for entry in session.get_inputs()]
    if unknown := sorted(set(names) - set(INPUTS)):
        raise ValueError(f"{path} has inputs that no tokenizer here gives: {', '.join(unknown)}")

    def answer(batch: Batch) -> Tensor:
        return torch.from_numpy(session.run(None, {name: batch[name].numpy() for name in names})[0])

    return answer
