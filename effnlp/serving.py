"""Models from a base that is stored once and the deltas of tasks.

``load_delta`` makes of a delta the very model that its run deployed; :class:`Adapters` serves several tasks from
one base in memory.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from effnlp import method
from effnlp.cache import fetch
from effnlp.data.calibration import calibration_batches
from effnlp.data.encodings import Batch
from effnlp.data.prepare import Prepared, as_learned, load_companions, load_task, prepare_data
from effnlp.legality import Step
from effnlp.menu import suggest
from effnlp.model.classifier import Classifier, ModelChoice
from effnlp.model.delta import FILE, Delta, digest_of_base, put
from effnlp.model.storage import Deployed
from effnlp.moments import groups_at, methods_of
from effnlp.pretraining.stage import Start

NEEDED = ("model", "pretraining", "finetuning", "peft", "compression", "seed", "task", "data", "hardware")
"""Parts of a run's config that say how its model is built and what is done to it."""


def about(config: Mapping[str, Any], steps: Sequence[Step], data: Prepared) -> dict[str, Any]:
    """What a delta says of its run (:class:`~effnlp.model.delta.About`), but for the digests."""
    return {
        "config": {key: _without_start(config[key]) for key in NEEDED if key in config},
        "prepare": tuple(groups_at(steps, "prepare")),
        "finish": tuple(groups_at(steps, "finish")),
        "task": data.task.name,
        "labels": () if data.task.is_language else tuple(map(str, data.task.labels)),
        "classes": data.classes,
        "is_pair": data.task.is_pair,
    }


def _without_start(node: Any) -> Any:
    """Settings without the adapter from which a training began: the delta has all of what came of it."""
    if isinstance(node, Mapping):
        return {key: None if key == "start" else _without_start(value) for key, value in node.items()}
    return node


@dataclass(frozen=True)
class Base:
    """What deltas are put on.

    Attributes:
        choice: What builds it.
        model: As its choice builds it; it stays as it is.
        tokenizer: Maps texts to ids.
        digest: :func:`~effnlp.model.delta.digest_of_base` of ``model``.
        name: What it is, in words.
    """

    choice: ModelChoice
    model: Classifier
    tokenizer: Any
    digest: str
    name: str

    @classmethod
    def build(cls, config: Mapping[str, Any], classes: int = 1) -> "Base":
        """Build the base of a run's config anew, from its files or from its seed.

        What was learnt from texts (a tokenizer, pre-trained weights) is learnt again, if the cache has it no more.

        Args:
            classes: Of the head; a delta brings its own.
        """
        choice = instantiate(config["model"], _convert_="all")
        if getattr(choice, "has_own_tokenizer", False):
            tokenizer = choice.tokenizer(pd.DataFrame())
        else:
            choice, data = _prepared(config, choice)
            tokenizer = data.tokenizer
        torch.manual_seed(int(config["seed"]["init"]))
        model = choice.build(tokenizer, classes)
        return cls(choice, model, tokenizer, digest_of_base(model), name_of(config))


def _prepared(config: Mapping[str, Any], choice: ModelChoice) -> tuple[ModelChoice, Prepared]:
    """What a run trained, and what on: from the cache, charged to nobody."""
    task = as_learned(load_task(config["task"], _cached), config["finetuning"])
    hardware = instantiate(config["hardware"], _convert_="all")()
    start = Start(choice, config["model"], task, _cached, hardware, Unwatched(), _unheard, _unheard)
    choice, tokenizer = instantiate(config["pretraining"], _convert_="all").learn(start)
    companions = load_companions(config["finetuning"], task, _cached)
    filters = config["data"]["filter"]
    return choice, prepare_data(task, filters, config["model"], choice, _cached, companions, tokenizer)


class Unwatched:
    """A gauge of steps that meters nothing."""

    def start_step(self, batch: Any, phase: str) -> None:
        """Nothing."""

    def end_step(self) -> None:
        """Nothing."""

    def abort_step(self) -> None:
        """Nothing."""

    def let_others_measure(self) -> None:
        """Nothing."""


