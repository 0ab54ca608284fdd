"""Tab completion: verbs, then config groups, their choices and the keys of what is chosen."""

import argparse
from collections.abc import Iterable
from typing import Any

from effnlp.menu import choice_names, conf_dir, groups, read_choice


def overrides_starting(prefix: str, words: Iterable[str] = ()) -> list[str]:
    """Overrides that begin with ``prefix``: ``pe`` gives ``peft=``, ``peft=lo`` gives ``peft=lora``.

    Args:
        words: What is already on the line; ``peft=lora`` there makes ``peft.`` complete to its keys.
    """
    folders = [conf_dir()]
    every = groups(folders)
    key, equals, _ = prefix.partition("=")
    if equals:
        options = [f"{key}={name}" for name in choice_names(key, folders)] if key in every else []
    else:
        options = [f"{group}=" for group in every]
        options += [f"{path}=" for path in key_paths(dict(w.split("=", 1) for w in words if "=" in w))]
    return sorted(option for option in options if option.startswith(prefix))


def key_paths(typed: dict[str, str]) -> list[str]:
    """Dotted keys of the settings of every choice made, by default or on the line."""
    import yaml

    found = []
    top = yaml.load((conf_dir() / "run.yaml").read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    found += dotted({k: v for k, v in top.items() if k not in ("defaults", "hydra")})
    defaults = {k: v for entry in top["defaults"] if isinstance(entry, dict) for k, v in entry.items()}
    for group, default in defaults.items():
        names = typed.get(group, default)
        stacked = isinstance(default, list)
        for name in names if isinstance(names, list) else str(names).strip("[]").split(","):
            if name in choice_names(group, [conf_dir()]):
                package = group.replace("/", ".") + (f".{name}" if stacked else "")
                found += dotted(read_choice(group, name, [conf_dir()]).keys, package)
    return found


def dotted(keys: Any, package: str = "") -> list[str]:
    """Paths to the leaves of nested settings."""
    if not isinstance(keys, dict):
        return [package]
    return [p for k, v in keys.items() for p in dotted(v, f"{package}.{k}" if package else str(k))]


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit."""
    import argcomplete

    def overrides(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        return overrides_starting(prefix, getattr(parsed_args, "words", None) or ())

    for action in parser._subparsers._group_actions if parser._subparsers else []:
        for verb, sub in dict(action.choices or {}).items():
            words = sub.add_argument("words", nargs="*")
            if verb in ("run", "sweep", "check"):
                words.completer = overrides
            elif verb == "methods":
                words.completer = lambda prefix, **_: [
                    g for g in groups([conf_dir()]) if g.startswith(prefix)
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
    import sys

    import argcomplete

    sys.stdout.write(argcomplete.shellcode(["effnlp"], shell=options.shell) + "\n")
    return 0
