"""A training step of LoRA, (IA)³ and prefix tuning: ours against the package peft, on the same MiniLM.

    python benchmarks/peft_step.py

The same model, batch, head, loss, optimizer and clipping; only what is injected differs. Each has a process of its
own with one thread; they take turns of a few steps. Memory is the peak of the process above what it held before the
model was made. Building is loading MiniLM and injecting the method, with the files in the system's cache.
"""

import argparse
import os
from dataclasses import asdict
from typing import Any

from processes import BATCH_SIZE, CLASSES, TOKENS, in_turns
from tables import publish
from turns import Spread

METHODS = ("lora", "ia3", "prefix")
TARGET, BUILD_TARGET_SECONDS = 1.05, 1.0
RANK, ALPHA, PREFIX_TOKENS, INNER_WIDTH = 8, 16, 10, 512


def build(method: str, whose: str) -> Any:
    """MiniLM with a method, how it settles, and how many rows its table has."""
    from effnlp.model.pretrained import Pretrained
    from effnlp.peft.freezing import freeze_all_but_head

    model: Any = Pretrained("minilm").build(None, CLASSES)  # type: ignore[arg-type]
    if whose == "effnlp":
        return ours(method).prepare(model), getattr(ours(method), "settle", same), 30522
    import peft

    freeze_all_but_head(model)
    feature: Any = peft.TaskType.FEATURE_EXTRACTION
    made: Any
    if method == "ia3":  # by whole names: output.dense is the name of two layers of a block
        names = [name for name, _ in model.encoder.model.named_modules()]
        inputs = [n for n in names if n.endswith("output.dense") and "attention" not in n]
        others = [n for n in names if n.endswith(("self.key", "self.value"))]
        made = peft.IA3Config(
            target_modules=[*others, *inputs], feedforward_modules=inputs, task_type=feature
        )
    elif method == "lora":
        made = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"], task_type=feature)
    else:
        made = peft.PrefixTuningConfig(
            num_virtual_tokens=PREFIX_TOKENS, prefix_projection=True, encoder_hidden_size=INNER_WIDTH,
            task_type=feature,
        )  # fmt: skip
    model.encoder.model = peft.get_peft_model(model.encoder.model, made)
    return model, same, 30522


def ours(method: str) -> Any:
    """Our method with the same settings."""
    from effnlp.peft.ia3 import IA3
    from effnlp.peft.lora import LoRA
    from effnlp.peft.prefix import PrefixTuning

    if method == "prefix":
        return PrefixTuning(length=PREFIX_TOKENS, reparameterise=True, inner_width=INNER_WIDTH)
    return LoRA(rank=RANK, alpha=ALPHA) if method == "lora" else IA3()


def same(model: Any) -> Any:
    """Nothing to settle."""
    return model


def measure(turns: int, steps: int, methods: tuple[str, ...] = METHODS) -> dict[str, Any]:
    """For each method: seconds of a step of both, their ratio turn by turn, memory, seconds to build."""
    found = {}
    for method in methods:
        sides = {whose: {"method": method, "whose": whose} for whose in ("effnlp", "peft")}
        seconds, said = in_turns(build, sides, turns, steps)
        ratios = [a / b for a, b in zip(seconds["effnlp"], seconds["peft"], strict=True)]
        found[method] = {
            "seconds": {whose: asdict(Spread.of(values)) for whose, values in seconds.items()},
            "ratio": asdict(Spread.of(ratios)),
            "said": said,
        }
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two turns of LoRA alone; nothing is written")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    turns, steps, methods = (2, 2, METHODS[:1]) if options.quick else (10, 4, METHODS)
    content = {
        "batch_size": BATCH_SIZE, "tokens": TOKENS, "target": TARGET, "build_target_seconds": BUILD_TARGET_SECONDS,
        "turns": turns - 1, "methods": measure(turns, steps, methods),
    }  # fmt: skip
    publish("peft_step", content, ("torch", "transformers", "peft"), write=not options.quick)


if __name__ == "__main__":
    main()
