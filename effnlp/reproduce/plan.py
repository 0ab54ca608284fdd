"""Which runs a layer needs, where they lie, and which of them are done.

A run is composed as ``effnlp run`` composes it, and lies where that puts it. So whatever is there of the same
config, seeds, texts and evaluator is used again, whoever made it: another experiment, a row of this one, a hand.
"""

import functools
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effnlp.compose import (
    Composed,
    Composer,
    ConfigError,
    bind_all,
    hydra_context,
    refuse_contradictions,
)
from effnlp.identity import config_hash
from effnlp.legality import check
from effnlp.menu import conf_dir, suggest
from effnlp.record import COMPLETED, EVALUATOR, Record
from effnlp.reproduce.experiment import Experiment, Layer
from effnlp.reproduce.seeds import seed_name
from effnlp.reproduce.versions import other_versions

NOT_OF_A_ROW = ("seed.", "search.", "search/", "hydra.", "hydra/")
"""Beginnings of overrides that a row cannot have: seeds are the layer's, the others are no part of a run."""

FOLDER_OF = re.compile(r"@\{([^{}]*)\}")
"""In an override of a row, what stands for the folder of the run of another row with the same seeds."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of ``effnlp run``.

    Attributes:
        overrides: Those of the row with the seeds, as one would type them.
        folder: Where it lies, absolute.
        group: The experiment that asked for it first.
        name: For a reader: experiment, row and seed.
        after: Folders of runs that it reads, and that must have ended before it.
    """

    overrides: tuple[str, ...]
    composed: Composed
    folder: Path
    group: str
    name: str
    after: tuple[Path, ...] = ()

    @property
    def command(self) -> str:
        """What does it by hand."""
        return shlex.join(["effnlp", "run", *self.overrides])

    @property
    def key(self) -> dict[str, Any]:
        """What its record must say of itself, less the texts."""
        seeds = self.composed.config["seed"]
        return {
            "config_hash": config_hash(self.composed.config),
            "seed_init": int(seeds["init"]),
            "seed_order": int(seeds["order"]),
        }


@dataclass(frozen=True)
class Plan:
    """The runs of one layer of one experiment.

    Attributes:
        rows: Row to seed (as in :class:`effnlp.reproduce.cells.Run`) to the run. Rows, and plans made together,
            share a run that is the same.
    """

    experiment: str
    layer: str
    rows: Mapping[str, Mapping[str, PlannedRun]]

    @property
    def runs(self) -> list[PlannedRun]:
        """Each once, in the order of the rows."""
        return distinct([self])


def distinct(plans: Iterable[Plan]) -> list[PlannedRun]:
    """The runs of plans, each once."""
    found = {run.folder: run for plan in plans for seeds in plan.rows.values() for run in seeds.values()}
    return list(found.values())


def make_plans(wanted: Sequence[tuple[Experiment, str]]) -> list[Plan]:
    """A plan for each experiment and the name of its layer, in their order; reads no record.

    Raises:
        ConfigError: For everything in them that does not make a run, a line each, with experiment and row.
    """
    problems: dict[str, None] = {}
    plans, known = [], dict[Path, PlannedRun]()
    with hydra_context():
        compose = Composer()
        for experiment, name in wanted:
            layer = experiment.layers[name]
            rows: dict[str, dict[str, PlannedRun]] = {}
            for row in layer.rows:
                where = f"{experiment.name}, layer {name}, row {row}"
                pairs = layer.seeds_of.get(row) or layer.seeds or [(0, 0)]
                try:
                    rows[row] = _runs_of(experiment.name, layer, row, pairs, compose, known, rows)
                except ValueError as error:  # of the config, of legality, or of what a module declares
                    problems[f"{where}: {error}"] = None
            plans.append(Plan(experiment.name, name, rows))
    if problems:
        raise ConfigError("\n".join(problems))
    return plans


def _runs_of(
    experiment: str,
    layer: Layer,
    row: str,
    seeds: Sequence[tuple[int, int]],
    compose: Composer,
    known: dict[Path, PlannedRun],
    above: Mapping[str, Mapping[str, PlannedRun]],
) -> dict[str, PlannedRun]:
    """The runs of one row, by the names of their seeds; new ones are entered in ``known``.

    Args:
        above: The rows before it, to whose runs it may refer.
    """
    overrides = overrides_of(layer.common, layer.rows[row])
    found = {}
    for number, (init, order) in enumerate(seeds):
        name = seed_name(init, order)
        of = functools.partial(_run_above, above, name)
        read = [of(each) for override in overrides for each in FOLDER_OF.finditer(override)]
        filled = [_filled(override, of) for override in overrides]
        typed = (*filled, f"seed.init={init}", f"seed.order={order}")
        composed = compose(typed)
        if number == 0:  # what is legal does not depend on seeds
            check(composed.config, composed.chosen, [conf_dir()])
        run = PlannedRun(
            typed, composed, Path(composed.folder).absolute(), experiment, f"{experiment}: {row}, seed {name}",
            tuple(other.folder for other in read),
        )  # fmt: skip
        found[name] = known.setdefault(run.folder, run)
    return found


