"""Weights & Biases: the same keys as in the record, kept offline in the run's folder or sent online.

Source: Biewald (2020), https://wandb.ai/site
"""

import contextlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from effnlp.record import COMPLETED, FAILED, Record

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
        self._folder = Path()
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
            "config": {**config, "choices": dict(choices)},
            "dir": str(folder),
        }
        self._folder = folder
        if self.mode == "online":
            if self._tried("going online", lambda: self._open(about, "online")):
                return
            self._tried("going offline", self._forget)
        self._tried("starting", lambda: self._open(about, "offline"))

    def log(self, values: Mapping[str, float], step: int, stage: str) -> None:
        """Add a point; each stage counts its own steps, under ``<stage>/step``."""
        if self._run is not None:
            self._ended_by_failure("logging", lambda: self._log(values, step, stage))

    def log_scatter(self, name: str, axes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a table of ``rows``, and a scatter of its first two ``axes`` with the second one across."""
        if self._run is not None:
            self._ended_by_failure("logging", lambda: self._log_scatter(name, axes, rows))

    def _log_scatter(self, name: str, axes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells: list[Any] = [[row.get(key) for key in columns] for row in rows]
        table = wandb.Table(columns=[*columns], data=cells)
        shown: dict[str, Any] = {name: table}
        if len(axes) > 1 and rows:
            shown[f"{name}_scatter"] = wandb.plot.scatter(
                table, x=axes[1], y=axes[0], title=f"{axes[0]} against {axes[1]}"
            )
        self._run.log(shown)

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
        if (table := predictions_table(self._folder, record)) is not None:
            self._run.log({"predictions": table})
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


PREDICTIONS = 200
"""Rows of the table of predictions, evenly spread over the validation split."""


def predictions_table(folder: Path, record: Record) -> Any:
    """What a completed run predicted on validation, as a table of W&B; None if it kept no predictions of classes."""
    from scipy.special import softmax

    from effnlp.evaluation.predictions import load_predictions
    from effnlp.evaluation.requests import spread

    try:
        predictions = load_predictions(folder)["val"]
    except (FileNotFoundError, KeyError):
        return None
    logits, labels = predictions
    if record.status != COMPLETED or logits.shape[1] < 2 or predictions.are_numbers:
        return None
    import wandb

    sure = softmax(logits, axis=1)
    names = record.notes.get("labels") or [str(index) for index in range(logits.shape[1])]
    columns = [
        "position",
        "label",
        "predicted",
        "is_correct",
        "probability_of_label",
        "probability_of_predicted",
    ]
    rows: list[Any] = []
    for row in spread(len(labels), PREDICTIONS):
        label, predicted = int(labels[row]), int(logits[row].argmax())
        rows.append([row, names[label], names[predicted], label == predicted,
                     float(sure[row, label]), float(sure[row, predicted])])  # fmt: skip
    return wandb.Table(columns=[*columns], data=rows)


def mirror_frontier(folder: Path, objectives: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """One more run in the group of a sweep whose trials are in W&B, of job type ``frontier``: a table and a scatter.

    Whatever fails is one warning in the log.

    Args:
        folder: Of the sweep; the run is kept below it and goes on under the same id where the sweep does.
        objectives: Record key to direction; the first is up the scatter, the second across.
        rows: A finished trial each: ``trial``, ``configuration``, ``is_on_frontier`` and a value of each objective.
    """
    settings = _tracking_of(folder)
    if settings is None:
        return
    identity = {"config_hash": f"frontier-{folder.name}", "seed_init": 0, "seed_order": 0}
    tracker = WandbTracker(**{"group": folder.name, **settings, "job_type": "frontier"})
    tracker.start(identity, {"objectives": dict(objectives)}, {}, folder)
    tracker.log_scatter("frontier", list(objectives), rows)
    done = Record(COMPLETED, identity)
    done.put(
        {"frontier/size": sum(bool(row["is_on_frontier"]) for row in rows), "frontier/trials": len(rows)}
    )
    tracker.finish(done)


def _tracking_of(folder: Path) -> dict[str, Any] | None:
    """Settings of the tracker of a sweep's trials, if that is W&B."""
    for path in sorted(folder.glob("trials/*/record.json")):
        with contextlib.suppress(ValueError):
            tracking = Record.load(path.parent).config.get("tracking") or {}
            if str(tracking.get("_target_", "")).endswith(".WandbTracker"):
                return {key: value for key, value in tracking.items() if key[0] != "_" and value is not None}
            if tracking:
                return None
    return None


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
