"""The verbs ``run`` and ``sweep``: Hydra applications over ``conf/run.yaml`` and ``conf/sweep.yaml``."""

import itertools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from effnlp.identity import register_resolvers
from effnlp.menu import conf_dir, config_folders
from effnlp.signals import term_is_interrupt

log = logging.getLogger(__name__)

register_resolvers()  # also where a launcher starts a job in a fresh process, which imports this module

RUN_HELP = """usage: effnlp run [OVERRIDE …] [Hydra's options]

One run: task -> filter -> model -> prepare -> fine-tune -> finish -> evaluate -> record. It writes
record.json, events.jsonl and the deployed model to outputs/<task>/<hash>-i<seed>-o<seed>/. The same
command resumes an interrupted run, and does nothing if the run is complete (again=true runs it anew).

examples:
  effnlp run                                          the backbone on documentation of Python's library
  effnlp run task=sst2 model=pretrained model.name=minilm peft=lora peft.rank=8
  effnlp run task=files task.path=reviews.csv task.text=review task.label=stars model=bag_of_ngrams
  effnlp run compression/pruning=movement compression.pruning.sparsity=0.9
  effnlp run 'data/filter=[exact_dedup,minhash_dedup]' evaluation.test=true seed.init=1
  effnlp run -m peft=none,lora,bitfit hydra/launcher=joblib        Hydra's own multirun, any launcher

options that are often used:
  --config-dir DIR   a folder with configs of your own, laid out like conf/
  -m, --multirun     run every combination of comma lists
  --cfg job          print the composed config and stop (effnlp check says more)
  --hydra-help       all of Hydra's options

effnlp methods lists what can be chosen."""

SWEEP_HELP = """usage: effnlp sweep [OVERRIDE …] [Hydra's options]

Search the Pareto frontier. A plain override fixes a dimension; a comma list, interval() or range() makes
it a dimension of the space (whole numbers: range(1,9) or int(interval(1,9))). State and results are in
multirun/<search.name>/; the same command resumes.

examples:
  effnlp sweep search/space=quickstart search.trials=16 search.workers=2
  effnlp sweep task=sst2 model=bag_of_ngrams,pretrained peft=none,lora,bitfit search.trials=24
  effnlp sweep search/space=quickstart 'finetuning.learning_rate=tag(log,interval(1e-4,2e-3))'
  effnlp sweep search/space=quickstart 'search.objectives=[val/accuracy:max,model/bytes:min]'
  effnlp sweep search/space=quickstart search.seeds=3        replicates of the frontier with other seeds

options that are often used:
  search.name=NAME      the sweep's folder
  search.trials=N       how many trials, exactly
  search.workers=N      how many at once (hydra/launcher says where)
  --config-dir DIR      a folder with configs of your own
  --dry-run             check the space, and say what the budget buys, from earlier records; run nothing
  --simulate[=WHAT]     how this search would have done on recorded runs: those shipped, a table, the
                        folder of a sweep, or the problems hard, easy and crossing

effnlp methods search lists the spaces."""


def run(arguments: list[str]) -> int:
    """``effnlp run``."""
    return _application("run", arguments, RUN_HELP)


def sweep(arguments: list[str]) -> int:
    """``effnlp sweep``."""
    looks_only = any(word == "--dry-run" or word.partition("=")[0] == "--simulate" for word in arguments)
    if looks_only and not any(word in ("-h", "--help") for word in arguments):
        from effnlp.search.plan import plan

        return plan(arguments)
    return _application("sweep", arguments, SWEEP_HELP)


def _application(name: str, arguments: list[str], help_text: str) -> int:
    if any(word in ("-h", "--help") for word in arguments):
        sys.stdout.write(help_text + "\n")
        return 0
    import hydra

    options, overrides, config_dir = split_arguments(arguments)
    looks_only = options.cfg or options.info or options.shell_completion or options.hydra_help
    if not looks_only:
        if name == "sweep" and not options.multirun:
            arguments = ["--multirun", *arguments]
        try:
            preflight(name, overrides, config_dir, multirun=options.multirun)
        except ValueError as error:  # of the config, of legality, or of what a module declares
            sys.stderr.write(f"effnlp {name}: {error}\n")
            return 2
    outcomes.clear()
    sys.argv = [f"effnlp {name}", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir().resolve()), config_name=name)(job)()
    except KeyboardInterrupt:
        sys.stderr.write(f"effnlp {name}: stopped; the same command resumes\n")
        return 130
    return max(outcomes, default=0)


def split_arguments(arguments: Sequence[str]) -> tuple[Any, list[str], Path | None]:
    """Hydra's options, the overrides, and the user's folder of configs."""
    from hydra._internal.utils import get_args_parser

    options = get_args_parser().parse_args(list(arguments))
    return options, list(options.overrides), Path(options.config_dir) if options.config_dir else None


def preflight(name: str, overrides: Sequence[str], config_dir: Path | None, multirun: bool) -> None:
    """Compose, bind and check legality before Hydra starts: what is wrong is said early and in our words.

    A multirun is checked in every combination of its comma lists. A sweep is checked by its sweeper, which
    knows the space.

    Raises:
        ConfigError: If the overrides do not make a config.
        IllegalCombinationError: If two choices do not go together.
    """
    from effnlp.compose import bind_all, compose, hydra_context, refuse_contradictions
    from effnlp.legality import check

    folders = config_folders(config_dir)
    refuse_contradictions(overrides)
    with hydra_context():
        if name == "sweep":
            for override in overrides:
                refuse_password(override)
            fixed = [one for override in overrides if (one := first_value(override)) is not None]
            refuse_missing_reference(compose(fixed, config_dir, "sweep", complete=False).config)
            return
        for combination in combinations(overrides) if multirun else [list(overrides)]:
            composed = compose(combination, config_dir)
            refuse_missing_reference(composed.config)
            check(composed.config, composed.chosen, folders)
            bind_all(composed.config)