def _unheard(*_: Any) -> None:
    """Nobody asks what a pre-training has to say that is done again."""


def name_of(config: Mapping[str, Any]) -> str:
    """What a base is, in words: ``pretrained minilm``, ``backbone tiny after mlm`` or ``… of seed.init=0``."""
    model = config["model"]
    module = str(model["_target_"]).rpartition(".")[0]
    words = [module.rpartition(".")[2], *(str(model[key]) for key in ("name", "size") if model.get(key))]
    learnt = str(config.get("pretraining", {}).get("_target_", "none.")).rpartition(".")[0].rpartition(".")[2]
    if learnt != "none":
        return " ".join([*words, "after", learnt])
    return " ".join(words if model.get("name") else [*words, f"of seed.init={config['seed']['init']}"])


def _cached(kind: str, key: str, make: Any) -> Path:
    """A cached entry, charged to nobody."""

    def priced(path: Path) -> dict[str, float]:
        make(path)
        return {}

    return fetch(kind, key, priced).folder


def load_delta(path: Path, base: Base | None = None) -> Deployed:
    """The model that a run deployed, from its delta.

    Args:
        path: A delta, or the folder of a run.
        base: One that is at hand; None: it is built anew.

    Raises:
        FileNotFoundError: If there is no delta.
        ValueError: If it is damaged, or of another base.
    """
    delta = read_delta(path)
    with torch.random.fork_rng(devices=[]):
        made, base = _put_on(delta, base)
        model = made.finished()
    return Deployed(model, base.tokenizer, delta.about.labels, delta.about.is_pair)


def read_delta(path: Path) -> Delta:
    """A delta: a file, or that of the folder of a run."""
    return Delta.read(path / FILE if path.is_dir() else path)


def unfinished(delta: Delta) -> nn.Module:
    """The settled model of a delta, before any method merges it or rounds it."""
    with torch.random.fork_rng(devices=[]):
        return _put_on(delta, None)[0].model


def _put_on(delta: Delta, base: Base | None) -> tuple["Settled", Base]:
    """The settled model with the delta in it, and its base; the caller keeps its random numbers from this.

    The state of the generator after the base is built is that of the run, so that what a method draws when it
    prepares is what it drew there.
    """
    base = base or Base.build(delta.about.config, delta.about.classes)
    refuse_base(delta, base)
    made = settled(delta, copy.deepcopy(base.model), base.choice)
    put(made.model, delta)
    made.model.eval()
    return made, base


def refuse_base(delta: Delta, base: Base) -> None:
    """A delta goes on the base that it was trained on.

    Raises:
        ValueError: If it is another one; names both and their hashes.
    """
    if delta.about.base != base.digest:
        raise ValueError(
            f"the delta of {delta.about.task} was trained on {name_of(delta.about.config)}, SHA-256 "
            f"{delta.about.base[:16]}…; this base is {base.name}, SHA-256 {base.digest[:16]}…"
        )


@dataclass(frozen=True)
class Settled:
    """A base with what a task's methods keep beside it.

    Attributes:
        finishing: By its group what finishes the model, in order.
        texts: Those on which the methods calibrated; empty where none did.
    """

    model: nn.Module
    finishing: Mapping[str, Any]
    texts: Sequence[Batch]

    def finished(self, without: Sequence[str] = ()) -> nn.Module:
        """The model as it is deployed, but for what the groups ``without`` would do."""
        model = self.model.eval()
        for group, each in self.finishing.items():
            if group not in without:
                model = method.finish(each, model, self.texts)
        return model.eval()


