"""Workers, launched by a Hydra launcher: on this machine, by Ray or by SLURM."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from effnlp.compose import ConfigError, explain, hydra_context
from effnlp.menu import conf_dir
from effnlp.reproduce.session import Session

LAUNCHER = "one_machine"

Launch = Callable[[Session, str], None]
"""Start the workers of a session by a launcher, and wait for them."""


def launch_workers(session: Session, launcher: str) -> None:
    """One launch of all workers of the session; waits for them.

    Raises:
        Exception: What a worker raised, or its launcher.
    """
    from hydra.core.global_hydra import GlobalHydra

    from effnlp.reproduce.worker import job

    with hydra_context(), _logging_as_before():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.multirun(
            "reproduce", job, _overrides(launcher, session.folder, session.workers, session.threads)
        )


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """Launchers configure the logging of the process that calls them, too."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def check_launcher(launcher: str) -> None:
    """Compose what the workers are launched with, before anything is done.

    Raises:
        ConfigError: If there is no such launcher, or its package is not installed.
    """
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    overrides = [
        override for override in _overrides(launcher, Path(), 1, 1) if not override.startswith("worker=")
    ]
    with hydra_context():
        try:
            compose("reproduce", overrides=overrides, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(f"--launcher: {explain(str(error), overrides, [conf_dir()])}") from error


def _overrides(launcher: str, folder: Path, workers: int, threads: int) -> list[str]:
    from hydra.core.override_parser.types import Quote, QuotedString

    quoted = QuotedString(str(folder.absolute()), Quote.single).with_quotes()
    return [
        f"hydra/launcher={launcher}",
        f"session={quoted}",
        f"search.workers={workers}",
        f"search.threads={threads}",
        f"worker={','.join(map(str, range(workers)))}",
    ]