def refuse_missing_reference(config: Mapping[str, Any]) -> None:
    """See to it that a reference run is there; whether it is of the same texts is known once they are read.

    Raises:
        ValueError: If ``evaluation.reference`` is not the folder of a completed run with predictions.
    """
    if config["evaluation"]["reference"]:
        from effnlp.evaluation.reference import read_reference

        read_reference(Path(str(config["evaluation"]["reference"])).expanduser())


def refuse_password(override: str) -> None:
    """See to it that no password is written to any file.

    Raises:
        ConfigError: If the override names a storage with a password in it.
    """
    key, _, where = override.partition("=")
    if key.lstrip("+") == "search.storage" and where.startswith("postgresql"):
        from effnlp.search.postgresql import checked_url

        checked_url(where)


def is_sweep_override(override: str) -> bool:
    """Whether Hydra reads an override as a sweep over values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(override).is_sweep_override())
    except HydraException:
        return False


def first_value(override: str) -> str | None:
    """An override with the first of the values it sweeps over; None for an interval or a glob."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob

    if not is_sweep_override(override):
        return override  # also what does not parse: that is said where it is composed
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_interval_sweep() or isinstance(parsed.value(), Glob):
        return None
    return f"{parsed.get_key_element()}={next(iter(parsed.sweep_string_iterator()))}"


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the comma lists, ranges and globs among the overrides, inside a Hydra context.

    Raises:
        ConfigError: If an override does not parse, or is an interval, which only a search can draw from.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from effnlp.compose import ConfigError, explain

    lists = []
    try:
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for override in parser.parse_overrides(list(overrides)):
            if override.is_interval_sweep():
                raise ConfigError(
                    f"{override.input_line} is an interval: effnlp sweep draws from it, run -m cannot"
                )
            key = override.get_key_element()
            lists.append(
                [f"{key}={value}" for value in override.sweep_string_iterator()]
                if override.is_sweep_override()
                else [str(override.input_line)]
            )
    except HydraException as error:
        raise ConfigError(explain(str(error), overrides, [conf_dir()])) from error
    return [list(combination) for combination in itertools.product(*lists)]


def user_folder(hydra_config: Any) -> Path | None:
    """The folder that ``--config-dir`` named, as Hydra remembers it."""
    for source in hydra_config.runtime.config_sources:
        if source.provider == "command-line" and source.schema == "file":
            return Path(str(source.path))
    return None


@contextmanager
def heard_by_slurm() -> Iterator[None]:
    """A worker that SLURM preempts gives its trial back in order, which costs no retry.

    SLURM says so by SIGTERM to all processes of the job, to which submitit turns a deaf ear.
    """
    with term_is_interrupt() if "SUBMITIT_EXECUTOR" in os.environ else nullcontext():
        yield


outcomes: list[int] = []
"""Exit codes of the jobs that ran in this process."""


class FailedRunError(RuntimeError):
    """A run of a multirun failed; its record says why."""


def job(config: Any) -> float | None:
    """What Hydra runs: one run, or, inside a sweep, one worker of it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from effnlp.compose import chosen_groups

    hydra_config = HydraConfig.get()
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    choices = OmegaConf.to_container(hydra_config.runtime.choices)
    assert isinstance(choices, dict)
    chosen = chosen_groups(choices, settings)
    folder = Path(hydra_config.runtime.output_dir)
    if settings.get("search", {}).get("worker") is not None:
        from effnlp.search.start import get_ready

        os.chdir(hydra_config.runtime.cwd)  # paths that were typed are meant from there
        sweep_folder = Path(str(hydra_config.sweep.dir))
        get_ready(int(settings["search"]["worker"]), sweep_folder)
        from effnlp.search.worker import work

        with heard_by_slurm():
            work(settings["search"], sweep_folder)
        return None
    from effnlp.evaluation.reference import absolute_reference
    from effnlp.record import headline
    from effnlp.run import RunInUseError
    from effnlp.run import run as run_one

    settings = absolute_reference(settings, Path(hydra_config.runtime.cwd))

    try:
        record = run_one(
            settings, chosen, folder, list(hydra_config.overrides.task), user_folder(hydra_config)
        )
    except RunInUseError as error:
        log.error("effnlp run: %s", error)
        outcomes.append(1)
        return None
    if record.status == "completed":
        from effnlp.report.terminal import in_short

        log.info("%s", in_short(record))
        outcomes.append(0)
        quality = headline(record.values)
        return record.values[quality] if quality else None
    outcomes.append(130 if record.reason == "interrupted" else 1)
    if hydra_config.mode == RunMode.MULTIRUN:
        raise FailedRunError(f"{record.reason}: {record.message} ({folder}/record.json)")
    return None


OF_THE_LAUNCHER = (
    "joblib", "loky", "cloudpickle", "concurrent", "ray", "submitit", "sqlalchemy", "psycopg", "grpc",
)  # fmt: skip
"""Where errors come from that are about workers which are gone, or about a server that was."""


def is_of_the_launcher(error: BaseException) -> bool:
    """Whether it is about processes, machines or connections that are gone, and not about what was done."""
    return isinstance(error, ConnectionError) or type(error).__module__.startswith(OF_THE_LAUNCHER)
