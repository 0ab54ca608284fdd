"""``effnlp export``: from a run, or a model that was picked, to a folder that answers texts without effnlp."""

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  effnlp export picked --format onnx
  effnlp export outputs/sst2/0a1b2c3d4e-i0-o0 --into sentiment
  effnlp bench sentiment
  python sentiment/run.py < texts.txt

DIR is the folder of a run that kept its model (keep_model=true), or what effnlp pick wrote. The new folder holds the
weights as safetensors, the operators as programs of torch.export or as ONNX, the tokenizer, and run.py, which reads
them with numpy, tokenizers and torch or onnxruntime alone. A model that texts leave early is a graph for each layer,
and texts leave it there, too.
"""


def parser() -> argparse.ArgumentParser:
    """What the verb understands."""
    made = argparse.ArgumentParser(
        prog="effnlp export",
        description="Write a model as a folder that runs where effnlp is not installed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments alone, for tab completion too."""
    parser.add_argument(
        "dir", type=Path, metavar="DIR", help="the folder of a run, or one that effnlp pick wrote"
    )
    parser.add_argument(
        "--format",
        choices=["torch", "onnx"],
        default="torch",
        help="what computes the answers (default: torch)",
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="where to write (default: DIR/exported-FORMAT)"
    )


def main(arguments: list[str]) -> int:
    """Run the verb: exit code 0, or 1 where the model has no such form, or 2 for bad input."""
    options = parser().parse_args(arguments)
    from effnlp.model.stages import ExportError  # late, so that help and completion stay quick

    try:
        into = options.into or options.dir / f"exported-{options.format}"
        sys.stdout.write("\n".join(export(options.dir, into, options.format)) + "\n")
    except ExportError as error:
        sys.stderr.write(f"effnlp export: {error}\n")
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"effnlp export: {error}\n")
        return 2
    return 0


def export(source: Path, into: Path, kind: str) -> list[str]:
    """Write the folder; what was written, in lines.

    Raises:
        ExportError: If the model has no such form.
        ValueError: If there is no model, or the new folder holds something else.
    """
    from effnlp import __version__
    from effnlp.model.exported import READER, refuse_folder, write_export
    from effnlp.model.packaged import read_deployed
    from effnlp.model.standalone import WEIGHTS
    from effnlp.provenance import now

    refuse_folder(into)
    deployed = read_deployed(source)
    about = {"from": str(source), "effnlp": __version__, "made": now(), **described(source)}
    content = write_export(into, deployed, kind, about)
    sizes = {path.name: path.stat().st_size for path in into.iterdir()}
    graphs = len(content["stages"])
    return [
        f"Written: {into} ({sum(sizes.values()) / 1e6:.2f} MB, of which {WEIGHTS} {sizes[WEIGHTS] / 1e6:.2f} MB)",
        f"  {graphs} graphs, between which texts leave early" if graphs > 1 else "  1 graph",
        f"  a logit differs by at most {content['largest_difference_of_a_logit']:.1g} from the model's",
        f"  effnlp bench {into}",
        f"  python {into / READER} < texts.txt",
    ]


def described(folder: Path) -> dict[str, Any]:
    """What is known of where a model came from: the task, the choices, the record of its run.

    Raises:
        ValueError: If the record is damaged.
    """
    import json
    from dataclasses import asdict

    from effnlp.record import Record

    if (folder / "record.json").is_file():
        record: dict[str, Any] = asdict(Record.load(folder))
    elif (folder / "model.json").is_file():
        record = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("record") or {}
    else:
        record = {}
    return {
        "task": record.get("identity", {}).get("task"),
        "choices": record.get("choices", {}),
        "record": record,
    }
