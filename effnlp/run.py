"""One run, start to end: a straight line of stages, metered from outside."""

import dataclasses
import functools
import logging
import shutil
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import filelock
import torch
from hydra.utils import instantiate
from torch import nn

from effnlp import method
from effnlp.at_rungs import AtRungs, ToldError
from effnlp.attempt import Attempt, run_key
from effnlp.data.calibration import calibration_batches
from effnlp.data.prepare import Prepared, as_learned, load_companions, load_task, prepare_data
from effnlp.ending import complete, end_at_rung, fail, message_of, reason_of
from effnlp.evaluation.companions import evaluate_companions
from effnlp.evaluation.evaluate import ask_to_refuse, refuse_sets
from effnlp.evaluation.meter import Meter
from effnlp.evaluation.quiet import QuietLock
from effnlp.evaluation.reference import absolute_reference, add_reference, refuse_reference
from effnlp.evaluation.stage import evaluate, gauge_of
from effnlp.evaluation.steps import MeterGauge
from effnlp.evaluation.variants import evaluate_variants
from effnlp.finetuning.judge import ACCURACY, Judge
from effnlp.finetuning.loop import (
    DivergedError,
    Fitted,
    InterruptedRunError,
    TrainerSettings,
    Training,
    fit,
    rounds_of,
    steps_of,
)
from effnlp.gathering import absolute_paths, gather
from effnlp.legality import Step, check
from effnlp.menu import conf_dir
from effnlp.model.classifier import count_params
from effnlp.model.delta import Delta, Taker, delta_bytes
from effnlp.model.storage import Deployed
from effnlp.moments import groups_at, methods_of
from effnlp.posing import pose, refuse_idle, trains, with_token_head
from effnlp.pretraining.stage import start_of
from effnlp.provenance import describe_run
from effnlp.record import COMPLETED, FAILED, STOPPED, Events, Record
from effnlp.search.rungs import Rungs
from effnlp.serving import about
from effnlp.signals import term_is_interrupt
from effnlp.task.task import Task
from effnlp.tracking.guarded import Guarded
from effnlp.tracking.lightning import as_tracker
from effnlp.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class RunInUseError(RuntimeError):
    """Another process does this very run."""


def run(
    config: Mapping[str, Any],
    chosen: Mapping[str, str],
    folder: Path,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    rungs: Rungs | None = None,
) -> Record:
    """Do one run and leave its record in ``folder``.

    A folder that holds the finished record of the same config and data is not run again (unless
    ``config["again"]``); one that holds checkpoints of an interrupted attempt is taken up.

    Args:
        config: The composed config as plain containers.
        chosen: Config group to the choice in it.
        folder: Where everything is written.
        overrides: What the user typed, for the record.
        config_dir: A user's own configs, for legality.
        rungs: Where the run shows what it would become, and is told whether to go on.

    Returns:
        The record; if the run failed, its ``status`` is ``failed`` and ``reason`` says why. A run that was told
        to stop at a rung has the status ``stopped``. One that was told to pause has the status ``paused``, and
        that record is not written: the same call goes on from the checkpoint.

    Raises:
        RunInUseError: If another process is doing this very run.
    """
    typed, config = config, absolute_paths(absolute_reference(config, Path.cwd()), Path.cwd())
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunInUseError(f"{folder} is in use: another process is doing this very run") from None
    record = Record(
        status=FAILED, identity=describe_run(typed, overrides), choices=dict(chosen), config=dict(config)
    )
    closing: list[Tracker] = []
    try:
        with term_is_interrupt():
            return _stages(config, chosen, folder, record, config_dir, closing, rungs)
    except ToldError as told:
        return end_at_rung(record, folder, told.rung, told.verdict)
    except (KeyboardInterrupt, InterruptedRunError) as stop:
        message = str(stop) or "stopped by the user"
        return fail(record, folder, "interrupted", f"{message}; the same command resumes it")
    except DivergedError as error:
        record.values["train/diverged_at_step"] = float(error.step)
        return fail(record, folder, "nan", str(error))
    except Exception as error:
        return fail(record, folder, reason_of(error), message_of(error), traceback.format_exc())
    finally:
        for tracker in closing:
            tracker.finish(record)
        lock.release()


