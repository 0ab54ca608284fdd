"""The reader of an exported folder: texts in, answers out, without what trained the model.

It lies in the folder as ``run.py`` and needs numpy, tokenizers and, by the folder's format, torch with safetensors or
onnxruntime:

    python run.py < texts.txt
    python -c 'from run import Exported; print(Exported(".").probabilities(["a text"]))'

A model from which texts leave early is a chain of graphs, one a layer. After each of them the texts that leave are
taken out of the batch here, and cost nothing from there on.

Legend: N texts, B texts of a batch, K those still inside, T tokens of the longest, C classes.
"""

import argparse
import importlib.util
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""``input_ids``, ``attention_mask`` and, where the model tells the texts of a pair apart, ``token_type_ids``; (B, T)
each."""

Graph = Callable[[list[np.ndarray]], list[np.ndarray]]

DESCRIPTION, WEIGHTS, TOKENIZER = "model.json", "weights.safetensors", "tokenizer.json"
NGRAMS, KEPT = "ngrams.py", "kept"


class Exported:
    """The model of a folder.

    Args:
        folder: What ``effnlp export`` wrote.
        threads: To compute with; None: as many as the runtime thinks fit.

    Attributes:
        labels: Names of the classes; empty: the model gives a number.
        is_pair: Whether it reads pairs of texts.
        last_depths: (B,) after how many graphs each text of the last batch left.
        last_margins: (B,) how near each of them came to leaving elsewhere: the smallest distance of a doubt from the
            threshold; infinity where nothing is decided.

    Raises:
        ValueError: If the folder holds no such model.
        ModuleNotFoundError: If the runtime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / DESCRIPTION).is_file():
            raise ValueError(f"{folder} holds no exported model: it has no {DESCRIPTION}")
        about: dict[str, Any] = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
        if "stages" not in about:
            raise ValueError(f"{folder} was not written by effnlp export")
        self.about, self.labels, self.is_pair = about, list(about["labels"]), bool(about["is_pair"])
        self._graphs = list(GRAPHS[about["format"]](self.folder, about, threads))
        self._tokenizer: Any = None
        self.last_depths = np.zeros(0, dtype=np.int64)
        self.last_margins = np.zeros(0)

    def answer(self, batch: Arrays) -> np.ndarray:
        """Logits (B, C)."""
        stages, count = self.about["stages"], len(batch["input_ids"])
        values: dict[str, np.ndarray] = dict(batch)
        inside = np.arange(count)  # (K,) positions in the batch
        depths, margins = np.full(count, len(stages)), np.full(count, np.inf)
        logits: np.ndarray | None = None
        for depth, (stage, graph) in enumerate(zip(stages, self._graphs, strict=True), start=1):
            given = graph([values[name] for name in stage["reads"]])
            values.update(zip(stage["gives"], given, strict=True))
            here = values["logits"]  # (K, C)
            logits = np.empty((count, here.shape[1]), here.dtype) if logits is None else logits
            logits[inside] = here
            if depth == len(stages):
                break
            doubt = values["doubt"]  # (K,)
            distance = np.abs(doubt.astype(np.float64) - self.about["threshold"])
            margins[inside] = np.minimum(margins[inside], distance)
            leaves = doubt < self.about["threshold"]
            depths[inside[leaves]] = depth
            if leaves.all():
                break
            if leaves.any():
                inside = inside[~leaves]
                values.update(
                    {name: values[name][~leaves] for name in self.about["of_texts"] if name in values}
                )
        assert logits is not None
        self.last_depths, self.last_margins = depths, margins
        return logits

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """What the model reads of texts, or of pairs of them; what is longer than it reads is cut.

        Raises:
            ValueError: If there are no texts, or pairs are given and not read, or the other way round.
        """
        if (pairs is not None) != self.is_pair:
            raise ValueError(f"the model reads {'pairs of texts' if self.is_pair else 'single texts'}")
        if not len(texts):
            raise ValueError("there is no text to answer")
        if self._tokenizer is None:
            self._tokenizer = TOKENIZERS[self.about["tokenizer"]["kind"]](
                self.folder, self.about["tokenizer"]
            )
        rows, types = self._tokenizer(list(texts), None if pairs is None else list(pairs))
        batch = {
            "input_ids": padded(rows, self.about["tokenizer"]["pad_id"]),
            "attention_mask": padded([[1] * len(row) for row in rows], 0),
        }
        return batch | ({} if types is None else {"token_type_ids": padded(types, 0)})

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> np.ndarray:
        """Logits (N, C), or numbers (N, 1) where there are no labels."""
        answers = []
        for start in range(0, max(len(texts), 1), batch_size):
            part = slice(start, start + batch_size)
            answers.append(self.answer(self.encode(texts[part], None if pairs is None else pairs[part])))
        return np.concatenate(answers)

    def probabilities(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
    ) -> np.ndarray:
        """(N, C), of the classes ``labels``.

        Raises:
            ValueError: If the model gives numbers.
        """
        if not self.labels:
            raise ValueError("the model gives a number for each text, and no probabilities of classes")
        logits = self.logits(texts, pairs, batch_size).astype(np.float64)  # (N, C)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def padded(rows: Sequence[Sequence[int]], filler: int) -> np.ndarray:
    """Rows of several lengths as int64 (B, T)."""
    filled = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row
    return filled


