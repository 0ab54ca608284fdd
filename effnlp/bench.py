"""``effnlp bench``: latency, throughput, memory and size of a model as it is deployed, on this machine."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effnlp.evaluation.bench import Read
    from effnlp.evaluation.measured import Measured
    from effnlp.model.packaged import Packaged

EXAMPLES = """\
examples:
  effnlp bench exported-onnx
  effnlp bench picked --scenario single_stream --scenario offline --threads 2 --json bench.json
  effnlp bench exported-torch --file reviews.csv --column review
  effnlp bench exported-torch --tokens 64 --scenario fixed_batch --batch-size 32

FOLDER is what effnlp export or effnlp pick wrote, or the folder of a run. Its texts are those of --file, else the
validation split of the task that its record names, else, of random ids, --tokens long each. While it measures, the
runs of this machine pause.
"""

COLUMNS = {
    "p50 ms": ("latency_seconds_p50", 1e3),
    "p95 ms": ("latency_seconds_p95", 1e3),
    "p99 ms": ("latency_seconds_p99", 1e3),
    "texts/s": ("examples_per_second", 1.0),
    "peak MB": ("peak_memory_bytes", 1e-6),
}
"""Heading to the figure, and what it is multiplied by."""


def parser() -> argparse.ArgumentParser:
    """What the verb understands."""
    made = argparse.ArgumentParser(
        prog="effnlp bench",
        description="Time a model as it is deployed, in the scenarios in which runs are measured.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments alone, for tab completion too."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an exported or picked model, or a run")
    parser.add_argument(
        "--scenario", action="append", default=[], metavar="NAME", help="repeat it (default: all there are)"
    )
    parser.add_argument("--file", type=Path, help="time these texts: CSV, TSV, JSONL, Parquet, or lines")
    parser.add_argument("--column", default="text", help="column of the text (default: text)")
    parser.add_argument("--pair-column", default="text_pair", help="column of the second text of a pair task")
    parser.add_argument("--tokens", type=int, metavar="N", help="time made-up texts of N tokens each")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="texts at once (default: that of each scenario)"
    )
    parser.add_argument(
        "--requests", type=int, metavar="N", help="how many are timed (default: that of each scenario)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="to compute with (default: 1)")
    parser.add_argument(
        "--budget-seconds", type=float, default=20.0, metavar="S", help="of each scenario (default: 20)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")


def main(arguments: list[str]) -> int:
    """Run the verb; the exit code is 2, with one line that says why, where folder or options are no good."""
    options = parser().parse_args(arguments)
    try:
        return _bench(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"effnlp bench: {error}\n")
        return 2


def _bench(options: argparse.Namespace) -> int:
    for name in ("tokens", "batch_size", "requests", "threads", "budget_seconds"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    from effnlp.evaluation import bench

    names = options.scenario or bench.scenario_names()
    for name in names:
        bench.scenario(name)  # an unknown one is an error before anything is read
    from effnlp.evaluation.latency import pinned_threads
    from effnlp.evaluation.quiet import QuietLock
    from effnlp.model.packaged import read_package

    with pinned_threads(options.threads):  # a session takes its number of threads when it is read
        model = read_package(options.folder)
        read = _read(options, model)
        settings = {
            name: getattr(options, name)
            for name in ("batch_size", "requests", "threads", "budget_seconds")
            if getattr(options, name) is not None
        }
        quiet = QuietLock(description=f"effnlp bench {options.folder}")
        found = bench.measure(model, read, names, settings, quiet)
    size = bench.stored_bytes(options.folder)
    runtime = {"runtime": model.runtime, "versions": bench.versions(model), "threads": options.threads}
    sys.stdout.write("\n".join(table(runtime, size, read.said, found)) + "\n")
    if options.json is not None:
        from effnlp.provenance import machine

        about = {"folder": str(options.folder), **runtime, "texts": read.said, "machine": machine()}
        _write(options.json, about, size, found)
    return 0


def _read(options: argparse.Namespace, model: "Packaged") -> "Read":
    """The texts that are timed, from where the user says or the folder knows.

    Raises:
        ValueError: If there are none, or made-up ones say nothing of a model that texts leave early.
    """
    from effnlp.evaluation.bench import Read, encoded, made_up, own_texts
    from effnlp.evaluation.example_flops import depends_on_data

    if options.file is not None:
        texts, pairs = _of_file(options, model)
        return Read(encoded(model, texts, pairs), f"texts of {options.file}")
    if options.tokens is not None:
        is_adaptive = hasattr(model.answer, "modules") and depends_on_data(model.answer)  # type: ignore[arg-type]
        if is_adaptive:
            raise ValueError(
                "how much this model computes depends on the texts, so that made-up ones say nothing; name a --file"
            )
        return Read(made_up([options.tokens] * 64, model), "made-up texts")
    own = own_texts(options.folder)
    if own is None:
        raise ValueError(
            f"{options.folder} does not say what texts it was made for, or they are not here; name a --file of texts, "
            "or their length by --tokens"
        )
    return Read(encoded(model, *own), "texts of its validation split")


def _of_file(options: argparse.Namespace, model: "Packaged") -> tuple[list[str], list[str] | None]:
    from effnlp.predict import TABLES, Columns, line_batches, table_batches

    if not options.file.is_file():
        raise ValueError(f"there is no file {options.file}")
    columns = Columns(options.column, options.pair_column if model.is_pair else None)
    batches = (
        table_batches(options.file, columns, 1024)
        if options.file.suffix.lower() in TABLES
        else line_batches(options.file, "lines", columns, 1024)
    )
    rows = [row for batch in batches for row in batch]
    return [text for text, _ in rows], [pair or "" for _, pair in rows] if model.is_pair else None


def table(runtime: Mapping[str, Any], size: int, texts: str, found: "Mapping[str, Measured]") -> list[str]:
    """The figures in lines, and what they were taken with."""
    versions = ", ".join(f"{name} {version}" for name, version in runtime["versions"].items())
    threads = f"{runtime['threads']} thread{'s' * (runtime['threads'] > 1)}"
    lines = [f"{runtime['runtime']} ({versions}), {threads}, {size / 1e6:.2f} MB; {texts}"]
    rows = [["scenario", *COLUMNS]]
    for name, measured in found.items():
        cells = []
        for key, factor in COLUMNS.values():
            value = measured.values.get(key)
            cells.append("-" if value is None else f"{value * factor:.4g}")
        rows.append([name, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    if any(measured.values.get("is_quiet") == 0 for measured in found.values()):
        lines.append("Other runs worked on this machine meanwhile")
    return lines


def _write(path: Path, about: dict[str, Any], size: int, found: "Mapping[str, Measured]") -> None:
    from effnlp.record import write_atomically

    values = {f"infer/{name}/{key}": v for name, one in found.items() for key, v in one.values.items()}
    absent = {f"infer/{name}/{key}": why for name, one in found.items() for key, why in one.absent.items()}
    content = {**about, "values": {"model/file_bytes": size, **values}, "absent": absent}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False))
