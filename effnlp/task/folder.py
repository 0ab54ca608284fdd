"""A folder of data: one folder a data set, with ``dataset.json`` and the files that it names."""

import hashlib
import json
from pathlib import Path
from typing import Any

from effnlp.task.reader import near


def sets_in(root: str) -> list[str]:
    """Names of the data sets that the folder ``root`` has."""
    return sorted(path.parent.name for path in Path(root).expanduser().glob("*/dataset.json"))


def describe(root: str, name: str, advice: str = "") -> dict[str, Any]:
    """What ``dataset.json`` of a data set says.

    Args:
        advice: What can be done where the folder does not have it; ends the message.

    Raises:
        FileNotFoundError: If the folder does not have the data set; with what it has.
        ValueError: If the description is damaged.
    """
    file = Path(root).expanduser() / name / "dataset.json"
    if not file.is_file():
        there = sets_in(root)
        listed = f"it has {', '.join(there)}" if there else "it has no data set at all"
        raise FileNotFoundError(
            f"the data folder {root} has no data set {name!r} (no {file}){near(name, there)}; {listed}{advice}"
        )
    try:
        described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: it is not JSON ({error})") from error
    return described


def verify(file: Path, recorded: str) -> None:
    """See to it that a file is the one that ``dataset.json`` records.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If its SHA-256 is not ``recorded``.
    """
    if sha256(file) != recorded:
        raise ValueError(
            f"{file} is damaged: its SHA-256 is not the one that dataset.json records; copy it again"
        )


def sha256(file: Path) -> str:
    """SHA-256 of a file that ``dataset.json`` names, in hex digits.

    Raises:
        FileNotFoundError: If it is not there.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}, which dataset.json names")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
