"""``effnlp pick``: from the records of a search to a folder with the model that suits best."""

import argparse
import contextlib
import logging
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effnlp.model.storage import Deployed
    from effnlp.record import Record
    from effnlp.report.candidates import Candidate
    from effnlp.report.choose import Limit
    from effnlp.report.read import Loaded, Reading
    from effnlp.report.summary import Section

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  effnlp pick multirun/quickstart --max model/bytes=2e6
  effnlp pick multirun/mine --max infer/single_stream/latency_seconds_p50=0.005 --max model/bytes=20e6
  effnlp pick outputs --min val/accuracy=0.9 --best infer/single_stream/flops:min --dry-run
  effnlp pick multirun/mine --max model/bytes=20e6 --into sentiment --format onnx

Any key of a record can be a limit or what is best, but for those of the test split: nothing selects on it. Runs
that differ only in seeds count as one configuration, by the means of their figures. The model is loaded where
its run kept it, else trained again with the very config of its record. FOLDER is then all that effnlp predict
needs. Where nothing is within the limits, the nearest misses are shown and the exit code is 1.
"""

FILES_TRACKER = {"_target_": "effnlp.tracking.files.FilesTracker"}

OURS = {"model.json", "deployed.pt", "model.onnx", "tokenizer.pickle", "README.md"}
"""What pick writes into a folder."""


class NotDoneError(RuntimeError):
    """The configuration was found, but its model could not be had."""


@dataclass(frozen=True)
class Had:
    """The model of a configuration.

    Attributes:
        record: Of the run that it came from.
        folder: Where that run left it.
        how: ``loaded`` or ``trained again``.
    """

    deployed: "Deployed"
    record: "Record"
    folder: Path
    how: str

    @property
    def said(self) -> str:
        """Where it is from, in words."""
        return f"loaded from {self.folder}" if self.how == "loaded" else self.how


def parser() -> argparse.ArgumentParser:
    """What the verb understands."""
    made = argparse.ArgumentParser(
        prog="effnlp pick",
        description="Pick the best configuration within limits, and write its model to a folder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments alone, for tab completion too."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="a sweep, a multirun or any folder of runs")
    for name, words in (("max", "at most"), ("min", "at least")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"the key must be {words} this; repeat it",
        )
    parser.add_argument(
        "--best",
        metavar="KEY[:max|min]",
        help="the best in this (default: val/accuracy, val/pearson for numbers, val/bits_per_byte for next tokens)",
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where to write (default: DIR/picked)")
    parser.add_argument(
        "--format", choices=["torch", "onnx"], default="torch", help="what the model is written as"
    )
    parser.add_argument("--task", metavar="NAME", help="of which task, where DIR has runs of several")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with configs of your own")
    parser.add_argument("--dry-run", action="store_true", help="name the configuration and stop")


def main(arguments: list[str]) -> int:
    """Run the verb: exit code 0, or 1 where nothing fits or the model cannot be had, or 2 for bad input."""
    options = parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    # Imported late, so that help and completion stay quick.
    from effnlp.model.stages import ExportError

    try:
        return _pick(options)
    except (NotDoneError, ExportError) as error:
        sys.stderr.write(f"effnlp pick: {error}\n")
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"effnlp pick: {error}\n")
        return 2


def _pick(options: argparse.Namespace) -> int:
    from effnlp.record import HEADLINES, headline
    from effnlp.report.choose import choose
    from effnlp.report.picked import found, nothing_fits, written
    from effnlp.report.read import read_records
    from effnlp.report.summary import axis, parse_objective

    limits = [*parse_limits(options.max, is_upper=True), *parse_limits(options.min, is_upper=False)]
    asked = [parse_objective(options.best)[0]] if options.best else []
    refuse_test([*asked, *(limit.key for limit in limits)])
    into = options.into or options.dir / "picked"
    refuse_folder(into)
    reading = read_records([options.dir])
    section = only_section(reading, options.task)
    best, towards = parse_objective(options.best or headline(section.keys) or HEADLINES[0])
    best = axis(best, section.keys)
    limits = [type(limit)(axis(limit.key, section.keys), limit.bound, limit.is_upper) for limit in limits]
    choice = choose(section.candidates, limits, best, towards)
    if not choice.fitting:
        sys.stdout.write("\n".join(nothing_fits(section, choice, limits, best)) + "\n")
        return 1
    picked = choice.fitting[0]
    sys.stdout.write("\n".join(found(section, choice, limits, best)) + "\n")
    sys.stdout.flush()
    if options.dry_run:
        return 0
    if options.format == "onnx":
        refuse_export(picked)
    had = have(picked, into, options.config_dir or sweep_config_dir(reading, picked))
    write(
        into,
        had,
        picked,
        options.format,
        {"best": f"{best}:{towards[:3]}", "limits": list(map(asdict, limits))},
    )
    sys.stdout.write("\n".join(written(had.said, had.record.values, str(into))) + "\n")
    return 0


def parse_limits(texts: Sequence[str], is_upper: bool) -> "list[Limit]":
    """``["model/bytes=20e6"]`` as limits.

    Raises:
        ValueError: If one is not KEY=VALUE with a finite number, or a key comes twice.
    """
    from effnlp.report.choose import Limit

    option, limits = "--max" if is_upper else "--min", {}
    for text in texts:
        key, _, value = text.rpartition("=")
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        if not key or not math.isfinite(bound):
            raise ValueError(f"{option} takes KEY=VALUE with a number, as in model/bytes=20e6, got {text!r}")
        if key in limits:
            raise ValueError(f"{option} is given twice for {key}")
        limits[key] = Limit(key, bound, is_upper)
    return list(limits.values())


def refuse_test(keys: Sequence[str]) -> None:
    """Nothing selects on the test split.

    Raises:
        ValueError: If a key is of the test split.
    """
    for key in keys:
        if key.startswith("test/"):
            raise ValueError(
                f"{key}: nothing selects on the test split; val{key.removeprefix('test')} is meant for it"
            )


def refuse_folder(into: Path) -> None:
    """Do not mix the model into a folder that holds something else.

    Raises:
        ValueError: If ``into`` is a file, or a folder that is neither empty nor one of ours.
    """
    if into.exists() and not into.is_dir():
        raise ValueError(f"{into} is a file, not a folder")
    names = {path.name for path in into.iterdir() if path.name[0] != "."} if into.is_dir() else set()
    if "model.json" not in names and (names - OURS or names == {"README.md"}):
        raise ValueError(f"{into} holds something else; --into takes a new folder, or one that pick wrote")


def refuse_export(candidate: "Candidate") -> None:
    """Say before anything is trained or written that a configuration has no ONNX form.

    Raises:
        ExportError: If one of its methods makes the compute depend on the texts.
        ModuleNotFoundError: If a package for ONNX is missing.
    """
    from effnlp.model.export import data_dependent, need_packages, why_not
    from effnlp.model.stages import ExportError

    need_packages("onnx", "onnxscript", "onnxruntime")
    for name, target in _targets(candidate.runs[0].record.config):
        if data_dependent(target):
            raise ExportError(why_not(f"{name}={candidate.choices.get(name, target.__name__)}"))


def _targets(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the ``_target_`` of PEFT and of each compression slot names, by its config group."""
    from hydra.utils import get_object

    nodes = {"peft": config.get("peft")}
    compression = config.get("compression") or {}
    nodes |= {f"compression/{slot}": compression.get(slot) for slot in compression.get("order", [])}
    return [
        (name, get_object(node["_target_"])) for name, node in nodes.items() if node and "_target_" in node
    ]


