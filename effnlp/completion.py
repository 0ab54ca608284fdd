"""Tab completion: verbs, then config groups, their choices and the keys of what is chosen."""

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from effnlp.menu import choice_names, conf_dir, groups, read_choice, read_yaml

VERBS_OF_OVERRIDES = {"run": ("run",), "check": ("run",), "sweep": ("run", "sweep")}
"""Verbs that take overrides, and the configs at the top that they compose."""

VERBS_OF_OPTIONS = {
    "bench": "effnlp.bench",
    "compare": "effnlp.compare",
    "sync": "effnlp.tracking.sync",
    "carbon": "effnlp.carbon.command",
    "dashboard": "effnlp.dashboard.command",
    "delta": "effnlp.deltas",
    "export": "effnlp.export",
    "generate": "effnlp.generation.command",
    "pick": "effnlp.pick",
    "predict": "effnlp.predict",
    "reproduce": "effnlp.reproduce.command",
    "watch": "effnlp.watch",
}
"""Verbs with options of their own, and the modules that add them to a parser (``add_arguments``)."""


def overrides_starting(
    prefix: str,
    words: Iterable[str] = (),
    tops: Sequence[str] = ("run",),
    folders: Sequence[Path] | None = None,
) -> list[str]:
    """Overrides that begin with ``prefix``: ``pe`` gives ``peft=``, ``peft=lo`` gives ``peft=lora``.

    Args:
        words: What is already on the line; ``peft=lora`` there makes ``peft.`` complete to its keys.
        tops: The configs at the top: ``run``, and ``sweep`` for the keys of a search.
        folders: Where the configs lie; None: only ours.
    """
    folders = folders or [conf_dir()]
    every = groups(folders)
    key, equals, values = prefix.partition("=")
    if equals:
        before = values[: max(values.rfind(","), values.rfind("[")) + 1]  # of a list: peft=none,lo
        options = [f"{key}={before}{name}" for name in choice_names(key, folders)] if key in every else []
    else:
        typed = dict(word.split("=", 1) for word in words if "=" in word)
        options = [f"{group}=" for group in every]
        options += [f"{path}=" for top in tops for path in key_paths(typed, top, folders)]
    return sorted({option for option in options if option.startswith(prefix)})


def key_paths(typed: Mapping[str, str], top: str, folders: Sequence[Path]) -> list[str]:
    """Dotted keys of the settings of every choice made in ``run.yaml`` or so, by default or on the line."""
    content = read_yaml(conf_dir() / f"{top}.yaml")
    found = dotted({key: value for key, value in content.items() if key not in ("defaults", "hydra")})
    open_groups = [
        (str(group), default)
        for entry in content["defaults"]
        if isinstance(entry, dict)
        for group, default in entry.items()
    ]
    while open_groups:
        group, default = open_groups.pop()
        names = typed.get(group, default)
        for name in names if isinstance(names, list) else str(names).strip("[]").split(","):
            if name in choice_names(group, folders):
                choice = read_choice(group, name, folders)
                package = group.replace("/", ".") + (f".{name}" if isinstance(default, list) else "")
                found += dotted(choice.keys, package)
                open_groups += [
                    (part, it.split("+") if "+" in it else it) for part, it in choice.parts.items()
                ]
    return found


def dotted(keys: Any, package: str = "") -> list[str]:
    """Paths to the leaves of nested settings."""
    if not isinstance(keys, dict) or not keys:
        return [package] if package else []
    return [p for k, v in keys.items() for p in dotted(v, f"{package}.{k}" if package else str(k))]


def record_keys(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Keys of the first complete record below the folder on the line that begin with ``prefix``."""
    for folder, below, names in os.walk(getattr(parsed_args, "dir", None) or "."):
        below.sort()
        if "record.json" in names:
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(Path(folder, "record.json").read_text(encoding="utf-8"))
                if content.get("status") == "completed":
                    return sorted(key for key in content["values"] if key.startswith(prefix))
    return []


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit."""
    import argcomplete

    def own(parsed: argparse.Namespace) -> list[Path]:
        return [conf_dir()] + ([parsed.config_dir] if getattr(parsed, "config_dir", None) else [])

    def overrides(tops: Sequence[str]) -> Any:
        return lambda prefix, parsed_args, **_: overrides_starting(
            prefix, parsed_args.words or (), tops, own(parsed_args)
        )

    for action in parser._subparsers._group_actions if parser._subparsers else []:
        for verb, sub in dict(action.choices or {}).items():
            if verb in VERBS_OF_OPTIONS:
                importlib.import_module(VERBS_OF_OPTIONS[verb]).add_arguments(sub)
                for option in sub._actions:
                    if option.dest in ("max", "min", "best"):
                        option.completer = record_keys
                continue
            words: Any = sub.add_argument("words", nargs="*")
            if verb in (*VERBS_OF_OVERRIDES, "methods"):
                sub.add_argument("--config-dir", type=Path)
            if verb in ("run", "sweep"):
                sub.add_argument("-m", "--multirun", action="store_true")
            if verb in VERBS_OF_OVERRIDES:
                words.completer = overrides(VERBS_OF_OVERRIDES[verb])
            elif verb == "methods":
                words.completer = lambda prefix, parsed_args, **_: [
                    group for group in groups(own(parsed_args)) if group.startswith(prefix)
                ]
            elif verb == "report":
                words.completer = argcomplete.FilesCompleter()
    argcomplete.autocomplete(parser, always_complete_options=False, append_space=False)


def main(arguments: list[str]) -> int:
    """``effnlp completion [SHELL]``: print what the shell must evaluate."""
    parser = argparse.ArgumentParser(
        prog="effnlp completion",
        description="Print the code that switches tab completion on.",
        epilog='examples:\n  eval "$(effnlp completion bash)"\n  effnlp completion fish | source',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", nargs="?", default="bash", choices=["bash", "zsh", "fish", "tcsh"])
    options = parser.parse_args(arguments)
    import argcomplete

    sys.stdout.write(argcomplete.shellcode(["effnlp"], shell=options.shell) + "\n")
    return 0
