"""Several tasks from one base against a whole model each: bytes in memory and on disk, and seconds of a swap.

    python benchmarks/serving.py

MiniLM with LoRA of rank 8 on query and value for 1, 4 and 16 tasks. Merged, one task is in use at a time and a swap
takes the other's place, so that a text costs what it costs the base. Beside the base, all tasks are ready at once, and
each text pays for it. Whole models are read from their files, or all held in memory.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tables import publish
from turns import Spread

COUNTS, CLASSES = (1, 4, 16), 3
CONFIG = {
    "model": {"_target_": "effnlp.model.pretrained.Pretrained", "name": "minilm"},
    "pretraining": {"_target_": "effnlp.pretraining.none.NoPretraining"},
    "finetuning": {"_target_": "effnlp.finetuning.classify.Classify"},
    "peft": {"_target_": "effnlp.peft.lora.LoRA", "rank": 8, "alpha": 16.0, "targets": ["query", "value"]},
    "compression": {"order": []},
    "seed": {"init": 0},
}


def make_delta(base: Any, seed: int) -> Any:
    """The delta of a task that was, as it were, trained."""
    import copy

    import torch

    from effnlp.model.delta import Taker
    from effnlp.peft.lora import LoRA

    torch.manual_seed(seed)
    taker = Taker(is_wanted=True)
    model = copy.deepcopy(base.model)
    taker.built(model)
    model = LoRA(rank=8, alpha=16.0).prepare(model)
    taker.prepared(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    taker.trained(model)
    return taker.take(
        model, config=CONFIG, prepare=("peft",), finish=("peft",), task=f"task {seed}", labels=("a", "b", "c"),
        classes=CLASSES, is_pair=False,
    )  # fmt: skip


def timed(act: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """Seconds of ``act``; the first warms up."""
    seconds = []
    for index in range(repeats + 1):
        start = time.perf_counter()
        act(index)
        seconds.append(time.perf_counter() - start)
    return asdict(Spread.of(seconds[1:]))


def measure(counts: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """For each number of tasks and each way to serve them: bytes held, bytes stored, a swap, a text."""
    import torch

    from effnlp.model.storage import Deployed
    from effnlp.serving import Adapters, Base, load_delta, tensors_of

    torch.set_num_threads(1)
    base = Base.build(CONFIG, CLASSES)
    batch = base.tokenizer.encode(["a text of some length, as they come"]).batch([0])
    whole = sum(t.numel() * t.element_size() for t in tensors_of(base.model))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        deltas = {str(seed): make_delta(base, seed) for seed in range(max(counts))}
        for task, delta in deltas.items():
            delta.write(folder / f"{task}.safetensors")
        delta_file = (folder / "0.safetensors").stat().st_size
        deployed = load_delta(folder / "0.safetensors", base)
        deployed.save(folder / "deployed.pt")
        whole_file = (folder / "deployed.pt").stat().st_size
        read = timed(lambda _: Deployed.load(folder / "deployed.pt"), repeats)
        text = timed(lambda _: deployed.model.eval()(batch), 5 * repeats)
        for count in counts:
            some = {task: deltas[task] for task in list(deltas)[:count]}
            rows = {}
            for way, is_merged in (("merged in turn", True), ("beside the base", False)):
                adapters = Adapters(base, some, is_merged)
                # With one task there is nothing to swap with: its model is let go and made again.
                swap = timed(lambda i, a=adapters, n=count: swapped(a, i % n), repeats)
                model = adapters.use("0").model
                rows[way] = {
                    "held_bytes": adapters.held_bytes(), "stored_bytes": whole_file + count * delta_file,
                    "swap_seconds": swap, "text_seconds": timed(lambda _, m=model: m(batch), 5 * repeats),
                }  # fmt: skip
            stored = count * whole_file
            rows["whole models, read"] = {
                "held_bytes": whole, "stored_bytes": stored, "swap_seconds": read, "text_seconds": text,
            }  # fmt: skip
            rows["whole models, held"] = {
                "held_bytes": count * whole, "stored_bytes": stored, "swap_seconds": None, "text_seconds": text,
            }  # fmt: skip
            found[str(count)] = rows
    return found


def swapped(adapters: Any, task: int) -> None:
    """Take up a task."""
    if len(adapters.deltas) == 1:
        adapters.let_go()
    adapters.use(str(task))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two tasks, two swaps; nothing is written")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    counts, repeats = ((2,), 2) if options.quick else (COUNTS, 20)
    content = {"repeats": repeats, "tasks": measure(counts, repeats)}
    publish("serving", content, ("torch", "transformers"), write=not options.quick)


if __name__ == "__main__":
    main()
