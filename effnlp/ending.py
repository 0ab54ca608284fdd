"""How a run ends: completed, stopped or paused at a rung, or failed with its reason."""

import errno
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException

from effnlp.attempt import Attempt
from effnlp.model.delta import FILE as DELTA
from effnlp.model.delta import Delta
from effnlp.model.storage import Deployed
from effnlp.provenance import now
from effnlp.record import COMPLETED, FAILED, PAUSED, STOPPED, Events, Record, headline
from effnlp.search.rungs import Rung, Verdict

log = logging.getLogger(__name__)


def complete(
    deployed: Deployed, config: Mapping[str, Any], attempt: Attempt, delta: Delta | None = None
) -> Record:
    """Write everything down: the model and its delta, then the record, then what the tracker wants."""
    record, folder = attempt.record, attempt.folder
    record.status, record.reason, record.message = COMPLETED, None, None
    record.identity["finished"] = now()
    if config["keep_model"]:
        deployed.model.to("cpu")
        deployed.save(folder / "deployed.pt")
        if delta is not None:
            delta.write(folder / DELTA)
    record.save(folder)
    quality = headline(record.values)
    attempt.events.add(
        "completed", **({quality.removeprefix("val/"): record.values[quality]} if quality else {})
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "traceback.txt").unlink(missing_ok=True)
    said = f"{quality} {record.values[quality]:.4f}, " if quality else ""
    log.info("%s%s", said, folder / "record.json")
    return record


def end_at_rung(record: Record, folder: Path, rung: Rung, verdict: Verdict) -> Record:
    """The record of a run that was told to stop, or the unwritten one of a run that was told to pause."""
    record.status = STOPPED if verdict.word == "stop" else PAUSED
    record.reason, record.message = record.status, verdict.sentence
    record.put({**rung.values, "train/steps": rung.step})
    record.notes["rung"] = {name: getattr(rung, name) for name in ("index", "level", "step", "steps")}
    record.identity["finished"] = now()
    try:
        if record.status == STOPPED:
            record.save(folder)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        else:
            (folder / "record.json").unlink(
                missing_ok=True
            )  # of an attempt that failed: this one has not ended
        (folder / "traceback.txt").unlink(missing_ok=True)
        Events(folder).add(record.status, message=verdict.sentence)
    except OSError as error:
        return fail(record, folder, reason_of(error), str(error))
    log.info("%s at step %d of %d: %s", record.status, rung.step, rung.steps, verdict.sentence)
    return record


MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "cannot allocate memory")
"""How torch and the system say in other exceptions than MemoryError that there is no more."""


def reason_of(error: BaseException) -> str:
    """``disk``, ``oom`` or ``error``, by the exception and those that led to it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk"
        out = isinstance(found, OSError) and found.errno == errno.ENOMEM
        if out or isinstance(found, (MemoryError, torch.OutOfMemoryError)):
            return "oom"
        if any(words in str(found).lower() for words in MEMORY):
            return "oom"
        found = found.__cause__ or found.__context__
    return "error"


def message_of(error: BaseException) -> str:
    """What to say of an exception: where a config was to be made, what its target said."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def fail(record: Record, folder: Path, reason: str, message: str, trace: str | None = None) -> Record:
    record.status, record.reason, record.message = FAILED, reason, message
    log.error("failed (%s): %s", reason, message)
    try:
        if trace:
            (folder / "traceback.txt").write_text(trace, encoding="utf-8")
        record.identity["finished"] = now()
        record.save(folder)
        Events(folder).add("failed", reason=reason, message=message)
    except OSError as error:
        log.error("the record of the failure could not be written to %s: %s", folder, error)
    return record
