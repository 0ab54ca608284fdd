"""What makes two runs the same run: the part of the config that can change a result, hashed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

NOT_IDENTITY = ("seed", "tracking", "search", "hydra", "again", "keep_model")
"""Top-level keys that change neither quality nor cost. Seeds are named beside the hash, not inside it."""


def identity_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what cannot change a result.

    Where the data lies is not identity, only whether it comes from a local root or from the hub: the
    fingerprint of the texts stands beside the hash in every record. Nor is the reference run, which a finished run
    can be compared with at any time.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    task = kept.get("task")
    if isinstance(task, Mapping) and "root" in task:
        kept["task"] = {**task, "root": "local" if task["root"] else "hub"}
    pretraining = kept.get("pretraining")
    if isinstance(pretraining, Mapping) and "root" in pretraining:
        kept["pretraining"] = {key: value for key, value in pretraining.items() if key != "root"}
    evaluation = kept.get("evaluation")
    if isinstance(evaluation, Mapping):
        kept["evaluation"] = {key: value for key, value in evaluation.items() if key != "reference"}
    peft = kept.get("peft")
    if isinstance(peft, Mapping) and isinstance(peft.get("parts"), Mapping):
        # As pairs: the order in which methods act can change a result, and that of keys is not hashed.
        kept["peft"] = {**peft, "parts": list(peft["parts"].items())}
    trainer = kept.get("trainer")
    if isinstance(trainer, Mapping):
        kept["trainer"] = {key: value for key, value in trainer.items() if key != "progress"}
    return kept


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of :func:`identity_part` as canonical JSON, 10 hex digits."""
    text = json.dumps(_canonical(identity_part(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _canonical(value: Any) -> Any:
    """Equal values alike: ``1.0`` and ``1`` are one number (``true`` is none)."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def register_resolvers() -> None:
    """Make ``${effnlp.config_hash:}`` and ``${effnlp.task:}`` known to OmegaConf; calling it twice does no harm."""
    from omegaconf import DictConfig, OmegaConf

    def resolve(*, _root_: DictConfig) -> str:
        keys = [str(key) for key in _root_ if str(key) not in NOT_IDENTITY]
        part = OmegaConf.masked_copy(_root_, keys)
        container = OmegaConf.to_container(part, resolve=True)
        assert isinstance(container, dict)
        return config_hash({str(key): value for key, value in container.items()})

    def task_name(*, _root_: DictConfig) -> str:
        task = _root_.task
        return str(task.get("name") or str(task.get("_target_", "task")).rpartition(".")[2])

    OmegaConf.register_new_resolver("effnlp.config_hash", resolve, replace=True)
    OmegaConf.register_new_resolver("effnlp.task", task_name, replace=True)