def subwords(folder: Path, settings: Mapping[str, Any]) -> Callable[..., tuple[list[list[int]], Any]]:
    """The tokenizer of ``tokenizer.json``, which cuts texts itself."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(folder / TOKENIZER))

    def encode(texts: list[str], pairs: list[str] | None) -> tuple[list[list[int]], Any]:
        found = backend.encode_batch_fast(texts if pairs is None else list(zip(texts, pairs, strict=True)))
        rows = [row.ids or [settings["pad_id"]] for row in found]
        types = pairs is not None and settings["type_ids"]
        return rows, [row.type_ids or [0] for row in found] if types else None

    return encode


def ngrams(folder: Path, settings: Mapping[str, Any]) -> Callable[..., tuple[list[list[int]], Any]]:
    """The hashed n-grams of ``ngrams.py`` beside this file."""
    spec = importlib.util.spec_from_file_location("exported_ngrams", folder / NGRAMS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = np.load(folder / settings[KEPT])

    def encode(texts: list[str], pairs: list[str] | None) -> tuple[list[list[int]], Any]:
        hashed = module.Hashed(settings["ngrams"], settings["buckets"], settings["max_length"])
        ids, offsets, _ = module.ids_of(hashed, kept, texts, pairs)
        return [ids[start:end].tolist() for start, end in itertools.pairwise(offsets)], None

    return encode


def torch_graphs(folder: Path, about: Mapping[str, Any], threads: int | None) -> Iterator[Graph]:
    """The programs of ``torch.export``, with the weights of one file."""
    import torch
    from safetensors.torch import load_file

    if threads is not None:
        torch.set_num_threads(threads)
    stored = load_file(folder / WEIGHTS)
    weights = {name: unpacked(stored, name, entry) for name, entry in about["packed"].items()} | stored
    weights |= {name: weights[same] for name, same in about["same_as"].items()}
    for stage in about["stages"]:
        module: Any = with_fast_integers(torch.export.load(folder / stage["file"]).module(), torch)
        # What a graph does not read has no value in it.
        module.load_state_dict({name: weights[name] for name in stage["weights"]}, strict=False, assign=True)
        yield _torch_graph(module, torch)


def with_fast_integers(module: Any, torch: Any) -> Any:
    """``module`` with other products of int8 where those of torch are slow or wrong here; changed in place.

    Processors without dot products of int8 multiply them faster as float32, which is exact for as many summands as
    stay below 2^24.
    """

    def as_floats(left: Any, right: Any) -> Any:
        pieces = zip(left.split(1024, 1), right.split(1024, 0), strict=True)
        return sum((one.float() @ other.float()).to(torch.int32) for one, other in pieces)

    products = [node for node in module.graph.nodes if node.target is torch.ops.aten._int_mm.default]
    if products and not _torch_is_better(torch, as_floats):
        for node in products:
            node.target = as_floats
        module.recompile()
    return module


def _torch_is_better(torch: Any, other: Callable[..., Any]) -> bool:
    left, right = (
        torch.full((128, 256), 127, dtype=torch.int8),
        torch.full((256, 256), -127, dtype=torch.int8),
    )
    fastest = dict.fromkeys((torch._int_mm, other), float("inf"))
    for _ in range(3):
        for product in fastest:
            start = time.perf_counter()
            found = product(left, right)
            fastest[product] = min(fastest[product], time.perf_counter() - start)
            if product is not other and not bool((found == -256 * 127 * 127).all()):
                return False
    return fastest[torch._int_mm] <= fastest[other]


def _torch_graph(module: Any, torch: Any) -> Graph:
    def graph(given: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [value.numpy() for value in module(*map(torch.from_numpy, given))]

    return graph


def unpacked(stored: Mapping[str, Any], name: str, shape: Sequence[int]) -> Any:
    """The tensor of this shape of which only what is not zero was stored, with a mask of bits or with its places."""
    import torch

    size = math.prod(shape)
    if f"{name}#nonzero_places" in stored:
        nonzero = stored[f"{name}#nonzero_places"].long()
    else:
        bits = np.unpackbits(stored[f"{name}#nonzero_bits"].numpy(), count=size)
        nonzero = torch.from_numpy(bits).bool()
    values = stored[f"{name}#values"]
    flat = torch.zeros(size, dtype=values.dtype)
    flat[nonzero] = values
    return flat.view(list(shape))


def onnx_graphs(folder: Path, about: Mapping[str, Any], threads: int | None) -> Iterator[Graph]:
    """Sessions of ONNX Runtime on the processor; they find the weights in the file beside them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Without it sums of int8 saturate on processors without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3  # errors
    for stage in about["stages"]:
        path = str(folder / stage["file"])
        yield _onnx_graph(
            onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]), stage["reads"]
        )


