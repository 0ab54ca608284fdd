"""What methods gather before the model is built: further texts, and what another model says of them.

A method that wants to has ``gather(data, around)``, which gives the data as it is trained on. All that it does there
is charged to the stage ``compression``.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from effnlp.attempt import AMORTISED, Attempt
from effnlp.cache import code_version, key_of
from effnlp.compose import compose, hydra_context, targets
from effnlp.data.examples import Examples
from effnlp.data.prepare import Fetch, Prepared
from effnlp.evaluation.evaluate import predict
from effnlp.evaluation.flops import FlopCount
from effnlp.evaluation.stage import gauge_of
from effnlp.finetuning.loop import InterruptedRunError
from effnlp.identity import config_hash
from effnlp.record import COMPLETED, Record

STAGE = "compression"
"""To which all of it is charged."""

CODE = ("effnlp.run", "effnlp.finetuning.loop", "effnlp.finetuning.adamw", "effnlp.model.classifier")
"""Modules whose source decides what such a run learns, beside those of its choices."""

SHARED = ("task", "data", "seed", "hardware", "meter")
"""Parts of its config that a run which is done for another one has in common with it."""


@dataclass(frozen=True)
class Around:
    """What a method may use that gathers.

    Attributes:
        task: The config of the group ``task``.
        fetch: Of cached entries.
        predict: Logits (N, C) of a model on examples, in their order, on the CPU.
        train: Does the run of some overrides on this run's task and seeds, once for all runs; its folder.
        reuse: Charges, as amortised, what somebody else has paid for: what it is, and unit to amount.
        note: Puts something under a name into the notes of the record.
    """

    task: Mapping[str, Any]
    fetch: Fetch
    predict: Callable[[nn.Module, Examples], Tensor]
    train: Callable[[Sequence[str]], Path]
    reuse: Callable[[str, Mapping[str, float]], None]
    note: Callable[[str, Any], None]


PATHS = ("teacher", "pool")
"""Keys of a compression method that name a file or a folder."""


def absolute_paths(config: Mapping[str, Any], here: Path) -> dict[str, Any]:
    """The config with what its compression methods name as absolute paths: a record must make sense from elsewhere.

    Args:
        here: The folder from which they were typed.
    """

    def absolute(settings: Any) -> Any:
        if not isinstance(settings, Mapping):
            return settings
        found = {key: settings[key] for key in PATHS if isinstance(settings.get(key), str)}
        return {
            **settings,
            **{key: str((here / Path(path).expanduser()).resolve()) for key, path in found.items()},
        }

    compression = {slot: absolute(settings) for slot, settings in config["compression"].items()}
    return {**config, "compression": compression}


def gather(
    methods: Sequence[Any],
    data: Prepared,
    config: Mapping[str, Any],
    attempt: Attempt,
    config_dir: Path | None = None,
) -> Prepared:
    """The data as the methods, in order, have it trained on."""
    wanting = [method for method in methods if hasattr(method, "gather")]
    if not wanting:
        return data
    with attempt.meter.stage(STAGE):
        attempt.meter.add_flops(FlopCount())  # counted, be it that all is in the cache
        for method in wanting:
            data = method.gather(data, around(config, attempt, config_dir))
    attempt.record.put(data.values())
    return data


def around(config: Mapping[str, Any], attempt: Attempt, config_dir: Path | None) -> Around:
    """What a method of an attempt at a run may use; the stage is open."""

    def ask(model: nn.Module, examples: Examples) -> Tensor:
        model = model.to(attempt.hardware.torch_device()).eval()
        return predict(model, examples, config["evaluation"]["batch_size"], gauge_of(model, attempt))

    return Around(
        task=config["task"],
        fetch=functools.partial(attempt.fetch, stage=STAGE, amounts=(*AMORTISED, "flops")),
        predict=ask,
        train=lambda overrides: train(overrides, config, attempt, config_dir),
        reuse=lambda entry, cost: attempt.reuse(entry, STAGE, cost),
        note=attempt.record.notes.__setitem__,
    )


def train(
    overrides: Sequence[str], config: Mapping[str, Any], attempt: Attempt, config_dir: Path | None
) -> Path:
    """Do a run for another one: on its task, texts, seeds and hardware, in the cache; its folder.

    An interrupted one begins anew. Its latency is not measured.

    Raises:
        ConfigError: If the overrides make no config.
        ValueError: If it fails; with its reason.
        InterruptedRunError: If the user stopped it.
    """
    from effnlp.run import run  # it gathers itself

    with hydra_context():
        composed = compose(["task=docstrings", "tracking=files", *overrides], config_dir)
    own = {**composed.config, **{name: config[name] for name in SHARED}}
    own |= {"keep_model": True, "again": False}
    own["evaluation"] = {**own["evaluation"], "latency": False, "reference": None, "test": False}
    own["trainer"] = {**own["trainer"], "progress": "none"}
    common = {group: name for group, name in attempt.record.choices.items() if group.split("/")[0] in SHARED}
    chosen = {**composed.chosen, **common}
    modules = sorted({target.rpartition(".")[0] for _, target, _ in targets(own)})
    key = key_of(
        config_hash(own),
        own["seed"],
        attempt.record.identity["task_fingerprint"],
        code_version(*CODE, *modules),
    )

    def make(folder: Path) -> None:
        record = run(own, chosen, folder, overrides, config_dir)
        if record.reason == "interrupted":
            raise InterruptedRunError(f"stopped by the user in the run of {' '.join(overrides)}")
        if record.status != COMPLETED:
            raise ValueError(f"the run of {' '.join(overrides)} failed ({record.reason}): {record.message}")
        attempt.meter.add_flops(flops_of(record))

    return attempt.fetch("runs", key, make, stage=STAGE, amounts=(*AMORTISED, "flops"))


def flops_of(record: Record) -> FlopCount:
    """What a run counted in all; where it could not, what had no formula."""
    counted = record.values.get("cost/total/own/flops")
    if counted is None:
        return FlopCount(uncounted=dict(record.notes.get("flops/uncounted") or {"a run": 1}))
    return FlopCount({"a run": counted})