TOLD_AT_START = ("evaluator", "config_hash", "seed_init", "seed_order", "overrides")
"""What the first event says of a run's identity, for whoever looks before there is a record."""


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a config chose, found to go together and made.

    Attributes:
        steps: Who acts at which moment.
        methods: Config group to method, of PEFT and of each compression slot.
    """

    steps: Sequence[Step]
    methods: Mapping[str, Any]
    model: Any
    pretraining: Any
    finetuning: Any
    settings: TrainerSettings

    @classmethod
    def of(cls, config: Mapping[str, Any], chosen: Mapping[str, str], config_dir: Path | None) -> "Choices":
        """Make them.

        Raises:
            IllegalCombinationError: If they do not go together.
            ValueError: If a value is outside its range.
        """
        steps = check(config, chosen, [conf_dir()] + ([config_dir] if config_dir else []))
        methods = methods_of(config)
        model, pretraining, finetuning = (
            instantiate(config[group], _convert_="all") for group in ("model", "pretraining", "finetuning")
        )
        refuse_idle(finetuning, steps)
        return cls(steps, methods, model, pretraining, finetuning, TrainerSettings(**config["trainer"]))

    @property
    def preparing(self) -> list[Any]:
        """The methods that act before training, in order."""
        return [self.methods[group] for group in groups_at(self.steps, "prepare")]

    @property
    def finishing(self) -> list[Any]:
        """What acts on the trained model, in order."""
        return [self.finetuning, *(self.methods[group] for group in groups_at(self.steps, "finish"))]


def _attempt(config: Mapping[str, Any], folder: Path, record: Record) -> Attempt:
    """The attempt with its meter, its tracker and its hardware; nothing is started."""
    meter: Meter = instantiate(config["meter"], _convert_="all")
    return Attempt(
        folder=folder,
        record=record,
        meter=meter,
        quiet=QuietLock(description=str(folder), around_wait=meter.paused),
        events=Events(folder),
        tracker=Guarded(as_tracker(instantiate(config["tracking"], _convert_="all"))),
        hardware=instantiate(config["hardware"], _convert_="all")(),
    )


def _stages(
    config: Mapping[str, Any],
    chosen: Mapping[str, str],
    folder: Path,
    record: Record,
    config_dir: Path | None,
    closing: list[Tracker],
    rungs: Rungs | None,
) -> Record:
    """All stages in order; ``closing`` receives the tracker once it is started."""
    choices = Choices.of(config, chosen, config_dir)
    attempt = _attempt(config, folder, record)
    if attempt.hardware.threads is not None:
        torch.set_num_threads(attempt.hardware.threads)
    if config["again"]:
        shutil.rmtree(attempt.checkpoints, ignore_errors=True)
    with ExitStack() as stack:
        stack.callback(attempt.meter.stop)
        stack.callback(attempt.charge)
        stack.push(attempt.end)
        stack.enter_context(attempt.quiet.working())
        task, companions = _read_texts(config, attempt)
        if not config["again"] and (earlier := _earlier(folder, record, rungs)) is not None:
            _compare_again(earlier, folder, config["evaluation"].get("reference"), task.labels)
            return earlier
        attempt.take_up()
        _tell_start(task, config, attempt)
        closing.append(attempt.tracker)
        model, data = _build(task, companions, choices, config, attempt, config_dir)
        model, delta = _train(model, data, choices, config, attempt, rungs)
        deployed = Deployed(model, data.tokenizer, () if task.is_language else task.labels, task.is_pair)
        with attempt.meter.stage("evaluation"):
            evaluate(deployed, data, config, attempt)
            _evaluate_companions(model, data, choices.finetuning, config, attempt)
    record.notes["data/filter"] = dict(data.reasons)
    return complete(deployed, config, attempt, delta)


def _read_texts(config: Mapping[str, Any], attempt: Attempt) -> tuple[Task, list[Task]]:
    """The task and those learned beside it, once it is known that what was chosen can be done with them."""
    record = attempt.record
    with attempt.meter.stage("data", count_flops=True):
        task = load_task(config["task"], attempt.fetch)
    ask_to_refuse(config["finetuning"], task)
    task = as_learned(task, config["finetuning"])
    with attempt.meter.stage("data", count_flops=True):
        companions = load_companions(config["finetuning"], task, attempt.fetch)
    refuse_sets(config["evaluation"], task)
    refuse_reference(config["evaluation"], task.name, task.fingerprint)
    record.identity |= {
        "task": task.name, "task_fingerprint": task.fingerprint, "recipe": dict(task.recipe),
    }  # fmt: skip
    if companions:
        record.identity["companions"] = {other.name: other.fingerprint for other in companions}
    record.notes["labels"] = list(task.labels)
    return task, companions


def _tell_start(task: Task, config: Mapping[str, Any], attempt: Attempt) -> None:
    """Say to the events and to the tracker which run begins."""
    record = attempt.record
    told = {key: record.identity.get(key) for key in TOLD_AT_START}
    attempt.events.add(
        "started", task=task.name, fingerprint=task.fingerprint, choices=record.choices, **told
    )
    attempt.tracker.start(record.identity, config, record.choices, attempt.folder)


def _build(
    task: Task,
    companions: Sequence[Task],
    choices: Choices,
    config: Mapping[str, Any],
    attempt: Attempt,
    config_dir: Path | None,
) -> tuple[nn.Module, Prepared]:
    """The model as it is before any method, and the texts as it reads them."""
    meter, finetuning = attempt.meter, choices.finetuning
    with meter.stage("pretraining"):
        model_choice, tokenizer = choices.pretraining.learn(
            start_of(choices.model, config["model"], task, attempt)
        )
    with meter.stage("data", count_flops=True):
        data = prepare_data(
            task,
            config["data"]["filter"],
            config["model"],
            model_choice,
            attempt.fetch,
            companions,
            tokenizer,
        )
        attempt.record.put(data.values())
        if hasattr(finetuning, "read_tasks"):
            finetuning.read_tasks(data.tasks, data.tokenizer)
        method.read_data(choices.methods.values(), data)
    data = gather(list(choices.methods.values()), data, config, attempt, config_dir)
    with meter.stage("pretraining", count_flops=True):
        torch.manual_seed(int(config["seed"]["init"]))
        model: nn.Module = model_choice.build(data.tokenizer, data.classes)
        if getattr(finetuning, "wants_token_head", False):
            model = with_token_head(model_choice, model)
        if hasattr(finetuning, "with_head"):
            model = finetuning.with_head(model)
    with meter.stage("finetuning"):
        return pose(finetuning, model, data, config, attempt)


def _train(
    model: nn.Module,
    data: Prepared,
    choices: Choices,
    config: Mapping[str, Any],
    attempt: Attempt,
    rungs: Rungs | None,
) -> tuple[nn.Module, Delta | None]:
    """The model as it is deployed, and what the task adds to its base."""
    meter, record, finetuning = attempt.meter, attempt.record, choices.finetuning
    prepared, finishing = choices.preparing, choices.finishing
    method.check(choices.methods.values(), model)
    seen = calibration_batches(data, method.texts_wanted(choices.methods.values()), config["seed"]["order"])
    # A model that was made to answer has in its words what no base and no delta say.
    taker = Taker(is_wanted=config["keep_model"] and not hasattr(finetuning, "pose"))
    with meter.stage("compression", count_flops=True):
        taker.built(model)
    with meter.stage("finetuning"):
        model = method.prepare(prepared, model, seen)
        if not trains(finetuning):
            model.requires_grad_(False)
        record.put({"model/trainable_params": count_params(model, trainable_only=True)})
        with meter.aside("compression", count_flops=True):
            taker.prepared(model)
        at_rungs = AtRungs(rungs, model, finishing, taker.trainable, data, config, attempt) if rungs else None
        if trains(finetuning):
            fitted = _finetune(model, prepared, data, config, finetuning, choices.settings, attempt, at_rungs)
            record.put(_fit_values(fitted, _judge(finetuning)))
        else:
            record.put({"train/steps": 0.0})
    with meter.stage("compression", count_flops=True):
        taker.trained(model)
        model = method.settle(finishing, model)
        record.put(delta_bytes(model, taker.trainable))
        delta = taker.take(model, **about(config, choices.steps, data))
        model.eval()
    for each in finishing:
        if hasattr(each, "variants"):
            with meter.stage("evaluation"):
                others = evaluate_variants(each.variants(model), data, config, attempt)
            record.put(others.values, others.absent)
        with meter.stage("compression", count_flops=True):
            model = method.finish(each, model, seen)
    return model, delta


def _evaluate_companions(
    model: nn.Module, data: Prepared, finetuning: Any, config: Mapping[str, Any], attempt: Attempt
) -> None:
    """Quality on the tasks that were learned beside the run's own, where there are any."""
    if not hasattr(finetuning, "answering"):
        return
    sizes = finetuning.sizes(model)
    attempt.record.put({f"model/{name}": value for name, value in sizes.items()})
    answering = functools.partial(finetuning.answering, model)
    others = evaluate_companions(answering, data, config["evaluation"], gauge_of(model, attempt)).under("val")
    attempt.record.put(others.values, others.absent)


