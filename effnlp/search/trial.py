"""One trial in a process of its own: compose its overrides, run, leave the record in its folder."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from effnlp.compose import Composed, compose, hydra_context
from effnlp.search.children import end_with_parent


def compose_trial(overrides: Sequence[str], config_dir: Path | None) -> Composed:
    """The config of a trial."""
    with hydra_context():
        return compose(overrides, config_dir)


def run_trial(overrides: Sequence[str], folder: Path, config_dir: Path | None) -> None:
    """What a child process does. What it says goes to ``output.log`` of its folder."""
    from effnlp.run import run  # not above: a worker only names this function, and need not load torch

    end_with_parent()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.log").open("a", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        composed = compose_trial(overrides, config_dir)
        record = run(composed.config, composed.chosen, folder, overrides, config_dir)
    sys.exit(0 if record.status == "completed" else 1)
