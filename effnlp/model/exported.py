"""The folder that ``effnlp export`` writes: a model that answers texts where nothing of effnlp is installed.

    model.json            what it is: labels, format, tokenizer, graphs, the figures of its run
    weights.safetensors   all weights, each once, whatever the format
    graph_….pt2 or .onnx  the operators: a program of ``torch.export``, or ONNX that refers to the weights
    tokenizer.json        or kept.npy and ngrams.py for hashed n-grams
    run.py                reads the folder (:mod:`effnlp.model.standalone`)

It holds no code by reference. A model that texts leave early is a graph for each layer, and they leave here, too.

Legend: B texts of a batch, C classes.
"""

import contextlib
import copy
import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from effnlp.data.encodings import Batch
from effnlp.model import ngrams, sparse, standalone
from effnlp.model.bag_of_ngrams import NgramTokenizer
from effnlp.model.export import (
    CHECKED,
    data_dependent,
    examples,
    export_form,
    need_packages,
    random_batch,
    to_onnx,
    tolerance,
    why_not,
)
from effnlp.model.stages import Chain, ExportError, cut, leaves_early, quiet
from effnlp.model.standalone import DESCRIPTION, KEPT, NGRAMS, TOKENIZER, WEIGHTS, Exported
from effnlp.model.storage import Deployed
from effnlp.model.subwords import SubwordTokenizer
from effnlp.record import write_atomically

SCHEMA = 2
"""Version of the folder's layout, beyond those of :mod:`effnlp.model.packaged`."""

READER = "run.py"
KEPT_FILE = f"{KEPT}.npy"
SUFFIX = {"torch": "pt2", "onnx": "onnx"}
INLINE_BYTES = 1024
"""Weights of an ONNX graph that are no larger stay in it: a runtime wants those that say shapes at hand."""

MARGIN = 1e-3
"""How near to the threshold a doubt must be for a text to leave elsewhere than it does in the model."""


def write_export(
    folder: Path, deployed: Deployed, kind: str, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the folder; an export that an earlier call left in it is replaced.

    What is written is first asked the same random texts as the model, and kept if it gives the same answers.

    Args:
        kind: ``torch`` or ``onnx``.
        description: Put into ``model.json`` beside what reading needs.

    Returns:
        The content of ``model.json``, which comes last: a folder without it is not whole.

    Raises:
        ExportError: If the model has no form as graphs, an operator is not in the format, or the answers differ.
            Nothing is written then.
        ModuleNotFoundError: If a package is not installed.
        ValueError: If there is no such kind, or the folder holds something else.
    """
    if kind not in SUFFIX:
        raise ValueError(f"format must be one of {', '.join(SUFFIX)}, got {kind!r}")
    if kind == "onnx":
        need_packages("onnx", "onnxscript", "onnxruntime")
    refuse_folder(folder)
    refuse_model(deployed.model)
    tokenizer, tokenizer_files = _tokenizer(deployed.tokenizer)
    chain = cut(export_form(deployed.model), *examples(deployed))
    with _place(folder) as place:
        for name, content in {**tokenizer_files, READER: _source(standalone)}.items():
            (place / name).write_bytes(content)
        about = {
            "schema": SCHEMA, "format": kind, "labels": list(map(str, deployed.labels)),
            "is_pair": deployed.is_pair, "tokenizer": tokenizer, "of_texts": chain.of_texts,
            "threshold": chain.threshold, **(_write_torch if kind == "torch" else _write_onnx)(place, chain),
            **description,
        }  # fmt: skip
        (place / DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")
        about["largest_difference_of_a_logit"] = _checked(deployed, place)
        names = sorted({path.name for path in place.iterdir()} - {DESCRIPTION})
        about["files"] = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names}
        write_atomically(place / DESCRIPTION, json.dumps(about, indent=1, ensure_ascii=False))
        _move(place, folder)
    return about


def refuse_folder(folder: Path) -> None:
    """Do not mix an export with anything else.

    Raises:
        ValueError: If the folder is a file, or neither new, nor empty, nor an export.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    names = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.is_dir() else set()
    if names and not (READER in names and DESCRIPTION in names):
        raise ValueError(f"{folder} holds something else; an export takes a new folder, or that of an export")


def refuse_model(model: nn.Module) -> None:
    """Say what has no form as graphs, before anything is traced.

    Raises:
        ExportError: If the model says so of itself, or computes depending on the texts by other means than exits.
    """
    if (said := getattr(model, "not_exported", None)) is not None:
        raise ExportError(str(said))
    for module in model.modules():
        if data_dependent(module) and not (module is model and leaves_early(model)):
            raise ExportError(why_not(type(module).__name__))


class AnsweringModel(nn.Module):
    """An exported model as a module: a batch to logits (B, C).

    Attributes:
        data_dependent_compute: Whether texts leave it early.
    """

    def __init__(self, reader: Exported) -> None:
        super().__init__()
        self.reader = reader
        self.data_dependent_compute = reader.about["threshold"] is not None

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        return torch.from_numpy(self.reader.answer(arrays(batch)))


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    """A batch as the reader takes it."""
    return {name: value.numpy() for name, value in batch.items()}


def read_exported(folder: Path, about: Mapping[str, Any]) -> tuple[Any, AnsweringModel]:
    """Tokenizer and model of an exported folder, which computes with as many threads as torch.

    Raises:
        ValueError: If a graph cannot be read.
        ModuleNotFoundError: If the runtime is not installed.
    """
    if about["format"] == "onnx":
        need_packages("onnxruntime")
    try:
        reader = Exported(folder, torch.get_num_threads())
    except ModuleNotFoundError:
        raise
    except Exception as error:  # those of the runtimes have no common base
        raise ValueError(f"{folder} cannot be read: {error}") from error
    return _read_tokenizer(folder, about["tokenizer"]), AnsweringModel(reader).eval()


def _read_tokenizer(folder: Path, settings: Mapping[str, Any]) -> Any:
    """The tokenizer of an exported folder, as effnlp has it."""
    if settings["kind"] == "ngrams":
        tokenizer = NgramTokenizer(settings["ngrams"], settings["buckets"], settings["max_length"])
        tokenizer.kept = np.load(folder / settings[KEPT])
        return tokenizer
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(folder / TOKENIZER))
    return SubwordTokenizer(backend, settings["max_length"], settings["pad_id"], settings["type_ids"])


