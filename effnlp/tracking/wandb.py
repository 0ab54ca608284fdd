"""Weights & Biases: the same keys as in the record, kept offline in the run's folder or sent online.

Source: Biewald (2020), https://wandb.ai/site
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from effnlp.record import FAILED, Record

log = logging.getLogger(__name__)

NO_TAG = ("task", "trainer", "tracking", "meter", "search")
"""Groups, with all below them, whose choices are no method and so no tag."""

Mode = Literal["offline", "online"]

LONGEST_TAG = 64

MAIN_STAGE = "finetuning"
"""The stage whose curves keep their keys; those of others get the stage in front, so that none mix."""

PATIENCE_SECONDS = 30.0
"""How long an online run waits for the server at its start and, with the last data, at its end."""


class WandbTracker:
    """Mirrors a run to W&B. Whatever fails there is one warning in the log, and the run goes on without it.

    Args:
        mode: ``offline`` keeps everything in ``<run>/wandb`` for ``wandb sync``; ``online`` sends it. Where
            going online fails, the run is kept offline.
        project: Of W&B.
        entity: User or team of W&B; None is the default of the login.
        group: None groups the runs of a sweep under its name and leaves single runs alone.
        job_type: None says ``trial`` or ``replicate`` in a sweep and ``run`` outside.

    Raises:
        ValueError: If ``mode`` is another.
    """

    def __init__(
        self,
        mode: Mode = "offline",
        project: str = "effnlp",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ValueError(
                f"mode must be 'offline' or 'online', got {mode!r}; tracking=files goes without W&B"
            )
        self.mode: Mode = mode
        self.project = project
        self.entity = entity
        self.group = group
        self.job_type = job_type
        self._run: Any = None
        self._bound: set[str] = set()

    def start(
        self, identity: Mapping[str, Any], config: Mapping[str, Any], choices: Mapping[str, str], folder: Path
    ) -> None:
        """Open the run of this config and seeds; one that was interrupted goes on under the same id."""
        group, job_type = place_of(folder)
        about = {
            "project": self.project,
            "entity": self.entity,
            "group": self.group or group,
            "job_type": self.job_type or job_type,
            "id": run_id(identity),
            "name": run_id(identity),
            "tags": tags(choices),
            "config": dict(config),
            "dir": str(folder),
        }
        if self.mode == "online":
            if self._tried("going online", lambda: self._open(about, "online")):
                return
            self._tried("going offline", self._forget)
        self._tried("starting", lambda: self._open(about, "offline"))

    def log(self, values: Mapping[str, float], step: int, stage: str) -> None:
        """Add a point; each stage counts its own steps, under ``<stage>/step``."""
        if self._run is not None:
            self._ended_by_failure("logging", lambda: self._log(values, step, stage))

    def finish(self, record: Record) -> None:
        """Make the record's values the run's summary and close it."""
        if self._run is not None:
            self._ended_by_failure("finishing", lambda: self._finish(record))
            self._run = None

    def _open(self, about: dict[str, Any], mode: Mode) -> None:
        import wandb  # an outage of it, or its absence, must not fail a run

        wandb.setup(wandb.Settings(silent=True))
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ConnectionError("no login for W&B on this machine; run `wandb login` once")
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            init_timeout=PATIENCE_SECONDS,
            finish_timeout=PATIENCE_SECONDS,
            # The record says what the machine is; a sampler of it in the background would cost the meters.
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        # An offline run cannot be taken up; it has the same id, so syncing both parts joins them.
        resume: Literal["allow"] | None = "allow" if mode == "online" else None
        self._run = wandb.init(**about, mode=mode, resume=resume, reinit="create_new", settings=settings)
        self._bound = set()

    def _forget(self) -> None:
        import wandb

        wandb.teardown()  # else its service says that the id of the failed attempt is in use

    def _log(self, values: Mapping[str, float], step: int, stage: str) -> None:
        counter = f"{stage}/step"
        if counter not in self._bound:
            self._run.define_metric(counter, summary="none", hidden=True)
            self._bound.add(counter)
        point: dict[str, float] = {counter: step}
        for key, value in values.items():
            if math.isfinite(value):
                name = key if stage == MAIN_STAGE or key.startswith(f"{stage}/") else f"{stage}/{key}"
                if name not in self._bound:
                    # The summary is the record's alone, not the last point of a curve.
                    self._run.define_metric(name, step_metric=counter, summary="none")
                    self._bound.add(name)
                point[name] = value
        self._run.log(point)

    def _finish(self, record: Record) -> None:
        said = {"status": record.status, "reason": record.reason, "message": record.message}
        self._run.summary.update({**record.values, **{key: word for key, word in said.items() if word}})
        self._run.finish(exit_code=1 if record.status == FAILED else 0)

    def _ended_by_failure(self, doing: str, act: Callable[[], None]) -> None:
        if not self._tried(doing, act):
            self._run = None

    def _tried(self, doing: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:
            log.warning(
                "W&B failed while %s (%s: %s); the run goes on and its own files are whole. %s",
                doing,
                type(error).__name__,
                " ".join(str(error).split()),
                advice(error),
            )
            return False
        return True


def advice(error: Exception) -> str:
    """What a user can do about a failure of W&B."""
    if isinstance(error, ImportError):
        return "To have W&B, `pip install wandb`; to go without, choose tracking=files."
    return "To try again later, `wandb sync` the run's folder wandb/; to go without, choose tracking=files."


def run_id(identity: Mapping[str, Any]) -> str:
    """The id of a run: the same whenever and wherever the same config runs with the same seeds."""
    parts = [f"{identity['config_hash']}", f"i{identity.get('seed_init')}", f"o{identity.get('seed_order')}"]
    return re.sub(r"[^\w-]", "_", "-".join(parts))


def tags(choices: Mapping[str, str]) -> list[str]:
    """Names of the methods chosen, those of a stack one by one, without ``none``."""
    methods = [
        method
        for group, choice in choices.items()
        if group.split("/")[0] not in NO_TAG
        for method in str(choice).split("+")
    ]
    return [method[:LONGEST_TAG] for method in dict.fromkeys(methods) if method not in ("none", "")]


def place_of(folder: Path) -> tuple[str | None, str]:
    """Name of the sweep that a run's folder lies in (None: in none) and what the run is there.

    A sweep's folder holds ``sweep.json``; below it, ``trials/003`` is a trial, ``trials/003-s1`` a replicate.
    """
    folder = folder.resolve()
    for above in folder.parents[:2]:
        if (above / "sweep.json").exists():
            return above.name, "replicate" if re.search(r"-s\d+$", folder.name) else "trial"
    return None, "run"
