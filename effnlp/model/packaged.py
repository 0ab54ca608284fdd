"""The folder of a model that is put to use: all that reading texts needs, and a word on where it came from.

It holds ``model.json`` (what it is), the weights (``deployed.pt``, or ``model.onnx`` with the tokenizer in
``tokenizer.pickle``) and can be moved anywhere. The folder of a run, with its ``deployed.pt`` or with its
``delta.safetensors`` alone, is read alike (for the latter the base is built anew), and so is one of
:mod:`effnlp.model.exported`. Weights and tokenizer hold code by reference: read only what you trust.

Legend: N texts, C classes.
"""

import contextlib
import hashlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effnlp.data.encodings import Batch
from effnlp.model.delta import FILE as DELTA
from effnlp.model.export import export_onnx, load_onnx
from effnlp.model.stages import ExportError
from effnlp.model.storage import Deployed
from effnlp.record import write_atomically

SCHEMA = 1
"""Version of the folder's layout. Raised when an older effnlp could not read it."""

NEWEST = 2
"""The newest layout that is read: exported folders have it."""

DESCRIPTION = "model.json"
WEIGHTS = {"torch": "deployed.pt", "onnx": "model.onnx"}
TOKENIZER = "tokenizer.pickle"


@dataclass(frozen=True)
class Packaged:
    """A model that is ready to read texts.

    Attributes:
        tokenizer: Maps texts to ids.
        labels: Names of the classes; empty: it gives a number.
        is_pair: Whether it reads pairs of texts.
        answer: Maps a batch to logits.
        runtime: What computes the answers: ``torch``, ``torch.export`` or ``onnxruntime``.
    """

    tokenizer: Any
    labels: tuple[str, ...]
    is_pair: bool
    answer: Callable[[Batch], Tensor]
    runtime: str = "torch"

    def probabilities(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[Tensor, int]:
        """Probabilities (N, C), and how many texts were cut because they are longer than the model reads.

        Raises:
            ValueError: If the model gives numbers, or pairs are given and not read, or the other way round.
        """
        if not self.labels:
            raise ValueError("the model gives a number for each text, and no probabilities of classes")
        logits, cut = self._outputs(texts, pairs)  # (N, C)
        return logits.double().softmax(1), cut

    def numbers(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> tuple[Tensor, int]:
        """The number of each text, (N, 1), of a model without classes; else as :meth:`probabilities`."""
        if self.labels:
            raise ValueError(
                f"the model tells classes apart ({', '.join(self.labels)}), and gives no numbers"
            )
        outputs, cut = self._outputs(texts, pairs)  # (N, 1)
        if outputs.shape[1] != 1:
            raise ValueError(
                "the model predicts next tokens: it gives neither labels nor a number for a text; effnlp generate "
                "continues texts"
            )
        return outputs.double(), cut

    def _outputs(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Tensor, int]:
        if (pairs is not None) != self.is_pair:
            raise ValueError(f"the model reads {'pairs of texts' if self.is_pair else 'single texts'}")
        encodings = self.tokenizer.encode(texts, pairs)
        with torch.inference_mode():
            return self.answer(encodings.batch(range(len(texts)))), encodings.truncated


def write_package(
    folder: Path, deployed: Deployed, kind: str, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a folder for :func:`read_package`; what an earlier call left in it is replaced.

    Args:
        kind: ``torch`` or ``onnx``.
        description: Put into ``model.json`` beside what reading needs.

    Returns:
        The content of ``model.json``, which is written last: a folder without it is not whole.

    Raises:
        ExportError: If the model has no ONNX form; nothing is written then.
        ValueError: If there is no such kind.
    """
    if kind not in WEIGHTS:
        raise ValueError(f"format must be one of {', '.join(WEIGHTS)}, got {kind!r}")
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA, "format": kind, "labels": list(deployed.labels), "is_pair": deployed.is_pair,
        **description,
    }  # fmt: skip
    names = [WEIGHTS[kind]]
    if kind == "onnx":
        try:
            content["largest_difference_of_a_logit"] = export_onnx(deployed, folder / WEIGHTS[kind])
        except ExportError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was in it
            raise
    (folder / DESCRIPTION).unlink(missing_ok=True)
    if kind == "onnx":
        (folder / TOKENIZER).write_bytes(pickle.dumps(deployed.tokenizer))
        names.append(TOKENIZER)
    else:
        deployed.save(folder / WEIGHTS[kind])
    for other in {*WEIGHTS.values(), TOKENIZER} - set(names):
        (folder / other).unlink(missing_ok=True)
    content["files"] = {name: _sha256(folder / name) for name in names}
    write_atomically(folder / DESCRIPTION, json.dumps(content, indent=1, ensure_ascii=False))
    return content


def read_package(folder: Path) -> Packaged:
    """Read what :func:`write_package` wrote, or the folder of a run that kept its model.

    Raises:
        ValueError: If the folder is none of these, damaged, of a newer effnlp, or a delta of another base.
        ModuleNotFoundError: If it holds an ONNX file and onnxruntime is not installed.
    """
    if not (folder / DESCRIPTION).is_file():
        return _of(_of_run(folder))
    content = _description(folder)
    labels, is_pair = tuple(content["labels"]), content["is_pair"]
    for name, digest in content["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not whole: {name} is not there")
        if _sha256(folder / name) != digest:
            raise ValueError(f"{folder / name} is damaged: it is not the file that {DESCRIPTION} names")
    if "stages" in content:
        from effnlp.model.exported import read_exported  # late: it needs what exports a model

        tokenizer, model = read_exported(folder, content)
        runtime = "torch.export" if content["format"] == "torch" else "onnxruntime"
        return Packaged(tokenizer, labels, is_pair, model, runtime)
    if content["format"] == "torch":
        return _of(_load(folder / WEIGHTS["torch"]))
    answer = load_onnx(folder / WEIGHTS["onnx"])
    tokenizer = pickle.loads((folder / TOKENIZER).read_bytes())
    return Packaged(tokenizer, labels, is_pair, answer, "onnxruntime")


def read_deployed(folder: Path) -> Deployed:
    """The model itself, of the folder of a run or of one that was picked in the format ``torch``.

    Raises:
        ValueError: As :func:`read_package`, or if the folder holds what was exported, which is no module any more.
    """
    if not (folder / DESCRIPTION).is_file():
        return _of_run(folder)
    content = _description(folder)
    if "stages" in content or content["format"] != "torch":
        raise ValueError(
            f"{folder} holds a model that was exported already; name the folder of a run that kept its model, or what "
            "effnlp pick --format torch wrote"
        )
    return _load(folder / WEIGHTS["torch"])


def _of_run(folder: Path) -> Deployed:
    if (folder / WEIGHTS["torch"]).is_file():
        return _load(folder / WEIGHTS["torch"])
    if (folder / DELTA).is_file():
        from effnlp.serving import load_delta  # late: it needs what trains a model, and most folders do not

        return load_delta(folder)
    raise ValueError(
        f"{folder} holds no model ({DESCRIPTION} or {WEIGHTS['torch']}); effnlp pick DIR --into FOLDER writes one"
        if folder.is_dir()
        else f"there is no folder {folder}"
    )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise ValueError(f"{path} is damaged: it has no schema")
    if content["schema"] > NEWEST:
        raise ValueError(
            f"{path} has schema {content['schema']}, this effnlp reads up to {NEWEST}: use the effnlp that wrote it"
        )
    kinds = {"format": str, "labels": list, "is_pair": bool, "files": dict}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} is damaged: {key} is {content.get(key)!r}")
    if content["format"] not in WEIGHTS or (
        "stages" not in content and WEIGHTS[content["format"]] not in content["files"]
    ):
        raise ValueError(
            f"{path} is damaged: format {content['format']!r} with files {list(content['files'])}"
        )
    return content


def _load(path: Path) -> Deployed:
    try:
        return Deployed.load(path)
    except ModuleNotFoundError:
        raise  # of a user's own method: its message says what to install or to put on the path
    except Exception as error:  # a damaged file can make the reader of pickles fail in any way
        raise ValueError(f"{path} cannot be read as a deployed model: {error}") from error


def _of(deployed: Deployed) -> Packaged:
    model: nn.Module = deployed.model.eval()
    return Packaged(deployed.tokenizer, tuple(map(str, deployed.labels)), deployed.is_pair, model)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
