"""The sweep itself: makes the study, launches the workers, and ends with a measured frontier."""

import json
import logging
import os
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import filelock
import psutil
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from effnlp.compose import Composer, ConfigError, hydra_context
from effnlp.hardware.affinity import allowed_cpus
from effnlp.launch import is_of_the_launcher
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir, config_folders
from effnlp.record import write_atomically
from effnlp.report.units import direction
from effnlp.search.attributes import ATTEMPTS, FIRST, OVERRIDES, PAUSED, REASON, REJECTED, slots
from effnlp.search.budget import Budget, running, spent
from effnlp.search.constraints import parse_constraints, parse_reference
from effnlp.search.covering import covering_points
from effnlp.search.extend import differences, extend
from effnlp.search.ledger import RETRIED, judged_at_rungs, rung_objectives
from effnlp.search.live import live_view
from effnlp.search.samplers import LEARNS_ONLY_FROM_FINISHED
from effnlp.search.space import Space, parse
from effnlp.search.state import Sweep, frontier_slots, locked, open_study, parse_objectives, verify
from effnlp.search.transfer import Transfer, first_points_from, transfer_outcome
from effnlp.search.worker import DiskFullError, hopeless, settle
from effnlp.signals import term_is_interrupt
from effnlp.tracking.wandb import mirror_frontier

log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]
"""``launcher.launch``: overrides of each job, number of the first one."""

POINTS_TO_CHECK, POINTS_TO_CHECK_AT_LEAST, SECONDS_TO_CHECK = 60, 12, 5.0
"""How many points of a space are composed before anything runs, and for how long."""

LIMITS = ("hours", "kilowatt_hours", "flops", "labels")
"""Budgets beside trials."""


