"""``effnlp watch``: look at a sweep from another terminal, while it runs or after."""

import argparse
import glob
import sys
import threading
import time
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  effnlp watch multirun/quickstart
  effnlp watch quickstart              the sweep of that name below multirun/
  effnlp watch quickstart --once       print where it stands and end

Shows workers, frontier, budgets, failures and the estimated end, drawn again every second, until the sweep is
over or Ctrl-C is typed; neither does anything to the sweep. Where the output is no terminal, it is printed once.
"""


def parser() -> argparse.ArgumentParser:
    """What the verb understands."""
    made = argparse.ArgumentParser(
        prog="effnlp watch",
        description="Show where a sweep stands, while it runs or after.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of the verb, for its parser and for completion."""
    folder: Any = made.add_argument(
        "folder", metavar="DIR", help="folder of a sweep, or the name of one below multirun/"
    )
    folder.completer = sweeps_starting
    made.add_argument("--once", action="store_true", help="print where the sweep stands and end")


def sweeps_starting(prefix: str, **_: Any) -> list[str]:
    """Names of sweeps below ``multirun``, and folders, that begin so: for completion."""
    names = [path.parent.name for path in Path("multirun").glob(f"{glob.escape(prefix)}*/sweep.json")]
    folders = [f"{path}/" for path in map(Path, glob.glob(f"{glob.escape(prefix)}*")) if path.is_dir()]
    return sorted(names + folders)


def main(arguments: list[str]) -> int:
    """Run the verb; the exit code is 2, with one line that says why, where there is no sweep."""
    options = parser().parse_args(arguments)
    # Imported late, so that help and completion stay quick.
    from rich.console import Console

    from effnlp.search.live import LINE_ROWS, frame, show_live
    from effnlp.search.status import latest_lines, read_state

    try:
        folder = sweep_folder(options.folder, Path("multirun"))
        state = read_state(folder, time.time())
    except (ValueError, OSError) as error:
        sys.stderr.write(f"effnlp watch: {error}\n")
        return 2
    console = Console()
    if options.once or state.status != "running" or not console.is_terminal or console.is_dumb_terminal:
        lines = latest_lines(folder, LINE_ROWS)
        every_row = 1000  # what is printed once may be as long as it is
        console.print(frame(state, time.time(), console.width, every_row, lines))
        return 0
    over = threading.Event()
    try:
        show_live(folder, over, console, with_lines=True, transient=False, until_over=True)
    except KeyboardInterrupt:
        console.print("The sweep goes on; the same command shows it again.", style="dim")
    return 0


def sweep_folder(typed: str, multirun: Path) -> Path:
    """The folder of a sweep that was typed as a path, or as its name below ``multirun``.

    Raises:
        ValueError: If there is none; the message names sweeps that are there.
    """
    from effnlp.menu import suggest

    for folder in (Path(typed), multirun / typed):
        if (folder / "sweep.json").is_file():
            return folder
    known = sorted(path.parent.name for path in multirun.glob("*/sweep.json"))
    raise ValueError(f"{typed} is not the folder of a sweep: it has no sweep.json{suggest(typed, known)}")