def settled(delta: Delta, model: nn.Module, choice: ModelChoice) -> Settled:
    """A base, prepared and settled as the delta's was, in place."""
    config, about = delta.about.config, delta.about
    if isinstance(model, Classifier) and model.head.out_features != about.classes:
        model.head = nn.Linear(model.head.in_features, about.classes)
    finetuning = instantiate(config["finetuning"], _convert_="all")
    if hasattr(finetuning, "read_tasks"):
        _, data = _prepared(config, instantiate(config["model"], _convert_="all"))
        finetuning.read_tasks(data.tasks, data.tokenizer)
    if getattr(finetuning, "wants_token_head", False):
        from effnlp.posing import with_token_head

        model = with_token_head(choice, model)
    if hasattr(finetuning, "with_head"):
        model = finetuning.with_head(model)
    methods = methods_of(config)
    texts: list[Batch] = []
    wanted = method.texts_wanted(methods.values())
    if wanted or method.wants_data(methods.values()):
        _, data = _prepared(config, instantiate(config["model"], _convert_="all"))
        method.read_data(methods.values(), data)
        texts = calibration_batches(data, wanted, config["seed"]["order"])
    model = method.prepare([methods[group] for group in about.prepare], model, texts)
    finishing = {"finetuning": finetuning, **{group: methods[group] for group in about.finish}}
    return Settled(method.settle(list(finishing.values()), model), finishing, texts)


class Adapters:
    """Several tasks from one base in memory: what they have in common is held once.

    A swap copies only what the task changes of the base (biases that it trained, weights that it is merged into), so
    the base keeps its bytes, and taking a delta out rounds nothing.

    Args:
        base: What all tasks share.
        deltas: Name to the delta of a task.
        is_merged: Whether a task is finished when it is taken up, and so costs at inference what it costs deployed.
            Without it the PEFT methods stay beside the base: all tasks are ready at once, and each text pays for it.

    Raises:
        ValueError: If a delta is of another base.
    """

    def __init__(self, base: Base, deltas: Mapping[str, Delta], is_merged: bool = True) -> None:
        self.base, self.deltas, self.is_merged = base, dict(deltas), is_merged
        for delta in self.deltas.values():
            refuse_base(delta, base)
        self._changed = {name: self._changed_by(name) for name in self.deltas}
        self._ready: dict[str, Deployed] = {}
        if not is_merged:
            self._ready = {name: self._made(name) for name in self.deltas}

    def use(self, name: str) -> Deployed:
        """The model of a task. Merged, the one that was used before is let go.

        Raises:
            ValueError: If there is no such task; names a near match.
        """
        if name not in self.deltas:
            raise ValueError(f"there is no delta {name!r}{suggest(name, list(self.deltas))}")
        if name not in self._ready:
            self.let_go()  # first: two merged models need not be in memory
            self._ready = {name: self._made(name)}
        return self._ready[name]

    def let_go(self) -> None:
        """Hold no model of a task; the base and the deltas stay."""
        self._ready = {}

    def held_bytes(self) -> int:
        """Bytes of all tensors that are held now, each once: the base, the deltas, and what is in use."""
        tensors = [*tensors_of(self.base.model)]
        tensors += [value for delta in self.deltas.values() for value in delta.entries.values()]
        tensors += [t for deployed in self._ready.values() for t in tensors_of(deployed.model)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())

    def _made(self, name: str) -> Deployed:
        """The model of a task, which has the tensors of the base but those that the task changes."""
        changed = self._changed[name]
        shared = {id(t): t for t in tensors_of(self.base.model) if id(t) not in changed}
        model = self._finished(name, copy.deepcopy(self.base.model, shared), is_checked=False)
        about = self.deltas[name].about
        return Deployed(model, self.base.tokenizer, about.labels, about.is_pair)

    def _changed_by(self, name: str) -> frozenset[int]:
        """The ids of the base's tensors that the model of a task has other values in: tried on a whole copy."""
        copies: dict[int, Any] = {}
        copied = copy.deepcopy(self.base.model, copies)
        self._finished(name, copied, is_checked=True)
        return frozenset(id(t) for t in tensors_of(self.base.model) if not torch.equal(t, copies[id(t)]))

    def _finished(self, name: str, model: nn.Module, is_checked: bool) -> nn.Module:
        delta = self.deltas[name]
        with torch.random.fork_rng(devices=[]):
            made = settled(delta, model, self.base.choice)
            put(made.model, delta, is_checked)
            return made.finished(without=() if self.is_merged else ("peft",))


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Its parameters and buffers, each once."""
    yield from model.parameters()
    yield from model.buffers()