def own_keys(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of trials, and overrides of the search itself (and of Hydra), apart."""

    def is_search(override: str) -> bool:
        key = override.partition("=")[0].lstrip("+~")
        return key.startswith(("search.", "search/", "hydra.", "hydra/"))

    return [o for o in overrides if not is_search(o)], [o for o in overrides if is_search(o)]


def specify(config: DictConfig, overrides: Sequence[str], config_dir: Path | None) -> Sweep:
    """What the sweep is, from its config and what was typed.

    Raises:
        ConfigError: If objectives, budget, space, constraints or first points are not what they must be.
    """
    search: Any = OmegaConf.to_container(config.search, resolve=True)
    for key, least in (("workers", 1), ("seeds", 1), ("retries", 0)):
        value = search[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"search.{key} must be a whole number of at least {least}, got {value!r}")
    for key in ("time_limit_seconds", "memory_limit_bytes", "checkpoints_at_most", "lease_seconds"):
        value = search[key]
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or value <= 0
        ):
            raise ConfigError(f"search.{key} must be a number above 0 or null, got {value!r}")
    if search["replicate"] not in ("finished", "frontier"):
        raise ConfigError(f"search.replicate must be finished or frontier, got {search['replicate']!r}")
    limits = {key: search[key] for key in LIMITS}
    Budget(search["trials"], **limits)
    of_trials, _ = own_keys(overrides)
    space, fixed = parse(search["space"]["dimensions"], of_trials, config_folders(config_dir))
    first = first_points(search, space)
    objectives = parse_objectives(search["objectives"])
    refuse_unmeasured(objectives, config)
    parse_constraints(search["constraints"])
    workers = min(search["workers"], search["trials"])
    early_stopping = search["early_stopping"]
    is_typed = any(override.startswith("search/early_stopping=") for override in overrides)
    if search["space"].get("early_stopping") is False and not is_typed:
        early_stopping = None
    spec = Sweep(
        name=str(search["name"]),
        command=list(overrides),
        objectives=objectives,
        fixed=fixed,
        dimensions=[dict(d.__dict__) for d in space.dimensions],
        first=first,
        trials=search["trials"],
        workers=workers,
        threads=search["threads"] or max(1, len(allowed_cpus()) // workers),
        seeds=search["seeds"],
        seed=search["seed"],
        sampler=search["sampler"],
        test=bool(search["test"]),
        config_dir=str(config_dir.resolve()) if config_dir else None,
        session=uuid.uuid4().hex,
        parent=(os.getpid(), socket.gethostname()),
        study=str(search["name"]),
        limits=limits,
        replicate=search["replicate"],
        constraints=[str(constraint) for constraint in search["constraints"]],
        reference=parse_reference(search["reference"], objectives),
        early_stopping=early_stopping,
        storage=str(search["storage"]),
        retries=search["retries"],
        time_limit_seconds=search["time_limit_seconds"],
        memory_limit_bytes=None
        if search["memory_limit_bytes"] is None
        else int(search["memory_limit_bytes"]),
        lease_seconds=float(search["lease_seconds"] or 60.0),
        checkpoints_at_most=search["checkpoints_at_most"],
    )
    try:
        _ = spec.halving
    except Exception as error:  # Hydra wraps what the rule's constructor says
        raise ConfigError(f"search.early_stopping: {error.__cause__ or error}") from error
    return spec


def refuse_unmeasured(objectives: Iterable[str], config: DictConfig) -> None:
    """Say before the first trial that its quality would not be what the objectives are about.

    Raises:
        ConfigError: If an objective is of classes and none are scored; so for numbers, and for texts.
    """
    chosen = list(config.evaluation.quality)
    measured_by = {
        "val/accuracy": "classification", "val/pearson": "regression", "val/bits_per_byte": "language",
    }  # fmt: skip
    for key, measure in measured_by.items():
        if key in objectives and measure not in chosen and set(chosen) & set(measured_by.values()):
            other = next(key for key, name in measured_by.items() if name in chosen)
            raise ConfigError(
                f"search.objectives: {key} is measured by evaluation/quality={measure}, and the choice is "
                f"[{','.join(chosen)}]; {other}:{direction(other)[:3]} goes with it"
            )


def advise(spec: Sweep) -> list[str]:
    """What is allowed and unlikely to be meant, in words."""
    lines: list[str] = []
    if spec.halving is None:
        return lines
    able = rung_objectives(spec.objectives)
    left_out = [key for key in spec.objectives if key not in able]
    if not able:
        lines.append("no objective means anything before the end of a trial, so that none is stopped early")
    elif len([key for key in spec.objectives if judged_at_rungs(key)]) > len(able):
        lines.append(
            f"more than {len(able)} objectives: trials are stopped early by the first of them, {', '.join(able)}"
        )
    elif left_out:
        lines.append(f"trials are stopped early by {', '.join(able)}, and not by {', '.join(left_out)}")
    sampler = str(spec.sampler.get("_target_", ""))
    if sampler in LEARNS_ONLY_FROM_FINISHED:
        lines.append(
            f"{sampler.rpartition('.')[2]} learns only from finished trials, and early stopping leaves few: "
            "search/sampler=quasi_random or search/early_stopping=none goes better with it"
        )
    return lines


def first_points(search: Mapping[str, Any], space: Space) -> list[dict[str, str]]:
    """The points to try first: those of ``search.first`` or else those that the space itself brings.

    A point of the space that is about a dimension which the command line fixed is left out.

    Raises:
        ConfigError: If a point of ``search.first`` is not in the space.
    """
    given = [_as_typed(point) for point in search["first"]]
    for point in given:
        space.parameters(point)
    if given:
        return given
    found = []
    for point in map(_as_typed, search["space"].get("first", [])):
        try:
            space.parameters(point)
        except ConfigError as error:
            log.info("left out: %s", error)
        else:
            found.append(point)
    return found


def _as_typed(point: Any) -> dict[str, str]:
    if not isinstance(point, Mapping):
        raise ConfigError(f"search.first: a point is a mapping such as {{model: backbone}}, got {point!r}")
    return {str(key): str(value) for key, value in point.items()}


def check_space(space: Space, fixed: Sequence[str], config_dir: Path | None) -> tuple[int, Counter[str]]:
    """Compose points of the space before anything runs: every two choices together once, if time allows.

    Returns:
        How many of the points were legal, and the refusals of the others with their number; a refusal ends with
        the overrides of a point that it is about.

    Raises:
        ConfigError: If a point does not compose, or none of them is legal.
    """
    folders = [conf_dir()] + ([config_dir] if config_dir else [])
    legal, refusals, examples = 0, Counter[str](), dict[str, str]()
    end = time.monotonic() + SECONDS_TO_CHECK
    points = covering_points(space, POINTS_TO_CHECK)
    with hydra_context():
        compose = Composer(config_dir)
        for done, point in enumerate(points):
            if done >= POINTS_TO_CHECK_AT_LEAST and time.monotonic() > end:
                break
            overrides = [f"{key}={value}" for key, value in point.items()]
            composed = compose([*fixed, *overrides])
            try:
                check(composed.config, composed.chosen, folders)
                legal += 1
            except IllegalCombinationError as error:
                refusals[str(error)] += 1
                examples.setdefault(str(error), " ".join(overrides))
    named = Counter({f"{refusal} [{examples[refusal]}]": count for refusal, count in refusals.items()})
    if legal == 0:
        raise ConfigError(
            f"no legal point among {len(points)} of the space; for instance: {next(iter(named))}"
        )
    return legal, named


def sweep(config: DictConfig, overrides: Sequence[str], config_dir: Path | None, launch: Launch) -> int:
    """Run a sweep to its end and write its report.

    Returns:
        0; 1 if no trial completed.

    Raises:
        ConfigError: If the specification is wrong, or differs from that of the study in the folder.
    """
    spec = specify(config, overrides, config_dir)
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"{folder} is in use: this sweep runs already") from None
    with lock, term_is_interrupt():
        earlier = Sweep.load(folder) if (folder / "sweep.json").exists() else None
        extends = _refuse_or_extend(spec, earlier, folder, bool(config.search.extend))
        if earlier is not None and not extends:
            spec = replace(spec, study=earlier.study or spec.study)
        transfer = _warm_start(spec, config, earlier)
        if transfer is not None:
            spec = replace(spec, first=[*transfer.points, *spec.first], transfer=asdict(transfer))
        is_checked = earlier is not None and not extends
        checked = (0, Counter[str]()) if is_checked else check_space(spec.space, spec.fixed, config_dir)
        _announce(spec, folder, *checked)
        for line in advise(spec):
            log.warning("%s", line)
        if extends:
            assert earlier is not None
            with locked(folder, spec):
                spec = extend(spec, earlier, folder)
        study = open_study(folder, spec)
        spec.save(folder)
        (folder / "leases").mkdir(exist_ok=True)
        with locked(folder, spec):
            for point in spec.first:
                study.enqueue_trial(
                    spec.space.parameters(point), user_attrs={FIRST: True}, skip_if_exists=True
                )
        with running(folder, spec.session), live_view(folder, bool(config.search.live)):
            code = _phases(spec, folder, study, overrides, launch)
        _say_failures(study)
        if code:
            sys.stderr.write(f"no trial completed; each left its record and its log in {folder / 'trials'}\n")
            return code
        _summarise(folder, spec, study, transfer)
    return 0


def _phases(spec: Sweep, folder: Path, study: Any, overrides: Sequence[str], launch: Launch) -> int:
    """Trials, replicates and the last look at the frontier; 1 if there is none."""
    _launch_phase(launch, overrides, "trials", spec, study)
    settle(study, folder)
    if (why := hopeless(study, spec.session)) is not None:
        log.error("%s: no more are started, the rest of the budget is kept", why)
    if not frontier_slots(study, spec.objectives):
        return 1
    if spec.seeds > 1:
        _launch_phase(launch, overrides, "replicates", spec, study)
    _launch_phase(launch, overrides, "final", replace(spec, workers=1), study)
    return 0


def _launch_phase(launch: Launch, overrides: Sequence[str], phase: str, spec: Sweep, study: Any) -> None:
    """One launch of all workers; again as long as workers were lost and trials are left that they ran.

    Raises:
        Exception: What a worker raised, or its launcher if nothing had gone on since the launch before.
    """
    _, of_search = own_keys(overrides)
    kept = [o for o in of_search if not o.startswith(("search.worker=", "search.phase="))]
    jobs = [[*kept, f"search.worker={i}", f"search.phase={phase}"] for i in range(spec.workers)]
    progress = None
    while True:
        broken: BaseException | None = None
        try:
            for returned in launch(jobs, 0):
                _ = returned.return_value
        except (KeyboardInterrupt, DiskFullError, ConfigError):
            raise
        except Exception as error:
            if not is_of_the_launcher(error):
                raise
            broken = error
        if broken is None and not (phase == "trials" and _left_running(study)):
            return
        now = _progress(study)
        if now == progress:
            raise broken or RuntimeError("trials are left that no worker takes up")
        progress = now
        log.warning(
            "a worker was lost (%s); the others' trials go on with new ones", broken or "no word of why"
        )


def _left_running(study: Any) -> bool:
    return any(
        t.state == TrialState.RUNNING and t.user_attrs.get(PAUSED) is None for t in slots(study).values()
    )


def _progress(study: Any) -> tuple[int, ...]:
    """Something that changes whenever a trial goes on."""
    taken = slots(study).values()
    done = sum(t.state.is_finished() for t in taken)
    return (
        len(taken),
        done,
        sum(len(t.user_attrs) for t in taken),
        sum(len(t.user_attrs.get(ATTEMPTS, [])) for t in taken),
    )


def _refuse_or_extend(spec: Sweep, earlier: Sweep | None, folder: Path, extend: bool) -> bool:
    """Whether the study in the folder is to be extended.

    Raises:
        ConfigError: If it is of another search and nothing was said of extending it.
    """
    if earlier is None:
        return False
    changed = differences(earlier, spec)
    if not changed:
        return False
    if not extend:
        raise ConfigError(
            f"{folder} holds another search; " + "; ".join(changed)
            + ". Give this one a name of its own (search.name=…), use the old command, or let the study be"
            " extended to the new one (search.extend=true)"
        )  # fmt: skip
    for line in changed:
        log.info("extended: %s", line)
    return True


def _warm_start(spec: Sweep, config: DictConfig, earlier: Sweep | None) -> Transfer | None:
    """The top of another search's frontier, if it is asked for; what was taken once stands."""
    source = config.search.warm_start["from"]
    if source is None:
        return None
    if earlier is not None and earlier.transfer is not None and earlier.transfer["folder"] == str(source):
        return Transfer(**earlier.transfer)
    points = config.search.warm_start.points
    found = first_points_from(Path(str(source)), spec.space, spec.objectives, points)
    log.info("%d points from %s are tried first: %s", len(found.points), source, found.overlap)
    for line in found.left_out[:3]:
        log.info("  left out: %s", line)
    return found


def _announce(spec: Sweep, folder: Path, legal: int, refusals: Counter[str]) -> None:
    combinations = spec.space.combinations()
    size = "a continuum of points" if combinations is None else f"{combinations} points"
    log.info(
        "%s: %d trials over %s in %d dimensions, %d at once with %d thread(s) each; %s",
        spec.name, spec.trials, size, sum(d.varies for d in spec.space.dimensions), spec.workers, spec.threads, folder,
    )  # fmt: skip
    if refusals:
        total = legal + sum(refusals.values())
        log.info(
            "%d of %d points sampled are illegal and will be passed over:", sum(refusals.values()), total
        )
        for refusal, count in refusals.most_common(5):
            log.info("  %d x %s", count, refusal)


def _say_failures(study: Any) -> None:
    """A table of the classes of failures, on standard error, if a trial failed or was tried again."""
    taken = slots(study)
    failed = {n: t for n, t in taken.items() if t.state == TrialState.FAIL}
    by_class: dict[str, list[tuple[int, str]]] = {}
    for number, trial in failed.items():
        kind, _, message = str(trial.user_attrs.get(REASON, "unknown")).partition(": ")
        by_class.setdefault(kind, []).append((number, message.strip().partition("\n")[0]))
    lines = [f"{len(failed)} of {len(taken)} trials failed:"] if failed else []
    for kind, cases in sorted(by_class.items(), key=lambda entry: -len(entry[1])):
        number, message = cases[0]
        lines.append(f"  {len(cases):3d} x {kind:11}  trial {number:03d}: {message}")
    again = [
        (number, entry["why"])
        for number, trial in taken.items()
        for entry in trial.user_attrs.get(ATTEMPTS, [])
        if entry["how"] in RETRIED
    ]
    if again:
        number, why = again[0]
        lines.append(f"  {len(again):3d} x taken up again  trial {number:03d}: {why}")
    if lines:
        sys.stderr.write("\n".join(lines) + "\n")


def _summarise(folder: Path, spec: Sweep, study: Any, transfer: Transfer | None) -> None:
    """Add the outcome to ``sweep.json`` and write the report."""
    from rich.console import Console

    from effnlp.report.terminal import show
    from effnlp.report.write import write_report

    content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    used = spent(study, folder)
    content["outcome"] = {
        "trials": _states(study),
        "rejected_proposals": sum(REJECTED in t.user_attrs for t in study.get_trials(deepcopy=False)),
        "frontier": frontier_slots(study, spec.objectives),
        "spent": asdict(used),
        "ended_by": spec.budget.reached(used),
        "attempts": {
            f"{n:03d}": t.user_attrs[ATTEMPTS] for n, t in slots(study).items() if ATTEMPTS in t.user_attrs
        },
    }
    if spec.halving is not None:
        wrong = verify(study, spec)
        content["outcome"]["decisions_that_do_not_come_out_again"] = wrong
        for line in wrong[:3]:
            log.error("a decision does not come out again: %s", line)
    if transfer is not None:
        content["outcome"]["transfer"] = transfer_outcome(spec, study, transfer)
    content["wall_seconds"] = used.hours * 3600
    content["process_started"] = psutil.Process().create_time()  # both in seconds since 1970
    content["trials_ended"] = time.time()
    write_atomically(folder / "sweep.json", json.dumps(content, indent=1))
    mirror_frontier(folder, spec.objectives, _finished_rows(study, spec))
    files = write_report([folder])
    show(files.summary, Console())
    sys.stdout.write(f"\nreport    {files.page}\nfrontier  {files.frontier}\n")


def _finished_rows(study: Any, spec: Sweep) -> list[dict[str, Any]]:
    """A finished trial each: number, what it was, whether it is on the frontier, its objectives."""
    on = set(frontier_slots(study, spec.objectives))
    return [
        {
            "trial": number, "configuration": " ".join(t.user_attrs[OVERRIDES]), "is_on_frontier": number in on,
            **dict(zip(spec.objectives, t.values, strict=True)),
        }
        for number, t in slots(study).items() if t.state == TrialState.COMPLETE
    ]  # fmt: skip


def _states(study: Any) -> dict[str, int]:
    """How many trials ended how: complete, stopped, paused, fail."""
    names = {"PRUNED": "stopped", "RUNNING": "paused"}
    return dict(Counter(names.get(t.state.name, t.state.name.lower()) for t in slots(study).values()))
