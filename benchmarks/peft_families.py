"""Full fine-tuning against each PEFT family: time, memory, bytes of the optimizer and of what is kept.

    python benchmarks/peft_families.py

On MiniLM and on a random encoder of the shape of BERT-base with 124 million parameters. Each family has its default
settings, a process of its own and one thread; they take turns of a few steps, MiniLM with batches of 32 texts of 64
tokens, the other with batches of 8. Memory is the peak of the process above what it held before the model was made.
"""

import argparse
import os
from dataclasses import asdict, dataclass
from typing import Any

from processes import BATCH_SIZE, CLASSES, TOKENS, in_turns
from tables import publish
from turns import Spread

ROWS = {"MiniLM": 30522, "random, 124M": 50257}
"""Model to rows of the table of tokens."""


@dataclass(frozen=True)
class Effort:
    """Turns, steps in each of them, and rows of a batch; the first turn and first steps warm up."""

    turns: int
    steps: int
    batch_size: int


EFFORTS = {"MiniLM": Effort(6, 3, BATCH_SIZE), "random, 124M": Effort(4, 2, 8)}
"""Model to what its families are given; a step of the large one with 32 texts takes a quarter of a minute."""

LEFT_OUT = ("combined", "hf", "adapter_fusion")
"""They need parts, a type, or adapters that are trained already."""

FULL = "none"


def families() -> list[str]:
    """Every choice of the group that acts by itself, the full fine-tuning first."""
    from effnlp.menu import choice_names, conf_dir

    names = [name for name in choice_names("peft", [conf_dir()]) if name not in LEFT_OUT]
    return sorted(names, key=lambda name: (name != FULL, name))


def build(model: str, family: str) -> Any:
    """A model that a family has prepared, how it settles, and the rows of its table."""
    from hydra.utils import instantiate

    from effnlp import method
    from effnlp.menu import conf_dir, read_yaml
    from effnlp.model.backbone import SIZES, BackboneEncoder
    from effnlp.model.classifier import Classifier
    from effnlp.model.mixer.attention import Attention
    from effnlp.model.pretrained import Pretrained

    made: Any
    if model == "MiniLM":
        made = Pretrained("minilm").build(None, CLASSES)  # type: ignore[arg-type]
    else:
        made = Classifier(BackboneEncoder(SIZES["base"], Attention, ROWS[model], max_length=128), CLASSES)
    peft = instantiate(read_yaml(conf_dir() / "peft" / f"{family}.yaml"), _convert_="all")
    return method.prepare([peft], made), lambda trained: method.settle([peft], trained), ROWS[model]


def measure(model: str, names: list[str], effort: Effort) -> dict[str, Any]:
    """For each family its seconds a step, their ratio to full fine-tuning turn by turn, memory and bytes.

    Only a family and the full fine-tuning are in memory at a time. A family that the system kills, for want of memory,
    has the reason in place of figures.
    """
    found: dict[str, Any] = {}
    for name in names:
        both = {each: {"model": model, "family": each} for each in dict.fromkeys((FULL, name))}
        try:
            seconds, said = in_turns(build, both, effort.turns, effort.steps, effort.batch_size)
        except RuntimeError as error:
            found[name] = {"ended": str(error)}
            continue
        ratios = [a / b for a, b in zip(seconds[name], seconds[FULL], strict=True)]
        spread = asdict(Spread.of(seconds[name]))
        found[name] = {"seconds": spread, "ratio": asdict(Spread.of(ratios)), **said[name]}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="two turns of LoRA on MiniLM; nothing is written"
    )
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    efforts = {"MiniLM": Effort(2, 2, BATCH_SIZE)} if options.quick else EFFORTS
    names = [FULL, "lora"] if options.quick else families()
    found = {model: measure(model, names, effort) for model, effort in efforts.items()}
    content = {
        "tokens": TOKENS,
        "efforts": {model: asdict(effort) for model, effort in efforts.items()},
        "models": found,
    }
    publish("peft_families", content, ("torch", "transformers"), write=not options.quick)


if __name__ == "__main__":
    main()
