"""MiniLM in int8 against float32, by every back-end, and ONNX Runtime's own dynamic quantization of the same model.

    python benchmarks/int8.py

Batches of 1 and 32 texts of 16, 64 and 256 tokens without padding. All candidates take turns; ratios to float32 are
taken turn by turn. ``torch.ao`` is PyTorch's own dynamic quantization: one scale for all activations of a batch, so
that what it says of a text depends on the others. *Compiled* is our plain product in a model that torch compiles as a
whole, for any shape; no run does that. ONNX Runtime reads the float32 model, the same quantized by its own
tool, and our integer graph.
"""

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tables import publish
from turns import compared, until

BATCHES, LENGTHS = (1, 32), (16, 64, 256)
SECONDS_PER_SHAPE = 20.0
LONGEST = 256


def make_candidates(folder: Path) -> tuple[dict[str, Callable[[Any], Any]], dict[str, int]]:
    """Functions from a batch to logits, and their bytes: of the stored weights, or of the ONNX file."""
    import pandas as pd
    import torch
    from torch import nn

    from effnlp.compression.quantization.backends import available
    from effnlp.compression.quantization.int8_dynamic import quantize_dynamically
    from effnlp.model.export import export_form, export_onnx, load_onnx
    from effnlp.model.pretrained import Pretrained
    from effnlp.model.storage import Deployed, stored_bytes

    choice = Pretrained(name="minilm", max_length=LONGEST)
    tokenizer = choice.tokenizer(pd.DataFrame({"text": ["a text"], "label": [0]}))
    model = choice.build(tokenizer, classes=2).eval()
    candidates: dict[str, Callable[[Any], Any]] = {"float32": model}
    sizes = {"float32": stored_bytes(model)}
    for name in available():
        made = quantize_dynamically(copy.deepcopy(model), backend=name)
        candidates[f"int8_dynamic, {name}"], sizes[f"int8_dynamic, {name}"] = made, stored_bytes(made)
    candidates["torch.ao"] = copy.deepcopy(model)
    candidates["torch.ao"].encoder = torch.ao.quantization.quantize_dynamic(model.encoder, {nn.Linear})
    paths = {name: folder / f"{name}.onnx" for name in ("float32", "int8_dynamic", "its own int8")}
    export_onnx(Deployed(model, tokenizer, ["a", "b"]), paths["float32"])
    export_onnx(Deployed(made, tokenizer, ["a", "b"]), paths["int8_dynamic"])
    candidates["int8_dynamic, compiled"] = torch.compile(export_form(made), dynamic=True)
    quantize_by_onnxruntime(paths["float32"], paths["its own int8"])
    for name, path in paths.items():
        candidates[f"ONNX Runtime, {name}"] = load_onnx(path)
        sizes[f"ONNX Runtime, {name}"] = path.stat().st_size
    return candidates, sizes


def quantize_by_onnxruntime(path: Path, quantized: Path) -> None:
    """ONNX Runtime's own dynamic quantization, after the preparation that it asks for."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def forget_shapes(source: Path, target: Path) -> None:
        """Leave out those that exporter and optimiser noted, some of which the next step finds inconsistent."""
        model = onnx.load(source)
        model.graph.ClearField("value_info")
        onnx.save(model, target)

    prepared = quantized.with_suffix(".prepared")
    forget_shapes(path, prepared)
    quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
    forget_shapes(prepared, prepared)
    quantize_dynamic(prepared, quantized, weight_type=QuantType.QInt8)


def make_batch(texts: int, tokens: int) -> dict[str, Any]:
    """Random ids without padding."""
    import torch

    ids = torch.randint(1000, 20000, (texts, tokens), generator=torch.Generator().manual_seed(tokens))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


def calls(candidates: Mapping[str, Callable[[Any], Any]], batch: Any) -> dict[str, Callable[[], Any]]:
    """Each candidate for one batch."""
    return {name: partial(answer, batch) for name, answer in candidates.items()}


def main() -> None:
    """Measure every shape, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small shape, and nothing is written")
    parser.add_argument("--threads", type=int, default=2, help="of torch and of ONNX Runtime")
    arguments = parser.parse_args()
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    shapes = [(1, 16)] if arguments.quick else [(texts, tokens) for texts in BATCHES for tokens in LENGTHS]
    seconds = 0.0 if arguments.quick else SECONDS_PER_SHAPE
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        candidates, sizes = make_candidates(Path(folder))
        found = [
            {
                "texts": texts,
                "tokens": tokens,
                "candidates": compared(
                    until(seconds, calls(candidates, make_batch(texts, tokens))), "float32"
                ),
            }
            for texts, tokens in shapes
        ]
    content = {"threads": arguments.threads, "bytes": sizes, "shapes": found}
    publish("int8", content, ["torch", "onnxruntime"], write=not arguments.quick)


if __name__ == "__main__":
    main()