def only_section(reading: "Reading", task: str | None) -> "Section":
    """The runs that may be compared with each other.

    Raises:
        ValueError: If no run is complete, ``task`` is not among them, or there are several tasks.
    """
    from effnlp.menu import suggest
    from effnlp.report.summary import summarise

    sections = summarise(reading).sections
    if not sections:
        ended = ", ".join(sorted({f"{run.record.status}" for run in reading.loaded}))
        raise ValueError(f"no run is complete: of {len(reading.loaded)} records all are {ended or 'damaged'}")
    names = [f"{section.task}@{section.fingerprint}" for section in sections]
    if task is not None:
        kept = [s for s, name in zip(sections, names, strict=True) if task in (s.task, name, s.fingerprint)]
        if not kept:
            raise ValueError(f"no run is of the task {task!r}{suggest(task, [s.task for s in sections])}")
        sections = kept
    if len(sections) > 1:
        listed = ", ".join(
            f"{s.task}@{s.fingerprint} ({len(s.candidates)}, evaluator {s.evaluator})" for s in sections
        )
        raise ValueError(f"the runs are of several tasks or evaluators, choose by --task: {listed}")
    return sections[0]


def sweep_config_dir(reading: "Reading", candidate: "Candidate") -> Path | None:
    """The user's own configs of the sweep that a candidate came from."""
    folder = candidate.runs[0].folder
    for sweep, content in reading.sweeps.items():
        if sweep in folder.parents and isinstance(content.get("config_dir"), str):
            return Path(content["config_dir"])
    return None