def _earlier(folder: Path, record: Record, rungs: Rungs | None) -> Record | None:
    """The finished record of this very run, if there is one; where it has rungs, stopped is finished, too."""
    try:
        earlier = Record.load(folder)
    except (FileNotFoundError, ValueError):
        return None
    ends = (COMPLETED, STOPPED) if rungs else (COMPLETED,)
    if earlier.status not in ends or run_key(earlier) != run_key(record):
        return None
    log.info("already complete: %s (again=true runs it anew)", folder / "record.json")
    return earlier


def _compare_again(record: Record, folder: Path, reference: str | None, labels: Sequence[str]) -> None:
    """Compare a finished run with another reference than it was; that takes its stored predictions alone."""
    before = record.config.get("evaluation", {}).get("reference")
    if reference is None or record.status != COMPLETED or reference == before:
        return
    add_reference(record, folder, Path(reference), labels)
    record.config = {**record.config, "evaluation": {**record.config["evaluation"], "reference": reference}}
    record.save(folder)
    log.info("compared with the reference %s", reference)


def _finetune(
    model: nn.Module,
    methods: Sequence[Any],
    data: Prepared,
    config: Mapping[str, Any],
    finetuning: Any,
    settings: TrainerSettings,
    attempt: Attempt,
    at_rungs: "AtRungs | None",
) -> Fitted:
    """Train ``model`` in place."""
    if hasattr(finetuning, "read_labels"):
        finetuning.read_labels(data.examples["train"].labels)
    seeds = config["seed"]
    order = instantiate(config["data"]["order"], _convert_="all")
    generator = torch.Generator().manual_seed(int(seeds["order"]))
    if hasattr(finetuning, "batches"):
        batches = finetuning.batches(data.tables(), order, settings.epochs, settings.batch_size, generator)
    else:
        planned = steps_of(len(data.train), settings)
        batches = order(data.train, steps=planned, batch_size=settings.batch_size, generator=generator)
    steps = len(batches)
    training = Training(
        model,
        method.objective(methods, finetuning.objective),
        lambda trained: finetuning.optimizer(trained, steps),
        rounds_of(batches, settings),
        data.examples["train"],
        data.examples["validation"],
        settings,
        method.settled_after([*methods, finetuning]),
        at_rungs.rungs.steps(steps) if at_rungs else (),
        _judge(finetuning),
    )
    return fit(
        training,
        callbacks=method.callbacks([*methods, finetuning]),
        hardware=attempt.hardware,
        folder=attempt.checkpoints,
        seed=int(seeds["init"]),
        gauge=_gauge(model, finetuning, attempt),
        at_checkpoint=attempt.remember_spent,
        report=attempt.report,
        at_start=at_rungs.look if at_rungs else _pass,
    )


def _gauge(model: nn.Module, finetuning: Any, attempt: Attempt) -> MeterGauge:
    """What meters the steps of a training; a text may leave a model early once that is validated."""
    leaves = getattr(model, "data_dependent_compute", False)
    every = getattr(finetuning, "data_dependent_compute", False)
    return MeterGauge(attempt.meter, attempt.quiet, every, varying=("validation",) if leaves else ())


def _pass(_: Training) -> None:
    """Nothing to look at."""


def _judge(finetuning: Any) -> Judge:
    """What its validations look at; accuracy where it does not say."""
    return getattr(finetuning, "judge", ACCURACY)


def _fit_values(fitted: Fitted, judge: Judge) -> dict[str, float]:
    values = dataclasses.asdict(fitted)
    values[f"best_{judge.name}"] = values.pop("best_score")
    return {f"train/{key}": float(value) for key, value in values.items()}