def _tokenizer(tokenizer: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Its settings, and its files by name."""
    if isinstance(tokenizer, SubwordTokenizer):
        settings = {"kind": "subwords", "pad_id": tokenizer.pad_id, "type_ids": tokenizer.type_ids}
        return {**settings, "max_length": tokenizer.max_length}, {
            TOKENIZER: tokenizer.backend.to_str().encode()
        }
    if isinstance(tokenizer, NgramTokenizer):
        numbers = {name: getattr(tokenizer, name) for name in ("ngrams", "buckets", "max_length")}
        settings = {"kind": "ngrams", "pad_id": ngrams.PAD_ID, KEPT: KEPT_FILE, **numbers}
        return settings, {KEPT_FILE: _npy(tokenizer.kept), NGRAMS: _source(ngrams)}
    raise ExportError(f"the tokenizer {type(tokenizer).__name__} has no form without effnlp")


def _npy(array: np.ndarray) -> bytes:
    import io

    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def _source(module: Any) -> bytes:
    return inspect.getsource(module).encode()


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, gone in the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(place: Path, folder: Path) -> None:
    """Put the files of ``place`` into ``folder`` in place of those of an earlier export; the description last."""
    folder.mkdir(exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name[0] != ".":
            path.unlink()
    for path in sorted(place.iterdir(), key=lambda path: path.name == DESCRIPTION):
        os.replace(path, folder / path.name)


def _write_torch(place: Path, chain: Chain) -> dict[str, Any]:
    """Programs without values, and a file with the values; what tells how they belong together."""
    tensors, same_as = _tensors(chain)
    stored: dict[str, Tensor] = {}
    packed: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        entry = sparse.pack_tensor(tensor)
        if isinstance(entry, Tensor):
            stored[name] = entry
        else:
            stored |= {f"{name}#{part}": value for part, value in sparse.tensors_of(entry).items()}
            packed[name] = list(tensor.shape)
    _save_weights(stored, place)
    stages = []
    for number, stage in enumerate(chain.stages):
        file, used = f"graph_{number}.{SUFFIX['torch']}", _used(stage.program)
        with quiet():
            torch.export.save(_without_values(stage.program), place / file)
        stages.append({"file": file, "reads": stage.reads, "gives": stage.gives, "weights": sorted(used)})
    return {"stages": stages, "same_as": same_as, "packed": packed, "torch": torch.__version__}


def _without_values(program: ExportedProgram) -> ExportedProgram:
    """The program with one number in place of each weight, and without what it says of its source."""
    hollow = copy.copy(program)
    for node in hollow.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    hollow._example_inputs = None  # the values of made-up texts
    hollow._state_dict = {
        name: nn.Parameter(_hollow(value), requires_grad=False)
        if isinstance(value, nn.Parameter)
        else _hollow(value)
        for name, value in program.state_dict.items()
    }
    return hollow


def _hollow(value: Tensor) -> Tensor:
    """A tensor of one number that says it is as large as ``value``; of none where that has none."""
    if value.numel() == 0:
        return torch.zeros_like(value)
    return torch.zeros((), dtype=value.dtype).expand(value.shape)


def _write_onnx(place: Path, chain: Chain) -> dict[str, Any]:
    """Graphs that refer to a file with their larger weights."""
    import onnx
    import onnxruntime

    tensors, same_as = _tensors(chain)
    programs = [to_onnx(stage) for stage in chain.stages]
    large = {name for name, value in tensors.items() if value.nbytes > INLINE_BYTES}
    _save_weights({name: value for name, value in tensors.items() if name in large}, place)
    places = _offsets(place / WEIGHTS)
    stages = []
    for number, (stage, program) in enumerate(zip(chain.stages, programs, strict=True)):
        file = f"graph_{number}.{SUFFIX['onnx']}"
        _save_graph(program.model, {**same_as, **{name: name for name in large}}, places, place / file)
        stages.append({"file": file, "reads": stage.reads, "gives": stage.gives})
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return {"stages": stages, **versions}


def _save_graph(
    model: Any, stored: Mapping[str, str], places: Mapping[str, tuple[int, int]], path: Path
) -> None:
    """Write a graph whose weights are where the file of weights has them.

    Args:
        stored: Name of a weight to the name under which it is stored.
        places: That to the first byte and the number of bytes.
    """
    import onnx_ir

    for name, value in model.graph.initializers.items():
        held, place = value.const_value, places.get(stored.get(name, ""))
        if place is None or held.nbytes != place[1]:
            continue
        value.const_value = onnx_ir.ExternalTensor(
            WEIGHTS, *place, held.dtype, shape=held.shape, name=name, base_dir=path.parent
        )
    onnx_ir.save(model, path)


def _offsets(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of each tensor of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: (8 + length + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _save_weights(tensors: Mapping[str, Tensor], place: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, place / WEIGHTS)


def _tensors(chain: Chain) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of all graphs, each once, and the other names of those that have several."""
    tensors: dict[str, Tensor] = {}
    same_as: dict[str, str] = {}
    first: dict[Any, str] = {}
    for stage in chain.stages:
        for name in sorted(_used(stage.program)):
            value = stage.program.state_dict[name].detach()
            key = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else name
            known = first.setdefault(key, name)
            if known == name:
                tensors[name] = value
            else:
                same_as[name] = known
    return tensors, same_as


def _used(program: ExportedProgram) -> set[str]:
    """Names of the weights that a graph reads."""
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {name for holder, name in named.items() if holder in read and name in program.state_dict}


@torch.inference_mode()
def _checked(deployed: Deployed, place: Path) -> float:
    """The largest difference of a logit between the model and what was written.

    Raises:
        ExportError: If it is larger than may come from another order of summation, or a text leaves elsewhere.
    """
    model: Any = copy.deepcopy(deployed.model).eval()
    reader = Exported(place, torch.get_num_threads())
    allowed, worst = tolerance(model), 0.0
    for seed, (texts, longest) in enumerate(CHECKED):
        batch = random_batch(deployed, texts, longest, seed)
        expected, given = model(batch), torch.from_numpy(reader.answer(arrays(batch)))
        same = torch.ones(len(expected), dtype=torch.bool)  # (B,)
        if leaves_early(model):
            same = torch.from_numpy(reader.last_depths) == model.last_depths
            if (reader.last_margins[~same.numpy()] > max(MARGIN, allowed)).any():
                raise ExportError("the graphs would not answer as the model does: a text leaves elsewhere")
        if same.any():
            worst = max(worst, float((expected - given)[same].abs().max()))
    if not worst <= allowed:
        raise ExportError(f"the graphs would not answer as the model does: a logit differs by {worst:.2g}")
    return worst
