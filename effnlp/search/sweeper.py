"""The sweep itself: makes the study, launches the workers, and ends with a measured frontier."""

import logging
import os
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import psutil
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from effnlp.compose import ConfigError, compose, hydra_context
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir
from effnlp.record import write_atomically
from effnlp.search.space import Space, parse
from effnlp.search.state import (
    FIRST,
    REASON,
    REJECTED,
    Sweep,
    frontier_slots,
    open_study,
    parse_objectives,
    slots,
)
from effnlp.signals import term_is_interrupt

log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]
"""``launcher.launch``: overrides of each job, number of the first one."""

SAMPLES_TO_CHECK = 20


def own_keys(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of trials, and overrides of the search itself (and of Hydra), apart."""

    def is_search(override: str) -> bool:
        key = override.partition("=")[0].lstrip("+~")
        return key.startswith(("search.", "search/", "hydra.", "hydra/"))

    return [o for o in overrides if not is_search(o)], [o for o in overrides if is_search(o)]


def specify(config: DictConfig, overrides: Sequence[str], config_dir: Path | None) -> Sweep:
    """What the sweep is, from its config and what was typed.

    Raises:
        ConfigError: If objectives, budget, space or first points are not what they must be.
    """
    search: Any = OmegaConf.to_container(config.search, resolve=True)
    for key, least in (("trials", 1), ("workers", 1), ("seeds", 1)):
        if not isinstance(search[key], int) or search[key] < least:
            raise ConfigError(f"search.{key} must be a whole number of at least {least}, got {search[key]!r}")
    of_trials, _ = own_keys(overrides)
    space, fixed = parse(search["space"]["dimensions"], of_trials)
    first = first_points(search, space)
    workers = min(search["workers"], search["trials"])
    return Sweep(
        name=str(search["name"]),
        command=list(overrides),
        objectives=parse_objectives(search["objectives"]),
        fixed=fixed,
        dimensions=[dict(d.__dict__) for d in space.dimensions],
        first=first,
        trials=search["trials"],
        workers=workers,
        threads=search["threads"] or max(1, (os.cpu_count() or 1) // workers),
        seeds=search["seeds"],
        seed=search["seed"],
        sampler=search["sampler"],
        test=bool(search["test"]),
        config_dir=str(config_dir.resolve()) if config_dir else None,
        session=uuid.uuid4().hex,
        parent=(os.getpid(), socket.gethostname()),
    )


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
    """Compose random points of the space before anything runs.

    Returns:
        How many of the points were legal, and the refusals of the others with their number.

    Raises:
        ConfigError: If a point does not compose, or none of them is legal.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    folders = [conf_dir()] + ([config_dir] if config_dir else [])
    legal, refusals = 0, Counter[str]()
    chosen = {d.key for d in space.dimensions if d.choices}
    seen: set[tuple[str, ...]] = set()
    with hydra_context():
        for _ in range(SAMPLES_TO_CHECK):
            point = space.sample(study.ask())
            choices = tuple(f"{key}={value}" for key, value in point.items() if key in chosen)
            if choices in seen:  # legality does not hang on numbers
                continue
            seen.add(choices)
            composed = compose([*fixed, *(f"{key}={value}" for key, value in point.items())], config_dir)
            try:
                check(composed.config, composed.chosen, folders)
                legal += 1
            except IllegalCombinationError as error:
                refusals[str(error)] += 1
    if legal == 0:
        raise ConfigError(
            f"no legal point among {len(seen)} of the space; for instance: {next(iter(refusals))}"
        )
    return legal, refusals


def sweep(config: DictConfig, overrides: Sequence[str], config_dir: Path | None, launch: Launch) -> int:
    """Run a sweep to its end and write its report.

    Returns:
        0; 1 if no trial completed.

    Raises:
        ConfigError: If the specification is wrong, or differs from that of the study in the folder.
    """
    start = time.monotonic()
    spec = specify(config, overrides, config_dir)
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"{folder} is in use: this sweep runs already") from None
    with lock, term_is_interrupt():
        if (folder / "sweep.json").exists():
            changed = spec.differences(Sweep.load(folder))
            if changed:
                raise ConfigError(
                    f"{folder} holds another search; " + "; ".join(changed)
                    + ". Give this one a name of its own (search.name=…) or use the old command"
                )  # fmt: skip
        legal, refusals = check_space(spec.space, spec.fixed, config_dir)
        _announce(spec, folder, legal, refusals)
        spec.save(folder)
        study = open_study(folder, spec)
        for point in spec.first:
            study.enqueue_trial(spec.space.parameters(point), user_attrs={FIRST: True}, skip_if_exists=True)
        _launch_phase(launch, overrides, "trials", spec.workers)
        frontier = frontier_slots(study, spec.objectives)
        if not frontier:
            _say_failures(study)
            sys.stderr.write(f"no trial completed; each left its record and its log in {folder / 'trials'}\n")
            return 1
        if spec.seeds > 1:
            _launch_phase(launch, overrides, "replicates", spec.workers)
        _launch_phase(launch, overrides, "final", 1)
        _say_failures(study)
        _summarise(folder, spec, study, time.monotonic() - start)
    return 0


def _launch_phase(launch: Launch, overrides: Sequence[str], phase: str, workers: int) -> None:
    """One launch of all workers; raises what one of them raised."""
    _, of_search = own_keys(overrides)
    kept = [o for o in of_search if not o.startswith(("search.worker=", "search.phase="))]
    jobs = [[*kept, f"search.worker={i}", f"search.phase={phase}"] for i in range(workers)]
    for returned in launch(jobs, 0):
        _ = returned.return_value


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
    """A table of reasons, on standard error, if a trial failed."""
    failed = {n: t for n, t in sorted(slots(study).items()) if t.state == TrialState.FAIL}
    if not failed:
        return
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for number, trial in failed.items():
        kind, _, message = str(trial.user_attrs.get(REASON, "unknown")).partition(": ")
        by_kind.setdefault(kind, []).append((number, message.strip().partition("\n")[0]))
    lines = [f"{len(failed)} of {len(slots(study))} trials failed:"]
    for kind, cases in sorted(by_kind.items(), key=lambda entry: -len(entry[1])):
        number, message = cases[0]
        lines.append(f"  {len(cases):3d} x {kind:11}  trial {number:03d}: {message}")
    sys.stderr.write("\n".join(lines) + "\n")


def _summarise(folder: Path, spec: Sweep, study: Any, seconds: float) -> None:
    """Add the outcome to ``sweep.json`` and write the report."""
    import json

    from rich.console import Console

    from effnlp.report.terminal import show
    from effnlp.report.write import write_report

    content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    states = Counter(t.state.name.lower() for t in slots(study).values())
    rejected = sum(REJECTED in t.user_attrs for t in study.get_trials(deepcopy=False))
    content["outcome"] = {
        "trials": dict(states),
        "rejected_proposals": rejected,
        "frontier": frontier_slots(study, spec.objectives),
    }
    content["wall_seconds"] = seconds
    content["process_started"] = psutil.Process().create_time()  # both in seconds since 1970
    content["trials_ended"] = time.time()
    write_atomically(folder / "sweep.json", json.dumps(content, indent=1))
    files = write_report([folder])
    show(files.summary, Console())
    sys.stdout.write(f"\nreport    {files.page}\nfrontier  {files.frontier}\n")