def _onnx_graph(session: Any, names: Sequence[str]) -> Graph:
    wanted = {entry.name for entry in session.get_inputs()}

    def graph(given: list[np.ndarray]) -> list[np.ndarray]:
        named = zip(names, given, strict=True)
        answers: list[np.ndarray] = session.run(
            None, {name: value for name, value in named if name in wanted}
        )
        return answers

    return graph


GRAPHS = {"torch": torch_graphs, "onnx": onnx_graphs}
TOKENIZERS = {"subwords": subwords, "ngrams": ngrams}


def main(arguments: Sequence[str] | None = None) -> int:
    """A text a line in, a label or a number a line out; of a pair both texts with a tab between them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--scores", action="store_true", help="add the probability of each label")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts at once (default: 32)")
    options = parser.parse_args(arguments)
    try:
        model = Exported(Path(__file__).parent)
        lines = [line.rstrip("\n") for line in sys.stdin]
        for start in range(0, len(lines), max(options.batch_size, 1)):
            _write(model, lines[start : start + max(options.batch_size, 1)], options.scores)
    except (ValueError, ModuleNotFoundError) as error:
        sys.stderr.write(f"run.py: {error}\n")
        return 2
    return 0


def _write(model: Exported, lines: list[str], scores: bool) -> None:
    pairs = None
    if model.is_pair:
        if wrong := [line for line in lines if line.count("\t") != 1]:
            raise ValueError(f"a line must be two texts with one tab between them, got {wrong[0]!r:.60}")
        pairs = [line.split("\t")[1] for line in lines]
    texts = [line.split("\t")[0] if model.is_pair else line for line in lines]
    rows = model.probabilities(texts, pairs) if model.labels else model.logits(texts, pairs)
    for row in rows.tolist():
        cells = [f"{value:.6f}" for value in row]
        if model.labels:
            cells = [model.labels[row.index(max(row))], *(cells if scores else [])]
        sys.stdout.write("\t".join(cells) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
