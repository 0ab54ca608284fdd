# PYTHON_ARGCOMPLETE_OK
"""The command ``effnlp``: finds the verb and hands the rest to it. Imports nothing heavy itself."""

import argparse
import importlib
import os
import sys

from effnlp import __version__

VERBS = {
    "run": ("effnlp.launch", "run", "one run: train, compress, measure, record"),
    "sweep": ("effnlp.launch", "sweep", "search the Pareto frontier over choices of methods"),
    "watch": (
        "effnlp.watch",
        "main",
        "where a sweep stands: workers, frontier, budget, failures, estimated end",
    ),
    "report": ("effnlp.report.command", "main", "frontier of runs and sweeps: terminal, CSV, HTML"),
    "dashboard": (
        "effnlp.dashboard.command",
        "main",
        "a page over all runs of a folder, live, on this machine",
    ),
    "compare": ("effnlp.compare", "main", "better, worse or undecided: differences with intervals"),
    "pick": ("effnlp.pick", "main", "the best configuration within limits, as a folder with its model"),
    "predict": ("effnlp.predict", "main", "label texts with a model that was picked"),
    "generate": ("effnlp.generation.command", "main", "continue texts with a language model"),
    "export": ("effnlp.export", "main", "a model as a folder that runs without effnlp: torch or ONNX"),
    "bench": ("effnlp.bench", "main", "latency, throughput and size of a model as it is deployed"),
    "delta": ("effnlp.deltas", "main", "what a run adds to its frozen base: show it, export it"),
    "reproduce": (
        "effnlp.reproduce.command",
        "main",
        "tables of papers again, and a verdict on each claim",
    ),
    "carbon": ("effnlp.carbon.command", "main", "carbon and money of runs for any region and time"),
    "methods": ("effnlp.menu", "main", "every choice: what it does, its paper, what it needs"),
    "check": ("effnlp.check", "main", "compose and check a config, print its plan, run nothing"),
    "doctor": ("effnlp.doctor", "main", "what this machine can do"),
    "sync": ("effnlp.tracking.sync", "main", "send the W&B runs that were kept offline, each once"),
    "completion": ("effnlp.completion", "main", "print the line that switches tab completion on"),
}

DESCRIPTION = """The laboratory for efficient NLP: which combination of efficient methods gives the most
quality for what you can spend? Answers with a measured Pareto frontier."""

EXAMPLES = """examples:
  effnlp run task=sst2 model=pretrained model.name=minilm peft=lora
  effnlp sweep search/space=quickstart search.trials=16 search.workers=2
  effnlp watch quickstart
  effnlp report multirun/quickstart
  effnlp pick multirun/quickstart --max model/bytes=2e6
  effnlp reproduce --all --layer analytic
  effnlp methods compression
  effnlp check model=pretrained model/mixer=performer

Each verb has its own --help."""


def parser() -> argparse.ArgumentParser:
    """The top-level parser; each verb parses its own arguments."""
    top = argparse.ArgumentParser(
        prog="effnlp",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"effnlp {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for verb, (_, _, summary) in VERBS.items():
        verbs.add_parser(verb, help=summary, add_help=False)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    if "_ARGCOMPLETE" in os.environ:
        from effnlp.completion import complete

        complete(parser())
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0].startswith("-"):
        parser().parse_args(words)
        parser().print_help()
        return 2
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        from effnlp.menu import suggest

        sys.stderr.write(f"effnlp: there is no verb {verb!r}{suggest(verb, list(VERBS))}\n")
        return 2
    module, function, _ = VERBS[verb]
    try:
        return int(getattr(importlib.import_module(module), function)(rest) or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