def _filled(override: str, of: Callable[[re.Match[str]], PlannedRun]) -> str:
    """The override with folders in place of what stands for them."""
    return FOLDER_OF.sub(lambda reference: of(reference).composed.folder, override)


def _run_above(
    above: Mapping[str, Mapping[str, PlannedRun]], seed: str, reference: re.Match[str]
) -> PlannedRun:
    """The run to which a row refers.

    Raises:
        ConfigError: If there is no such row above it, or that one makes no run.
    """
    row = reference[1]
    if seed not in above.get(row, {}):
        raise ConfigError(f"{reference[0]} is no row above this one{suggest(row, list(above))}")
    return above[row][seed]


def overrides_of(common: Sequence[str], own: Sequence[str]) -> list[str]:
    """Those of all rows and those of one, where its own take the place of what all have.

    Raises:
        ConfigError: If one is no part of a run, has several values, or is given twice on one side.
    """
    from effnlp.launch import is_sweep_override

    for override in (*common, *own):
        if override.lstrip("+~").startswith(NOT_OF_A_ROW):
            raise ConfigError(
                f"{override}: a row has overrides of a run, and its seeds are those of the layer"
            )
        if is_sweep_override(override):
            raise ConfigError(f"{override} has several values; a row is one run for each seed")
    refuse_contradictions(common)
    refuse_contradictions(own)
    replaced = {_key(override) for override in own}
    return [*(override for override in common if _key(override) not in replaced), *own]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def bind(runs: Iterable[PlannedRun]) -> None:
    """Hold the values of runs that are to be done against what takes them; imports it.

    Raises:
        ConfigError: Naming the run, the key and what it must be, a line each.
    """
    problems, seen = [], set()
    for run in runs:
        if run.key["config_hash"] in seen:
            continue
        seen.add(run.key["config_hash"])
        try:
            bind_all(run.composed.config)
        except ConfigError as error:
            problems.append(f"{run.name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


@dataclass(frozen=True)
class Found:
    """What lies in the folder of a run.

    Attributes:
        record: A completed one that may stand for the run; None if there is none.
        remark: What is to be known of a record that was there: why it may not, or that it does though it is of
            another evaluator.
        is_barred: There is a completed record that may neither stand for the run nor be written over.
    """

    record: Record | None = None
    remark: str | None = None
    is_barred: bool = False


@dataclass
class Finder:
    """Looks for the records of runs; reads each data set once.

    Attributes:
        anyway: Whether the record of another evaluator may stand for a run.
        renew: Whether a record that other versions of packages made stands for none.
    """

    anyway: bool = False
    renew: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)

    def __call__(self, run: PlannedRun) -> Found:
        """What is there of a run."""
        try:
            record = Record.load(run.folder)
        except FileNotFoundError:
            return Found()
        except ValueError as error:
            return Found(remark=str(error))
        who = record.identity
        if record.status != COMPLETED or any(who.get(name) != value for name, value in run.key.items()):
            return Found()
        try:
            fingerprint = self.fingerprint(run.composed.config["task"])
        except Exception as error:  # whatever a reader of data raises
            return Found(
                remark=f"whether its record is of the same texts cannot be told: {error}", is_barred=True
            )
        if who.get("task_fingerprint") != fingerprint:
            return Found(remark="its record is of other texts than there are now")
        if who.get("evaluator") != EVALUATOR:
            other = f"its record was measured by evaluator {who.get('evaluator')}, this one is {EVALUATOR}"
            return Found(record, f"{other}; it is used all the same") if self.anyway else Found(remark=other)
        if self.renew and (others := other_versions(record)):
            return Found(remark=f"its record was made with {'; '.join(others)}")
        return Found(record)

    def fingerprint(self, task: Mapping[str, Any]) -> str:
        """That of the texts of a task's config as they are now."""
        key = json.dumps(task, sort_keys=True, default=str)
        if key not in self.fingerprints:
            from effnlp.data.prepare import load_task

            self.fingerprints[key] = load_task(task, _fetch).fingerprint
        return self.fingerprints[key]


def _fetch(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """An entry of the cache with what it cost in time, as far as it must be made here."""
    from effnlp.cache import fetch

    def priced(folder: Path) -> dict[str, float]:
        start, used = time.perf_counter(), time.process_time()
        make(folder)
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}

    return fetch(kind, key, priced).folder
