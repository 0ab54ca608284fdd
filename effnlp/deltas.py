"""``effnlp delta``: look at what a run adds to its base, and hand it to others as an adapter of the package peft."""

import argparse
import sys
from pathlib import Path

EXAMPLES = """\
examples:
  effnlp delta show outputs/sst2/0a1b2c3d4e-i0-o0
  effnlp delta export outputs/sst2/0a1b2c3d4e-i0-o0 --to adapter
  effnlp run task=sst2 model=pretrained peft=lora peft.start=adapter

A run whose base is frozen (any peft but none) leaves delta.safetensors in its folder: what its task adds to the base.
Export writes LoRA and (IA)³ for peft.PeftModel.from_pretrained, with the head in a file beside it; the last line
goes on from such a folder. FOLDER of effnlp predict may hold a delta alone.
"""


def parser() -> argparse.ArgumentParser:
    """What the verb understands."""
    made = argparse.ArgumentParser(
        prog="effnlp delta",
        description="Show what a run adds to its base, or write it as an adapter of the package peft.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments alone, for tab completion too."""
    parser.add_argument("act", choices=["show", "export"], help="what to do")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, or a delta.safetensors")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where export writes the adapter")


def main(arguments: list[str]) -> int:
    """Run the verb; the exit code is 2, with one line that says why, where the delta is no good."""
    options = parser().parse_args(arguments)
    try:
        if (options.act == "export") != (options.to is not None):
            raise ValueError("export needs --to FOLDER" if options.act == "export" else "--to is for export")
        if options.act == "show":
            sys.stdout.write("\n".join(shown(options.run)) + "\n")
        else:
            export(options.run, options.to)
            sys.stdout.write(f"{options.to}\n")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"effnlp delta: {error}\n")
        return 2
    return 0


def shown(run: Path) -> list[str]:
    """What a delta is of, a line a fact."""
    from effnlp.serving import name_of, read_delta

    delta = read_delta(run)
    about = delta.about
    method = str(about.config["peft"]["_target_"]).rpartition(".")[0].rpartition(".")[2]
    return [
        f"task     {about.task}" + (f": {', '.join(about.labels)}" if about.labels else ""),
        f"base     {name_of(about.config)}, SHA-256 {about.base}",
        f"peft     {method}",
        f"entries  {len(delta.entries)}, {sum(value.numel() for value in delta.entries.values()):,} numbers",
        f"bytes    {delta.bytes:,}",
    ]


def export(run: Path, folder: Path) -> None:
    """Write the LoRA or (IA)³ of a run as an adapter of the package peft.

    Raises:
        ValueError: If ``folder`` holds something, or the format has no place for the delta.
    """
    from effnlp.peft.exchange import write_adapter
    from effnlp.serving import read_delta, unfinished

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; --to takes a new folder")
    delta = read_delta(run)
    model = unfinished(delta)
    base = str(delta.about.config["model"].get("name", ""))
    write_adapter(model, folder, base, delta.about.labels, getattr(model.encoder, "pooling", "mean"))
