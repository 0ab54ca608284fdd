"""How long a user waits for the command itself: help, the menu, and a press of the Tab key.

    python benchmarks/startup.py

Each is a fresh process, timed from its start to its end, in turns with `python -c "import hydra"`, which is
the least that a Hydra application costs. Target: at most three times that.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tables import publish
from turns import compared

EFFNLP = str(Path(sys.executable).with_name("effnlp"))
REFERENCE = 'python -c "import hydra"'
TARGET_RATIO = 3.0

Command = tuple[list[str], Mapping[str, str], str]
"""Arguments, additions to the environment, and a word that the answer must contain."""


def tab_after(line: str, answer: str) -> Command:
    """A press of the Tab key as the shell hands it on (argcomplete's protocol); the answer on standard output."""
    environment = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\013",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    return [EFFNLP], environment, answer


COMMANDS: dict[str, Command] = {
    REFERENCE: ([sys.executable, "-c", "import hydra"], {}, ""),
    "effnlp --help": ([EFFNLP, "--help"], {}, "sweep"),
    "effnlp methods": ([EFFNLP, "methods"], {}, "lora"),
    "Tab: effnlp run pe": tab_after("effnlp run pe", "peft="),
    "Tab: effnlp run peft=lo": tab_after("effnlp run peft=lo", "lora"),
    "Tab: effnlp run peft=lora peft.ra": tab_after("effnlp run peft=lora peft.ra", "peft.rank="),
}


def seconds_of(command: Command) -> float:
    """Wall seconds of one process.

    Raises:
        RuntimeError: If it fails or does not answer what it should: its time would mean nothing.
    """
    arguments, environment, answer = command
    start = time.perf_counter()
    done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0 or answer not in done.stdout:
        raise RuntimeError(
            f"{arguments} answered {done.stdout!r} with code {done.returncode}: {done.stderr.strip()}"
        )
    return seconds


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21, help="turns of each command (default: %(default)s)")
    options = parser.parse_args()
    for command in COMMANDS.values():  # not counted: reads the files, writes bytecode
        seconds_of(command)
    rounds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, command in COMMANDS.items():
            rounds[name].append(seconds_of(command))
    publish(
        "startup",
        {
            "reference": REFERENCE,
            "target_ratio": TARGET_RATIO,
            "rounds": options.rounds,
            "commands": compared(rounds, REFERENCE),
        },
    )


if __name__ == "__main__":
    main()