def have(candidate: "Candidate", into: Path, config_dir: Path | None) -> Had:
    """The model: as one of its runs kept it, else trained again; with figures on the test split.

    Raises:
        NotDoneError: If it has to be trained and that fails.
    """
    from effnlp.model.storage import Deployed

    kept = [run for run in candidate.runs if (run.folder / "deployed.pt").is_file()]
    for run in kept:
        try:
            deployed = Deployed.load(run.folder / "deployed.pt")
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a damaged file can make the reader of pickles fail in any way
            log.warning("%s cannot be read: %s", run.folder / "deployed.pt", error)
            continue
        record, folder, how = run.record, run.folder, "loaded"
        break
    else:
        record, folder, how = *train_again(candidate.runs[0], into / ".run", config_dir), "trained again"
        deployed = Deployed.load(folder / "deployed.pt")
    add_test(record, folder)
    return Had(deployed, record, folder, how)


def train_again(run: "Loaded", folder: Path, config_dir: Path | None) -> "tuple[Record, Path]":
    """Do the run of a record once more, by its very config, and keep its model.

    Raises:
        NotDoneError: If the run fails or is stopped, or its data are not those of the record.
    """
    from effnlp.record import COMPLETED
    from effnlp.run import RunInUseError
    from effnlp.run import run as run_once

    old = run.record
    config = {**old.config, "keep_model": True, "again": False, "tracking": FILES_TRACKER}
    config["evaluation"] = {**config.get("evaluation", {}), "reference": None}  # it may be gone by now
    choices = {**old.choices, "tracking": "files"}
    log.info("its run did not keep the model: trained again")
    try:
        record = run_once(config, choices, folder, list(old.identity.get("overrides", [])), config_dir)
    except RunInUseError as error:
        raise NotDoneError(str(error)) from error
    if record.reason == "interrupted":
        raise KeyboardInterrupt
    if record.status != COMPLETED:
        raise NotDoneError(f"the model could not be trained again ({record.reason}): {record.message}")
    was, now = (one.identity.get("task_fingerprint") for one in (old, record))
    if was != now:
        raise NotDoneError(
            f"the texts of the task are not those of the record (fingerprint {was}, now {now}); its figures "
            "say nothing about a model of these texts"
        )
    return record, folder


def add_test(record: "Record", folder: Path) -> None:
    """Evaluate on the test split, once; where that cannot be done the record says why."""
    from effnlp.record import HEADLINES, headline
    from effnlp.search.final import measure

    if any(key.startswith("test/") for key in record.values):
        return
    try:
        measure(record, folder, test=True, latency=False)
    except (
        Exception
    ) as error:  # the data may be gone, changed or unreadable; the model is of use all the same
        log.warning("no figures on the test split: %s", error)
        key = (headline(record.values) or HEADLINES[0]).replace("val/", "test/")
        record.put({}, {key: f"{type(error).__name__}: {error}"})
        return
    with contextlib.suppress(OSError):  # where the folder may not be written, only the new one knows
        record.save(folder)


def write(into: Path, had: Had, candidate: "Candidate", kind: str, asked: dict[str, Any]) -> None:
    """Write the folder of the model: weights, description, record, a page for people."""
    from effnlp import __version__
    from effnlp.model.packaged import write_package
    from effnlp.provenance import now
    from effnlp.record import write_atomically
    from effnlp.report.picked import page

    identity = had.record.identity
    description = {
        "task": identity.get("task"), "task_fingerprint": identity.get("task_fingerprint"),
        "config_hash": candidate.config_hash,
        "seeds": [identity.get("seed_init"), identity.get("seed_order")],
        "choices": had.record.choices, "overrides": identity.get("overrides"),
        "from": str(candidate.runs[0].folder if had.how != "loaded" else had.folder), "how": had.how,
        "asked": asked,
        "figures": {key: value._asdict() for key, value in sorted(candidate.values.items())},
        "record": asdict(had.record), "effnlp": __version__, "made": now(),
    }  # fmt: skip
    content = write_package(into, had.deployed, kind, description)
    write_atomically(into / "README.md", page(content))
    if had.how != "loaded":
        shutil.rmtree(had.folder, ignore_errors=True)
