"""Where results lie: the committed ones beside the experiments, those of this machine below the outputs."""

import logging
from pathlib import Path

from effnlp.reproduce.read import experiments_dir
from effnlp.reproduce.result import Result

log = logging.getLogger(__name__)

INTO = Path("outputs/reproduce")


def committed_path(experiment: str, layer: str) -> Path:
    """Of a result that was published."""
    return experiments_dir() / "results" / f"{experiment}.{layer}.json"


def committed(experiment: str, layer: str) -> Result | None:
    """The result that was published; None if there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    path = committed_path(experiment, layer)
    return Result.load(path) if path.exists() else None


def earlier(experiment: str, layer: str, into: Path) -> Result | None:
    """What a new result is held against: the published one, or else that of the last time below ``into``.

    Raises:
        ValueError: If the published one is damaged; one of the last time that is damaged is passed over.
    """
    published = committed(experiment, layer)
    path = into / experiment / layer / "result.json"
    if published is not None or not path.exists():
        return published
    try:
        return Result.load(path)
    except ValueError as error:
        log.warning("%s; nothing is compared with it", error)
        return None
