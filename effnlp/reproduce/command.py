"""``effnlp reproduce``: experiments of papers run again, with the verdict on each of their claims."""

import argparse
import dataclasses
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnlp.compose import ConfigError
from effnlp.reproduce.experiment import LAYERS, Experiment, Layer
from effnlp.reproduce.read import experiments_dir, names, read
from effnlp.reproduce.seeds import parse_seeds
from effnlp.reproduce.store import INTO, committed, committed_path, earlier

if TYPE_CHECKING:
    from effnlp.reproduce.result import Result
    from effnlp.reproduce.runs import Done

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  effnlp reproduce --list
  effnlp reproduce albert_sharing
  effnlp reproduce peft_glue int8_encoder --layer small --jobs 2
  effnlp reproduce --all --layer analytic
  effnlp reproduce seed_variance --seeds 3x3

A run that is there already, of the same config, seeds, texts and evaluator, is used again; the same command goes on
where it was stopped. It ends with 0 if every cell could be made, whatever the verdicts; with 1 if one is missing.
"""

DEFAULT_LAYERS = ("analytic", "small")

Wanted = tuple[Experiment, Layer]


def add_arguments(made: argparse.ArgumentParser) -> None:
    """What the verb understands."""
    which: Any = made.add_argument(
        "names", nargs="*", metavar="NAME", help="an experiment, or the path of a file with one"
    )
    which.completer = lambda prefix, **_: [name for name in names() if name.startswith(prefix)]
    made.add_argument("--all", action="store_true", help="all experiments")
    made.add_argument("--list", action="store_true", help="say which there are and what was found")
    made.add_argument(
        "--layer",
        action="append",
        choices=LAYERS,
        help="analytic: counts and formulae; small: for two cores; full: the setting of the paper (default: "
        "analytic and small, as far as there are any)",
    )
    made.add_argument(
        "--seeds", metavar="N", help="other seeds than those of the file: 3, or 0,4,5, or 10x10 crossed"
    )
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once; 0: none is done")
    made.add_argument(
        "--launcher", metavar="L", help="a choice of hydra/launcher: joblib, ray, submitit_slurm …"
    )
    made.add_argument("--tracking", metavar="T", help="tracker of the runs and of the table, such as wandb")
    made.add_argument(
        "--anyway", action="store_true", help="use even runs that another evaluator version measured"
    )
    made.add_argument(
        "--renew", action="store_true", help="do runs anew whose records other versions of packages made"
    )
    made.add_argument("--into", type=Path, default=INTO, metavar="DIR", help=f"folder of results ({INTO})")
    made.add_argument(
        "--publish", action="store_true", help="keep the results beside the experiments, to be committed"
    )
    made.add_argument("--docs", action="store_true", help="only write docs/experiments.md anew")
    made.add_argument("--strict", action="store_true", help="end with 1 also if a claim fails")


def parser() -> argparse.ArgumentParser:
    """The parser of the verb."""
    made = argparse.ArgumentParser(
        prog="effnlp reproduce",
        description="Reproduce tables of papers: our figures beside theirs, and a verdict on each claim.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(made)
    return made


def main(arguments: list[str]) -> int:
    """Run the verb; 1 if a cell is missing, 2 where experiments or arguments make no sense."""
    made = parser()
    options = made.parse_args(arguments)
    if not (options.names or options.all or options.list or options.docs):
        made.error("which experiments? Name some, or give --all; --list says which there are")
    if options.names and options.all:
        made.error("--all is every experiment: leave the names out")
    try:
        if options.list:
            sys.stdout.write("\n".join(listed(options.names or names())) + "\n")
            return 0
        if options.docs and not (options.names or options.all):
            write_docs()
            return 0
        return reproduce(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"effnlp reproduce: {error}\n")
        return 2


def listed(which: Sequence[str]) -> Iterator[str]:
    """Chapter by chapter: name and title of each experiment, and its layers with what was found last."""
    from effnlp.reproduce.words import counted

    experiments = [read(name) for name in which]
    width = max((len(experiment.name) for experiment in experiments), default=0)
    for chapter in dict.fromkeys(experiment.chapter for experiment in experiments):
        yield chapter
        for experiment in experiments:
            if experiment.chapter != chapter:
                continue
            yield f"  {experiment.name:<{width}}  {experiment.title}"
            for layer in experiment.layers:
                found = committed(experiment.name, layer)
                what = f"{counted(found.claims)} ({found.finished[:10]})" if found else "no published result"
                yield f"  {'':<{width}}  {layer}: {what}"


def reproduce(options: argparse.Namespace) -> int:
    """Do what was asked for, and say what came out.

    Raises:
        ConfigError: Before anything runs, for experiments or arguments that make no sense.
    """
    from rich.console import Console

    from effnlp.reproduce import outputs
    from effnlp.reproduce.drift import compare, in_words, refuse_moved_bounds

    experiments = chosen(options.names or names())
    wanted = wanted_layers(experiments, options.layer, options.seeds, bool(options.all))
    for experiment, layer in wanted:
        if (before := committed(experiment.name, layer.name)) is not None:
            refuse_moved_bounds(experiment, before)
    done = runs_of(wanted, options)
    console, found = Console(), []
    for (experiment, layer), runs in zip(wanted, done, strict=True):
        sys.stderr.write(f"computes  {experiment.name}, layer {layer.name}\n")
        result = result_of(experiment, layer, runs, options)
        before = earlier(experiment.name, layer.name, options.into)
        drift = in_words(compare(before, result)) if before is not None else []
        outputs.show(experiment, result, drift, console)
        found.append((experiment, result, drift))
    console.print(f"page      {outputs.write(found, options.into)}", markup=False, soft_wrap=True)
    results = [result for _, result, _ in found]
    if options.tracking:
        from effnlp.reproduce.tracked import log_table

        for experiment, result, _ in found:
            log_table(experiment, result, options.tracking, outputs.folder_of(result, options.into))
    is_whole = all(result.is_whole for result in results)
    if options.publish:
        is_whole &= publish(results)
    return 0 if is_whole and not (options.strict and any(map(fails, results))) else 1


def chosen(which: Sequence[str]) -> list[Experiment]:
    """The experiments, read and found to make sense.

    Raises:
        ConfigError: With what is wrong in each of them.
    """
    from effnlp.reproduce.validate import validate

    experiments, problems = [], []
    for name in dict.fromkeys(which):
        try:
            experiment = read(name)
            validate(experiment)
            experiments.append(experiment)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    if not experiments:
        raise ConfigError("there is no experiment")
    return experiments


def wanted_layers(
    experiments: Sequence[Experiment], layers: Sequence[str] | None, seeds: str | None, is_all: bool
) -> list[Wanted]:
    """Each experiment with each layer that was asked for; without a wish, those of ``DEFAULT_LAYERS``.

    Args:
        seeds: In place of those of the layers that have runs.
        is_all: Whether experiments without such a layer are passed over.

    Raises:
        ConfigError: If an experiment has none of the layers, or nothing is left.
    """
    wanted = []
    for experiment in experiments:
        asked = [name for name in LAYERS if name in (layers or DEFAULT_LAYERS) and name in experiment.layers]
        lacking = [name for name in dict.fromkeys(layers or ()) if name not in experiment.layers]
        if not is_all and (lacking or not asked):
            missing = ", ".join(lacking or DEFAULT_LAYERS)
            raise ConfigError(
                f"{experiment.name} has no layer {missing}; it has {', '.join(experiment.layers)}"
            )
        if seeds is not None:
            experiment = with_seeds(experiment, seeds)
        wanted += [(experiment, experiment.layers[name]) for name in asked]
    if not wanted:
        raise ConfigError(f"no experiment has a layer {', '.join(layers or DEFAULT_LAYERS)}")
    if seeds is not None and not any(layer.rows for _, layer in wanted):
        raise ConfigError("--seeds are those of runs, and none of these layers has any")
    return wanted


def with_seeds(experiment: Experiment, seeds: str) -> Experiment:
    """The experiment with other seeds in each layer that has runs.

    Raises:
        ConfigError: If they are not written as seeds are.
    """
    try:
        pairs = parse_seeds(seeds)
    except ValueError as error:
        raise ConfigError(f"--seeds {error}") from error
    layers = {
        name: dataclasses.replace(layer, seeds=pairs, seeds_of={}) if layer.rows else layer
        for name, layer in experiment.layers.items()
    }
    return dataclasses.replace(experiment, layers=layers)


def runs_of(wanted: Sequence[Wanted], options: argparse.Namespace) -> "list[Done | None]":
    """The runs of each layer, done as far as they were not there; None for a layer without any, or beyond this machine.

    Raises:
        ConfigError: If a row does not make a run.
    """
    from effnlp.reproduce.machine import lacking

    with_runs = [pair for pair in wanted if pair[1].rows and not lacking(pair[1].needs)]
    if not with_runs:
        return [None] * len(wanted)
    # Imported late, so that counts and formulae need neither Hydra nor torch.
    from effnlp.launch import is_of_the_launcher
    from effnlp.reproduce.launching import LAUNCHER
    from effnlp.reproduce.plan import make_plans
    from effnlp.reproduce.runs import complete

    plans = make_plans([(experiment, layer.name) for experiment, layer in with_runs])
    launcher = options.launcher or LAUNCHER
    try:
        done = complete(
            plans, jobs=options.jobs, launcher=launcher, anyway=options.anyway, renew=options.renew,
            tracking=options.tracking,
        )  # fmt: skip
    except (ValueError, OSError):
        raise
    except Exception as error:  # what the workers did is still to be shown
        log.log(logging.DEBUG if is_of_the_launcher(error) else logging.ERROR, "the runs", exc_info=True)
        sys.stderr.write(f"effnlp reproduce: the runs were broken off ({type(error).__name__}: {error})\n")
        done = complete(plans, jobs=0, launcher=launcher, anyway=options.anyway)
    by_layer = {(each.experiment, each.layer): each for each in done}
    return [by_layer.get((experiment.name, layer.name)) for experiment, layer in wanted]


def result_of(
    experiment: Experiment, layer: Layer, runs: "Done | None", options: argparse.Namespace
) -> "Result":
    """The result of one layer."""
    from effnlp.reproduce.evaluate import evaluate

    command = command_of(experiment.name, layer, options)
    if runs is None:
        return evaluate(experiment, layer, command)
    return evaluate(experiment, layer, command, runs.rows, runs.missing, runs.spent, runs.remarks)


def command_of(name: str, layer: Layer, options: argparse.Namespace) -> str:
    """What makes the result of one layer, whoever did it with others."""
    given = next((each for each in options.names if Path(each).stem == name), name)
    words = ["effnlp", "reproduce", given, "--layer", layer.name]
    words += ["--seeds", options.seeds] if options.seeds and layer.rows else []
    words += ["--anyway"] if options.anyway and layer.rows else []
    words += ["--renew"] if options.renew and layer.rows else []
    return shlex.join(words)


def fails(result: "Result") -> bool:
    """Whether a claim does."""
    from effnlp.reproduce.result import FAILS

    return any(claim.finding.verdict == FAILS for claim in result.claims)


def publish(results: "Sequence[Result]") -> bool:
    """Keep results beside the experiments, and write ``docs/experiments.md`` anew; whether all could be kept.

    One with holes is not kept: it would stand for the experiment.
    """
    for result in results:
        if result.is_whole:
            result.save(committed_path(result.experiment, result.layer))
        else:
            sys.stderr.write(
                f"effnlp reproduce: {result.experiment}, layer {result.layer}, is not published: "
                f"{len(result.holes)} of its cells are missing\n"
            )
    write_docs()
    return all(result.is_whole for result in results)


def write_docs() -> None:
    """Write ``docs/experiments.md`` from the files of the experiments and the published results."""
    from effnlp.reproduce.catalogue import regenerate

    sys.stdout.write(f"{regenerate(experiments_dir().parent)}\n")
